# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the members of a kernel's structures are, by the BTF within its Image."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvlock.errors import MissingTypes
from pvlock.linux_image import Btf, Field
from symbol_tables import BtfWriter, symbols
from symbol_tables import image as make_image


def blob() -> bytes:
    """Structures as the kernel has them: typedefs, qualifiers, unnamed unions, arrays."""
    btf = BtfWriter()
    char, u32 = btf.integer("char", 1), btf.integer("unsigned int", 4)
    u64 = btf.integer("unsigned long", 8)
    pid = btf.add(10, "", btf.add(8, "pid_t", u32))
    count = btf.struct("", 8, [("counter", u64, 0)])
    atomic = btf.add(8, "atomic_long_t", count)
    info = btf.struct("thread_info", 24, [("flags", u64, 0), ("cpu", u32, 16)])
    union = btf.add(5, "", 8, _member(btf, "spare", u64, 0) + _member(btf, "low", u32, 32), 2)
    comm = btf.array(char, 16)
    btf.struct(
        "task_struct", 88,
        [("thread_info", info, 0), ("", union, 24), ("pid", pid, 32), ("comm", comm, 40),
         ("next", btf.pointer(info), 56), ("rows", btf.array(btf.array(u32, 3), 2), 64)],
    )  # fmt: skip
    btf.struct("mutex", 32, [("owner", atomic, 0)])
    return btf.bytes()


def _member(btf: BtfWriter, name: str, number: int, bits: int) -> bytes:
    return b"".join(x.to_bytes(4, "little") for x in (btf._name(name), number, bits))


def read(extra: bytes) -> Btf:
    return Btf(make_image(symbols(10), extra=extra), "vmlinuz")


@pytest.mark.parametrize(
    ("structure", "path", "where"),
    [
        ("task_struct", "comm", Field(40, 16)),
        ("task_struct", "pid", Field(32, 4)),
        ("task_struct", "low", Field(28, 4)),
        ("task_struct", "thread_info.cpu", Field(16, 4)),
        ("task_struct", "next", Field(56, 8)),
        ("task_struct", "rows", Field(64, 24)),
        ("mutex", "owner.counter", Field(0, 8)),
    ],
)
def test_members_are_found(structure: str, path: str, where: Field) -> None:
    assert read(blob()).field(structure, path) == where


def test_the_kernels_own_types_are_the_most() -> None:
    small = BtfWriter()
    small.struct("task_struct", 4, [("pid", small.integer("int", 4), 0)])
    types = read(small.bytes() + blob() + small.bytes())
    assert types.field("task_struct", "pid").offset == 32
    assert types.size("task_struct") == 88


def test_what_is_not_there_is_said() -> None:
    types = read(blob())
    with pytest.raises(MissingTypes, match="vmlinuz: its BTF has no struct rw_semaphore"):
        types.field("rw_semaphore", "owner")
    with pytest.raises(MissingTypes, match="its BTF has no member owner of task_struct"):
        types.field("task_struct", "owner")
    with pytest.raises(MissingTypes, match=r"no member pid\.value of task_struct"):
        types.field("task_struct", "pid.value")
    assert not types.has("task_struct", "owner")
    with pytest.raises(MissingTypes, match="vmlinuz: has no BTF"):
        read(b"")


def test_types_made_of_themselves_end() -> None:
    btf = BtfWriter()
    btf.struct("loop", 8, [("", 1, 0), ("", 1, 0), ("deeper", 2, 0), ("array", 3, 0)])
    btf.add(8, "again", 2)
    btf.array(3, 7)
    types = read(btf.bytes())
    with pytest.raises(MissingTypes, match="no member absent"):
        types.field("loop", "absent")
    with pytest.raises(MissingTypes, match="made of itself"):
        types.field("loop", "deeper")
    assert types.field("loop", "array").offset == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_spoilt_bytes_raise_nothing_else(changes: list[tuple[int, int]]) -> None:
    spoilt = bytearray(blob())
    for at, value in changes:
        spoilt[at % len(spoilt)] = value
    with contextlib.suppress(MissingTypes):
        types = read(bytes(spoilt))
        for path in ("comm", "low", "rows", "thread_info.cpu"):
            types.has("task_struct", path)
