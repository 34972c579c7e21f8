# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard input for a guest's console: typed bytes go to it, as they are typed."""

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator

ESCAPE = b"\x01"  # Ctrl-A
END = b"x"


class _Escapes:
    """Takes Ctrl-A x out of typed bytes; Ctrl-A twice is one."""

    def __init__(self) -> None:
        self._pending = False

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """Return the bytes for the guest, and whether the user wants to leave."""
        out = bytearray()
        for number in data:
            byte = bytes([number])
            if self._pending:
                self._pending = False
                if byte.lower() == END:
                    return bytes(out), True
                out += byte if byte == ESCAPE else ESCAPE + byte
            elif byte == ESCAPE:
                self._pending = True
            else:
                out += byte
        return bytes(out), False


@contextlib.contextmanager
def attached(receive: Callable[[bytes], None]) -> Iterator[None]:
    """Give what arrives on the standard input to `receive`, until the block ends.

    A terminal is raw meanwhile: Ctrl-C goes to the guest, and Ctrl-A x is this process's Ctrl-C.
    The end of the input ends nothing.
    """
    if sys.stdin is None or sys.stdin.closed:
        yield
        return
    fd = sys.stdin.fileno()
    stop, wake = os.pipe()
    escapes = _Escapes() if os.isatty(fd) else None
    thread = threading.Thread(
        target=_pump, args=(fd, stop, receive, escapes), name="pvlock-input", daemon=True
    )
    with _raw(fd):
        thread.start()
        try:
            yield
        finally:
            os.close(wake)
            thread.join()
            os.close(stop)


def _pump(fd: int, stop: int, receive: Callable[[bytes], None], escapes: _Escapes | None) -> None:
    while True:
        ready, _, _ = select.select([fd, stop], [], [])
        if stop in ready:
            return
        try:
            data = os.read(fd, 4096)
        except OSError:
            return
        if not data:
            return
        leave = False
        if escapes is not None:
            data, leave = escapes.take(data)
        receive(data)
        if leave:
            signal.raise_signal(signal.SIGINT)
            return


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        # Output stays as it was: our own lines still end where they should.
        mode = termios.tcgetattr(fd)
        mode[1] = before[1]
        termios.tcsetattr(fd, termios.TCSADRAIN, mode)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
