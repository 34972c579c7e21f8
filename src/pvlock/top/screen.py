# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals as a table that fits 80 columns."""

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from pvlock.top.session import Interval, Session
from pvlock.top.usage import ThreadUsage, Usage, VmUsage

WIDTH = 80
"""Columns that the table needs."""
UNKNOWN = "–"
_TOP = 3
_UNITS = ((10**9, "s"), (10**6, "ms"), (10**3, "µs"))
_SHOWN = 0.001
"""Who had less of the time than this is not named."""

SORTS: dict[str, Callable[[VmUsage], float]] = {
    "ready": lambda vm: -_share(vm, vm.waited),
    "running": lambda vm: -_share(vm, vm.running),
    "preemptions": lambda vm: -vm.preemptions,
    "longest": lambda vm: -(vm.longest or 0),
    "pid": lambda vm: vm.tgid,
}
"""What the table can be sorted by."""


def _share(usage: Usage, ns: int) -> float:
    return ns / usage.span if usage.span else 0.0


def table(interval: Interval, session: Session, sort: str, threads: bool) -> Table:
    """Return VMs, the first by `sort` on top, with their `threads` or without."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
    shown.add_column("VM", max_width=16, overflow="fold")
    shown.add_column("VCPU", justify="right", no_wrap=True)
    for name in ("run%", "ready%", "thr%", "blk%", "pre/s", "p99", "longest"):
        shown.add_column(name, justify="right", no_wrap=True)
    flags = bool(interval.flags)
    if flags:
        shown.add_column("flag/is", justify="right", no_wrap=True)
    shown.add_column("displaced by", overflow="fold")
    for vm in sorted(interval.vms, key=SORTS[sort]):
        name = session.names.vm(vm.tgid)
        cells = [*_cells(vm, interval), *([_flags(vm.threads, interval)] if flags else [])]
        shown.add_row(name, str(len(vm.threads)), *cells, _by(vm, session))
        for each in vm.threads if threads else ():
            vcpu = each.thread.vcpu
            label = f"  {each.thread.name}" if vcpu is None else "  VCPU"
            number = str(each.thread.key.tid) if vcpu is None else str(vcpu)
            cells = [*_cells(each, interval), *([_flags([each], interval)] if flags else [])]
            shown.add_row(label, number, *cells, _by(each, session), style="dim")
    return shown


def _cells(usage: Usage, interval: Interval) -> list[str | Text]:
    return [
        _percent(usage, usage.running),
        _percent(usage, usage.ready),
        _percent(usage, usage.throttled),
        _percent(usage, usage.blocked),
        f"{usage.preemptions * 1e9 / max(1, interval.ns):.0f}",
        _time(usage.p99),
        _time(usage.longest),
    ]


def _flags(threads: Sequence[ThreadUsage], interval: Interval) -> str:
    """Say in what part of the looks the published flag was set, and in what part it should be."""
    found = [interval.flags.get(each.thread.key.tid) for each in threads]
    compared = [each for each in found if each is not None]
    if not compared:
        return UNKNOWN
    looks = sum(each.looks for each in compared)
    flag, truth = (sum(getattr(each, what) for each in compared) for what in ("flag", "truth"))
    return f"{100 * flag / looks:.0f}/{100 * truth / looks:.0f}"


def _percent(usage: Usage, ns: int | None) -> str:
    return UNKNOWN if ns is None else f"{100 * _share(usage, ns):.1f}"


def _time(ns: int | None) -> str:
    if ns is None:
        return UNKNOWN
    for unit, name in _UNITS:
        if ns >= unit:
            value = ns / unit
            return f"{value:.1f}{name}" if value < 10 else f"{value:.0f}{name}"
    return f"{ns}ns"


def _by(usage: Usage, session: Session) -> str:
    found = session.names.displaced_by(usage)
    if found is None:
        return UNKNOWN
    parts = [(name, _share(usage, ns)) for name, ns in found[:_TOP]]
    return ", ".join(f"{name} {100 * part:.1f}" for name, part in parts if part >= _SHOWN)


def title(interval: Interval, session: Session) -> str:
    """Say in a line what the table is of."""
    vms = len(interval.vms)
    threads = sum(isinstance(each, ThreadUsage) for vm in interval.vms for each in vm.threads)
    text = f"{vms} VM{'s' * (vms != 1)}, {threads} VCPU{'s' * (threads != 1)}"
    if any(not vm.is_vm for vm in interval.vms):
        text = f"{vms} process{'es' * (vms != 1)}, {threads} thread{'s' * (threads != 1)}"
    text += f"; {interval.ns / 1e9:.1f} s; % of each one's time"
    if wrong := sum(each.differ for each in interval.flags.values()):
        looks = sum(each.looks for each in interval.flags.values())
        text += f"; flags WRONG in {wrong} of {looks} looks"
    if interval.unplaced:
        text += f"; {interval.unplaced} threads found no place"
    return text
