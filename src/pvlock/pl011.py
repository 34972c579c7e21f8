# SPDX-License-Identifier: GPL-2.0-or-later
"""The console: what a guest that polls needs of an Arm PL011 (DDI 0183), output only."""

from collections.abc import Callable
from typing import Final

DR: Final = 0x000
FR: Final = 0x018
_PERIPHERAL_ID: Final = 0xFE0
_ID_BYTES: Final = (0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
_FR_IDLE: Final = 1 << 7 | 1 << 4  # TXFE: all sent; RXFE: nothing received
_WORD: Final = 0xFFFF_FFFF


class Console:
    """A PL011 whose transmitter is always ready.

    `output` gets each byte that the guest sends; `text` is all of it, at most `limit` bytes.
    """

    def __init__(self, output: Callable[[bytes], None] | None = None, limit: int = 1 << 20) -> None:
        """Send bytes to `output` as they come; remember the first `limit` of them."""
        self._output = output
        self._limit = limit
        self._sent = bytearray()
        self._registers: dict[int, int] = {}

    @property
    def text(self) -> str:
        """What the guest printed, undecodable bytes replaced."""
        return self._sent.decode("utf-8", "replace")

    def read(self, offset: int, size: int) -> int:
        """Read the register at byte `offset`."""
        if offset == FR:
            return _FR_IDLE
        if offset >= _PERIPHERAL_ID:
            return _ID_BYTES[(offset - _PERIPHERAL_ID) // 4]
        return self._registers.get(offset & ~3, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the register at byte `offset`; DR sends a byte, the others only remember."""
        if offset != DR:
            self._registers[offset & ~3] = value & _WORD
            return
        byte = bytes([value & 0xFF])
        if len(self._sent) < self._limit:
            self._sent += byte
        if self._output is not None:
            self._output(byte)
