# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VCPU left the guest for, and the answer: the part of a hypervisor that guests see.

What a kernel does for KVM is done here (PSCI, GIC, WFI, injected exceptions); what user space does
for KVM goes to the parent process, through `ask`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pvlock.engines.contract import SystemEvent
from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator import psci
from pvlock.engines.emulator.vcpu import EmulatedVcpu, Exit
from pvlock.errors import GuestFault
from pvlock.memory_map import GICD_BASE, GICD_SIZE, GICR_BASE, GICR_STRIDE

if TYPE_CHECKING:
    from pvlock.engines.emulator.vm import Vm

SYSREG_NS = 20
"""What a GIC or timer register costs, which KVM's hardware answers without a trap."""

# ESR_ELx.ISS of a data abort.
_ISV, _WNR, _S1PTW, _CM = 1 << 24, 1 << 6, 1 << 7, 1 << 8
_SGI_REGISTERS = {(3, 0, 12, 11, op2) for op2 in (5, 6, 7)}


class Exits:
    """Answers the exits of one machine's VCPUs; each answer costs the guest some ns."""

    def __init__(self, vm: "Vm") -> None:
        self._vm = vm

    def answer(self, cpu: int, vcpu: EmulatedVcpu, reason: Exit) -> int:
        """Answer the exit of `vcpu`, which is on `cpu`; return its cost in ns.

        Raises GuestFault for what no guest could handle.
        """
        return _ANSWERS[reason](self, cpu, vcpu)

    def _slice(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self._vm.scheduler.slice_end(cpu)
        return 0

    def _wfi(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        vcpu.skip()
        self._vm.cpus[cpu].now += self._vm.config.exit_ns
        # A pending interrupt ends WFI even while PSTATE masks it.
        if not vcpu.state.line:
            self._vm.scheduler.block(cpu)
        return 0

    def _wfe(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self._vm.cpus[cpu].now += self._vm.config.exit_ns
        self._vm.scheduler.yield_(cpu)
        return 0

    def _timer(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self._vm.timer_changed(vcpu.index)
        return SYSREG_NS

    def _smc(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        # There is no EL3; KVM makes it undefined too.
        self._undefined(vcpu)
        return self._vm.config.exit_ns

    def _hypercall(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        registers = [vcpu.x(n) for n in range(4)]
        if psci.handles(registers[0]):
            x1, x2, x3 = registers[1:]
            result = self._vm.psci.call(vcpu.index, registers[0], (x1, x2, x3))
            if result.value is not None:
                vcpu.set_x(0, result.value)
            match result.action:
                case psci.PowerOn(target, entry, context_id):
                    self._vm.start(target, entry, context_id)
                case psci.PowerOff():
                    self._vm.scheduler.off(cpu)
                    return 0
                case psci.SystemOff():
                    self._vm.event = SystemEvent.OFF
                case psci.SystemReset():
                    self._vm.event = SystemEvent.RESET
            return self._vm.config.exit_ns
        answer = self._vm.ask(vcpu.index, "hypercall", registers)
        for number, value in enumerate(answer):
            vcpu.set_x(number, value)
        return self._vm.config.exit_ns

    def _data_abort(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        state = vcpu.state
        esr, ipa = state.esr, state.ipa
        is_device = not self._vm.memory.is_memory(ipa)
        decoded = is_device and esr & _ISV and not esr & _S1PTW
        if is_device and esr & _CM:
            vcpu.skip()
        elif not decoded or not self._mmio(vcpu, esr, ipa):
            self._abort(vcpu, state.far, is_fetch=False)
        return self._vm.config.exit_ns

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
            return self._vm.gic.distributor_read(ipa - GICD_BASE, size)
        if 0 <= ipa - GICR_BASE < GICR_STRIDE * self._vm.config.vcpus:
            return self._vm.gic.redistributor_read(ipa - GICR_BASE, size)
        value = self._vm.ask(vcpu, "mmio_read", [ipa, size])
        return None if value is None else int(value)

    def _device_write(self, vcpu: int, ipa: int, size: int, value: int) -> bool:
        if 0 <= ipa - GICD_BASE < GICD_SIZE:
            self._vm.gic.distributor_write(ipa - GICD_BASE, size, value)
        elif 0 <= ipa - GICR_BASE < GICR_STRIDE * self._vm.config.vcpus:
            self._vm.gic.redistributor_write(ipa - GICR_BASE, size, value)
        elif ipa in self._vm.config.coalesced:
            self._vm.post([vcpu, ipa, size, value])
        else:
            return bool(self._vm.ask(vcpu, "mmio_write", [ipa, size, value]))
        return True

    def _fetch_abort(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self._abort(vcpu, vcpu.state.far, is_fetch=True)
        return self._vm.config.exit_ns

    def _sysreg(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        state = vcpu.state
        n = state.sysreg
        key = (n >> 14, n >> 11 & 7, n >> 7 & 15, n >> 3 & 15, n & 7)
        if state.is_write:
            if self._vm.gic.sysreg_write(vcpu.index, key, state.value):
                vcpu.skip()
            else:
                self._undefined(vcpu)
        else:
            value = self._vm.gic.sysreg_read(vcpu.index, key)
            if value is None:
                self._undefined(vcpu)
            else:
                vcpu.write_rt(value)
                vcpu.skip()
        return self._vm.config.exit_ns if key in _SGI_REGISTERS else SYSREG_NS

    def _abort(self, vcpu: EmulatedVcpu, far: int, is_fetch: bool) -> None:
        vcpu.inject_abort(far, is_fetch)
        self._unless_lost(vcpu)

    def _undefined(self, vcpu: EmulatedVcpu) -> None:
        vcpu.inject_undefined()
        self._unless_lost(vcpu)

    def _unless_lost(self, vcpu: EmulatedVcpu) -> None:
        if vcpu.lost:
            self._lost(0, vcpu)

    def _lost(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        syndrome = f"ESR_EL1 {vcpu.state.esr:#x}, FAR_EL1 {vcpu.state.far:#x}"
        raise GuestFault(
            vcpu.index,
            vcpu.get("pc"),
            f"the first instruction of the guest's exception vector faults itself ({syndrome})",
        )

    def _engine(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        why = lib.unicorn().uc_strerror(vcpu.state.error).decode()
        raise GuestFault(vcpu.index, vcpu.get("pc"), f"the CPU emulator gave up: {why}")


_ANSWERS: dict[Exit, Callable[[Exits, int, EmulatedVcpu], int]] = {
    Exit.SLICE: Exits._slice,
    Exit.WFI: Exits._wfi,
    Exit.WFE: Exits._wfe,
    Exit.TIMER: Exits._timer,
    Exit.SMC: Exits._smc,
    Exit.HVC: Exits._hypercall,
    Exit.DATA_ABORT: Exits._data_abort,
    Exit.FETCH_ABORT: Exits._fetch_abort,
    Exit.SYSREG: Exits._sysreg,
    Exit.LOST: Exits._lost,
    Exit.ENGINE: Exits._engine,
}


def _reversed(value: int, size: int) -> int:
    """Swap what a register holds for what a big-endian access of `size` bytes has on the bus."""
    return int.from_bytes((value & (1 << 8 * size) - 1).to_bytes(size, "little"), "big")


def _extended(value: int, size: int, signed: bool, to_64: bool) -> int:
    """Extend what a load of `size` bytes read, as the instruction would."""
    value &= (1 << 8 * size) - 1
    if signed and value >> 8 * size - 1:
        value -= 1 << 8 * size
    return value & ((1 << 64) - 1 if to_64 or not signed else (1 << 32) - 1)
