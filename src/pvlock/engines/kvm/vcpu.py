# SPDX-License-Identifier: GPL-2.0-or-later
"""One VCPU of KVM: its registers, its shared kvm_run page, and why it left the guest."""

import ctypes as c
import errno
import mmap
import os
from dataclasses import dataclass

from pvlock.engines.contract import SystemEvent
from pvlock.engines.kvm import ioctl
from pvlock.engines.registers import EL1H_MASKED, SYSTEM_REGISTERS, key
from pvlock.errors import ConfigError, EngineError, GuestFault

_CORE = {
    **{f"x{n}": 2 * n for n in range(31)},
    "sp_el0": 62,
    "pc": 64,
    "pstate": 66,
    "sp_el1": 68,
    "elr_el1": 70,
    "spsr_el1": 72,
}
"""Where struct kvm_regs keeps a register, in units of 4 bytes."""
_COUNTER = {"cntvct_el0": key(3, 3, 14, 3, 2)}
"""KVM_REG_ARM_TIMER_CNT: KVM's number for the guest's counter is not the architecture's."""
_GENERAL = tuple(f"x{n}" for n in range(31))
_SPSEL = 1


@dataclass(frozen=True)
class Hypercall:
    """An HVC that the SMCCC filter forwards; PC is already that of the next instruction."""


@dataclass(frozen=True)
class Mmio:
    """An access of `size` bytes at `ipa`; `value` is None for a read, which complete() answers."""

    ipa: int
    size: int
    value: int | None


@dataclass(frozen=True)
class Undecoded:
    """An access outside memory, at `ipa`, for which the CPU gives no syndrome (STP, STXR, ...)."""

    ipa: int


@dataclass(frozen=True)
class Kicked:
    """Somebody wants the VCPU to stop; the guest noticed nothing."""


Exit = Hypercall | Mmio | Undecoded | Kicked | SystemEvent


class KvmVcpu:
    """A VCPU. No method may be called while another thread is in enter()."""

    def __init__(self, vm_fd: int, index: int, run_size: int) -> None:
        """Create VCPU `index`; raises EngineError when KVM cannot."""
        self.index = index
        self.fd = ioctl.must(f"create VCPU {index}", vm_fd, ioctl.CREATE_VCPU, index)
        try:
            self._mapping = mmap.mmap(self.fd, run_size)
        except OSError as error:
            os.close(self.fd)
            raise EngineError(f"cannot map VCPU {index}: {error.strerror}") from error
        self._run = ioctl.Run.from_buffer(self._mapping)

    def close(self) -> None:
        """Close the VCPU. The kernel frees the VM with the last descriptor of it and its VCPUs."""
        del self._run, self._mapping
        os.close(self.fd)
        self.fd = -1

    def ring(self, page: int) -> c.Structure:
        """Return the VM's ring of coalesced writes: page number `page` of what KVM shares."""
        kind = ioctl.coalesced_ring(mmap.PAGESIZE)
        return kind.from_buffer(self._mapping, page * mmap.PAGESIZE)

    def reset(self, target: ioctl.VcpuInit, off: bool = True) -> None:
        """Put the VCPU into the state in which it was created, waiting for CPU_ON if `off`."""
        init = ioctl.VcpuInit.from_buffer_copy(target)
        init.features[0] |= ioctl.FEATURE_PSCI_0_2 | (ioctl.FEATURE_POWER_OFF if off else 0)
        ioctl.must(f"initialise VCPU {self.index}", self.fd, ioctl.ARM_VCPU_INIT, init)

    def start(self, entry: int, x0: int) -> None:
        """Let the VCPU begin at IPA `entry`, EL1h, MMU off, with X0 (the boot protocol)."""
        self.set("pc", entry)
        self.set("x0", x0)
        self.set("pstate", EL1H_MASKED)
        state = c.c_uint32(ioctl.MP_STATE_RUNNABLE)
        ioctl.must("start a VCPU", self.fd, ioctl.SET_MP_STATE, state)

    def get(self, name: str) -> int:
        """Read a register by its architectural name in lower case."""
        value = c.c_uint64()
        one = ioctl.OneReg(self._id(name), c.addressof(value))
        ioctl.must(f"read {name} of VCPU {self.index}", self.fd, ioctl.GET_ONE_REG, one)
        return value.value

    def set(self, name: str, value: int) -> None:
        """Write a register by its architectural name in lower case."""
        word = c.c_uint64(value)
        one = ioctl.OneReg(self._id(name), c.addressof(word))
        ioctl.must(f"write {name} of VCPU {self.index}", self.fd, ioctl.SET_ONE_REG, one)

    def set_attr(self, group: int, attr: int, value: int) -> bool:
        """Set an attribute of the VCPU; False where this kernel has none of that name."""
        word = c.c_uint64(value)
        argument = ioctl.device_attr(group, attr, word)
        try:
            ioctl.call(self.fd, ioctl.HAS_DEVICE_ATTR, argument)
        except OSError:
            return False
        ioctl.must(
            f"set attribute {group}.{attr} of VCPU {self.index}",
            self.fd,
            ioctl.SET_DEVICE_ATTR,
            argument,
        )
        return True

    def kick_with(self, signal: int) -> None:
        """Let `signal`, blocked everywhere else, end enter() with Kicked.

        The signal stays pending until the thread takes it, so a kick just before enter() counts.
        """
        mask = ioctl.SignalMask(8, ~(1 << signal - 1) & (1 << 64) - 1)
        ioctl.must("choose a signal", self.fd, ioctl.SET_SIGNAL_MASK, mask)

    def enter(self) -> Exit:
        """Run the guest until it needs something. Raises GuestFault where it cannot go on."""
        try:
            ioctl.call(self.fd, ioctl.RUN)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.EAGAIN):
                return Kicked()
            raise self.fault(f"KVM_RUN: {error.strerror}") from error
        run = self._run
        match run.exit_reason:
            case ioctl.EXIT_HYPERCALL:
                return Hypercall()
            case ioctl.EXIT_MMIO:
                mmio = run.mmio
                size = min(mmio.len, 8)
                value = int.from_bytes(bytes(mmio.data[:size]), "little")
                return Mmio(mmio.phys_addr, size, value if mmio.is_write else None)
            case ioctl.EXIT_ARM_NISV:
                return Undecoded(run.arm_nisv.fault_ipa)
            case ioctl.EXIT_INTR:
                return Kicked()
            case ioctl.EXIT_SYSTEM_EVENT:
                return self._system_event(run.system_event.type)
            case ioctl.EXIT_FAIL_ENTRY:
                reason = run.fail_entry.hardware_entry_failure_reason
                raise self.fault(f"the CPU refused to enter the guest ({reason:#x})")
            case ioctl.EXIT_INTERNAL_ERROR:
                raise self.fault(f"KVM internal error {run.internal.suberror}")
            case other:
                raise self.fault(f"KVM exit {other}, which pvlock does not know")

    def complete(self, value: int) -> None:
        """Answer the read that enter() returned; the guest gets `value` when it goes on."""
        self._run.mmio.data[:] = list((value % 2**64).to_bytes(8, "little"))

    def abort(self, exit: Mmio | Undecoded | None = None) -> None:
        """Make the access `exit`, which enter() returned, take an external abort.

        Without `exit` the next instruction takes it.
        """
        if isinstance(exit, Mmio):
            self._forget_access()
        events = ioctl.VcpuEvents(ext_dabt_pending=1)
        ioctl.must("inject an abort", self.fd, ioctl.SET_VCPU_EVENTS, events)

    def _forget_access(self) -> None:
        # KVM steps over an MMIO instruction when the VCPU next runs. Before commit e735a5da6442
        # (Linux 6.13) it does so even when an abort is pending: the abort would name the next
        # instruction, and a load would have changed its register. So we let KVM finish without
        # running the guest, and then put the registers back.
        saved = {name: self.get(name) for name in ("pc", *_GENERAL)}
        self.settle()
        for name, value in saved.items():
            self.set(name, value)

    def settle(self) -> None:
        """Finish the access that enter() returned, without running the guest.

        Until then the registers are those from before the access. KVM steps over the instruction,
        and gives a load its value, only when KVM_RUN is called again.
        """
        self._run.immediate_exit = 1
        try:
            ioctl.call(self.fd, ioctl.RUN)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise self.fault(f"KVM_RUN: {error.strerror}") from error
        finally:
            self._run.immediate_exit = 0

    def _system_event(self, kind: int) -> SystemEvent:
        match kind:
            case ioctl.SYSTEM_EVENT_SHUTDOWN:
                return SystemEvent.OFF
            case ioctl.SYSTEM_EVENT_RESET:
                return SystemEvent.RESET
            case _:
                raise self.fault(f"system event {kind}, which pvlock does not know")

    def fault(self, reason: str) -> GuestFault:
        """Return the error that says where this VCPU was when `reason` ended it."""
        try:
            pc = self.get("pc")
        except EngineError:  # KVM may refuse the registers of a VCPU that has failed
            pc = 0
        return GuestFault(self.index, pc, reason)

    def _id(self, name: str) -> int:
        if name == "sp":
            name = "sp_el1" if self.get("pstate") & _SPSEL else "sp_el0"
        if name in _CORE:
            return ioctl.REG_CORE | _CORE[name]
        if encoding := (SYSTEM_REGISTERS | _COUNTER).get(name):
            return ioctl.REG_SYSTEM | encoding
        raise ConfigError(f"no register is called {name!r}")
