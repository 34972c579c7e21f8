# SPDX-License-Identifier: GPL-2.0-or-later
"""region.py: where the structures are, and what is in them."""

import errno
import struct

import pytest

from asm import words
from pvlock import Machine, Placement
from pvlock.errors import ConfigError
from pvlock.memory import GuestMemory, MemorySlot
from pvlock.region import PvLockRegion, StolenTimeRegion, layout, region_size

BASE, SIZE = 0x8000_0000, 0x1000


@pytest.fixture
def memory() -> GuestMemory:
    memory = GuestMemory()
    memory.add(MemorySlot(BASE, SIZE, "region", memoryview(bytearray(SIZE)), readonly=True))
    memory.write(BASE, b"\xa5" * SIZE, "test")
    return memory


def test_layout() -> None:
    assert layout(BASE, 3) == [BASE, BASE + 64, BASE + 128]
    assert layout(BASE, 0) == []
    with pytest.raises(ConfigError):
        layout(BASE + 8, 1)


@pytest.mark.parametrize(
    ("vcpus", "page", "size"),
    [(1, 4096, 4096), (64, 4096, 4096), (65, 4096, 8192), (1, 65536, 65536), (0, 4096, 0)],
)
def test_region_size(vcpus: int, page: int, size: int) -> None:
    assert region_size(vcpus, page) == size


def test_structure_layout(memory: GuestMemory) -> None:
    region = PvLockRegion(memory)
    assert region.set_address(2, BASE + 128) == 0
    region.zero(2)
    assert memory.read(BASE, 256, "test") == b"\xa5" * 128 + bytes(64) + b"\xa5" * 64
    memory.write_u64(BASE + 128, 1, "test")
    assert struct.unpack("<Q56s", memory.read(BASE + 128, 64, "test")) == (1, bytes(56))
    assert region.read(2) == 1


def test_publish_writes_zero_and_one() -> None:
    """The engine writes 0 and 1, and by that changes one byte of the structure at most."""
    script = [Placement(at, 0, 0 if at % 20_000 == 0 else None) for at in range(0, 70_000, 10_000)]
    with Machine(1, 1, engine="emulator", script=script) as machine:
        machine.load(words(0x1400_0000))  # B .
        (ipa,) = machine.pvlock.addresses.values()
        before = machine.memory.read(ipa, 64, "test")
        for until in range(5_000, 60_000, 10_000):
            machine.run(until)
            after = machine.memory.read(ipa, 64, "test")
            assert machine.pvlock.read(0) == until // 10_000 % 2
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
            before = after


def test_any_value_can_be_read(memory: GuestMemory) -> None:
    region = PvLockRegion(memory)
    region.set_address(0, BASE)
    assert region.read(0) == 0xA5A5_A5A5_A5A5_A5A5


def test_stolen_time_layout(memory: GuestMemory) -> None:
    region = StolenTimeRegion(memory)
    region.set_address(1, BASE + 64)
    region.zero(1)
    memory.write_u64(BASE + 72, 123_456_789_012, "test")
    stored = struct.unpack("<IIQ48s", memory.read(BASE + 64, 64, "test"))
    assert stored == (0, 0, 123_456_789_012, bytes(48))
    assert region.read(1) == 123_456_789_012


def test_set_address_refusals(memory: GuestMemory) -> None:
    region = PvLockRegion(memory)
    assert region.set_address(0, BASE) == 0
    assert region.set_address(0, BASE + 64) == -errno.EEXIST
    assert region.set_address(1, BASE) == -errno.EEXIST
    assert region.set_address(1, BASE + 32) == -errno.EINVAL
    assert region.set_address(1, BASE + SIZE) == -errno.EINVAL
    assert region.addresses == {0: BASE}


def test_off_hides_addresses(memory: GuestMemory) -> None:
    region = PvLockRegion(memory, enabled=False)
    region.set_address(0, BASE)
    assert region.ipa(0) is None


def test_vcpu_without_an_address(memory: GuestMemory) -> None:
    region = PvLockRegion(memory)
    assert region.ipa(0) is None
    with pytest.raises(ConfigError, match="VCPU 0 has no PV-lock structure"):
        region.read(0)
    with pytest.raises(ConfigError):
        region.zero(0)
