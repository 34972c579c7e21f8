# SPDX-License-Identifier: GPL-2.0-or-later
"""The console: an Arm PL011 (DDI 0183) whose transmitter is always ready, with its interrupts."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

DR: Final = 0x000
FR: Final = 0x018
IMSC: Final = 0x038
RIS: Final = 0x03C
MIS: Final = 0x040
ICR: Final = 0x044
_PERIPHERAL_ID: Final = 0xFE0
_ID_BYTES: Final = (0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
_TXFE: Final = 1 << 7
_RXFE: Final = 1 << 4
_RECEIVED: Final = 1 << 4
_SENT: Final = 1 << 5
_TIMEOUT: Final = 1 << 6
_RESET: Final = {0x030: 0x300, 0x034: 0x012}
"""CR: transmit and receive are enabled; IFLS: both FIFOs at one half."""
_WORD: Final = 0xFFFF_FFFF
_PAGE: Final = 0x1000
_MANY_LOOKS: Final = 16
"""After so many reads of FR in a row, the guest gets a page that it can read without an exit."""


class Console:
    """A PL011. `output` gets each byte that the guest sends; receive() gives the guest bytes.

    `text` is what the guest sent, at most `limit` bytes of it. `line` is called when the interrupt
    line goes up or down. The transmit FIFO is always empty, so the guest never waits for it, and
    its interrupt is raised whenever it is not masked.

    `show` is called with all registers as a page, when the guest looks again and again whether it
    may send; and with None, as soon as a read of the page would be wrong or have an effect.

    >>> console = Console()
    >>> for byte in b"ok":
    ...     console.write(DR, 4, byte)
    >>> console.text
    'ok'
    """

    def __init__(
        self,
        output: Callable[[bytes], None] | None = None,
        limit: int = 1 << 20,
        line: Callable[[bool], None] | None = None,
        show: Callable[[bytes | None], None] | None = None,
    ) -> None:
        """Send bytes to `output` as they come; remember the first `limit` of them."""
        self.line = line
        self.show = show
        self._output = output
        self._limit = limit
        self._sent = bytearray()
        self._received: deque[int] = deque()
        self._registers = dict(_RESET)
        self._level = False
        self._looks = 0
        self._shown = False
        # receive() is called in another thread than read() and write().
        self._lock = threading.Lock()

    @property
    def text(self) -> str:
        """What the guest printed, undecodable bytes replaced."""
        return self._sent.decode("utf-8", "replace")

    def receive(self, data: bytes) -> int:
        """Give the guest `data`, as if it had been typed; return how many bytes are unread."""
        with self._lock:
            if data:
                self._received.extend(data)
                self._hide()
                self._update()
            return len(self._received)

    def read(self, offset: int, size: int) -> int:
        """Read the register at byte `offset`."""
        with self._lock:
            self._looks = self._looks + 1 if offset == FR else 0
            if self._looks == _MANY_LOOKS and self.show is not None and not self._received:
                self._shown = True
                words = (self._read(register) for register in range(0, _PAGE, 4))
                self.show(b"".join(word.to_bytes(4, "little") for word in words))
            return self._read(offset & ~3)

    def _read(self, register: int) -> int:
        match register:
            case 0x000:
                byte = self._received.popleft() if self._received else 0
                self._update()
                return byte
            case 0x018:
                return _TXFE | (0 if self._received else _RXFE)
            case 0x03C:
                return self._raised()
            case 0x040:
                return self._raised() & self._registers.get(IMSC, 0)
            case _ if register >= _PERIPHERAL_ID:
                return _ID_BYTES[(register - _PERIPHERAL_ID) // 4]
            case _:
                return self._registers.get(register, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the register at byte `offset`; DR sends a byte."""
        if offset & ~3 == DR:
            self._send(value & 0xFF)
            return
        with self._lock:
            if self._registers.get(offset & ~3, 0) != value & _WORD:
                self._registers[offset & ~3] = value & _WORD
                self._hide()
                self._update()

    def _send(self, byte: int) -> None:
        data = bytes([byte])
        if len(self._sent) < self._limit:
            self._sent += data
        if self._output is not None:
            self._output(data)

    def _hide(self) -> None:
        self._looks = 0
        if self._shown and self.show is not None:
            self._shown = False
            self.show(None)

    def _raised(self) -> int:
        # A received byte keeps its interrupts raised until it is read: ICR has nothing to clear.
        return _SENT | (_RECEIVED | _TIMEOUT if self._received else 0)

    def _update(self) -> None:
        level = bool(self._raised() & self._registers.get(IMSC, 0))
        if level != self._level:
            self._level = level
            if self.line is not None:
                self.line(level)
