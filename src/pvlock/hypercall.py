# SPDX-License-Identifier: GPL-2.0-or-later
"""SMCCC dispatch: registers in, registers out, the same for every engine.

PSCI is not here, because it starts and stops VCPUs. The engine answers PSCI calls itself.
"""

from collections.abc import Sequence

from pvlock import abi, hint
from pvlock.region import PvLockRegion, StolenTimeRegion, StructureRegion

Registers = tuple[int, int, int, int]

_U32 = 2**32 - 1
_U64 = 2**64 - 1


class Hypercalls:
    """The calls of one VM that need no engine (SPECIFICATION.md, sections 3 and 10)."""

    def __init__(
        self,
        pvlock: PvLockRegion,
        stolen_time: StolenTimeRegion | None = None,
        *,
        hints: bool = False,
    ) -> None:
        """Without `stolen_time` the VM has no PV time; with `hints` its engine takes hints."""
        self.pvlock = pvlock
        self.stolen_time = stolen_time
        self.hints = hints

    def call(self, vcpu: int, registers: Sequence[int]) -> Registers:
        """Answer the call that VCPU number `vcpu` made with X0 to X3; return the new X0 to X3.

        The function ID is W0 and the first argument W1 (clause 3.2). X4 to X17 are neither seen
        nor returned: they cannot change (clause 3.3). An ID nobody knows answers NOT_SUPPORTED
        (clause 3.9); nothing is raised, whatever the registers hold.

        >>> from pvlock.memory import GuestMemory
        >>> calls = Hypercalls(PvLockRegion(GuestMemory()))
        >>> [hex(x) for x in calls.call(0, (abi.SMCCC_VERSION, 7, 8, 9))]
        ['0x10001', '0x7', '0x8', '0x9']
        >>> calls.call(0, (abi.PV_LOCK_PREEMPTED, 0, 0, 0))[0] - 2**64  # VCPU 0 has no structure
        -1
        """
        x0, x1, x2, x3 = registers
        function, argument = x0 & _U32, x1 & _U32
        if function == abi.VENDOR_HYP_CALL_UID:
            return abi.uid_words()
        return self._result(vcpu, function, argument) & _U64, x1, x2, x3

    def _result(self, vcpu: int, function: int, argument: int) -> int:
        match function:
            case abi.PV_LOCK_FEATURES:
                asked = argument in (abi.PV_LOCK_FEATURES, abi.PV_LOCK_PREEMPTED)
                return _success_if(asked and self.pvlock.ipa(vcpu) is not None)
            case abi.PV_LOCK_PREEMPTED:
                return _structure(self.pvlock, vcpu)
            case abi.PV_TIME_FEATURES if self.stolen_time is not None:
                asked = argument in (abi.PV_TIME_FEATURES, abi.PV_TIME_ST)
                return _success_if(asked and self.stolen_time.ipa(vcpu) is not None)
            case abi.PV_TIME_ST if self.stolen_time is not None:
                return _structure(self.stolen_time, vcpu)
            case abi.SMCCC_VERSION:
                return abi.SMCCC_VERSION_1_1
            case abi.SMCCC_ARCH_FEATURES:
                return _success_if(self._is_implemented(argument))
            case _:
                return abi.NOT_SUPPORTED

    def _is_implemented(self, function: int) -> bool:
        # Whether an address is set does not count here (clause 3.5).
        match function:
            case abi.PV_LOCK_FEATURES:
                return self.pvlock.enabled
            case abi.PV_TIME_FEATURES:
                return self.stolen_time is not None and self.stolen_time.enabled
            case hint.YIELD_TO:
                return self.hints
            case _:
                return function in (abi.SMCCC_VERSION, abi.SMCCC_ARCH_FEATURES)


def _success_if(condition: bool) -> int:
    return abi.SUCCESS if condition else abi.NOT_SUPPORTED


def _structure(region: StructureRegion, vcpu: int) -> int:
    ipa = region.ipa(vcpu)
    if ipa is None:
        return abi.NOT_SUPPORTED
    # The caller is on a CPU, so 0 is its flag; an earlier owner may have left 1 (clause 3.8).
    region.zero(vcpu)
    return ipa
