# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes profiles out of samples that were never taken, of a kernel of a few functions."""

import struct
from collections.abc import Mapping
from typing import Any

from pvlock import image
from pvlock.engines.contract import SAMPLE, Awaits
from pvlock.profile import Profile, Profiler
from symbol_tables import TEXT
from symbol_tables import image as make_image

STP, MOV, LDP, RET, NOP = 0xA9BF7BFD, 0x910003FD, 0xA8C17BFD, 0xD65F03C0, 0xD503201F
MOV_X20_X0 = 0xAA0003F4
FRAMED = (STP, MOV, MOV_X20_X0, NOP, LDP, RET, NOP, NOP)
LEAF = (NOP,) * 7 + (RET,)
FUNCTIONS = {
    "vfs_read": FRAMED, "vfs_write": FRAMED, "osq_lock": LEAF, "mutex_spin_on_owner": LEAF,
    "__mutex_lock.constprop.0": FRAMED, "rwsem_down_write_slowpath": FRAMED,
    "queued_spin_lock_slowpath": FRAMED, "do_idle": FRAMED, "cpu_do_idle": LEAF,
    "pvlock_vcpu_is_preempted": LEAF,
}  # fmt: skip
AT = {name: TEXT + 0x1000 + 32 * place for place, name in enumerate(FUNCTIONS)}


def kernel_table() -> list[tuple[int, str, str]]:
    table = [(0, "T", "_text"), (0x800, "T", "vectors")]
    table += [(address - TEXT, "T", name) for name, address in AT.items()]
    table += [(0x1800 + 4 * i, "t", f"other_{i}") for i in range(300)]
    return [*table, (0x10_0000, "B", "_end")]


def kernel(functions: Mapping[str, tuple[int, ...]] | None = None) -> bytes:
    """An Image with these functions and their symbols."""
    data = bytearray(make_image(kernel_table()))
    for name, code in (functions or FUNCTIONS).items():
        struct.pack_into("<8I", data, AT[name] - TEXT, *code)
    return bytes(data)


def profiler(**options: Any) -> Profiler:
    return Profiler.of_image(image.parse(kernel(), "vmlinuz"), **options)


def packed(
    time: int, vcpu: int, frames: list[int], *, user: int = 0, points: int = 1, lr: int = 0,
    awaited: int = -1, awaits: Awaits = Awaits.NOBODY, flags: int = 0, into: int = 0,
) -> bytes:  # fmt: skip
    head = SAMPLE.pack(
        time, 0, lr, 0, points, vcpu, awaited, awaits, flags, len(frames) - user, user, into
    )
    return head + struct.pack(f"<{len(frames)}Q", *frames)


def profile(*samples: bytes, pcpus: int = 2, end_ns: int = 1000, period_ns: int = 100) -> Profile:
    found = Profile(profiler(period_ns=period_ns), 4, pcpus, end_ns=end_ns)
    found.add(b"".join(samples), 0)
    return found
