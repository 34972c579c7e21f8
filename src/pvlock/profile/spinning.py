# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a Linux kernel spins, and where it keeps what it waits for, read in its own code.

A kernel does not say which register holds a variable. But the code of arm64 compilers is plain
enough: the first argument is in X0, and if the function calls others or uses X0, it moves it to a
register that calls preserve, at its beginning, once. Per-CPU variables are an ADRP and an ADD of
their address. What is read so is used to look at the guest, never to change it. Where it is wrong,
no task of the guest is found there, and nothing is said.
"""

import struct

from pvlock.engines.contract import Spin, SpinKind
from pvlock.linux_image import Btf, Symbols

_FIRST = 24
"""A function that keeps its first argument moves it within so many instructions."""
_MOV_FROM_X0 = 0xAA0003E0
_PRESERVED = range(19, 29)
_MUTEX_FLAGS = 7
_RWSEM_FLAGS, _RWSEM_READERS = 7, 1

QUEUES = ("osq_lock", "osq_wait_next")
MUTEXES = (
    "mutex_spin_on_owner", "mutex_optimistic_spin", "__mutex_lock", "__mutex_lock_common",
    "__ww_mutex_lock",
)  # fmt: skip
RWSEMS = (
    "rwsem_spin_on_owner", "rwsem_optimistic_spin", "rwsem_down_read_slowpath",
    "rwsem_down_write_slowpath",
)  # fmt: skip
SPINLOCKS = (
    "queued_spin_lock_slowpath", "native_queued_spin_lock_slowpath",
    "__pv_queued_spin_lock_slowpath",
)  # fmt: skip
RWLOCKS = ("queued_read_lock_slowpath", "queued_write_lock_slowpath")
RT_MUTEXES = ("rtmutex_spin_on_owner", "rt_mutex_slowlock", "rt_mutex_slowlock_block",
              "__rt_mutex_slowlock_locked", "rtlock_slowlock_locked")  # fmt: skip
HELPERS = ("vcpu_is_preempted", "pvlock_vcpu_is_preempted", "__native_vcpu_is_preempted",
           "dummy_vcpu_is_preempted")  # fmt: skip
IDLE = ("cpu_do_idle", "arch_cpu_idle", "default_idle_call", "do_idle", "cpuidle_enter_state",
        "cpuidle_enter")  # fmt: skip


def code_of(data: bytes, symbols: Symbols, function: range) -> tuple[int, ...]:
    """Return the instructions of a function; none where its bytes are not in the Image."""
    part = data[function.start - symbols.text : function.stop - symbols.text]
    if function.start < symbols.text or len(part) != len(function):
        return ()
    return struct.unpack_from(f"<{len(part) // 4}I", part)


def spins(data: bytes, symbols: Symbols, types: Btf | None) -> tuple[Spin, ...]:
    """Return the functions in which the kernel spins, as far as it has them."""
    found = []
    for names, kind, structure, flags, readers in (
        (QUEUES, SpinKind.QUEUE, None, 0, 0),
        (MUTEXES, SpinKind.OWNER, "mutex", _MUTEX_FLAGS, 0),
        (RWSEMS, SpinKind.OWNER, "rw_semaphore", _RWSEM_FLAGS, _RWSEM_READERS),
        (HELPERS, SpinKind.HELPER, None, 0, 0),
    ):
        owner = 0 if structure is None else _owner(types, structure)
        for name in names:
            for function in symbols.functions(name):
                moved, register = _first_argument(code_of(data, symbols, function))
                found.append(
                    Spin(
                        function.start, function.stop, kind, function.start + moved, register,
                        owner, flags, readers,
                    )
                )  # fmt: skip
    return tuple(found)


def queue_nodes(data: bytes, symbols: Symbols) -> int | None:
    """Return where osq_lock() has the node of each CPU, counted from TPIDR_EL1."""
    known = symbols.get("osq_node")
    if known is not None:
        return known
    for function in symbols.functions("osq_lock"):
        return _first_address(code_of(data, symbols, function), function.start)
    return None


def _owner(types: Btf | None, structure: str) -> int:
    """Return the offset of the owner: without BTF, that of every kernel since 5.3."""
    if types is not None and types.has(structure, "owner"):
        return types.field(structure, "owner").offset
    return 0 if structure == "mutex" else 8


def _first_argument(code: tuple[int, ...]) -> tuple[int, int]:
    """Return from which byte on the first argument is in which register."""
    for index, instruction in enumerate(code[:_FIRST]):
        if instruction & ~0x1F == _MOV_FROM_X0 and instruction & 0x1F in _PRESERVED:
            return 4 * (index + 1), instruction & 0x1F
    return 0, 0


def _first_address(code: tuple[int, ...], start: int) -> int | None:
    """Return the address that the first ADRP, with an ADD to the same register, makes."""
    for index, instruction in enumerate(code[:_FIRST]):
        if instruction & 0x9F000000 != 0x90000000:
            continue
        register = instruction & 0x1F
        pages = (instruction >> 5 & 0x7FFFF) << 2 | instruction >> 29 & 3
        if pages & 1 << 20:
            pages -= 1 << 21
        page = (start + 4 * index & ~0xFFF) + (pages << 12)
        for then in code[index + 1 : index + 4]:
            if then & 0xFFC003FF == 0x91000000 | register << 5 | register:
                return page + (then >> 10 & 0xFFF)
    return None
