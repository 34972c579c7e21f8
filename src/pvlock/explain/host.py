# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace of a host says without the guests' locks: gaps, displacers, siblings meanwhile.

A wait is charged to whoever had the CPU on which it ended, or began if it did not end: where a
VCPU moved while it waited, that is not quite so. Times are in ns.
"""

import bisect
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from pvlock import report
from pvlock.trace.events import VM, Events, Kind

IDLE = "idle CPU"
ITSELF = "itself"
_LASTING = (Kind.SCHED_IN, Kind.PREEMPTED, Kind.BLOCKED, Kind.READY)


@dataclass
class Gap:
    """A VCPU could run from `start` to `end`, and had no CPU."""

    vcpu: str
    start: int
    end: int
    cpu: int
    by: dict[str, int] = field(default_factory=dict)
    siblings: int = 0
    """Other VCPUs of its VM that were on a CPU all that time."""

    @property
    def ns(self) -> int:
        """How long it lasted."""
        return self.end - self.start


@dataclass
class Vm:
    """What became of a VM's time; `span` is that of all its VCPUs together."""

    name: str
    vcpus: int = 0
    span: int = 0
    running: int = 0
    ready: int = 0
    blocked: int = 0
    gaps: int = 0
    longest: Gap | None = None
    by: dict[str, int] = field(default_factory=dict)


class _Cpu:
    """Who had a CPU, stretch by stretch."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, int, int]] = []

    def sort(self) -> None:
        self.stretches.sort()
        self.ends = [end for _, end, _ in self.stretches]

    def between(self, start: int, end: int) -> dict[int, int]:
        """Return who had it between two times, by row, and for how long."""
        found: dict[int, int] = defaultdict(int)
        for begun, ended, row in self.stretches[bisect.bisect_right(self.ends, start) :]:
            if begun >= end:
                break
            found[row] += min(ended, end) - max(begun, start)
        return found


def is_host(events: Events) -> bool:
    """Tell whether `pvlock record` made this trace."""
    return bool(events.settings.get("host"))


def find(events: Events) -> list[Vm]:
    """Return every VM of a trace, the one that waited longest first."""
    stretches = _stretches(events)
    cpus: dict[int, _Cpu] = defaultdict(_Cpu)
    running: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, kind, start, end, cpu in stretches:
        if kind is Kind.SCHED_IN:
            cpus[cpu].stretches.append((start, end, row))
            running[row].append((start, end))
    for each in cpus.values():
        each.sort()
    watched = int(events.settings.get("watched") or 0)
    vms: dict[str, Vm] = {}
    members: dict[str, list[int]] = defaultdict(list)
    for row in range(watched):
        name = events.names.get(VM + row, events.vcpu_name(row))
        vms.setdefault(name, Vm(name)).vcpus += 1
        members[name].append(row)
    for row, kind, start, end, _ in stretches:
        if row < watched:
            vm = vms[events.names.get(VM + row, events.vcpu_name(row))]
            vm.span += end - start
            vm.running += (end - start) * (kind is Kind.SCHED_IN)
            vm.ready += (end - start) * (kind in (Kind.PREEMPTED, Kind.READY))
            vm.blocked += (end - start) * (kind is Kind.BLOCKED)
    for row, gap in _gaps(events, stretches, watched):
        vm = vms[events.names.get(VM + row, events.vcpu_name(row))]
        vm.gaps += 1
        for who, ns in cpus[gap.cpu].between(gap.start, gap.end).items():
            name = _called(events, who, watched, vm.name)
            gap.by[name] = gap.by.get(name, 0) + ns
            vm.by[name] = vm.by.get(name, 0) + ns
        idle = gap.ns - sum(gap.by.values())
        if idle > 0:
            gap.by[IDLE] = idle
            vm.by[IDLE] = vm.by.get(IDLE, 0) + idle
        if vm.longest is None or gap.ns > vm.longest.ns:
            vm.longest = gap
            gap.siblings = sum(
                _covers(running[other], gap) for other in members[vm.name] if other != row
            )
    for vm in vms.values():
        vm.by = dict(sorted(vm.by.items(), key=lambda item: -item[1]))
    return sorted(vms.values(), key=lambda vm: -vm.ready)


def _stretches(events: Events) -> list[tuple[int, Kind, int, int, int]]:
    """Return what each row did: row, kind, start, end, CPU."""
    found: list[tuple[int, Kind, int, int, int]] = []
    state: dict[int, tuple[Kind, int, int]] = {}
    columns = (events.time, events.vcpu, events.kind, events.object)
    for at, row, number, cpu in zip(*(column.tolist() for column in columns), strict=True):
        if row in state:
            kind, since, where = state[row]
            if kind in _LASTING:
                found.append((row, kind, since, at, where))
        state[row] = (Kind(number), at, cpu)
    for row, (kind, since, where) in state.items():
        if kind in _LASTING:
            found.append((row, kind, since, events.end, where))
    return found


def _gaps(
    events: Events, stretches: list[tuple[int, Kind, int, int, int]], watched: int
) -> list[tuple[int, Gap]]:
    """Return the stretches in which a VCPU could run and did not, with the CPU that it got."""
    after = {(row, start): cpu for row, kind, start, _, cpu in stretches if kind is Kind.SCHED_IN}
    return [
        (row, Gap(events.vcpu_name(row), start, end, after.get((row, end), cpu)))
        for row, kind, start, end, cpu in stretches
        if row < watched and kind in (Kind.PREEMPTED, Kind.READY) and end > start
    ]


def _called(events: Events, row: int, watched: int, vm: str) -> str:
    """Name a displacer: a VM, or who is not one, wherever it ran."""
    if row < watched:
        name = events.names.get(VM + row, events.vcpu_name(row))
        return ITSELF if name == vm else f"VM {name}"
    return events.vcpu_name(row).partition(" on CPU ")[0]


def _covers(stretches: list[tuple[int, int]], gap: Gap) -> bool:
    return any(start <= gap.start and gap.end <= end for start, end in stretches)


def title(events: Events, vms: list[Vm]) -> str:
    """Say in a line what was recorded."""
    vcpus = sum(vm.vcpus for vm in vms)
    span = report.time(events.end - events.start)
    what = f"a host: {len(vms)} VMs, {vcpus} VCPUs, {events.pcpus} CPUs"
    return f"{what}: {span}, {len(events):,} events"


def sentence(vm: Vm) -> str:
    """Say what a VM lost, to whom, and what its longest gap was."""
    share = vm.ready / vm.span if vm.span else 0
    if vm.longest is None or share < 0.001:
        return f"VM {vm.name} lost nothing: whenever it could run, it had a CPU."
    worst, ns = next(iter(vm.by.items()))
    to = f"most of it to {worst}" if ns < 0.99 * vm.ready else f"to {worst}"
    gap = vm.longest
    number = gap.vcpu.rpartition("/")[2]
    text = f"VM {vm.name} lost {share:.0%} of its time, {to} ({ns / vm.span:.0%});"
    text += f" the longest gap, {report.time(gap.ns)}, VCPU {number}"
    if vm.vcpus > 1:
        count = {0: "none of its siblings was", 1: "1 of its siblings was"}
        many = f"{gap.siblings} of its siblings were"
        text += f"; {count.get(gap.siblings, many)} on a CPU all that time"
    return f"{text}."


def table(vms: list[Vm], top: int) -> Table:
    """Return the VMs, and who had their CPUs."""
    shown = Table(box=None, pad_edge=False)
    for name in ("VM", "VCPUs", "running", "lost", "blocked", "gaps", "longest", "to whom"):
        figure = name not in ("VM", "to whom")
        shown.add_column(name, justify="right" if figure else "left", no_wrap=figure)
    for vm in vms:
        by = [f"{name} {ns / vm.span:.1%}" for name, ns in list(vm.by.items())[:top] if vm.span]
        parts = (vm.running, vm.ready, vm.blocked)
        shares = [f"{part / vm.span:.1%}" if vm.span else "–" for part in parts]
        longest = report.time(vm.longest.ns) if vm.longest else "–"
        cells = (str(vm.vcpus), *shares, f"{vm.gaps:,}", longest, ", ".join(by))
        shown.add_row(vm.name, *cells)
    return shown


def as_dict(events: Events, vms: list[Vm]) -> dict[str, Any]:
    """Return all of it."""
    return {
        "host": True,
        "cpus": events.pcpus,
        "span_ns": events.end - events.start,
        "lost_records": events.settings.get("lost", 0),
        "vms": [asdict(vm) for vm in vms],
    }
