# SPDX-License-Identifier: GPL-2.0-or-later
"""Passes bytes between our files and the channels of the virtual host."""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pvlock.errors import LabError

CHANNELS = ("kernel", "terminal", "input", "output", "errors", "status", "files", "bytecode")
"""`kernel` is the host's console; the rest are ports of a virtio-serial device, in this order."""
ESCAPE = b"\x1d"
"""Ctrl-], as in telnet. It ends the lab when the command has the terminal and does not listen."""
SILENT_SECONDS = 30
"""A host that has given no sign of life for so long (`init` gives one every 5 s) stands still."""
_KEPT = 1 << 14
_CHUNK = 1 << 16
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


@dataclass
class Streams:
    """Our side. A channel's sink gets its output as it comes; output without a sink is dropped.

    `source` is the file descriptor of the command's input, or None for no input. If it is a
    `terminal`, the command gets one too. `started` is called when the command starts.
    """

    sinks: Mapping[str, Callable[[bytes], object]]
    source: int | None = None
    terminal: bool = False
    started: Callable[[], object] = field(default=lambda: None)


class Relay:
    """Passes bytes between `streams` and our `ends` of the channels, until the channels close."""

    def __init__(self, ends: Mapping[str, socket.socket], streams: Streams) -> None:
        self._ends, self._streams = ends, streams
        self._inlet = "terminal" if streams.terminal else "input"
        self._kept = {"kernel": bytearray(), "status": bytearray()}
        self._pending = b""
        self._open = set(ends)
        self._started = False
        self._heard = time.monotonic()
        # poll takes regular files, and epoll does not.
        self._selector = selectors.PollSelector()
        for name, end in ends.items():
            end.setblocking(False)
            self._selector.register(end, selectors.EVENT_READ, name)
        if streams.source is None:
            ends[self._inlet].shutdown(socket.SHUT_WR)
        else:
            self._selector.register(streams.source, selectors.EVENT_READ, None)

    def until(self, deadline: float) -> None:
        """Relay until all channels are closed. Raises LabError at `deadline` (time.monotonic).

        Raises KeyboardInterrupt for ESCAPE on a terminal.
        """
        # The channel "input" closes when our side does, which says nothing of the host.
        while self._open - {"input"}:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(
                    f"the lab's time is up before its command has ended (--timeout): {self._why()}"
                )
            for key, events in self._selector.select(left):
                if key.data is None:
                    self._read_source()
                    continue
                if events & selectors.EVENT_WRITE:
                    self._write_inlet()
                if events & selectors.EVENT_READ:
                    self._receive(key.data)

    def _why(self) -> str:
        """Say what became of the host, as far as it can be seen from here."""
        if not self._started:
            return "its kernel has not come to the command yet"
        silent = time.monotonic() - self._heard
        if silent < SILENT_SECONDS:
            return "the host is alive, and the command still runs"
        return (
            f"the host has given no sign of life for {silent:.0f} s; it stands still (docs/lab.md)"
        )

    @property
    def status(self) -> int | None:
        """The command's exit status; None if the command has not ended."""
        last = self._kept["status"].split(b"\n")[-2:-1]
        return int(last[0]) if last and last[0].isdigit() else None

    @property
    def console(self) -> list[str]:
        """The last lines of the kernel's console."""
        lines = self._kept["kernel"].decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def _receive(self, name: str) -> None:
        try:
            data = self._ends[name].recv(_CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(self._ends[name])
            self._open.discard(name)
            return
        if name in self._kept:
            self._kept[name] += data
            del self._kept[name][:-_KEPT]
        if name in self._streams.sinks:
            self._streams.sinks[name](data)
        if name == "status":
            self._heard = time.monotonic()
            if not self._started:
                self._started = True
                self._streams.started()

    def _read_source(self) -> None:
        """Read some input, and no more until the host has taken it."""
        source = self._streams.source
        assert source is not None
        self._selector.unregister(source)
        try:
            data = os.read(source, _CHUNK)
        except OSError:
            # The terminal hung up, or this process may not read from it.
            data = b""
        if self._streams.terminal and ESCAPE in data:
            raise KeyboardInterrupt
        if self._inlet not in self._open:
            return
        if data:
            self._pending = data
            self._selector.modify(self._ends[self._inlet], _BOTH, self._inlet)
        elif not self._streams.terminal:
            self._ends[self._inlet].shutdown(socket.SHUT_WR)

    def _write_inlet(self) -> None:
        end, source = self._ends[self._inlet], self._streams.source
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._pending = self._pending[end.send(self._pending) :]
        if not self._pending and source is not None:
            self._selector.modify(end, selectors.EVENT_READ, self._inlet)
            self._selector.register(source, selectors.EVENT_READ, None)
