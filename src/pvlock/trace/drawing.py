# SPDX-License-Identifier: GPL-2.0-or-later
"""What a timeline shows: tracks, slices on them, and arrows from a preemption to what it delayed.

The slices of a track do not overlap. Where the skew of the clocks, or a guest that writes nonsense,
would make two overlap, the first one ends where the second begins.
"""

from dataclasses import dataclass, field

import numpy as np

from pvlock.errors import TraceError
from pvlock.trace.attribution import Attribution, attribute
from pvlock.trace.attribution.intervals import Intervals
from pvlock.trace.attribution.pairing import pair
from pvlock.trace.columns import Bools, Ints
from pvlock.trace.events import Events, Flag, Kind
from pvlock.trace.tasks import by_task_from

MOST_LOCKS = 256
"""The most locks that are drawn. They are the ones that were waited for longest."""
MOST_ARROWS = 10_000
"""The most arrows that are drawn. They are those of the longest delays."""

_STATES = {
    Kind.SCHED_IN: "running",
    Kind.PREEMPTED: "preempted",
    Kind.BLOCKED: "blocked",
    Kind.OFF: "off",
    Kind.READY: "ready",
}
_YIELDED = "preempted (yield)"
_TASK_STATES = {
    Kind.SCHED_IN: "on VCPU",
    Kind.PREEMPTED: "no VCPU",
    Kind.BLOCKED: "asleep",
    Kind.OFF: "gone",
    Kind.READY: "woken, no VCPU",
}


@dataclass
class Track:
    """A line of the timeline. It shows slices, or, if it `counts`, how a number changes.

    `parent` is the place of the track that it belongs to in the Drawing's list.
    """

    name: str
    parent: int | None = None
    counts: bool = False


@dataclass
class Slices:
    """Slices on tracks, with times in ns. `track` and `name` are places in the Drawing's lists."""

    track: Ints
    start: Ints
    end: Ints
    name: Ints

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.start)


@dataclass
class Counts:
    """The numbers that tracks show: a track has `value` from `time` on, in ns, to its next row."""

    track: Ints
    time: Ints
    value: Ints


@dataclass
class Drawing:
    """All tracks and what is on them.

    Each of `arrows` leads from the start of one slice to the end of another. It has their places in
    `slices`.
    """

    tracks: list[Track] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    slices: Slices = field(default_factory=lambda: Slices(*[np.empty(0, np.int64)] * 4))
    counts: Counts = field(default_factory=lambda: Counts(*[np.empty(0, np.int64)] * 3))
    arrows: list[tuple[int, int]] = field(default_factory=list)

    def add_tracks(self, names: list[str], parent: int | None = None) -> Ints:
        """Add tracks; return their places."""
        self.tracks += [Track(name, parent) for name in names]
        return np.arange(len(self.tracks) - len(names), len(self.tracks))

    def add_names(self, names: list[str]) -> Ints:
        """Add names of slices; return their places."""
        self.names += names
        return np.arange(len(self.names) - len(names), len(self.names))

    def add_slices(self, track: Ints, start: Ints, end: Ints, name: Ints) -> int:
        """Add slices; return the place of the first."""
        new, old = (track, start, end, name), self.slices
        columns = zip((old.track, old.start, old.end, old.name), new, strict=True)
        self.slices = Slices(*(np.concatenate(both) for both in columns))
        return len(old)


def draw(events: Events) -> Drawing:
    """Return the timeline of a run. Raises TraceError for a broken table of events."""
    # For a long run, the attribution takes more memory than all the rest. So it comes first, and
    # nothing but the delays is kept.
    try:
        waiting, places = by_task_from(events)
        delays = [(int(places[at]), wait) for at, wait in _delays(attribute(waiting))]
    except TraceError:  # The run is too entangled to say who waited for whom. Draw it without.
        delays = []
    found = Drawing()
    vcpus = found.add_names([events.vcpu_name(vcpu) for vcpu in range(events.vcpus)])
    ordered, ends = _scheduling(events)
    _cpus(events, found, vcpus, ordered, ends)
    first_state = _vcpus(events, found, ordered, ends)
    first_wait, drawn = _locks(events, found, vcpus)
    place = np.full(len(events), -1)
    place[ordered] = first_state + np.arange(len(ordered))
    waits = np.flatnonzero(drawn)
    wait_place = np.full(len(drawn), -1)
    wait_place[waits] = first_wait + np.arange(len(waits))
    found.arrows = [
        (int(place[event]), int(wait_place[wait])) for event, wait in delays if drawn[wait]
    ]
    _separate(found.slices)
    return found


def _scheduling(events: Events) -> tuple[Ints, Ints]:
    """Return the positions of the schedule events by VCPU, and when the state of each ended."""
    at = np.flatnonzero(events.kind <= Kind.READY)
    at = at[np.argsort(events.vcpu[at], kind="stable")]
    vcpu, time = events.vcpu[at], events.time[at]
    same = np.append(vcpu[1:] == vcpu[:-1], False)[: len(at)]
    return at, np.where(same, np.append(time[1:], 0)[: len(at)], events.end)


def _cpus(events: Events, found: Drawing, vcpus: Ints, at: Ints, ends: Ints) -> None:
    root = int(found.add_tracks(["CPUs"])[0])
    tracks = found.add_tracks([f"CPU {cpu}" for cpu in range(events.pcpus)], root)
    runs = (events.kind[at] == Kind.SCHED_IN) & (events.object[at] < events.pcpus)
    runs &= (events.flags[at] & Flag.GUEST) == 0
    at, ends = at[runs], ends[runs]
    cpu = events.object[at].astype(np.int64)
    found.add_slices(tracks[cpu], events.time[at], ends, vcpus[events.vcpu[at]])


def _vcpus(events: Events, found: Drawing, at: Ints, ends: Ints) -> int:
    root = int(found.add_tracks(["VCPUs"])[0])
    called = [events.vcpu_name(vcpu) for vcpu in range(events.vcpus)]
    watched = events.settings.get("watched") if events.settings.get("host") else None
    if isinstance(watched, int):
        tracks = found.add_tracks(called[:watched], root)
        others = int(found.add_tracks(["Displacers"])[0])
        tracks = np.concatenate([tracks, found.add_tracks(called[watched:], others)])
    else:
        vcpus = events.vcpus - events.tasks
        tracks = found.add_tracks(called[:vcpus], root)
        if events.tasks:
            tasks = int(found.add_tracks(["Tasks"])[0])
            tracks = np.concatenate([tracks, found.add_tracks(called[vcpus:], tasks)])
    names = found.add_names([*_STATES.values(), _YIELDED])
    name = names[events.kind[at].astype(np.int64)]
    name[(events.flags[at] & Flag.YIELD) != 0] = names[-1]
    if events.tasks:
        name = np.where(
            (events.flags[at] & Flag.GUEST) != 0, _names_of_tasks(events, found, at), name
        )
    return found.add_slices(tracks[events.vcpu[at]], events.time[at], ends, name)


def _names_of_tasks(events: Events, found: Drawing, at: Ints) -> Ints:
    """Return the names of what the guest's scheduler did with tasks: also which VCPU they have."""
    vcpus = events.vcpus - events.tasks
    states = found.add_names([*_TASK_STATES.values()])
    on = found.add_names([f"{_TASK_STATES[Kind.SCHED_IN]} {vcpu}" for vcpu in range(vcpus)])
    kind = events.kind[at].astype(np.int64)
    vcpu = np.minimum(events.object[at], max(vcpus - 1, 0)).astype(np.int64)
    name: Ints = np.where(kind == Kind.SCHED_IN, on[vcpu], states[kind])
    return name


def _locks(events: Events, found: Drawing, vcpus: Ints) -> tuple[int, Bools]:
    """Add the locks; return the place of the first wait's slice, and which waits were drawn."""
    pairing = pair(events)
    waits, holds = pairing.waits, pairing.holds
    time = np.append(events.time, events.end)
    count = len(pairing.locks)
    waited = np.zeros(count, np.int64)
    np.add.at(waited, waits.lock, time[waits.last] - time[waits.first])
    chosen = np.lexsort((-pairing.acquired, -waited))[:MOST_LOCKS]
    rank = np.full(count, -1)
    rank[chosen] = np.arange(len(chosen))
    drawn, held = rank[waits.lock] >= 0, rank[holds.lock] >= 0
    waits, holds = waits.take(drawn), holds.take(held)
    shared = (events.flags[holds.first] & Flag.SHARED) != 0

    root = int(found.add_tracks(["Locks"])[0])
    rows = np.flatnonzero(np.bincount(rank[waits.lock] * events.vcpus + waits.vcpu))
    owners, readers, lines = [], [], []
    for number, lock in enumerate(chosen):
        top = int(found.add_tracks([events.name_of(pairing.locks[lock])], root)[0])
        owners.append(int(found.add_tracks(["owner"], top)[0]))
        readers.append(-1)
        if bool(shared[holds.lock == lock].any()):
            readers[-1] = int(found.add_tracks(["readers"], top)[0])
            found.tracks[-1].counts = True
        mine = rows[rows // events.vcpus == number] % events.vcpus
        waiters = [f"{events.vcpu_name(vcpu)} waits" for vcpu in mine.tolist()]
        lines.append(found.add_tracks(waiters, top))
    if count > len(chosen):
        found.add_tracks([f"{count - len(chosen)} more locks are not drawn"], root)

    alone = holds.take(~shared)
    tracks = np.array(owners, np.int64)[rank[alone.lock]]
    found.add_slices(tracks, time[alone.first], time[alone.last], vcpus[alone.vcpu])
    _count(found, np.array(readers, np.int64)[rank[holds.lock[shared]]], holds.take(shared), time)
    line = np.searchsorted(rows, rank[waits.lock] * events.vcpus + waits.vcpu)
    tracks = np.concatenate([np.empty(0, np.int64), *lines])[line]
    name = np.full(len(waits), found.add_names(["waits"])[0])
    return found.add_slices(tracks, time[waits.first], time[waits.last], name), drawn


def _count(found: Drawing, track: Ints, holds: Intervals, time: Ints) -> None:
    """Let each hold's `track` show how many holds there are at each time."""
    track = np.concatenate([track, track])
    at = np.concatenate([time[holds.first], time[holds.last]])
    change = np.repeat([1, -1], len(holds))
    order = np.lexsort((change, at, track))
    # Every hold that begins also ends, so the sum is 0 again where the next track begins. At the
    # same time, those that end come first.
    value = np.maximum(np.cumsum(change[order]), 0)
    found.counts = Counts(track[order], at[order], value)


def _delays(attribution: Attribution) -> list[tuple[int, int]]:
    """Return the longest delays: the schedule event that caused each, and the wait."""
    delays = attribution.delays
    span = int(delays.wait.max(initial=0)) + 1
    both, which = np.unique(delays.event * span + delays.wait, return_inverse=True)
    cost = np.zeros(len(both), np.int64)
    np.add.at(cost, which, delays.end - delays.start)
    longest = np.sort(np.argsort(-cost, kind="stable")[:MOST_ARROWS])
    return [divmod(pair, span) for pair in both[longest].tolist()]


def _separate(slices: Slices) -> None:
    """End each slice where the next one of its track begins, if not before."""
    order = np.lexsort((slices.start, slices.track))
    track, start = slices.track[order], slices.start[order]
    following = np.append(start[1:], 0)[: len(order)]
    last = np.append(track[1:] != track[:-1], True)[: len(order)]
    end = np.where(last, slices.end[order], np.minimum(slices.end[order], following))
    slices.end[order] = np.maximum(end, start)
