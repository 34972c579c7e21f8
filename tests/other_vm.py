# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM object for the user-space checks that is not a Machine, and no process either."""

from pvlock.attribute import DeviceAttr, get_attr, has_attr, set_attr
from pvlock.errors import MemoryAccessError
from pvlock.memory import GuestMemory, MemorySlot
from pvlock.region import PvLockRegion


class OtherVm:
    """A VM object that is not a Machine, adapted as the author of another VMM would do."""

    region, region_size, outside = 0x8000_0000, 0x1000, 0x9000_0000

    def __init__(self, pvlock: bool) -> None:
        memory = GuestMemory()
        buffer = memoryview(bytearray(self.region_size))
        memory.add(MemorySlot(self.region, self.region_size, "region", buffer))
        self.structures = PvLockRegion(memory, pvlock)
        self.word: int | None = None

    def has_attr(self, vcpu: int, group: int, attr: int) -> int:
        return has_attr(self.structures, DeviceAttr(group, attr))

    def set_attr(self, vcpu: int, group: int, attr: int, value: int | None) -> int:
        self.word = value
        return set_attr(self.structures, vcpu, DeviceAttr(group, attr), self)

    def get_attr(self, vcpu: int, group: int, attr: int, writable: bool) -> tuple[int, int]:
        self.word = 0 if writable else None
        return get_attr(self.structures, vcpu, DeviceAttr(group, attr), self), self.word or 0

    def reset(self, vcpu: int) -> None:
        pass

    def read(self, ipa: int, size: int) -> bytes:
        return self.structures.memory.read(ipa, size, "test")

    def close(self) -> None:
        self.structures.memory.close()

    def read_u64(self, addr: int) -> int:
        if self.word is None:
            raise MemoryAccessError(addr, 8, "test")
        return self.word

    def write_u64(self, addr: int, value: int) -> None:
        self.read_u64(addr)
        self.word = value
