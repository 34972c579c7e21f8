# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory: slots in IPA space, and one bounds check that every host access passes.

Addresses come from guests and files, so any integer is a legal argument, even a negative one, one
beyond 2**64, or one that wraps around with the size added. An access that is not wholly inside one
slot raises MemoryAccessError and changes nothing.
"""

import contextlib
import ctypes
import mmap
import os
import threading
from dataclasses import dataclass, field

from pvlock.errors import ConfigError, MemoryAccessError

IPA_LIMIT = 2**64
_ZEROS = bytes(1 << 16)
_HUGE_PAGE = 2 << 20


@dataclass(eq=False)
class MemorySlot:
    """`size` bytes of host memory at IPA `base`, both in bytes.

    `readonly` concerns the guest; the host writes through `buffer`, a memoryview of bytes, at all
    times. `fd` is a file descriptor that another process can map, or None.
    """

    base: int
    size: int
    name: str
    buffer: memoryview = field(repr=False)
    readonly: bool = False
    fd: int | None = None
    _mapping: mmap.mmap | None = field(default=None, repr=False)
    _whole: memoryview | None = field(default=None, repr=False)

    @property
    def end(self) -> int:
        """The first IPA after the slot."""
        return self.base + self.size

    def close(self) -> None:
        """Let go of the memory and close `fd`; a second call does nothing.

        The memory is freed when nobody views it any longer. The traceback of an exception may still
        view it, and an error about that must not replace the exception. So none is raised.
        """
        self.buffer = memoryview(b"")
        self._whole = self._mapping = None
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def anonymous_slot(base: int, size: int, name: str, readonly: bool = False) -> MemorySlot:
    """Return a slot of `size` zero bytes at IPA `base`, in shared memory that has a descriptor.

    The caller closes the slot, or the GuestMemory to which it is added does. Raises ConfigError for
    a size below 1, or one that the host cannot give.
    """
    if size < 1:
        raise ConfigError(f"memory slot {name}: its size of {size} bytes is below 1")
    fd = _shared_memory(name)
    try:
        os.ftruncate(fd, size)
        mapping = mmap.mmap(fd, size)
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"memory slot {name}: {size} bytes: {error.strerror}") from error
    return MemorySlot(base, size, name, memoryview(mapping), readonly, fd, mapping)


def private_slot(base: int, size: int, name: str) -> MemorySlot:
    """Return a slot of `size` zero bytes at IPA `base`, in huge pages where the host has some.

    No other process can map the slot. Its address in this process and its IPA are equal modulo
    the size of a huge page, so that huge pages of the host can be huge pages of the guest. The slot
    is closed as one of anonymous_slot(), and ConfigError is raised as there.
    """
    if size < 1:
        raise ConfigError(f"memory slot {name}: its size of {size} bytes is below 1")
    try:
        mapping = mmap.mmap(-1, size + _HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise ConfigError(f"memory slot {name}: {size} bytes: {error.strerror}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # the kernel may have no huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = memoryview(mapping)
    start = (base - ctypes.addressof(ctypes.c_char.from_buffer(mapping))) % _HUGE_PAGE
    return MemorySlot(base, size, name, whole[start : start + size], _mapping=mapping, _whole=whole)


def _shared_memory(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"pvlock-{name}")
    import tempfile  # a large library, which is not needed on Linux

    fd, path = tempfile.mkstemp(prefix="pvlock-")
    os.unlink(path)  # noqa: PTH108 - a descriptor, not a path, is what lives on
    return fd


def fence() -> None:
    """Complete all loads and stores before this call, before any after it begins.

    It is for memory that others write at the same time. On arm64 a release of a lock, followed by
    an acquire, keeps them apart; a single critical section would not.
    """
    for _ in range(2):
        with threading.Lock():
            pass


class GuestMemory:
    """The memory slots of one VM: page aligned, none overlapping another.

    >>> memory = GuestMemory()
    >>> memory.add(anonymous_slot(0x4000_0000, 0x1000, "ram"))
    >>> memory.write_u64(0x4000_0008, 5, "example")
    >>> memory.read(0x4000_0000, 16, "example").hex()
    '00000000000000000500000000000000'
    >>> memory.contains(0x4000_0ff8, 16)
    False
    >>> memory.close()
    """

    def __init__(self, page_size: int = 4096) -> None:
        """Slots start and end on multiples of `page_size` bytes, a power of two."""
        if page_size < 1 or page_size & (page_size - 1):
            raise ConfigError(f"a page size of {page_size} bytes is not a power of two")
        self.page_size = page_size
        self.slots: list[MemorySlot] = []

    def add(self, slot: MemorySlot) -> None:
        """Map `slot`.

        Raises ConfigError if it is empty, misaligned, beyond 2**64, without a writable buffer of
        bytes of its size, or overlaps another slot.
        """
        what = f"memory slot {slot.name} at {slot.base:#x}, {slot.size:#x} bytes"
        if slot.base % self.page_size or slot.size % self.page_size:
            raise ConfigError(f"{what}: not aligned to pages of {self.page_size} bytes")
        if slot.base < 0 or slot.size < 1 or slot.end > IPA_LIMIT:
            raise ConfigError(f"{what}: empty or outside the 64-bit address space")
        buffer = slot.buffer
        if buffer.readonly or buffer.format != "B" or buffer.nbytes != slot.size:
            raise ConfigError(f"{what}: its buffer is not {slot.size} writable bytes")
        for other in self.slots:
            if slot.base < other.end and other.base < slot.end:
                raise ConfigError(f"{what}: overlaps memory slot {other.name}")
        self.slots.append(slot)

    def slot_of(self, ipa: int, size: int) -> MemorySlot | None:
        """Return the slot that holds all `size` bytes at `ipa`, or None; None for a size below 1.

        Adjacent slots do not join (SPECIFICATION.md, clause 5.7).
        """
        if size < 1:
            return None
        return next((s for s in self.slots if s.base <= ipa and ipa + size <= s.end), None)

    def contains(self, ipa: int, size: int) -> bool:
        """Tell whether one slot holds all `size` bytes at `ipa`."""
        return self.slot_of(ipa, size) is not None

    def view(self, ipa: int, size: int, who: str) -> memoryview:
        """Return a writable window on `size` bytes at `ipa`; release it before closing the slot.

        A bad range raises MemoryAccessError, in which `who` names the caller. All accesses pass
        through here.
        """
        slot = self.slot_of(ipa, size)
        if slot is None:
            raise MemoryAccessError(ipa, size, who)
        offset = ipa - slot.base
        return slot.buffer[offset : offset + size]

    def read(self, ipa: int, size: int, who: str) -> bytes:
        """Return `size` bytes at `ipa`. Raises MemoryAccessError."""
        with self.view(ipa, size, who) as window:
            return bytes(window)

    def write(self, ipa: int, data: bytes, who: str) -> None:
        """Write `data` at `ipa`, in a read-only slot too. Raises MemoryAccessError."""
        with self.view(ipa, len(data), who) as window:
            window[:] = data

    def zero(self, ipa: int, size: int, who: str) -> None:
        """Write `size` zero bytes at `ipa`. Raises MemoryAccessError."""
        with self.view(ipa, size, who) as window:
            for start in range(0, size, len(_ZEROS)):
                chunk = min(len(_ZEROS), size - start)
                window[start : start + chunk] = _ZEROS[:chunk]

    def read_u64(self, ipa: int, who: str) -> int:
        """Return the little-endian 64-bit value at `ipa`. Raises MemoryAccessError."""
        return int.from_bytes(self.read(ipa, 8, who), "little")

    def write_u64(self, ipa: int, value: int, who: str) -> None:
        """Write the low 64 bits of `value` at `ipa`, little-endian. Raises MemoryAccessError."""
        self.write(ipa, (value % 2**64).to_bytes(8, "little"), who)

    def close(self) -> None:
        """Close and forget every slot."""
        while self.slots:
            self.slots[-1].close()
            self.slots.pop()
