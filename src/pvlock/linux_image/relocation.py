# SPDX-License-Identifier: GPL-2.0-or-later
"""What an address within an Image is, and where the Image is linked.

A kernel that can move itself has zeros in place of addresses, and a table of R_AARCH64_RELATIVE
(the ELF specification for AArch64) that says what belongs there: place, kind, value, 8 bytes each.
Other kernels have the address itself.
"""

import re
import struct

_RELATIVE = struct.pack("<Q", 0x403)
_ENTRY = struct.Struct("<QQQ")
_ALIGNMENT = 2 << 20
"""An Image is linked at a multiple of that."""
_KERNEL_HALF = 1 << 63
_FURTHEST_TEXT = 1 << 20
"""How far the lowest symbol may be from the beginning: what stands before it is the EFI header."""
_FEWEST = 16


def value(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the address that belongs at the offset `at`, near the beginning of the Image.

    The second number is where the Image is linked. None if neither can be found out.
    """
    (here,) = struct.unpack_from("<Q", data, at)
    if here >= _KERNEL_HALF:
        text = here & -_ALIGNMENT
        return here, text
    return _relocated(data, at)


def _relocated(data: bytes, at: int) -> tuple[int, int] | None:
    places: dict[int, int] = {}
    for match in re.finditer(re.escape(_RELATIVE), data):
        start = match.start() - 8
        if start % 8 == 0 and start >= 0 and start + _ENTRY.size <= len(data):
            place, _, addend = _ENTRY.unpack_from(data, start)
            if place >= _KERNEL_HALF and addend >= _KERNEL_HALF:
                places[place] = addend
    if len(places) < _FEWEST:
        return None
    lowest, highest = min(places), max(places)
    for place, addend in places.items():
        text = place - at
        if text % _ALIGNMENT or not 0 <= addend - text < _FURTHEST_TEXT:
            continue
        if text <= lowest and highest < text + len(data):
            return addend, text
    return None
