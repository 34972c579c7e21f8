# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers what a VCPU left the guest for: the part of a hypervisor that guests see.

What the kernel does for a guest of KVM is done here: PSCI, GIC, WFI, injected exceptions. What user
space does for it is asked of the parent process.

Every answer puts its cost on the clock of the VCPU's CPU by `Host.charge`, before it tells the
scheduler anything. The scheduler dates a switch by that clock, so a cost that came after the switch
would be charged to the VCPU that runs next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pvlock import abi, hint
from pvlock.engines.contract import EngineConfig, SystemEvent
from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator import psci
from pvlock.engines.emulator.gic import Gic
from pvlock.engines.emulator.scheduler import Scheduler
from pvlock.engines.emulator.vcpu import EmulatedVcpu, Exit
from pvlock.errors import GuestFault
from pvlock.memory_map import GICD_BASE, GICD_SIZE, GICR_STRIDE, gicr_base

_PAGE = 4096
_U32 = 2**32 - 1
# ESR_ELx.ISS of a data abort.
_ISV, _WNR, _S1PTW, _CM = 1 << 24, 1 << 6, 1 << 7, 1 << 8

Ask = Callable[[int, str, Sequence[int]], Any]
"""Put a VCPU's question, its kind and numbers, to the parent process; wait for the answer."""

Post = Callable[[list[int]], None]
"""Tell the parent process of a coalesced write, [VCPU, IPA, bytes, value], when it next listens."""


class Host(Protocol):
    """What an answer needs of the machine, beside its scheduler, its GIC and its PSCI."""

    def charge(self, cpu: int, cost_ns: int) -> None:
        """Let the clock of `cpu` go on by `cost_ns`."""

    def start(self, vcpu: int, entry: int, x0: int) -> None:
        """Let a VCPU that is off run from IPA `entry`."""

    def end(self, event: SystemEvent) -> None:
        """End the run: the guest wants it."""

    def is_memory(self, ipa: int) -> bool:
        """Tell whether a memory slot holds this address."""


@dataclass(slots=True)
class Exits:
    """Answers the exits of one machine's VCPUs."""

    host: Host
    config: EngineConfig
    scheduler: Scheduler
    gic: Gic
    psci: psci.Psci
    ask: Ask
    post: Post
    shown: dict[int, bytes | None] = field(default_factory=dict)
    """Pages of devices whose reads have no effect at the moment, by IPA."""
    _gicr: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the redistributors."""
        self._gicr = gicr_base(self.config.vcpus)

    def answer(self, cpu: int, vcpu: EmulatedVcpu, reason: Exit) -> None:
        """Answer the exit of `vcpu`, which is on `cpu`, and charge the CPU for it.

        Raises GuestFault for what no guest could handle.
        """
        _ANSWERS[reason](self, cpu, vcpu)

    def _charge_exit(self, cpu: int) -> None:
        self.host.charge(cpu, self.config.exit_ns)

    def _slice(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        # The guest did nothing that could cost: the scheduler charges for the switch itself.
        self.scheduler.slice_end(cpu)

    def _wfi(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        self._charge_exit(cpu)
        vcpu.skip()
        # A pending interrupt ends WFI even while PSTATE masks it.
        if not vcpu.state.line:
            vcpu.state.asleep = 1
            self.scheduler.block(cpu)

    def _wfe(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        self._charge_exit(cpu)
        self.scheduler.yield_(cpu)

    def _smc(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        self._charge_exit(cpu)
        # There is no EL3; KVM makes SMC undefined too.
        self._undefined(vcpu)

    def _hypercall(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        registers = [vcpu.x(n) for n in range(4)]
        if psci.handles(registers[0]):
            self._psci(cpu, vcpu, registers)
            return
        self._charge_exit(cpu)
        if registers[0] & _U32 == hint.YIELD_TO and self.config.hint != hint.OFF:
            self._hint(cpu, vcpu, registers[1])
            return
        answer = self.ask(vcpu.index, "hypercall", registers)
        for number, value in enumerate(answer):
            vcpu.set_x(number, value)

    def _hint(self, cpu: int, vcpu: EmulatedVcpu, affinity: int) -> None:
        target = self.psci.vcpu_of(affinity)
        vcpu.set_x(0, hint.INVALID_PARAMETER if target is None else abi.SUCCESS)
        if target is not None:
            self.scheduler.yield_to(cpu, target)

    def _psci(self, cpu: int, vcpu: EmulatedVcpu, registers: list[int]) -> None:
        function, x1, x2, x3 = registers
        result = self.psci.call(vcpu.index, function, (x1, x2, x3))
        if isinstance(result.action, psci.PowerOff):
            # CPU_OFF is free: the VCPU that made the call does not wait for the answer.
            self.scheduler.off(cpu)
            return
        self._charge_exit(cpu)
        if result.value is not None:
            vcpu.set_x(0, result.value)
        match result.action:
            case psci.PowerOn(target, entry, context_id):
                self.host.start(target, entry, context_id)
            case psci.SystemOff():
                self.host.end(SystemEvent.OFF)
            case psci.SystemReset():
                self.host.end(SystemEvent.RESET)

    def _data_abort(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        self._charge_exit(cpu)
        state = vcpu.state
        esr, ipa = state.esr, state.ipa
        is_device = not self.host.is_memory(ipa)
        decoded = is_device and esr & _ISV and not esr & _S1PTW
        if is_device and esr & _CM:
            vcpu.skip()
        elif not decoded or not self._mmio(vcpu, esr, ipa):
            self._abort(vcpu, state.far, is_fetch=False)

    def _mmio(self, vcpu: EmulatedVcpu, esr: int, ipa: int) -> bool:
        """Access a device as the syndrome says; False where there is none."""
        size, rt = 1 << (esr >> 22 & 3), esr >> 16 & 31
        if esr & _WNR:
            value = vcpu.x(rt) & (1 << 8 * size) - 1
            if vcpu.state.big_endian:
                value = _reversed(value, size)
            if not self._device_write(vcpu.index, ipa, size, value):
                return False
        else:
            loaded = self._device_read(vcpu.index, ipa, size)
            if loaded is None:
                return False
            if vcpu.state.big_endian:
                loaded = _reversed(loaded, size)
            vcpu.set_x(rt, _extended(loaded, size, bool(esr >> 21 & 1), bool(esr >> 15 & 1)))
        vcpu.skip()
        return True

    def _device_read(self, vcpu: int, ipa: int, size: int) -> int | None:
        if 0 <= ipa - GICD_BASE < GICD_SIZE:
            return self.gic.distributor_read(ipa - GICD_BASE, size)
        if 0 <= ipa - self._gicr < GICR_STRIDE * self.config.vcpus:
            return self.gic.redistributor_read(ipa - self._gicr, size)
        page, offset = self.shown.get(ipa & ~(_PAGE - 1)), ipa & (_PAGE - 1)
        if page is not None:
            return int.from_bytes(page[offset : offset + size], "little")
        value = self.ask(vcpu, "mmio_read", [ipa, size])
        return None if value is None else int(value)

    def _device_write(self, vcpu: int, ipa: int, size: int, value: int) -> bool:
        if 0 <= ipa - GICD_BASE < GICD_SIZE:
            self.gic.distributor_write(ipa - GICD_BASE, size, value)
        elif 0 <= ipa - self._gicr < GICR_STRIDE * self.config.vcpus:
            self.gic.redistributor_write(ipa - self._gicr, size, value)
        elif ipa in self.config.coalesced:
            self.post([vcpu, ipa, size, value])
        else:
            return bool(self.ask(vcpu, "mmio_write", [ipa, size, value]))
        return True

    def _fetch_abort(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        self._charge_exit(cpu)
        self._abort(vcpu, vcpu.state.far, is_fetch=True)

    def _wake(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        """What the VCPU did has an interrupt as its consequence: the machine wakes the others."""

    def _abort(self, vcpu: EmulatedVcpu, far: int, is_fetch: bool) -> None:
        vcpu.inject_abort(far, is_fetch)
        self._unless_lost(vcpu)

    def _undefined(self, vcpu: EmulatedVcpu) -> None:
        vcpu.inject_undefined()
        self._unless_lost(vcpu)

    def _unless_lost(self, vcpu: EmulatedVcpu) -> None:
        if vcpu.lost:
            self._lost(0, vcpu)

    def _lost(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        state = vcpu.state
        first = ""
        if state.fault_esr and state.fault_pc != vcpu.get("pc"):
            first = (
                f"; it had been called by an exception at {state.fault_pc:#x}"
                f" (ESR_EL1 {state.fault_esr:#x}, FAR_EL1 {state.fault_far:#x})"
            )
        raise GuestFault(
            vcpu.index,
            vcpu.get("pc"),
            "the first instruction of the guest's exception vector faults itself"
            f" (ESR_EL1 {state.esr:#x}, FAR_EL1 {state.far:#x}){first}",
        )

    def _engine(self, cpu: int, vcpu: EmulatedVcpu) -> None:
        why = lib.unicorn().uc_strerror(vcpu.state.error).decode()
        raise GuestFault(vcpu.index, vcpu.get("pc"), f"the CPU emulator gave up: {why}")


_ANSWERS: dict[Exit, Callable[[Exits, int, EmulatedVcpu], None]] = {
    Exit.SLICE: Exits._slice,
    Exit.WFI: Exits._wfi,
    Exit.WFE: Exits._wfe,
    Exit.SMC: Exits._smc,
    Exit.HVC: Exits._hypercall,
    Exit.DATA_ABORT: Exits._data_abort,
    Exit.FETCH_ABORT: Exits._fetch_abort,
    Exit.WAKE: Exits._wake,
    Exit.LOST: Exits._lost,
    Exit.ENGINE: Exits._engine,
}


def _reversed(value: int, size: int) -> int:
    """Return a register's `size` low bytes as a big-endian access has them on the bus."""
    return int.from_bytes((value & (1 << 8 * size) - 1).to_bytes(size, "little"), "big")


def _extended(value: int, size: int, signed: bool, to_64: bool) -> int:
    """Extend what a load of `size` bytes read, as the instruction would."""
    value &= (1 << 8 * size) - 1
    if signed and value >> 8 * size - 1:
        value -= 1 << 8 * size
    return value & ((1 << 64) - 1 if to_64 or not signed else (1 << 32) - 1)
