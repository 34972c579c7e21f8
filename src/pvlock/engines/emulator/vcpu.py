# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated VCPUs: CPUs with us at their EL2, whose state is shared with the C code in native/."""

import ctypes as c
import enum
from collections.abc import Sequence

from pvlock.engines.contract import READS, WORDS
from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator.stage2 import VTCR_EL2
from pvlock.engines.registers import EL1H_MASKED, SYSTEM_REGISTERS, key
from pvlock.errors import ConfigError, EngineError


class Exit(enum.IntEnum):
    """Why a VCPU left vm_run(): `enum exit_reason` of native/emulator.h has the same numbers."""

    NONE = 0
    EDGE = 1
    HVC = 2
    SMC = 3
    WFI = 4
    WFE = 5
    DATA_ABORT = 6
    FETCH_ABORT = 7
    SYSREG = 8
    TIMER = 9
    LOST = 10
    ENGINE = 11
    SLICE = 12
    WAKE = 13


class Timer(c.Structure):
    """CNTx_CTL and CNTx_CVAL."""

    _fields_ = (("ctl", c.c_uint64), ("cval", c.c_uint64))


class _Tlbi(c.Structure):
    _fields_ = (("value", c.c_uint64), ("reg", c.c_void_p))


class VcpuState(c.Structure):
    """`struct vcpu` of native/emulator.h."""

    _fields_ = (
        ("time", c.c_uint64),
        ("stop", c.c_uint64),
        ("instructions", c.c_uint64),
        ("pc", c.c_uint64),
        ("block", c.c_uint32),
        ("flags", c.c_uint32),
        ("tag", c.c_uint64 * 2),
        ("line", c.c_uint32),
        ("exit", c.c_uint32),
        ("env", c.c_void_p),
        ("cpu", c.c_void_p),
        ("vm", c.c_void_p),
        ("error", c.c_uint32),
        ("esr", c.c_uint32),
        ("far", c.c_uint64),
        ("ipa", c.c_uint64),
        ("mpidr", c.c_uint64),
        ("index", c.c_uint32),
        ("big_endian", c.c_uint32),
        ("fault_pc", c.c_uint64),
        ("fault_far", c.c_uint64),
        ("fault_esr", c.c_uint32),
        ("asleep", c.c_uint32),
        ("trap_wfe", c.c_uint32),
        ("event", c.c_uint32),
        ("flush", c.c_uint32),
        ("waiting", c.c_uint32),
        ("timer", Timer * 2),
        ("limit", c.c_uint64),
        ("sample_at", c.c_uint64),
        ("event_since", c.c_uint64),
        ("monitored", c.c_void_p),
        ("exclusive", c.c_uint32),
        ("queued", c.c_uint32),
        ("tlbi", _Tlbi * 16),
        ("code_pages", c.c_uint64 * 64 * 2),
        ("pages", c.c_uint64 * 4096),
        ("seen", c.c_uint64 * 16384),
    )


class CpuState(c.Structure):
    """`struct cpu` of native/emulator.h: one simulated CPU of the host."""

    _fields_ = (("vcpu", c.c_void_p), ("now", c.c_uint64), ("deadline", c.c_uint64))


class SlotState(c.Structure):
    """`struct slot` of native/emulator.h."""

    _fields_ = (
        ("ipa", c.c_uint64),
        ("size", c.c_uint64),
        ("host", c.c_void_p),
        ("readonly", c.c_uint64),
    )


class VmState(c.Structure):
    """`struct vm` of native/emulator.h; `running` is 1 + the index of the VCPU last stepped."""

    _fields_ = (
        ("uc", c.c_void_p),
        ("vcpus", c.c_void_p),
        ("gic", c.c_void_p),
        ("slots", c.c_void_p),
        ("slot_count", c.c_uint32),
        ("count", c.c_uint32),
        ("can_yield", c.c_uint32),
        ("exit_ns", c.c_uint32),
        ("exception_ns", c.c_uint32),
        ("maintenance_ns", c.c_uint32),
        ("sysreg_ns", c.c_uint32),
        ("wakes", c.c_uint32),
        ("pauth", c.c_uint32),
        ("running", c.c_uint64),
        ("timer_due", c.c_uint64),
        ("exits", c.c_uint64 * len(Exit)),
        ("watch", c.c_void_p),
        ("profile", c.c_void_p),
        ("code_flushes", c.c_uint32),
        ("current", c.c_void_p),
        ("pristine", c.c_void_p),
    )


class WatchRead(c.Structure):
    """`struct watch_read` of native/emulator.h."""

    _fields_ = (
        ("offset", c.c_int32),
        ("base", c.c_uint8),
        ("size", c.c_uint8),
        ("reserved", c.c_uint16),
    )


class WatchPoint(c.Structure):
    """`struct watch_point` of native/emulator.h."""

    _fields_ = (
        ("pc", c.c_uint64),
        ("flags", c.c_uint32),
        ("word_size", c.c_uint32),
        ("word_mask", c.c_uint64 * WORDS),
        ("reads", WatchRead * READS),
    )


class WatchRecord(c.Structure):
    """`struct watch_record` of native/emulator.h; contract.WATCHED is the same."""

    _fields_ = (
        ("time", c.c_uint64),
        ("lock", c.c_uint64),
        ("x", c.c_uint64 * 3),
        ("lr", c.c_uint64),
        ("task", c.c_uint64),
        ("value", c.c_uint64 * READS),
        ("point", c.c_uint32),
        ("vcpu", c.c_uint16),
        ("kind", c.c_uint8),
        ("last", c.c_uint8),
    )


class SpinState(c.Structure):
    """`struct spin` of native/emulator.h: a function in which a kernel spins."""

    _fields_ = (
        ("start", c.c_uint64),
        ("end", c.c_uint64),
        ("moved", c.c_uint64),
        ("kind", c.c_uint32),
        ("reg", c.c_uint32),
        ("owner", c.c_uint64),
        ("flags", c.c_uint64),
        ("readers", c.c_uint64),
    )


class ProfileState(c.Structure):
    """`struct profile_setup` of native/emulator.h: what to sample, and how often."""

    _fields_ = (
        ("period", c.c_uint64),
        ("user_registers", c.c_uint64),
        ("queue", c.c_uint64),
        ("spins", c.c_void_p),
        ("spin_count", c.c_uint64),
    )


class SampleState(c.Structure):
    """`struct sample` of native/emulator.h, without the frames that follow it."""

    _fields_ = (
        ("time", c.c_uint64),
        ("task", c.c_uint64),
        ("lr", c.c_uint64),
        ("owner", c.c_uint64),
        ("points", c.c_uint32),
        ("vcpu", c.c_uint16),
        ("awaited", c.c_int16),
        ("awaits", c.c_uint8),
        ("flags", c.c_uint8),
        ("kernel", c.c_uint8),
        ("user", c.c_uint8),
        ("into", c.c_uint32),
    )


STRUCTURES: dict[str, type[c.Structure]] = {
    "timer": Timer,
    "tlbi": _Tlbi,
    "vcpu": VcpuState,
    "cpu": CpuState,
    "slot": SlotState,
    "vm": VmState,
    "watch_read": WatchRead,
    "watch_point": WatchPoint,
    "watch_record": WatchRecord,
    "spin": SpinState,
    "profile_setup": ProfileState,
    "sample": SampleState,
}
"""The structures that this file restates, by their names in native/emulator.h."""


def check_layout() -> None:
    """Compare every field of STRUCTURES with what libvcpu says of its own.

    Raises EngineError, which names the first field that differs.
    """
    theirs = lib.native_layout()
    ours = {}
    for name, structure in STRUCTURES.items():
        ours[name] = 0, c.sizeof(structure)
        for field in structure._fields_:
            place = getattr(structure, field[0])
            ours[f"{name}.{field[0]}"] = place.offset, place.size
    for name in (*ours, *theirs):
        if ours.get(name) != theirs.get(name):
            there, here = _described(theirs.get(name)), _described(ours.get(name))
            raise lib.another_version(f"{name}: {there} in C, {here} in Python")


def _described(place: tuple[int, int] | None) -> str:
    return f"{place[1]} bytes at {place[0]}" if place else "nothing"


REGISTERS = {
    **{f"x{n}": lib.REG_X0 + n for n in range(29)},
    "x29": lib.REG_X29,
    "x30": lib.REG_X30,
    "sp": lib.REG_SP,
    "pc": lib.REG_PC,
    "pstate": lib.REG_PSTATE,
}

_PMUSERENR_EL0, _HCR_EL2, _MDCR_EL2, _VTTBR_EL2, _VTCR_EL2, _SCR_EL3 = (
    key(3, 3, 9, 14, 0),
    key(3, 4, 1, 1, 0),
    key(3, 4, 1, 1, 1),
    key(3, 4, 2, 1, 0),
    key(3, 4, 2, 1, 2),
    key(3, 6, 1, 1, 0),
)
_SCR = 3 << 16 | 1 << 10 | 1 << 8 | 0x30 | 1  # API, APK, RW, HCE, RES1, NS
_HCR = 3 << 40 | 1 << 31 | 1 << 19 | 1 << 13 | 1  # API, APK, RW: EL1 is AArch64, TSC, TWI, VM
# There is no PMU: its registers trap to EL2, from EL0 too, because EL1 would let EL0 have them.
_MDCR, _PMUSERENR = 1 << 6, 1  # TPM; EN

_PSTATE_EL = 0xC

Mapping = tuple[int, int, int]
"""(IPA, bytes, host address) of one memory slot, or of the stage 2 tables."""


def create(vm: VmState, mappings: Sequence[Mapping], tables: int) -> None:
    """Make the VCPUs that `vm` names, over memory that they share, as KVM_CREATE_VCPU leaves them.

    `tables` is where stage 2 translation begins. Raises EngineError for a Unicorn that differs from
    what native/qemu.h says of it.
    """
    native, unicorn, uc = lib.libvcpu(), lib.unicorn(), lib.open_cpu()
    vm.uc = uc.value
    pointer = c.pointer(vm)
    if error := native.vm_create(pointer):
        raise EngineError(f"this Unicorn is not the one that pvlock knows: {error.decode()}")
    for ipa, size, address in mappings:
        error = unicorn.uc_mem_map_ptr(
            uc, c.c_uint64(ipa), c.c_uint64(size), c.c_uint32(lib.PROT_ALL), c.c_void_p(address)
        )
        lib.check(error, f"map memory at {ipa:#x}")
    first = VcpuState.from_address(c.c_void_p.from_address(vm.vcpus).value or 0)
    for register, value in (
        (_SCR_EL3, _SCR),
        (_MDCR_EL2, _MDCR),
        (_PMUSERENR_EL0, _PMUSERENR),
        (_VTCR_EL2, VTCR_EL2),
        (_VTTBR_EL2, tables),
        (_HCR_EL2, _HCR),
    ):
        native.vcpu_set_sysreg(c.byref(first), register, value)
    native.vcpu_set_register(c.byref(first), lib.REG_PSTATE, EL1H_MASKED)
    if not native.vm_populate(pointer):
        raise EngineError("no memory for the VCPUs")


class EmulatedVcpu:
    """One VCPU. `state` lies in memory shared with the parent process, which reads it if we die."""

    def __init__(self, index: int, state: VcpuState) -> None:
        self.index = index
        self.state = state
        self._native = lib.libvcpu()
        self._pointer = c.pointer(state)

    def reset(self, entry: int, x0: int) -> None:
        """Put the VCPU at `entry`, EL1h, interrupts masked, MMU off, X0 = `x0` (PSCI CPU_ON)."""
        self._native.vcpu_reset(self._pointer, entry, x0)

    def get(self, name: str) -> int:
        """Read a register by its architectural name in lower case."""
        if name in SYSTEM_REGISTERS:
            return int(self._native.vcpu_get_sysreg(self._pointer, SYSTEM_REGISTERS[name]))
        return self._read(_named(name))

    def set(self, name: str, value: int) -> None:
        """Write a register by its architectural name in lower case."""
        if name in SYSTEM_REGISTERS:
            self._native.vcpu_set_sysreg(self._pointer, SYSTEM_REGISTERS[name], value)
        else:
            self._write(_named(name), value)

    def x(self, number: int) -> int:
        """Read Xn; 31 is XZR."""
        return 0 if number == 31 else self._read(REGISTERS[f"x{number}"])

    def set_x(self, number: int, value: int) -> None:
        """Write Xn; 31 is XZR."""
        if number != 31:
            self._write(REGISTERS[f"x{number}"], value)

    def skip(self) -> None:
        """Step over the instruction at PC."""
        self._write(lib.REG_PC, self._read(lib.REG_PC) + 4)

    def inject_abort(self, far: int, is_fetch: bool = False) -> None:
        """Take a synchronous external abort to EL1 (KVM: kvm_inject_dabt, kvm_inject_pabt)."""
        self._native.vcpu_inject_abort(self._pointer, is_fetch, far)

    def inject_undefined(self) -> None:
        """Take an Undefined Instruction exception to EL1."""
        self._native.vcpu_inject_undefined(self._pointer)

    @property
    def in_kernel(self) -> bool:
        """Whether it is at EL1, or was when it last ran (KVM: kvm_arch_vcpu_in_kernel)."""
        return bool(self.get("pstate") & _PSTATE_EL)

    @property
    def lost(self) -> bool:
        """The last injection found the guest's own vector to be what faults."""
        return bool(self.state.exit == Exit.LOST)

    def _read(self, register: int) -> int:
        return int(self._native.vcpu_get_register(self._pointer, register))

    def _write(self, register: int, value: int) -> None:
        self._native.vcpu_set_register(self._pointer, register, value & (1 << 64) - 1)


def _named(name: str) -> int:
    try:
        return REGISTERS[name]
    except KeyError:
        raise ConfigError(f"no register is called {name!r}") from None
