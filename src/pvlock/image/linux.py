# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux arm64 `Image`s: the header of the kernel's Documentation/arch/arm64/booting.rst."""

import struct

from pvlock.errors import ImageError
from pvlock.image.guest import Data, Image, Kind, Segment

_HEADER = struct.Struct("<IIQQQ24s4sI")
_MAGIC_AT = 56
_MAGIC = b"ARM\x64"
_ALIGNMENT = 2 << 20
_BIG_ENDIAN = 1
# Kernels before v3.17 leave image_size 0, and their text_offset is of unknown endianness.
_OLD_TEXT_OFFSET = 0x8_0000
_PAGE_SIZES = (None, 4 << 10, 16 << 10, 64 << 10)
"""By bits 1 and 2 of the flags. Kernels before v4.3 say nothing."""

# An Image is an EFI application too, and only that header says how long the file is.
_PE_OFFSET = 60
_PE_HEADER = struct.Struct("<4sHH12xHH")
_PE_SECTION = struct.Struct("<8s8xII16x")

# Of ID_AA64MMFR0_EL1, for each granule: where its field begins, and the values that offer it.
_GRANULES = {4 << 10: (28, (0, 1)), 16 << 10: (20, (1, 2)), 64 << 10: (24, (0,))}


def is_image(head: bytes) -> bool:
    """Tell from the first 64 bytes of a file whether it is an Image."""
    return head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def check_granule(image: Image, mmfr0: int) -> None:
    """Refuse a kernel whose pages the CPU does not have; `mmfr0` is its ID_AA64MMFR0_EL1.

    Without this, such a kernel stops before it prints anything. Raises ImageError.
    """
    if image.page_size is None:
        return
    offered = [
        size for size, (shift, values) in _GRANULES.items() if mmfr0 >> shift & 0xF in values
    ]
    if image.page_size not in offered:
        has = " and ".join(f"{size >> 10} KiB" for size in offered)
        raise ImageError(
            f"{image.name}: a kernel with pages of {image.page_size >> 10} KiB, "
            f"a granule that this CPU does not have; it has {has or 'none'}"
        )


def parse(data: Data, name: str) -> Image:
    """Read an Image; `name` is for messages. Raises ImageError, OSError and struct.error."""
    if len(data) < _HEADER.size:
        raise ImageError(f"{name}: Linux Image header is cut off after {len(data)} bytes")
    _, _, text_offset, image_size, flags, *_ = _HEADER.unpack(data[: _HEADER.size])
    if image_size == 0:
        text_offset = _OLD_TEXT_OFFSET
    elif flags & _BIG_ENDIAN:
        raise ImageError(f"{name}: a big-endian Linux Image; only little-endian guests run")
    if data[:2] == b"MZ":
        _check_whole(data, name)
    segment = Segment(text_offset, data, max(image_size, len(data)))
    page_size = _PAGE_SIZES[flags >> 1 & 3]
    return Image(name, Kind.LINUX, text_offset, (segment,), _ALIGNMENT, page_size)


def _check_whole(data: Data, name: str) -> None:
    """Refuse an Image that ends before its own EFI header says; one without is believed."""
    try:
        (at,) = struct.unpack("<I", data[_PE_OFFSET : _PE_OFFSET + 4])
        magic, _, sections, optional, _ = _PE_HEADER.unpack(data[at : at + _PE_HEADER.size])
        if magic != b"PE\0\0":
            return
        at += _PE_HEADER.size + optional
        table = data[at : at + sections * _PE_SECTION.size]
        for section in range(sections):
            _, size, offset = _PE_SECTION.unpack_from(table, section * _PE_SECTION.size)
            if offset + size > len(data):
                raise ImageError(f"{name}: is cut off: {len(data)} bytes of {offset + size}")
    except struct.error:
        raise ImageError(f"{name}: is cut off within its header") from None
