# SPDX-License-Identifier: GPL-2.0-or-later
"""Stage 2 translation tables: which IPAs of the guest are memory, and which it may write.

IPA and PA are the same number; what no slot holds is left unmapped, so that a guest's access to it
traps with the syndrome of a stage 2 abort. 4 KiB granule, 39-bit IPA, start level 1.
"""

import struct
from collections.abc import Iterable

IPA_BITS = 39
VTCR_EL2 = (
    (64 - IPA_BITS)  # T0SZ
    | 1 << 6  # SL0: start at level 1
    | 1 << 8  # IRGN0, ORGN0: write-back
    | 1 << 10
    | 3 << 12  # SH0: inner shareable
    | 2 << 16  # PS: 40 bits
    | 1 << 31
)

_VALID, _TABLE_OR_PAGE = 1, 2
_NORMAL = 0xF << 2 | 3 << 8 | 1 << 10  # write-back, inner shareable, accessed
_READ, _WRITE = 1 << 6, 1 << 7
_PAGE = 1 << 12


class Stage2:
    """Tables for `slots` of (IPA, bytes, read-only), to be placed at physical address `base`."""

    def __init__(self, slots: Iterable[tuple[int, int, bool]], base: int) -> None:
        self._base = base
        self.data = bytearray(4096)
        for ipa, size, readonly in slots:
            self._map(ipa, ipa + size, _NORMAL | _READ | (0 if readonly else _WRITE))
        self.data.extend(bytes(-len(self.data) % 0x10000))

    def _map(self, ipa: int, end: int, attributes: int) -> None:
        while ipa < end:
            level2 = self._table(0, ipa >> 30)
            level3 = self._table(level2, ipa >> 21 & 511)
            self._put(level3, ipa >> 12 & 511, ipa | attributes | _VALID | _TABLE_OR_PAGE)
            ipa += _PAGE

    def _table(self, offset: int, index: int) -> int:
        """Return the offset of the next-level table of an entry, made if it is not there yet."""
        (entry,) = struct.unpack_from("<Q", self.data, offset + 8 * index)
        if not entry:
            entry = self._base + len(self.data) | _VALID | _TABLE_OR_PAGE
            self._put(offset, index, entry)
            self.data.extend(bytes(4096))
        return int((entry & ~0xFFF) - self._base)

    def _put(self, offset: int, index: int, entry: int) -> None:
        struct.pack_into("<Q", self.data, offset + 8 * index, entry)
