# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a guest file to its end: an operating system's reboots, and the panic of its kernel."""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pvlock.cli.typist import Typist
from pvlock.engines.contract import Live, SystemEvent, Usage
from pvlock.errors import GuestPanicked, GuestStalled
from pvlock.host import LONGEST_NS
from pvlock.image import Image, Kind
from pvlock.keyboard import Keyboard
from pvlock.machine import Machine

Output = Callable[[bytes], None]
_PANIC = "Kernel panic - not syncing"
_PANIC_ENDS = "---[ end Kernel panic"
_LAST_LINES = 12
_LONGEST_LINE = 1024
_STEPS = 100
_STEP_NS = 10_000_000
_LIVE_STEP_NS = 500_000_000


class PanicWatch:
    """Passes console bytes on to `output`, and raises GuestPanicked when the guest's kernel has.

    Linux says so on its console, and then by default hangs for ever.
    """

    def __init__(self, output: Output) -> None:
        """Watch a console from its first byte on."""
        self._output = output
        self._line = bytearray()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._reason: str | None = None

    def __call__(self, data: bytes) -> None:
        """Take console bytes. Raises GuestPanicked once the kernel's last words are complete."""
        self._output(data)
        self._line += data
        if b"\n" not in data and len(self._line) < _LONGEST_LINE:
            return
        line, self._line = self._line.decode("utf-8", "replace").rstrip(), bytearray()
        self._lines.append(line)
        if _PANIC in line and self._reason is None:
            self._reason = line[line.index("Kernel") :]
        if _PANIC_ENDS in line:
            self.check()

    def check(self) -> None:
        """Raise GuestPanicked if there was a panic."""
        if self._reason is not None:
            raise GuestPanicked(self._reason, tuple(self._lines))


def run(
    create: Callable[[Output], Machine],
    guest: Image,
    initrd: bytes | None,
    output: Output,
    limit_ns: int | None,
    *,
    reboot: bool = True,
    keyboard: Keyboard | None = None,
    pace: Callable[[], Callable[[int], None]] | None = None,
    attach: Callable[[Machine], AbstractContextManager[object]] = lambda _machine: nullcontext(),
    finished: Callable[[Machine], None] = lambda _machine: None,
) -> tuple[SystemEvent | None, Usage]:
    """Run `guest` on the machines that `create` makes, one for each time that Linux boots.

    A Linux guest that resets the machine boots again, on a new one, if `reboot`; any other guest's
    reset ends the run. `keyboard` types at the guest. `pace` begins to slow a guest down that is in
    virtual time; what it returns is told each time that the guest has reached. `attach` may hold
    something open while a machine runs, `finished` sees it at the end. Returns how it ended, None
    after `limit_ns` of guest time (None: it may take any), and what the last machine used. Raises
    EngineError (GuestPanicked, above all), ImageError for a guest that does not fit, InputError
    when the script of `keyboard` cannot be followed to its end, and what `create` and `output`
    raise.
    """
    linux = guest.kind is Kind.LINUX
    spent = 0
    typist = None if keyboard is None else Typist(keyboard, output)
    if typist is not None:
        output = typist.output
    while True:
        watch = PanicWatch(output) if linux else None
        with create(watch or output) as machine:
            machine.load(guest, initrd)
            if typist is not None:
                typist.sit_down(machine, spent)
            with attach(machine):
                left = None if limit_ns is None else max(limit_ns - spent, 0)
                event = _run(machine, left, typist, pace() if pace else None)
            usage = machine.usage()
            finished(machine)
        if watch is not None:
            watch.check()
        spent += usage.time_ns
        if event is not SystemEvent.RESET or not (linux and reboot):
            if keyboard is not None:
                keyboard.finish(f"the guest was {event}" if event else "its time was up")
            return event, usage


def _run(
    machine: Machine,
    limit_ns: int | None,
    typist: Typist | None,
    keep: Callable[[int], None] | None,
) -> SystemEvent | None:
    """Come up for air now and then, unless the engine does: console writes then arrive."""
    if isinstance(machine.engine, Live):
        return _run_live(machine, LONGEST_NS if limit_ns is None else limit_ns, typist)
    step = _STEP_NS if limit_ns is None else min(limit_ns // _STEPS, _STEP_NS)
    step = max(step, machine.engine.step_ns)
    now = 0
    while limit_ns is None or now < limit_ns:
        if typist is not None:
            typist.type(now)
        now = now + step if limit_ns is None else min(now + step, limit_ns)
        event = _step(machine, now, typist)
        if event is not None:
            return event
        if keep is not None:
            keep(now)
    return None


def _step(machine: Machine, now: int, typist: Typist | None) -> SystemEvent | None:
    """Run until `now`; a guest that sleeps for ever may be waiting for what is typed next."""
    while True:
        try:
            return machine.run(now)
        except GuestStalled:
            if typist is None:
                raise
            if not typist.type(machine.usage().time_ns):
                typist.finish("the guest fell asleep for ever")
                raise


def _run_live(machine: Machine, limit_ns: int, typist: Typist | None) -> SystemEvent | None:
    """Run without a stop; but look now and then whether words are overdue, while any are awaited.

    What is typed next is typed from within run(), and then other words may be due sooner.
    """
    now = 0
    while True:
        awaited = False
        if typist is not None:
            typist.type(typist.now_ns)
            awaited = typist.waits
        now = min(now + _LIVE_STEP_NS, limit_ns) if awaited else limit_ns
        event = machine.run(now)
        if event is not None or now == limit_ns:
            return event
