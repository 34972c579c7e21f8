# SPDX-License-Identifier: GPL-2.0-or-later
"""The two shared libraries under the emulator: Unicorn (arm64 CPUs) and our own native/vcpu.c.

Everything that the worker knows about Unicorn's C API is here. Its Python binding is not
imported: the engine needs a dozen functions of it, at the price of a ctypes call.
"""

import ctypes as c
import functools
import importlib.util
import struct
from pathlib import Path
from typing import Any

from pvlock.errors import EngineError, EngineUnavailable

ARCH_ARM64, MODE_ARM = 2, 0
CPU_MAX = 3
PROT_ALL = 7
REG_X29, REG_X30, REG_SP, REG_X0, REG_PC, REG_PSTATE = 1, 2, 4, 199, 260, 265
HOOK_INTR = 1


def _control(kind: int, arguments: int) -> int:
    return kind | arguments << 26 | 1 << 30


CTL_USE_EXITS, CTL_CPU_MODEL, CTL_TLB_TYPE = _control(4, 1), _control(7, 1), _control(12, 1)
TLB_CPU = 0


@functools.cache
def unicorn() -> Any:
    """Load libunicorn, its symbols visible to libvcpu."""
    spec = importlib.util.find_spec("unicorn")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailable(
            "emulator", "Unicorn is not installed", "pip install unicorn==2.1.4"
        )
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    for name in ("libunicorn.so.2", "libunicorn.2.dylib"):
        if (folder / name).exists():
            lib = c.CDLL(str(folder / name), mode=c.RTLD_GLOBAL)
            lib.uc_strerror.restype = c.c_char_p
            return lib
    raise EngineUnavailable(
        "emulator",
        f"no Unicorn library in {folder}",
        "pip install --force-reinstall unicorn==2.1.4",
    )


class _Field(c.Structure):
    """`struct field` of native/vcpu.c."""

    _fields_ = (("name", c.c_char_p), ("offset", c.c_uint32), ("size", c.c_uint32))


@functools.cache
def libvcpu() -> Any:
    """Load native/vcpu.c as the build left it beside this file.

    Raises EngineUnavailable where there is none, EngineError for one of another version.
    """
    unicorn()
    found = sorted(Path(__file__).parent.glob("libvcpu.*"))
    if not found:
        raise EngineUnavailable(
            "emulator",
            "its native half libvcpu is missing",
            "install pvlock with pip, which builds it",
        )
    lib = c.CDLL(str(found[0]))
    u64, u32, p = c.c_uint64, c.c_uint32, c.c_void_p
    for name, result, arguments in (
        ("vm_run", c.c_int, [p, p, u32, p, u64, u64]),
        ("vcpu_attach", u32, [p]),
        ("vcpu_get_sysreg", u64, [p, u32]),
        ("vcpu_set_sysreg", None, [p, u32, u64]),
        ("vcpu_inject_abort", None, [p, c.c_int, u64]),
        ("vcpu_inject_undefined", None, [p]),
        ("struct_layout", c.POINTER(_Field), []),
    ):
        function = getattr(lib, name, None)
        if function is None:
            raise another_version(f"it has no {name}()")
        function.restype, function.argtypes = result, arguments
    return lib


def another_version(what: str) -> EngineError:
    """Return the error of a libvcpu that does not belong to this Python code."""
    return EngineError(f"libvcpu is of another version of pvlock ({what}): reinstall pvlock")


def native_layout() -> dict[str, tuple[int, int]]:
    """Return where libvcpu has the fields of its structures: (offset, size) by "STRUCT.FIELD".

    A structure as a whole is there too, as "STRUCT", at offset 0.
    """
    table, layout = libvcpu().struct_layout(), {}
    for entry in table:
        if entry.name is None:
            break
        layout[entry.name.decode()] = entry.offset, entry.size
    return layout


def check(error: int, what: str) -> None:
    """Raise EngineError where Unicorn returned an error."""
    if error:
        raise EngineError(f"Unicorn cannot {what}: {unicorn().uc_strerror(error).decode()}")


def open_cpu() -> c.c_void_p:
    """Open a CPU whose page tables are walked as the architecture says, with no exit address."""
    lib, uc = unicorn(), c.c_void_p()
    check(lib.uc_open(ARCH_ARM64, MODE_ARM, c.byref(uc)), "open an arm64 CPU")
    for control, value in (
        (CTL_CPU_MODEL, CPU_MAX),
        (CTL_USE_EXITS, 1),
        (CTL_TLB_TYPE, TLB_CPU),
    ):
        check(lib.uc_ctl(uc, c.c_int(control), c.c_int(value)), "configure a CPU")
    return uc


@functools.cache
def exception_offset() -> int:
    """Find where a saved context holds {ESR u32, FSR u32, FAR u64, target EL u32}.

    A BRK with a known immediate leaves a known syndrome; the offset is where exactly that number
    appears, and a second BRK must change it there. Raises EngineError for a Unicorn that differs.
    """
    lib, uc, context = unicorn(), open_cpu(), c.c_void_p()
    lib.uc_context_size.restype = c.c_size_t
    try:
        check(lib.uc_mem_map(uc, c.c_uint64(0), c.c_size_t(4096), PROT_ALL), "map memory")
        check(lib.uc_context_alloc(uc, c.byref(context)), "allocate a context")
        stop = c.CFUNCTYPE(None, c.c_void_p, c.c_uint32, c.c_void_p)(
            lambda _uc, _number, _data: check(lib.uc_emu_stop(uc), "stop")
        )
        hook = c.c_size_t()
        check(
            lib.uc_hook_add(uc, c.byref(hook), HOOK_INTR, stop, None, c.c_uint64(1), c.c_uint64(0)),
            "hook exceptions",
        )
        size = lib.uc_context_size(uc)
        candidates: set[int] | None = None
        for address, immediate in ((0x000, 0x5AA5), (0x800, 0xC33C)):
            pc, brk = c.c_uint64(address), struct.pack("<I", 0xD4200000 | immediate << 5)
            check(lib.uc_mem_write(uc, pc, brk, c.c_uint64(4)), "write memory")
            check(
                lib.uc_emu_start(uc, pc, c.c_uint64(0), c.c_uint64(0), c.c_size_t(0)), "run a BRK"
            )
            check(lib.uc_context_save(uc, context), "save a context")
            saved = c.string_at(context.value or 0, size)
            wanted = struct.pack("<I", 0x3C << 26 | 1 << 25 | immediate)
            found = {i for i in range(0, size - 20, 4) if saved[i : i + 4] == wanted}
            candidates = found if candidates is None else candidates & found
    finally:
        if context:
            lib.uc_context_free(context)
        lib.uc_close(uc)
    if not candidates or len(candidates) != 1:
        raise EngineError("this Unicorn keeps exceptions where pvlock cannot find them; use 2.1.4")
    return candidates.pop()
