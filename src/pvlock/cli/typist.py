# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sits at a keyboard that follows a script, at one machine after the other."""

import time
from collections.abc import Callable

from pvlock.engines.contract import Live
from pvlock.keyboard import Keyboard
from pvlock.machine import Machine


class Typist:
    """Passes console bytes on to `output`, and types what `keyboard` makes of them.

    On an engine in virtual time that is between two steps of the run, whose times do not depend on
    the host. On another it is at once, and times are the host's.
    """

    def __init__(self, keyboard: Keyboard, output: Callable[[bytes], None]) -> None:
        self._keyboard, self._output = keyboard, output
        self._machine: Machine | None = None
        self._began_ns = self._host_ns = 0
        self._live = False

    def sit_down(self, machine: Machine, began_ns: int) -> None:
        """Type at `machine` from now on; it begins `began_ns` after the first one did."""
        self._machine, self._began_ns = machine, began_ns
        self._live = isinstance(machine.engine, Live)
        self._host_ns = time.monotonic_ns()

    def output(self, data: bytes) -> None:
        """Take console bytes."""
        self._keyboard.saw(data)
        self._output(data)
        if self._live:
            self.type(self.now_ns)

    def type(self, now_ns: int) -> bool:
        """Type what is due `now_ns` after the machine began; return whether anything was.

        Raises InputError when awaited words have not come in time.
        """
        data = self._keyboard.due(self._began_ns + now_ns)
        if data and self._machine is not None:
            self._machine.console.receive(data)
        return bool(data)

    def finish(self, how: str) -> None:
        """Raise InputError unless the script has come to its end; `how` says how the run ended."""
        self._keyboard.finish(how)

    @property
    def now_ns(self) -> int:
        """How long ago the machine began, by the host's clock."""
        return time.monotonic_ns() - self._host_ns

    @property
    def waits(self) -> bool:
        """Whether words are awaited, which may be overdue one day."""
        return self._keyboard.deadline_ns is not None
