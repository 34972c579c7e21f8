# SPDX-License-Identifier: GPL-2.0-or-later
"""PSCI 1.0 (DEN 0022): which VCPUs are on, and what a call does to them.

A VCPU is on from the moment `CPU_ON` returns, as under KVM: nobody ever sees ON_PENDING. KVM's
other answers are kept too, but CPU_SUSPEND is not implemented: a guest waits in WFI.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pvlock import abi

PSCI_MIGRATE_INFO_TYPE: Final = 0x8400_0006
"""DEN 0022, 5.9: which Trusted OS there is."""
_TOS_NOT_PRESENT_OR_MP: Final = 2

_MOST_LEVEL: Final = 3
"""Affinity levels are Aff0 to Aff3."""

_SMC64: Final = 1 << 30  # SMCCC (DEN 0028), function identifier bit 30
_RANGE: Final = 0x8400_0000  # Standard Secure Service calls, which PSCI leads with 0x00 to 0x1F


@dataclass(frozen=True, slots=True)
class PowerOn:
    """Start `vcpu` at IPA `entry` with `context_id` in X0, its registers reset."""

    vcpu: int
    entry: int
    context_id: int


@dataclass(frozen=True, slots=True)
class PowerOff:
    """Stop `vcpu`, which called CPU_OFF."""

    vcpu: int


@dataclass(frozen=True, slots=True)
class SystemOff:
    """The guest is done."""


@dataclass(frozen=True, slots=True)
class SystemReset:
    """The guest wants to start over."""


Action = PowerOn | PowerOff | SystemOff | SystemReset


@dataclass(frozen=True, slots=True)
class PsciResult:
    """`value` is X0 (64 bits), None for a call that does not return; `action` is the engine's."""

    value: int | None
    action: Action | None = None


def handles(function_id: int) -> bool:
    """Whether `function_id` (W0) is in PSCI's ranges, 0x8400_0000 and 0xC400_0000 to ..1F."""
    return function_id & 0xFFFF_FFFF & ~_SMC64 & ~0x1F == _RANGE


class Psci:
    """The power states of one machine's VCPUs; at first VCPU 0 is on and the others are off."""

    def __init__(self, affinities: Sequence[int]) -> None:
        """`affinities` holds Aff2 << 16 | Aff1 << 8 | Aff0 per VCPU, each once."""
        self._vcpu_of = {affinity: vcpu for vcpu, affinity in enumerate(affinities)}
        self._on = [vcpu == 0 for vcpu in range(len(affinities))]

    def turn_on(self, vcpu: int) -> None:
        """Note that the host started `vcpu`."""
        self._on[vcpu] = True

    def is_on(self, vcpu: int) -> bool:
        """Tell whether `vcpu` is on."""
        return self._on[vcpu]

    def vcpu_of(self, affinity: int) -> int | None:
        """Return which VCPU has this affinity, None if there is none."""
        return self._vcpu_of.get(affinity)

    def call(self, vcpu: int, function_id: int, args: tuple[int, int, int]) -> PsciResult:
        """Perform the call that `vcpu` made with X1 to X3 in `args`; any value is legal."""
        function_id &= 0xFFFF_FFFF
        width = 64 if function_id & _SMC64 else 32
        x1, x2, x3 = (arg & (1 << width) - 1 for arg in args)
        function = _FUNCTIONS.get(function_id)
        if function is None:
            return _returns(abi.PSCI_NOT_SUPPORTED)
        return function(self, vcpu, x1, x2, x3)

    def _version(self, vcpu: int, x1: int, x2: int, x3: int) -> PsciResult:
        return _returns(abi.PSCI_VERSION_1_0)

    def _cpu_off(self, vcpu: int, x1: int, x2: int, x3: int) -> PsciResult:
        self._on[vcpu] = False
        return PsciResult(None, PowerOff(vcpu))

    def _cpu_on(self, vcpu: int, mpidr: int, entry: int, context_id: int) -> PsciResult:
        # Bits outside the affinity fields make it unknown, as under KVM: MPIDR_EL1 has bit 31 set.
        target = self._vcpu_of.get(mpidr)
        if target is None:
            return _returns(abi.PSCI_INVALID_PARAMETERS)
        if self._on[target]:
            return _returns(abi.PSCI_ALREADY_ON)
        self._on[target] = True
        return _returns(abi.PSCI_SUCCESS, PowerOn(target, entry, context_id))

    def _affinity_info(self, vcpu: int, mpidr: int, level: int, x3: int) -> PsciResult:
        # PSCI 1.0 asks for level 0 only; KVM still answers for a whole cluster: ON if any is.
        mask = -1 << 8 * level if level <= _MOST_LEVEL else 0
        asked = [vcpu for at, vcpu in self._vcpu_of.items() if mask and not (at ^ mpidr) & mask]
        if not asked:
            return _returns(abi.PSCI_INVALID_PARAMETERS)
        on = any(self._on[vcpu] for vcpu in asked)
        return _returns(abi.AFFINITY_ON if on else abi.AFFINITY_OFF)

    def _migrate_info_type(self, vcpu: int, x1: int, x2: int, x3: int) -> PsciResult:
        return _returns(_TOS_NOT_PRESENT_OR_MP)

    def _system_off(self, vcpu: int, x1: int, x2: int, x3: int) -> PsciResult:
        return PsciResult(None, SystemOff())

    def _system_reset(self, vcpu: int, x1: int, x2: int, x3: int) -> PsciResult:
        return PsciResult(None, SystemReset())

    def _features(self, vcpu: int, function_id: int, x2: int, x3: int) -> PsciResult:
        # This is how a guest learns of SMCCC 1.1 (DEN 0028, "Discovery through PSCI").
        known = function_id in _FUNCTIONS or function_id == abi.SMCCC_VERSION
        return _returns(abi.PSCI_SUCCESS if known else abi.PSCI_NOT_SUPPORTED)


def _returns(value: int, action: Action | None = None) -> PsciResult:
    return PsciResult(value & 0xFFFF_FFFF_FFFF_FFFF, action)


_FUNCTIONS: Final[dict[int, Callable[[Psci, int, int, int, int], PsciResult]]] = {
    abi.PSCI_VERSION: Psci._version,
    abi.PSCI_CPU_OFF: Psci._cpu_off,
    abi.PSCI_CPU_ON: Psci._cpu_on,
    abi.PSCI_CPU_ON_SMC32: Psci._cpu_on,
    abi.PSCI_AFFINITY_INFO: Psci._affinity_info,
    abi.PSCI_AFFINITY_INFO_SMC32: Psci._affinity_info,
    PSCI_MIGRATE_INFO_TYPE: Psci._migrate_info_type,
    abi.PSCI_SYSTEM_OFF: Psci._system_off,
    abi.PSCI_SYSTEM_RESET: Psci._system_reset,
    abi.PSCI_FEATURES: Psci._features,
}
