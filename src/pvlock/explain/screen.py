# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings as tables that fit a screen, one trace or two side by side."""

from rich.table import Table

from pvlock import report
from pvlock.explain.findings import Findings, Total, percent, vcpu_ms
from pvlock.trace.attribution import Part
from pvlock.trace.events import Events

_COLUMNS = {
    "waiter\nno CPU": (Part.OWN_PREEMPTED, Part.OWN_BLOCKED),
    "owner\nruns": (Part.OWNER_RUNNING,),
    "owner\npreempted": (Part.OWNER_PREEMPTED,),
    "owner\nblocked": (Part.OWNER_BLOCKED,),
    "queue\noff CPU": (Part.QUEUE_PREEMPTED, Part.QUEUE_BLOCKED),
    "no\nowner": (Part.NO_OWNER,),
    "\nunknown": (Part.UNKNOWN,),
}
"""The titles of the columns, and the parts that each adds up. Empty columns are left out."""
_TASK_COLUMNS = {
    "waiter\nno CPU": (Part.OWN_PREEMPTED,),
    "waiter\nno VCPU": (Part.OWN_QUEUED,),
    "owner\nruns": (Part.OWNER_RUNNING,),
    "owner\nno CPU": (Part.OWNER_PREEMPTED,),
    "owner\nno VCPU": (Part.OWNER_QUEUED,),
    "owner\nasleep": (Part.OWNER_BLOCKED,),
    "queue\nno CPU": (Part.QUEUE_PREEMPTED,),
    "queue\nno VCPU": (Part.QUEUE_QUEUED,),
    "queue\nasleep": (Part.QUEUE_BLOCKED,),
    "no\nowner": (Part.NO_OWNER,),
    "\nunknown": (Part.UNKNOWN,),
}
"""The same of a Linux guest, whose tasks wait."""
_MOST_COLUMNS = 4

_LONGEST_NAME = 32
_NAMES = {
    Part.OWN_PREEMPTED: "the waiter had no CPU",
    Part.OWN_BLOCKED: "the waiter was blocked otherwise",
    Part.OWNER_RUNNING: "the owner ran",
    Part.OWNER_PREEMPTED: "the owner was preempted",
    Part.OWNER_BLOCKED: "the owner was blocked",
    Part.QUEUE_PREEMPTED: "the head of the queue was preempted",
    Part.QUEUE_BLOCKED: "the head of the queue was blocked",
    Part.NO_OWNER: "nobody had the lock",
    Part.UNKNOWN: "unknown",
    Part.OWN_QUEUED: "the waiter had no VCPU",
    Part.OWNER_QUEUED: "the owner had no VCPU",
    Part.QUEUE_QUEUED: "the head of the queue had no VCPU",
}
_TASK_NAMES = {
    Part.OWNER_PREEMPTED: "the owner's VCPU had no CPU",
    Part.OWNER_BLOCKED: "the owner slept",
    Part.QUEUE_PREEMPTED: "the VCPU of the head of the queue had no CPU",
    Part.QUEUE_BLOCKED: "the head of the queue slept",
}


def title(events: Events) -> str:
    """Return a line that says which run this is."""
    known = events.settings
    facts = [
        str(known.get("guest", "a guest")),
        f"{events.machine_vcpus} VCPUs on {events.pcpus} CPUs",
        _pvlock(events),
        str(known.get("engine", "")),
    ]
    text = ", ".join(fact for fact in facts if fact)
    return f"{text}: {report.time(events.end - events.start)}, {len(events):,} events"


def _pvlock(events: Events) -> str:
    known = events.settings
    if "pvlock" not in known:
        return ""
    policy = f" ({known['policy']})" if "policy" in known else ""
    return f"with PV-lock{policy}" if known["pvlock"] else "without PV-lock"


def waiting(found: Findings, top: int) -> Table:
    """Return a table of what the waiting was for: of all of it, by lock, and by waiter."""
    columns = _task_columns(found) if found.of_tasks else _columns(found)
    table = Table(box=None, pad_edge=False)
    table.add_column("\nwaiting", no_wrap=True)
    # Of Linux only those acquisitions are seen that somebody waits for.
    counts = ["\nwaits"] if found.of_tasks else ["\nacquired", "\nwaits"]
    for text in (*counts, "\nlongest", f"\n{found.unit}", *columns):
        table.add_column(text, justify="right", no_wrap=True)

    def add(name: str, acquired: str, total: Total) -> None:
        cells = [_share(total, parts) for parts in columns.values()]
        longest = report.time(total.longest)
        counted = [f"{total.waits:,}"] if found.of_tasks else [acquired, f"{total.waits:,}"]
        table.add_row(name, *counted, longest, vcpu_ms(total.ns), *cells)

    acquired = sum(count for count, _ in found.locks.values())
    if len(found.locks) != 1:
        add("all locks", f"{acquired:,}", found.total)
    for name, (count, total) in [*found.locks.items()][:top]:
        add(_cut(name), f"{count:,}", total)
    waiters = sorted(range(len(found.vcpus)), key=lambda vcpu: -found.vcpus[vcpu].ns)
    for vcpu in waiters[:top]:
        if found.vcpus[vcpu].ns:
            add(found.events.vcpu_name(vcpu), "", found.vcpus[vcpu])
    return table


def _columns(found: Findings) -> dict[str, tuple[Part, ...]]:
    return {name: parts for name, parts in _COLUMNS.items() if found.total.parts[list(parts)].any()}


def _task_columns(found: Findings) -> dict[str, tuple[Part, ...]]:
    """Return the columns with the largest shares, in their order, and one for all the rest."""
    ns = {name: int(found.total.parts[list(parts)].sum()) for name, parts in _TASK_COLUMNS.items()}
    shown = sorted((name for name in ns if ns[name]), key=lambda name: -ns[name])[:_MOST_COLUMNS]
    columns: dict[str, tuple[Part, ...]] = {
        name: parts for name, parts in _TASK_COLUMNS.items() if name in shown
    }
    rest = tuple(part for part in Part if not any(part in parts for parts in columns.values()))
    return columns | {"\nrest": rest} if found.total.parts[list(rest)].any() else columns


def _cut(name: str) -> str:
    """Return the name of a lock, without its middle if it is long: its line stays one."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half + 1 :]}"


def culprits(found: Findings) -> Table:
    """Return a table of the absences of VCPUs from their CPUs that cost most."""
    table = Table(box=None, pad_edge=False)
    table.add_column("\noff its CPU", no_wrap=True)
    for text in ("\nat", "\nfor", f"cost,\n{found.unit}", "\nwaits"):
        table.add_column(text, justify="right", no_wrap=True)
    table.add_column("\nwhy", no_wrap=True)
    table.add_column("\nand it was", overflow="fold")
    for one in found.culprits:
        role = "head of the queue for" if one.queue else "owner of"
        table.add_row(
            one.who,
            f"{one.start / 1e6:,.3f} ms",
            report.time(one.end - one.start),
            vcpu_ms(one.cost),
            f"{one.waits:,}",
            one.reason,
            f"{role} {one.lock}",
        )
    return table


def pairs(found: Findings, top: int) -> Table:
    """Return a table of the pairs of VCPUs of which one waited longest for the other."""
    table = Table(box=None, pad_edge=False)
    table.add_column("waiter")
    table.add_column("waited for", no_wrap=True)
    for text in (found.unit, "while that was off its CPU"):
        table.add_column(text, justify="right", no_wrap=True)
    for one in found.pairs[:top]:
        share = percent(one.off_cpu, one.ns)
        name = found.events.vcpu_name
        table.add_row(name(one.waiter), name(one.vcpu), vcpu_ms(one.ns), share)
    return table


def chains(found: Findings) -> list[str]:
    """Return a line for each chain."""
    result = []
    for one in found.chains:
        name = found.events.vcpu_name
        text = "".join(f" → {lock} → {name(vcpu)}" for lock, vcpu in one.links)
        when = f"{report.time(one.ns)} from {one.at / 1e6:,.3f} ms on"
        result.append(f"{name(one.waiter)}{text}, {one.reason}: {when}")
    return result


def comparison(one: Findings, other: Findings) -> Table:
    """Return a table of two runs side by side."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for found in (one, other):
        table.add_column(_short(found), justify="right", no_wrap=True)
    both = (one.total, other.total)
    table.add_row("waits", *(f"{total.waits:,}" for total in both))
    table.add_row("longest wait", *(report.time(total.longest) for total in both))
    unit = one.unit if one.unit == other.unit else "·ms"
    names = _NAMES | (_TASK_NAMES if one.of_tasks and other.of_tasks else {})
    table.add_row(f"waiting, {unit}", *(vcpu_ms(total.ns) for total in both))
    for part in Part:
        if any(total.parts[part] for total in both):
            cells = (f"{vcpu_ms(int(t.parts[part]))}  {_share(t, (part,)):>4}" for t in both)
            table.add_row(f"  {names[part]}", *cells)
    table.add_row(f"waiters on a CPU, {unit}", *(vcpu_ms(total.spun) for total in both))
    table.add_row(f"waiters asleep, {unit}", *(vcpu_ms(total.asleep) for total in both))
    return table


def _short(found: Findings) -> str:
    with_ = "with PV-lock" if found.events.settings.get("pvlock") else "without PV-lock"
    return f"{with_}\n{found.events.machine_vcpus} VCPUs, {found.events.pcpus} CPUs"


def _share(total: Total, parts: tuple[Part, ...]) -> str:
    ns = int(total.parts[list(parts)].sum())
    return percent(ns, total.ns) if ns else "–"
