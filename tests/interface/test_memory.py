# SPDX-License-Identifier: GPL-2.0-or-later
"""memory.py: one bounds check, and no address that gets around it."""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock.errors import ConfigError, MemoryAccessError
from pvlock.memory import GuestMemory, MemorySlot, anonymous_slot, private_slot

RAM, RAM_SIZE = 0x4000_0000, 0x4000
REGION, REGION_SIZE = RAM + RAM_SIZE, 0x1000
HOSTILE = [-1, -(2**64), 2**63, 2**64 - 8, 2**64, 2**64 + RAM, 2**200, 0, RAM - 1]


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory()
    memory.add(anonymous_slot(RAM, RAM_SIZE, "ram"))
    memory.add(anonymous_slot(REGION, REGION_SIZE, "region", readonly=True))
    yield memory
    memory.close()


def slot(base: int, size: int) -> MemorySlot:
    return MemorySlot(base, size, "test", memoryview(bytearray(size)))


def test_starts_zeroed_and_keeps_what_is_written(memory: GuestMemory) -> None:
    assert memory.read(RAM, RAM_SIZE, "test") == bytes(RAM_SIZE)
    memory.write(RAM + 1, b"abc", "test")
    assert memory.read(RAM, 5, "test") == b"\0abc\0"


def test_u64_is_little_endian(memory: GuestMemory) -> None:
    memory.write_u64(RAM, 0x0102_0304_0506_0708, "test")
    assert memory.read(RAM, 8, "test") == bytes(range(8, 0, -1))
    assert memory.read_u64(RAM, "test") == 0x0102_0304_0506_0708
    memory.write_u64(RAM, -1, "test")
    assert memory.read_u64(RAM, "test") == 2**64 - 1


def test_host_writes_read_only_slots(memory: GuestMemory) -> None:
    memory.write_u64(REGION, 1, "test")
    assert memory.read_u64(REGION, "test") == 1


def test_adjacent_slots_do_not_join(memory: GuestMemory) -> None:
    assert memory.contains(REGION - 4, 4) and memory.contains(REGION, 4)
    assert not memory.contains(REGION - 4, 8)
    with pytest.raises(MemoryAccessError):
        memory.read_u64(REGION - 4, "test")


@pytest.mark.parametrize("ipa", HOSTILE)
def test_hostile_addresses(memory: GuestMemory, ipa: int) -> None:
    with pytest.raises(MemoryAccessError) as caught:
        memory.read(ipa, 8, "a hostile guest")
    assert (caught.value.address, caught.value.size) == (ipa, 8)
    assert caught.value.who == "a hostile guest"
    with pytest.raises(MemoryAccessError):
        memory.write(ipa, bytes(8), "test")
    with pytest.raises(MemoryAccessError):
        memory.zero(ipa, 8, "test")
    assert memory.slot_of(ipa, 8) is None


@pytest.mark.parametrize("size", [0, -1, -RAM_SIZE, 2**64, 2**64 - RAM, RAM_SIZE + 1])
def test_hostile_sizes(memory: GuestMemory, size: int) -> None:
    assert memory.slot_of(RAM, size) is None
    with pytest.raises(MemoryAccessError):
        memory.read(RAM, size, "test")


@given(st.integers(-(2**65), 2**65) | st.integers(-64, 64).map(lambda n: RAM + n), st.integers())
def test_access_is_in_a_slot_or_raises(ipa: int, size: int) -> None:
    memory = GuestMemory()
    memory.add(slot(RAM, RAM_SIZE))
    inside = size >= 1 and ipa >= RAM and ipa + size <= RAM + RAM_SIZE
    assert memory.contains(ipa, size) == inside
    if inside:
        assert len(memory.read(ipa, size, "test")) == size
    else:
        with pytest.raises(MemoryAccessError):
            memory.read(ipa, size, "test")


def test_zero_touches_nothing_else() -> None:
    memory = GuestMemory()
    size = 0x4_0000
    memory.add(slot(0, size))
    memory.write(0, b"\xff" * size, "test")
    memory.zero(1, size - 2, "test")
    assert memory.read(0, size, "test") == b"\xff" + bytes(size - 2) + b"\xff"


@pytest.mark.parametrize(
    ("base", "size"),
    [
        (RAM + 1, 0x1000),
        (RAM, 0x1001),
        (-0x1000, 0x1000),
        (2**64, 0x1000),
        (0, 0),
        (RAM + RAM_SIZE - 0x1000, 0x1000),
        (RAM - 0x1000, 0x2000),
        (RAM, RAM_SIZE),
    ],
)
def test_add_refuses(memory: GuestMemory, base: int, size: int) -> None:
    before = list(memory.slots)
    with pytest.raises(ConfigError):
        memory.add(slot(base, size))
    assert memory.slots == before


def test_add_refuses_a_buffer_that_does_not_fit() -> None:
    for buffer in (memoryview(bytes(0x1000)), memoryview(bytearray(0x800))):
        with pytest.raises(ConfigError, match="buffer"):
            GuestMemory().add(MemorySlot(0, 0x1000, "test", buffer))


def test_last_page_of_the_address_space() -> None:
    memory = GuestMemory()
    memory.add(slot(2**64 - 0x1000, 0x1000))
    memory.write_u64(2**64 - 8, 7, "test")
    assert memory.read_u64(2**64 - 8, "test") == 7


@pytest.mark.parametrize("page_size", [0, -4096, 3000])
def test_page_size_is_a_power_of_two(page_size: int) -> None:
    with pytest.raises(ConfigError):
        GuestMemory(page_size)


def test_descriptor_maps_the_same_memory(memory: GuestMemory) -> None:
    fd = memory.slots[0].fd
    assert fd is not None
    with mmap.mmap(fd, RAM_SIZE) as other:
        other[0:3] = b"xyz"
        assert memory.read(RAM, 3, "test") == b"xyz"


def test_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    made = anonymous_slot(0, 0x1000, "test")
    made.buffer[0] = 1
    assert made.fd is not None and os.fstat(made.fd).st_nlink == 0
    made.close()


def test_close_twice() -> None:
    made = anonymous_slot(0, 0x1000, "test")
    made.close()
    made.close()
    assert made.fd is None
    with pytest.raises(ConfigError):
        anonymous_slot(0, 0, "empty")


def test_memory_that_somebody_views_goes_later() -> None:
    made = anonymous_slot(0, 0x1000, "test")
    view = made.buffer[:8]
    made.close()
    view[0] = 7
    assert bytes(view) == b"\7" + bytes(7)


@pytest.mark.parametrize("make", [anonymous_slot, private_slot])
def test_more_memory_than_there_is(make: Callable[[int, int, str], MemorySlot]) -> None:
    with pytest.raises(ConfigError, match=f"memory slot test: {1 << 60} bytes: "):
        make(0, 1 << 60, "test")


@pytest.mark.parametrize("base", [RAM, RAM + (1 << 20), RAM + 0x3000])
def test_private_memory_lies_as_in_the_guest(base: int) -> None:
    """A huge page of ours is one of the guest's; closing it leaves nothing behind."""
    memory = GuestMemory()
    memory.add(private_slot(base, 5 << 20, "ram"))
    (one,) = memory.slots
    address = ctypes.addressof(ctypes.c_char.from_buffer(one.buffer))
    assert (address - base) % (2 << 20) == 0
    assert memory.read(one.end - 8, 8, "test") == bytes(8)
    memory.write(one.end - 3, b"abc", "test")
    assert memory.read(one.end - 3, 3, "test") == b"abc"
    memory.close()
    memory.close()


def test_private_memory_of_no_size() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        private_slot(RAM, 0, "ram")
