# SPDX-License-Identifier: GPL-2.0-or-later
"""What the worker process and its parent say to each other: one JSON value a line.

JSON, not pickle: a guest that took over the worker must not be able to run code in the parent.
"""

import json
import select
import socket
from typing import Any

from pvlock import errors
from pvlock.errors import PvlockError


class Channel:
    """One end of the connection. `receive` raises EOFError when the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._in = end.makefile("rb")

    def send(self, message: Any) -> None:
        """Send one value. Raises OSError when the other end is gone."""
        self._socket.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def ready(self, seconds: float) -> bool:
        """Wait for a value to arrive; False after `seconds` without one."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def receive(self) -> Any:
        """Wait for one value. Each end sends one and waits for one, so nothing is left over."""
        line = self._in.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise EOFError
        try:
            return json.loads(line)
        except ValueError:
            raise EOFError from None

    def close(self) -> None:
        """Close this end."""
        self._in.close()
        self._socket.close()


_LONGEST_LINE = 1 << 26

_CARRIED: dict[str, tuple[str, ...]] = {
    "GuestFault": ("vcpu", "pc", "reason"),
    "EngineUnavailable": ("engine", "capability", "remedy"),
    "StateError": ("what", "actual", "required"),
}


def pack_error(error: PvlockError) -> list[Any]:
    """Turn an error into what can be sent: its class and arguments."""
    name = type(error).__name__
    fields = _CARRIED.get(name)
    return [name, [getattr(error, f) for f in fields] if fields else [str(error)]]


def unpack_error(packed: list[Any]) -> PvlockError:
    """Make the error again that `pack_error` took apart."""
    name, arguments = packed
    kind = getattr(errors, name)
    if not (isinstance(kind, type) and issubclass(kind, PvlockError)):
        raise TypeError(name)
    return kind(*arguments)
