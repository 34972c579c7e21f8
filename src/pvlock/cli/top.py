# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock top`: the part of the command line that shows where VCPUs' time goes."""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from pvlock.cli.screen import console
from pvlock.cli.shared import ended_by_signals, say
from pvlock.duration import HOUR_NS, nanoseconds
from pvlock.errors import ConfigError, WatchError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pvlock.top.session import Choice, Interval, Session

_SHORTEST_NS = 100_000_000
_SORTS = ("ready", "running", "preemptions", "longest", "pid")


class _Interval(click.ParamType[float]):
    """A time such as 1s, at least 100 ms."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        try:
            ns = nanoseconds(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is {error}", param, ctx)
        if not _SHORTEST_NS <= ns <= HOUR_NS:
            self.fail(f"{value!r} is not between 100ms and 3600s", param, ctx)
        return ns / 1e9


@click.command()
@click.option(
    "--pid",
    "pids",
    type=click.IntRange(1),
    multiple=True,
    metavar="PID",
    help="Only this process. May repeat.",
)
@click.option("--cgroup", metavar="PATH", help="Only processes in this cgroup, or below it.")
@click.option(
    "--threads", metavar="PATTERN", help="Threads of these names ('fc_vcpu *'), VCPUs or not."
)
@click.option(
    "--interval", type=_Interval(), default="1s", show_default=True, help="How long to add up."
)
@click.option("--once", is_flag=True, help="One interval, then end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="One line for each VCPU and interval.")
@click.option("--vcpus", is_flag=True, help="Show each VCPU (the key v, in the live table).")
@click.option(
    "--sort",
    type=click.Choice(_SORTS),
    default="ready",
    show_default=True,
    help="What comes first (the key s).",
)
@click.option(
    "--explain-stall",
    "stalled",
    type=click.IntRange(1),
    metavar="PID",
    help="Was it this guest's host, or the guest itself? A verdict.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 3600),
    metavar="SECONDS",
    default=10,
    show_default=True,
    help="How long --explain-stall looks.",
)
@click.option("--no-bpf", is_flag=True, help="Only what /proc tells; needs no rights.")
def top(
    pids: tuple[int, ...], cgroup: str | None, threads: str | None, interval: float, once: bool,
    as_json: bool, as_csv: bool, vcpus: bool, sort: str, stalled: int | None, seconds: float,
    no_bpf: bool,
) -> None:  # fmt: skip
    """Show where the time of this host's VCPUs goes, and who has their CPUs.

    Of any VMM that uses KVM. In the live table, v shows each VCPU, s sorts by another column, and
    q ends.
    """
    from pvlock.top.session import Choice, Session

    if as_json and as_csv:
        raise ConfigError("--json and --csv do not go together")
    if stalled is not None:
        if pids or cgroup or as_csv:
            raise ConfigError("--explain-stall does not go with --pid, --cgroup or --csv")
        _explain_stall(Choice((stalled,), None, threads), stalled, seconds, no_bpf, as_json)
        return
    live = not (once or as_json or as_csv)
    if live:
        _need_terminal()
    elif not (as_json or as_csv):
        _need_width()
    choice = Choice(pids, cgroup, threads)
    with ended_by_signals(), Session(choice, not no_bpf) as session:
        session.start()
        if session.degraded:
            say(f"top: {_degraded(session.degraded)}")
        elif session.lacks:
            say(f"top: this kernel does not tell {'; nor '.join(session.lacks)}")
        with contextlib.suppress(KeyboardInterrupt):
            if live:
                _live(session, interval, sort, vcpus)
            else:
                _print(session, choice, interval, once, sort, vcpus, as_json, as_csv)


def _explain_stall(choice: "Choice", pid: int, seconds: float, no_bpf: bool, as_json: bool) -> None:
    from rich.table import Table

    from pvlock import report
    from pvlock.top import stall
    from pvlock.top.session import Session

    with ended_by_signals(), Session(choice, not no_bpf) as session:
        session.start()
        if session.degraded:
            say(f"top: {_degraded(session.degraded)}")
        verdict = stall.judge(session.interval(seconds), session, pid)
    if as_json:
        print(report.to_json(report.document("stall", stall.as_dict(verdict))), end="")
        return
    console = _console()
    console.print(f"{verdict.sentence}\n")
    shown = Table(box=None, pad_edge=False, show_header=False)
    for what in ("starved", "throttled", "itself"):
        answer = getattr(verdict, what)
        shown.add_row(f"{what}?", answer.state, answer.because)
    for number, line in enumerate(verdict.evidence):
        shown.add_row("" if number else "seen", "", line)
    for name, text in verdict.remedies.items():
        shown.add_row(name, "", text)
    console.print(shown)


def _degraded(why: str) -> str:
    return f"from /proc only: no gaps, displacers, migrations or quotas ({why})"


def _need_terminal() -> None:
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise ConfigError("there is no terminal for a live table: use --once, --json or --csv")
    _need_width()


def _need_width() -> None:
    from pvlock.top.screen import WIDTH

    if sys.stdout.isatty() and (columns := os.get_terminal_size().columns) < WIDTH:
        raise ConfigError(
            f"the table needs {WIDTH} columns, the terminal has {columns}: use --json or --csv"
        )


def _print(
    session: "Session", choice: "Choice", seconds: float, once: bool, sort: str, vcpus: bool,
    as_json: bool, as_csv: bool,
) -> None:  # fmt: skip
    from pvlock.top import records

    if as_csv:
        print(records.csv_header(), end="")
    while True:
        interval = session.interval(seconds)
        if as_json:
            print(records.to_json(interval, session), end="", flush=True)
        elif as_csv:
            print(records.to_csv(interval, session), end="", flush=True)
        else:
            if not interval.vms:
                raise WatchError(_nothing(session, choice))
            _show(_console(), interval, session, sort, vcpus)
        if once:
            return
        _refuse_the_gone(interval)


def _nothing(session: "Session", choice: "Choice") -> str:
    if choice.pids:
        return "what was asked for has ended"
    if session.source == "bpf":
        return "no VCPU has run on this host"
    return "no thread here is called as VMMs call those of VCPUs; with rights, the kernel tells"


def _console() -> "Console":
    return console(sys.stdout)


def _show(
    console: "Console", interval: "Interval", session: "Session", sort: str, vcpus: bool
) -> None:
    from pvlock.top import screen

    console.print(screen.title(interval, session))
    console.print(screen.table(interval, session, sort, vcpus))


def _refuse_the_gone(interval: "Interval") -> None:
    if interval.missing:
        raise WatchError(f"process {interval.missing[0]} has ended")


def _live(session: "Session", seconds: float, sort: str, vcpus: bool) -> None:
    from rich.live import Live
    from rich.text import Text

    with _keys() as pressed, Live(console=_console(), screen=True, auto_refresh=False) as live:
        live.update(Text("adding up ..."), refresh=True)
        interval = None
        while True:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                key = pressed(min(left, session.pause))
                session.look()
                if key == "q":
                    return
                vcpus ^= key == "v"
                if key == "s":
                    sort = _SORTS[(_SORTS.index(sort) + 1) % len(_SORTS)]
                if key and interval:
                    live.update(_screen(interval, session, sort, vcpus), refresh=True)
            interval = session.cut()
            live.update(_screen(interval, session, sort, vcpus), refresh=True)
            _refuse_the_gone(interval)


def _screen(interval: "Interval", session: "Session", sort: str, vcpus: bool) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from pvlock.top import screen

    keys = Text(f"sorted by {sort}    v: VCPUs  s: sort  q: quit", style="dim")
    title = Text(screen.title(interval, session), style="bold")
    return Group(title, screen.table(interval, session, sort, vcpus), keys)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits for a key, some seconds at most, and returns it or ""."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
