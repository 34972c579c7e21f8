# SPDX-License-Identifier: GPL-2.0-or-later
"""Translation tables for guests of tests: one that maps the guest itself, and random ones."""

import random
import struct
from typing import Final

from asm import ENTRY
from pvlock import memory_map

LOWER, TABLES, POOL = 0x4100_0000, 0x4110_0000, 0x4200_0000
"""Where the tables of the lower half are, those of the upper half, and what the latter map."""
POOL_SIZE: Final = 16 << 20
RET: Final = 0xD65F_03C0
_RAM = memory_map.RAM_BASE
_TABLES_OF = {39: 1, 30: 3, 21: 4, 12: 6}


class Tables:
    """Tables at random, most of whose entries lead to a page."""

    def __init__(self, source: random.Random, bits: int) -> None:
        self.source = source
        self.top = 12 + (bits - 13) // 9 * 9
        self.at: dict[int, list[int]] = {}
        self.next = TABLES
        for shift in (39, 30, 21, 12):
            self.at[shift] = [self.next + 4096 * n for n in range(_TABLES_OF[shift])]
            self.next += 4096 * _TABLES_OF[shift]

    def entry(self, shift: int) -> int:
        """Return one descriptor of a table in which an entry stands for 1 << `shift` bytes."""
        source = self.source
        kind = source.randrange(20)
        if kind == 0:
            return source.getrandbits(64) & ~1
        if kind == 1:
            return source.getrandbits(64)
        if shift > 12 and kind < 14:
            attributes = source.choice((0, 0, 0, source.randrange(32))) << 59
            return source.choice(self.at[shift - 9]) | attributes | 3
        to = source.choice((POOL, POOL, POOL, POOL, memory_map.PVLOCK_BASE, memory_map.UART_BASE))
        if to == POOL:
            to += source.randrange(POOL_SIZE) & -4096
        low = source.randrange(4) << 6 | source.choice((1, 1, 1, 1, 1, 0)) << 10
        high = source.randrange(4) << 53 | source.choice((0, 0, 1)) << 50
        kind = 3 if shift == 12 else 1
        return to & -(1 << shift) | low | high | source.randrange(2) << 2 | 3 << 8 | kind

    def bytes(self) -> bytes:
        """Return all of them, to be written to TABLES."""
        return b"".join(
            struct.pack("<512Q", *(self.entry(shift) for _ in range(512)))
            for shift in self.at for _ in self.at[shift]
        )  # fmt: skip


def identity() -> bytes:
    """Return tables for LOWER: devices, and RAM, of which only the guest's code is executable."""
    block, never, read_only = 1 << 10 | 3 << 8 | 1, 3 << 53, 1 << 7
    rights = {ENTRY: read_only | 1 << 54}
    ram = [ipa | block | rights.get(ipa, never) for ipa in range(_RAM, _RAM + (1 << 30), 2 << 20)]
    level1 = [block | never, LOWER + 4096 | 3, *[0] * 510]
    return struct.pack("<512Q", *level1) + struct.pack("<512Q", *ram)
