# SPDX-License-Identifier: GPL-2.0-or-later
"""The two shared libraries under the emulator: Unicorn (arm64 CPUs) and our own native/.

Everything that the worker knows about Unicorn's C API is here. Its Python binding is not
imported: the engine needs a dozen functions of it, at the price of a ctypes call.
"""

import ctypes as c
import functools
import importlib.util
from pathlib import Path
from typing import Any

from pvlock.errors import EngineError, EngineUnavailable

ARCH_ARM64, MODE_ARM = 2, 0
CPU_MAX = 3
PROT_ALL = 7
REG_X29, REG_X30, REG_SP, REG_X0, REG_PC, REG_PSTATE = 1, 2, 4, 199, 260, 265


def _control(kind: int, arguments: int) -> int:
    return kind | arguments << 26 | 1 << 30


CTL_PAGE_SIZE, CTL_USE_EXITS, CTL_CPU_MODEL, CTL_TLB_TYPE = (
    _control(number, 1) for number in (1, 4, 7, 12)
)
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
    """`struct field` of native/layout.c."""

    _fields_ = (("name", c.c_char_p), ("offset", c.c_uint32), ("size", c.c_uint32))


@functools.cache
def libvcpu() -> Any:
    """Load native/ as the build left it beside this file.

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
    text = c.c_char_p
    for name, result, arguments in (
        ("vm_create", text, [p]),
        ("vm_populate", c.c_bool, [p]),
        ("vm_run", c.c_int, [p, p, u32, p, u64, u64]),
        ("vm_update_lines", None, [p]),
        ("vm_fire_timers", None, [p, u64]),
        ("vcpu_reset", None, [p, u64, u64]),
        ("vcpu_get_register", u64, [p, c.c_int]),
        ("vcpu_set_register", None, [p, c.c_int, u64]),
        ("vcpu_get_sysreg", u64, [p, u32]),
        ("vcpu_set_sysreg", None, [p, u32, u64]),
        ("vcpu_inject_abort", None, [p, c.c_int, u64]),
        ("vcpu_inject_undefined", None, [p]),
        ("gic_new", p, [u32, p]),
        ("gic_free", None, [p]),
        ("gic_reset_vcpu", None, [p, u32]),
        ("gic_line", u32, [p, u32]),
        ("gic_set_level", None, [p, u32, u32, c.c_bool]),
        ("gic_next_changed", c.c_int, [p]),
        ("gic_read_register", c.c_bool, [p, u32, u32, p]),
        ("gic_write_register", c.c_bool, [p, u32, u32, u64]),
        ("gic_read_distributor", u64, [p, u32, u32]),
        ("gic_write_distributor", None, [p, u32, u32, u64]),
        ("gic_read_redistributor", u64, [p, u32, u32]),
        ("gic_write_redistributor", None, [p, u32, u32, u64]),
        ("watch_start", c.c_bool, [p, p, u32, p, u32]),
        ("watch_take", u32, [p, p]),
        ("profile_start", c.c_bool, [p, p, u64]),
        ("profile_enter", None, [p, u64]),
        ("profile_leave", None, [p, u64]),
        ("profile_take", u64, [p, p, p]),
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
        (CTL_PAGE_SIZE, 4096),  # else 1024, as AArch32 may have it
        (CTL_USE_EXITS, 1),
        (CTL_TLB_TYPE, TLB_CPU),
    ):
        check(lib.uc_ctl(uc, c.c_int(control), c.c_int(value)), "configure a CPU")
    return uc
