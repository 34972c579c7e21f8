# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated VCPU: a Unicorn CPU with us at its EL2; shares its state with native/vcpu.c."""

import ctypes as c
import enum
from collections.abc import Sequence

from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator.stage2 import VTCR_EL2
from pvlock.engines.registers import EL1H_MASKED, SYSTEM_REGISTERS, key
from pvlock.errors import ConfigError


class Exit(enum.IntEnum):
    """Why a VCPU left vm_run(): `enum exit_reason` of native/vcpu.c has the same numbers."""

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
    ILLEGAL = 13


class Timer(c.Structure):
    """CNTx_CTL and CNTx_CVAL."""

    _fields_ = (("ctl", c.c_uint64), ("cval", c.c_uint64))


class _Seen(c.Structure):
    _fields_ = (("pc", c.c_uint64), ("size", c.c_uint32), ("ends_in", c.c_uint32))


class VcpuState(c.Structure):
    """`struct vcpu` of native/vcpu.c."""

    _fields_ = (
        ("uc", c.c_void_p),
        ("context", c.c_void_p),
        ("vm", c.c_void_p),
        ("time", c.c_uint64),
        ("instructions", c.c_uint64),
        ("pc", c.c_uint64),
        ("mpidr", c.c_uint64),
        ("exit", c.c_uint32),
        ("error", c.c_uint32),
        ("esr", c.c_uint32),
        ("index", c.c_uint32),
        ("far", c.c_uint64),
        ("ipa", c.c_uint64),
        ("sysreg", c.c_uint32),
        ("is_write", c.c_uint32),
        ("value", c.c_uint64),
        ("rt", c.c_uint32),
        ("big_endian", c.c_uint32),
        ("line", c.c_uint32),
        ("flush", c.c_uint32),
        ("timer", Timer * 2),
        ("ended_in", c.c_uint32),
        ("el0", c.c_uint32),
        ("stop", c.c_uint64),
        ("block", c.c_uint64),
        ("sysreg_pc", c.c_uint64),
        ("seen", _Seen * 1024),
    )


class CpuState(c.Structure):
    """`struct cpu` of native/vcpu.c: one simulated CPU of the host."""

    _fields_ = (("vcpu", c.c_void_p), ("now", c.c_uint64), ("deadline", c.c_uint64))


class VmState(c.Structure):
    """`struct vm` of native/vcpu.c; `running` is 1 + the index of the VCPU last stepped."""

    _fields_ = (
        ("vcpus", c.c_void_p),
        ("count", c.c_uint32),
        ("trap_wfe", c.c_uint32),
        ("can_yield", c.c_uint32),
        ("exit_ns", c.c_uint32),
        ("exception_ns", c.c_uint32),
        ("maintenance_ns", c.c_uint32),
        ("exception_offset", c.c_uint32),
        ("running", c.c_uint64),
    )


STRUCTURES: dict[str, type[c.Structure]] = {
    "timer": Timer,
    "seen": _Seen,
    "vcpu": VcpuState,
    "cpu": CpuState,
    "vm": VmState,
}
"""The structures that this file restates, by their names in native/vcpu.c."""


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
_SCR = 1 << 10 | 1 << 8 | 1  # RW, HCE, NS; RES1 below
_HCR = 1 << 31 | 1 << 19 | 1 << 13 | 1  # RW: EL1 is AArch64, TSC, TWI, VM
# There is no PMU: its registers trap to EL2, from EL0 too, because EL1 would let EL0 have them.
_MDCR, _PMUSERENR = 1 << 6, 1  # TPM; EN
_FLUSH_ALL = 3

Mapping = tuple[int, int, int]
"""(IPA, bytes, host address) of one memory slot, or of the stage 2 tables."""


class EmulatedVcpu:
    """A CPU in the state in which KVM_CREATE_VCPU leaves one, over memory that all VCPUs share.

    `state` lies in memory shared with the parent process, which reads it when we die.
    """

    def __init__(
        self, index: int, state: VcpuState, mpidr: int, mappings: Sequence[Mapping], tables: int
    ) -> None:
        self.index = index
        self.state = state
        self._native = lib.libvcpu()
        self._lib = lib.unicorn()
        self._uc = lib.open_cpu()
        self._pointer = c.pointer(state)
        state.uc, state.index, state.mpidr = self._uc.value, index, mpidr
        for ipa, size, address in mappings:
            error = self._lib.uc_mem_map_ptr(
                self._uc,
                c.c_uint64(ipa),
                c.c_uint64(size),
                c.c_uint32(lib.PROT_ALL),
                c.c_void_p(address),
            )
            lib.check(error, f"map memory at {ipa:#x}")
        for register, value in (
            (_SCR_EL3, _SCR | 0x30),
            (_MDCR_EL2, _MDCR),
            (_PMUSERENR_EL0, _PMUSERENR),
            (_VTCR_EL2, VTCR_EL2),
            (_VTTBR_EL2, tables),
            (_HCR_EL2, _HCR),
        ):
            self._native.vcpu_set_sysreg(self._pointer, register, value)
        self._write(lib.REG_PSTATE, EL1H_MASKED)
        self._pristine = c.c_void_p()
        lib.check(
            self._lib.uc_context_alloc(self._uc, c.byref(self._pristine)), "allocate a context"
        )
        lib.check(self._lib.uc_context_save(self._uc, self._pristine), "save a context")
        lib.check(self._native.vcpu_attach(self._pointer), "add hooks")

    def reset(self, entry: int, x0: int) -> None:
        """Put the VCPU at `entry`, EL1h, interrupts masked, MMU off, X0 = `x0` (PSCI CPU_ON)."""
        lib.check(self._lib.uc_context_restore(self._uc, self._pristine), "restore a context")
        self.state.flush = _FLUSH_ALL
        self.state.timer[0] = self.state.timer[1] = Timer()
        self._write(lib.REG_PSTATE, EL1H_MASKED)
        self._write(lib.REG_PC, entry)
        self._write(lib.REG_X0, x0)
        # Unicorn takes notice of PSTATE when a system register is written.
        self._native.vcpu_set_sysreg(self._pointer, _HCR_EL2, _HCR)

    def get(self, name: str) -> int:
        """Read a register by its architectural name in lower case."""
        if name in SYSTEM_REGISTERS:
            return int(self._native.vcpu_get_sysreg(self._pointer, SYSTEM_REGISTERS[name]))
        return self._read(_named(name))

    def set(self, name: str, value: int) -> None:
        """Write a register by its architectural name in lower case."""
        if name in SYSTEM_REGISTERS:
            self._native.vcpu_set_sysreg(self._pointer, SYSTEM_REGISTERS[name], value)
            return
        self._write(_named(name), value)
        if name == "pstate":
            self.state.el0 = 1
            self._native.vcpu_set_sysreg(self._pointer, _HCR_EL2, _HCR)

    def x(self, number: int) -> int:
        """Read Xn; 31 is XZR."""
        return 0 if number == 31 else self._read(REGISTERS[f"x{number}"])

    def set_x(self, number: int, value: int) -> None:
        """Write Xn; 31 is XZR."""
        if number != 31:
            self._write(REGISTERS[f"x{number}"], value)

    def write_rt(self, value: int) -> None:
        """Give the MRS that left with Exit.SYSREG its value."""
        self._write(self.state.rt, value)

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
    def lost(self) -> bool:
        """The last injection found the guest's own vector to be what faults."""
        return bool(self.state.exit == Exit.LOST)

    def _read(self, register: int) -> int:
        value = c.c_uint64()
        self._lib.uc_reg_read(self._uc, register, c.byref(value))
        return value.value

    def _write(self, register: int, value: int) -> None:
        self._lib.uc_reg_write(self._uc, register, c.byref(c.c_uint64(value & (1 << 64) - 1)))


def _named(name: str) -> int:
    try:
        return REGISTERS[name]
    except KeyError:
        raise ConfigError(f"no register is called {name!r}") from None
