# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's end of a guest's console: the standard input, and where the output goes."""

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from typing import BinaryIO

ESCAPE = b"\x01"  # Ctrl-A
END = b"x"
_SHOW_SECONDS = 0.02
_LOOK_MS = 100
_MOST_UNSHOWN = 1 << 16
_MOST_UNREAD = 1 << 16


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


class Pace:
    """Lets no guest run faster than the clock on the wall, for who sits before it.

    A guest that was slower does not catch up: a second of its own takes at least one of ours.
    """

    def __init__(self) -> None:
        """Begin now, at the guest's time 0."""
        self._guest_ns, self._real_ns = 0, time.monotonic_ns()

    def __call__(self, guest_ns: int) -> None:
        """Sleep for as long as a guest is early that has just reached `guest_ns`."""
        due = self._real_ns + guest_ns - self._guest_ns
        early = due - time.monotonic_ns()
        if early > 0:
            time.sleep(early / 1e9)
        self._guest_ns, self._real_ns = guest_ns, due if early > 0 else time.monotonic_ns()


def somebody_is_here() -> bool:
    """Tell whether a person can type at the guest."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


class Terminal:
    """What a guest prints goes to `screen`; what is typed goes to the guest.

    A guest sends its bytes one by one, so they are shown a few times a second less often than that:
    20 ms after the first that is not. While nothing is printed or typed, nothing is done. A guest
    that prints while nobody reads waits, and so does who types while the guest does not read.
    """

    def __init__(self, screen: BinaryIO) -> None:
        """Write to `screen`, a buffered binary stream on a descriptor."""
        screen.flush()
        self._screen = screen.fileno()
        self._writable = select.poll()
        self._writable.register(self._screen, select.POLLOUT)
        self._unshown = bytearray()
        self._lock = threading.Lock()
        self._wake: int | None = None
        self._abandoned = False

    def output(self, data: bytes) -> None:
        """Take bytes from the guest. Raises BrokenPipeError when nobody will ever read them."""
        with self._lock:
            if not self._unshown and self._wake is not None:
                os.write(self._wake, b"\0")
            self._unshown += data
            if len(self._unshown) > _MOST_UNSHOWN:
                self._show()

    def flush(self) -> None:
        """Show what was taken."""
        with self._lock:
            self._show()

    def abandon(self) -> None:
        """Wait for no reader any longer; what he has not read is lost."""
        self._abandoned = True

    def _show(self) -> None:
        # A pipe that has room has it for PIPE_BUF bytes: so nothing waits where abandon() would
        # not be seen.
        while self._unshown:
            if self._writable.poll(_LOOK_MS):
                del self._unshown[: os.write(self._screen, self._unshown[: select.PIPE_BUF])]
            elif self._abandoned:
                self._unshown.clear()

    @contextlib.contextmanager
    def attached(self, receive: Callable[[bytes], int] | None) -> Iterator[None]:
        """Give what arrives on the standard input to `receive`, until the block ends; None: nobody.

        `receive` returns how much the guest has not read. A terminal is raw meanwhile: Ctrl-C goes
        to the guest, and Ctrl-A x is this process's Ctrl-C. The end of the input ends nothing.
        """
        fd = None
        if receive is not None and sys.stdin is not None and not sys.stdin.closed:
            fd = sys.stdin.fileno()
        woken, self._wake = os.pipe()
        thread = threading.Thread(
            target=self._pump,
            args=(fd, woken, receive or _nobody),
            name="pvlock-terminal",
            daemon=True,
        )
        with _raw(fd):
            thread.start()
            try:
                yield
            finally:
                with self._lock:
                    os.close(self._wake)
                    self._wake = None
                thread.join()
                os.close(woken)
                self.flush()

    def _pump(self, fd: int | None, woken: int, receive: Callable[[bytes], int]) -> None:
        """Show and type, until the other end of the pipe `woken` is closed."""
        escapes = _Escapes() if fd is not None and os.isatty(fd) else None
        show_at: float | None = None
        unread = 0
        while True:
            events = select.poll()
            events.register(woken, select.POLLIN)
            full = unread > _MOST_UNREAD
            if fd is not None and not full:
                events.register(fd, select.POLLIN)
            left = None if show_at is None else max(show_at - time.monotonic(), 0) * 1000
            ready = dict(events.poll(_LOOK_MS if full and left is None else left))
            if woken in ready:
                if not os.read(woken, 1):
                    return
                show_at = time.monotonic() + _SHOW_SECONDS
            if show_at is not None and time.monotonic() >= show_at:
                show_at = None
                with contextlib.suppress(OSError):  # the screen is gone: run() notices
                    self.flush()
            if full:
                unread = receive(b"")
            elif fd in ready:
                data = _read(fd)
                if not data:
                    fd = None
                    continue
                data, leave = escapes.take(data) if escapes else (data, False)
                unread = receive(data)
                if leave:
                    signal.raise_signal(signal.SIGINT)
                    return


def _nobody(_data: bytes) -> int:
    return 0


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


@contextlib.contextmanager
def _raw(fd: int | None) -> Iterator[None]:
    if fd is None or not os.isatty(fd):
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
