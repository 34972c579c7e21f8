# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest files: ELF executables and Linux arm64 kernels, from bytes to guest memory.

Whatever the bytes are, the only exception is ImageError.
"""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

from pvlock.errors import ImageError
from pvlock.files import contents
from pvlock.image import linux
from pvlock.image.guest import Data, Image, Kind, Loaded, Segment
from pvlock.image.linux import check_granule
from pvlock.memory import GuestMemory, MemorySlot

__all__ = (
    "Data", "Image", "Kind", "Loaded", "Segment", "check_granule", "load", "opened", "parse", "raw",
)  # fmt: skip

_IPA_LIMIT = 2**64
_INSTRUCTION = 4
_HEAD = 64
_MOST_LAYERS = 2
"""A zboot kernel in a gzip file is the most that anybody packs."""


@contextlib.contextmanager
def opened(path: str | Path, load_address: int | None = None) -> Iterator[Image]:
    """Open a guest file; the image can be loaded until the block ends. Raises ImageError.

    With `load_address` it is a raw binary, which begins there.
    """
    with contextlib.ExitStack() as stack:
        try:
            data = stack.enter_context(contents(path))
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from error
        if load_address is None:
            yield parse(data, str(path))
        else:
            yield raw(data, str(path), load_address)


def parse(data: Data, name: str) -> Image:
    """Read the guest file `data`; `name` is for messages. Raises ImageError, and nothing else.

    >>> parse(b"#!/bin/sh", "init")  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
    pvlock.errors.ImageError: init: neither an ELF file nor a Linux arm64 kernel;
        a raw binary needs --load-address
    >>> from pvlock.workload import image_of
    >>> image = parse(image_of("mutex"), "mutex")
    >>> image.kind.value, hex(image.entry)
    ('ELF executable', '0x40200000')
    """
    try:
        image = _parse(data, name)
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror}") from error
    except struct.error:
        raise ImageError(f"{name}: became shorter while it was read") from None
    _check_layout(image)
    return image


def raw(data: Data, name: str, ipa: int) -> Image:
    """Take `data` for a program that begins at `ipa`, whatever it is. Raises ImageError."""
    image = Image(name, Kind.RAW, ipa, (Segment(ipa, data, len(data)),))
    _check_layout(image)
    return image


def _parse(data: Data, name: str) -> Image:
    for _ in range(_MOST_LAYERS + 1):
        head = data[:_HEAD]
        if linux.is_image(head):
            return linux.parse(data, name)
        # From here on, what a plain kernel does not need is imported.
        from pvlock.image import elf, packed

        if head.startswith(elf.MAGIC):
            return elf.parse(data[:], name)
        if not packed.is_packed(head):
            what = (
                "neither an ELF file nor a Linux arm64 kernel; a raw binary needs --load-address"
                if head else "an empty file"
            )  # fmt: skip
            raise ImageError(f"{name}: {what}")
        data = packed.unpack(data, name)
    raise ImageError(f"{name}: packed more than {_MOST_LAYERS} times")


def load(image: Image, memory: GuestMemory, ram_base: int) -> Loaded:
    """Write `image` into the RAM slot that holds `ram_base`, and zero what its files leave out.

    Raises ImageError when a segment is not wholly in that slot, and then writes nothing.

    >>> from pvlock.memory import anonymous_slot
    >>> memory = GuestMemory()
    >>> memory.add(anonymous_slot(0x4000_0000, 0x1000, "ram"))
    >>> loop = Segment(0x4000_0000, bytes.fromhex("00000014"), 4)  # B .
    >>> load(Image("loop", Kind.ELF_EXEC, 0x4000_0000, (loop,)), memory, 0x4000_0000)
    Loaded(entry=1073741824, start=1073741824, end=1073741828)
    >>> memory.close()
    """
    base = image.base(ram_base)
    if base % image.alignment:
        raise ImageError(
            f"{image.name}: RAM at {ram_base:#x} is not aligned to {image.alignment:#x} bytes"
        )
    ram = memory.slot_of(ram_base, 1)
    if ram is None or ram.readonly:
        raise ImageError(f"{image.name}: there is no RAM at {ram_base:#x}")
    for segment in image.segments:
        _check_fits(image.name, base + segment.ipa, segment.memsize, memory, ram)
    for ipa, data, memsize in image.segments:
        if data:
            with memory.view(base + ipa, len(data), image.name) as window:
                _copy(data, window, image.name)
        if memsize > len(data):
            memory.zero(base + ipa + len(data), memsize - len(data), image.name)
    start = min(segment.ipa for segment in image.segments)
    end = max(segment.ipa + segment.memsize for segment in image.segments)
    return Loaded(base + image.entry, base + start, base + end)


def _copy(data: Data, window: memoryview, name: str) -> None:
    if isinstance(data, bytes):
        window[:] = data
        return
    try:
        data.read_into(window)
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror}") from error


def _check_fits(name: str, ipa: int, size: int, memory: GuestMemory, ram: MemorySlot) -> None:
    if memory.slot_of(ipa, size) is ram:
        return
    what = f"{name}: segment at {ipa:#x}, {size:#x} bytes,"
    for slot in memory.slots:
        if slot is not ram and ipa < slot.end and slot.base < ipa + size:
            raise ImageError(f"{what} overlaps memory slot {slot.name}")
    raise ImageError(f"{what} is outside RAM, {ram.base:#x} to {ram.end:#x}")


def _check_layout(image: Image) -> None:
    end = 0
    for segment in sorted(image.segments, key=lambda segment: segment.ipa):
        if segment.ipa < end:
            raise ImageError(f"{image.name}: segment at {segment.ipa:#x} overlaps another")
        end = segment.ipa + segment.memsize
    if end > _IPA_LIMIT:
        raise ImageError(f"{image.name}: a segment ends beyond the 64-bit address space")
    # Only bytes from the file can be instructions: zeroed memory holds none.
    if not any(s.ipa <= image.entry <= s.ipa + len(s.data) - _INSTRUCTION for s in image.segments):
        raise ImageError(f"{image.name}: entry {image.entry:#x} is outside every loaded segment")
    if image.entry % _INSTRUCTION:
        raise ImageError(f"{image.name}: entry {image.entry:#x} is not 4-byte aligned")
