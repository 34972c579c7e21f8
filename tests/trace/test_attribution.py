# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits are put down to: by hand on short tables, by a slow reckoning on random ones."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvlock import Machine, Placement, SystemEvent, workload
from pvlock.errors import TraceError
from pvlock.trace.attribution import Attribution, Part, attribute
from pvlock.trace.events import Events, Kind
from pvlock.workload import Settings
from tracing import (
    ACQUIRED,
    BLOCKED,
    CONTENDED,
    GRANTED,
    IN,
    LOST,
    OFF,
    PREEMPTED,
    READY,
    RELEASED,
    SLEPT,
    WOKEN,
    Line,
    random_run,
    reckon,
    table,
)

L, M = 0x1000, 0x2000


def on(*vcpus: int) -> list[Line]:
    """These VCPUs run from the beginning."""
    return [(0, vcpu, IN) for vcpu in vcpus]


def parts(found: Attribution, wait: int = 0) -> dict[str, int]:
    """The parts of a wait that are not 0."""
    row = found.waits.parts[wait]
    assert row.sum() == found.waits.end[wait] - found.waits.start[wait]
    return {part.name.lower(): int(row[part]) for part in Part if row[part]}


def wait_of(found: Attribution, vcpu: int, lock: int = L) -> int:
    """The first wait of a VCPU for a lock."""
    waits = found.waits
    return next(
        i for i in range(len(waits))
        if waits.vcpu[i] == vcpu and found.locks[waits.lock[i]] == lock
    )  # fmt: skip


def costs(found: Attribution) -> dict[int, int]:
    """Costs by the time of the schedule event."""
    event, cost = found.costs()
    return {int(found.events.time[e]): int(c) for e, c in zip(event, cost, strict=True)}


def test_owner_running_and_preempted() -> None:
    found = attribute(
        table([
            *on(0, 1), (10, 0, ACQUIRED, L), (20, 1, CONTENDED, L), (50, 0, PREEMPTED),
            (150, 0, IN), (170, 0, RELEASED, L), (171, 1, ACQUIRED, L), (200, 1, RELEASED, L),
        ])
    )  # fmt: skip
    assert parts(found) == {"owner_running": 50, "owner_preempted": 100, "no_owner": 1}
    assert costs(found) == {50: 100}
    assert found.ends_at(found.costs()[0]).tolist() == [150]
    assert (found.waits.spun[0], found.waits.asleep[0]) == (151, 0)
    assert found.pairs()[1, 0].tolist() == [0, 0, 50, 100, *[0] * 8]
    assert found.chain(0, 60) == [(0, 0)]
    assert (found.cut, found.unmatched, found.endless) == (0, 0, 0)


def test_the_waiter_without_a_cpu_waits_for_nobody() -> None:
    found = attribute(
        table([
            *on(0, 1), (10, 0, ACQUIRED, L), (20, 1, CONTENDED, L), (30, 1, PREEMPTED),
            (40, 0, PREEMPTED), (60, 1, IN), (90, 0, IN), (95, 0, RELEASED, L),
            (95, 1, ACQUIRED, L),
        ])
    )  # fmt: skip
    assert parts(found) == {"own_preempted": 30, "owner_preempted": 30, "owner_running": 15}
    assert costs(found) == {40: 30}


def test_a_waiter_that_sleeps_waits_for_the_owner() -> None:
    """Asleep for the lock it waits; woken and without a CPU it lacks one; else it is its own."""
    found = attribute(
        table([
            *on(0, 1), (10, 0, ACQUIRED, L), (20, 1, CONTENDED, L), (22, 1, BLOCKED), (24, 1, IN),
            (30, 1, SLEPT, L), (31, 1, BLOCKED), (40, 0, PREEMPTED), (90, 0, IN),
            (95, 0, RELEASED, L), (96, 1, READY), (99, 1, IN), (100, 1, WOKEN, L),
            (101, 1, ACQUIRED, L),
        ])
    )  # fmt: skip
    assert parts(found) == {
        "own_blocked": 2, "own_preempted": 3, "owner_running": 23, "owner_preempted": 50,
        "no_owner": 3,
    }  # fmt: skip
    # Awake at 20, 24 and 100; from SLEPT to WOKEN less the 3 ns without a CPU.
    assert (found.waits.spun[0], found.waits.asleep[0]) == (2 + 6 + 1, 70 - 3)


def test_successive_owners_and_states() -> None:
    found = attribute(
        table([
            *on(0, 1, 2), (5, 0, ACQUIRED, L), (10, 2, CONTENDED, L), (12, 0, BLOCKED),
            (20, 0, READY), (25, 0, IN), (30, 0, RELEASED, L), (33, 1, ACQUIRED, L),
            (40, 1, PREEMPTED), (47, 1, IN), (50, 1, RELEASED, L), (50, 2, ACQUIRED, L),
        ], end=60)
    )  # fmt: skip
    assert parts(found) == {
        "owner_running": 2 + 5 + 7 + 3, "owner_blocked": 8, "owner_preempted": 5 + 7,
        "no_owner": 3,
    }  # fmt: skip
    assert costs(found) == {12: 8, 20: 5, 40: 7}
    assert found.pairs().sum(axis=2)[2].tolist() == [20, 17, 0]


def test_readers_the_preempted_one_counts() -> None:
    """Of several owners the one off its CPU counts, preempted before blocked, oldest first."""
    lines: list[Line] = [
        *on(0, 1, 2, 3), (1, 0, ACQUIRED, L), (2, 1, ACQUIRED, L), (3, 2, ACQUIRED, L),
        (10, 3, CONTENDED, L), (20, 2, BLOCKED), (30, 1, PREEMPTED), (40, 0, PREEMPTED),
        (50, 1, IN), (60, 0, IN), (70, 2, IN), (75, 0, RELEASED, L), (76, 1, RELEASED, L),
        (80, 2, RELEASED, L), (80, 3, ACQUIRED, L),
    ]  # fmt: skip
    found = attribute(table(lines, shared=(4, 5, 6, 14, 15, 16)))
    assert parts(found) == {"owner_running": 20, "owner_blocked": 20, "owner_preempted": 30}
    assert costs(found) == {20: 20, 30: 20, 40: 10}


QUEUE: list[Line] = [
    *on(0, 1, 2, 3), (5, 0, ACQUIRED, L), (10, 1, CONTENDED, L, -1), (20, 2, CONTENDED, L, 1),
    (30, 3, CONTENDED, L, 2), (40, 1, PREEMPTED), (50, 0, RELEASED, L), (90, 1, IN),
    (95, 1, ACQUIRED, L), (98, 2, PREEMPTED), (100, 1, RELEASED, L), (130, 2, IN),
    (131, 2, ACQUIRED, L), (140, 2, RELEASED, L), (141, 3, ACQUIRED, L), (150, 3, RELEASED, L),
]  # fmt: skip


def test_the_head_of_the_queue_off_its_cpu() -> None:
    """It counts once the lock is free for it, for all behind it; not for itself."""
    found = attribute(table(QUEUE))
    assert parts(found, wait_of(found, 1)) == {
        "owner_running": 30, "own_preempted": 50, "no_owner": 5
    }  # fmt: skip
    assert parts(found, wait_of(found, 2)) == {
        "owner_running": 30 + 3, "queue_preempted": 40, "no_owner": 5 + 1, "own_preempted": 32
    }  # fmt: skip
    assert parts(found, wait_of(found, 3)) == {
        "owner_running": 20 + 5 + 9, "queue_preempted": 40 + 30, "no_owner": 5 + 1 + 1
    }  # fmt: skip
    assert costs(found) == {40: 80, 98: 30}
    assert found.pairs()[3, 2, Part.QUEUE_PREEMPTED] == 30


def test_who_leaves_the_queue_keeps_nobody_waiting() -> None:
    """VCPU 1 goes to sleep outside the queue; others overtake it."""
    found = attribute(
        table([
            *on(0, 1, 2), (5, 0, ACQUIRED, L), (10, 1, CONTENDED, L, 0), (20, 2, CONTENDED, L, 1),
            (30, 1, CONTENDED, L, -1), (32, 1, SLEPT, L), (33, 1, BLOCKED), (50, 0, RELEASED, L),
            (55, 2, ACQUIRED, L), (60, 2, RELEASED, L), (61, 1, IN), (62, 1, WOKEN, L),
            (63, 1, ACQUIRED, L),
        ])
    )  # fmt: skip
    assert parts(found, wait_of(found, 2)) == {"owner_running": 30, "no_owner": 5}
    assert parts(found, wait_of(found, 1)) == {"owner_running": 45, "no_owner": 8}
    assert costs(found) == {}


def test_a_head_that_others_overtake_is_to_blame() -> None:
    """VCPU 0 takes the lock past the queue again and again; VCPU 1 at its head has no CPU."""
    lines: list[Line] = [
        *on(0, 1, 2), (5, 0, ACQUIRED, L), (10, 1, CONTENDED, L, -1), (20, 2, CONTENDED, L, 1),
        (30, 1, PREEMPTED), (40, 0, RELEASED, L), (50, 0, ACQUIRED, L), (60, 0, RELEASED, L),
        (70, 1, IN), (71, 1, ACQUIRED, L), (72, 1, RELEASED, L), (73, 2, ACQUIRED, L),
    ]  # fmt: skip
    found = attribute(table(lines))
    assert parts(found, wait_of(found, 2)) == {
        "owner_running": 20 + 1, "queue_preempted": 30, "no_owner": 2
    }  # fmt: skip


NESTED: list[Line] = [
    *on(0, 1, 2), (5, 0, ACQUIRED, M), (6, 1, ACQUIRED, L), (10, 2, CONTENDED, L),
    (20, 1, CONTENDED, M), (30, 0, PREEMPTED), (80, 0, IN), (85, 0, RELEASED, M),
    (86, 1, ACQUIRED, M), (90, 1, RELEASED, M), (95, 1, RELEASED, L), (96, 2, ACQUIRED, L),
]  # fmt: skip


def test_chains_are_followed_to_their_end() -> None:
    """VCPU 2 waits for L, whose owner waits for M, whose owner is preempted."""
    found = attribute(table(NESTED))
    mine = wait_of(found, 2)
    assert parts(found, mine) == {
        "owner_running": 10 + 10 + 5 + 9, "owner_preempted": 50, "no_owner": 1 + 1
    }  # fmt: skip
    assert costs(found) == {30: 100}
    assert found.chain(mine, 40) == [(0, 1), (1, 0)]
    assert found.chain(mine, 15) == [(0, 1)]
    delays = found.delays
    assert sorted(zip(delays.links.tolist(), delays.wait.tolist(), strict=True)) == [
        (0, wait_of(found, 1, M)), (1, mine),
    ]  # fmt: skip
    # VCPU 2 waited for VCPU 0 while it was preempted and ran with M, for VCPU 1 else.
    assert found.pairs()[2, 0].sum() == 10 + 50 + 5
    assert found.pairs()[2, 1].sum() == 10 + 9


def test_a_wait_inside_a_wait_counts_once() -> None:
    found = attribute(
        table([
            *on(0, 1, 2), (5, 0, ACQUIRED, L), (6, 2, ACQUIRED, M), (10, 1, CONTENDED, L),
            (20, 1, CONTENDED, M), (22, 2, PREEMPTED), (40, 2, IN), (41, 2, RELEASED, M),
            (42, 1, ACQUIRED, M), (44, 1, RELEASED, M), (50, 0, RELEASED, L),
            (51, 1, ACQUIRED, L),
        ])
    )  # fmt: skip
    outer, inner = wait_of(found, 1), wait_of(found, 1, M)
    assert parts(found, inner) == {"owner_running": 3, "owner_preempted": 18, "no_owner": 1}
    assert parts(found, outer) == {
        "owner_running": 10 + 3 + 8, "owner_preempted": 18, "no_owner": 1 + 1
    }  # fmt: skip
    assert found.waits.inside[[outer, inner]].tolist() == [False, True]
    assert found.total.sum() == 41
    assert costs(found) == {22: 18}


def test_a_lock_taken_while_waiting_is_no_link() -> None:
    """VCPU 1 takes M, around a list, within its wait for L: it will release M without L."""
    found = attribute(
        table([
            *on(0, 1, 2), (5, 0, ACQUIRED, L), (10, 1, CONTENDED, L), (12, 1, ACQUIRED, M),
            (14, 2, CONTENDED, M), (15, 0, PREEMPTED), (20, 1, RELEASED, M),
            (21, 2, ACQUIRED, M), (30, 0, IN), (31, 0, RELEASED, L), (32, 1, ACQUIRED, L),
        ])
    )  # fmt: skip
    assert parts(found, wait_of(found, 2, M)) == {"owner_running": 6, "no_owner": 1}


def test_a_circle_has_no_end() -> None:
    found = attribute(
        table([
            *on(0, 1), (5, 0, ACQUIRED, L), (6, 1, ACQUIRED, M), (10, 0, CONTENDED, M),
            (20, 1, CONTENDED, L),
        ], end=50)
    )  # fmt: skip
    assert parts(found, wait_of(found, 0, M)) == {"owner_running": 10, "unknown": 30}
    assert parts(found, wait_of(found, 1)) == {"unknown": 30}
    assert found.endless > 0
    assert found.waits.open.all()
    assert found.chain(wait_of(found, 1), 30) == [(0, 0), (1, 1)]


def test_granted() -> None:
    """The lock is VCPU 1's from the grant on, so those behind wait for it; it waits for nobody."""
    lines: list[Line] = [
        *on(0, 1, 2), (5, 0, ACQUIRED, L), (10, 1, CONTENDED, L), (11, 1, SLEPT, L),
        (12, 1, BLOCKED), (20, 2, CONTENDED, L), (30, 0, GRANTED, L, 1), (31, 0, RELEASED, L),
        (35, 1, READY), (50, 1, IN), (51, 1, WOKEN, L), (52, 1, ACQUIRED, L),
        (60, 1, RELEASED, L), (61, 2, ACQUIRED, L),
    ]  # fmt: skip
    found = attribute(table(lines))
    assert parts(found, wait_of(found, 1)) == {
        "owner_running": 20, "own_preempted": 15, "no_owner": 5 + 2
    }  # fmt: skip
    # From the grant to the release both have it, by the events; the new owner is off its CPU.
    assert parts(found, wait_of(found, 2)) == {
        "owner_running": 10 + 10, "owner_blocked": 5, "owner_preempted": 15, "no_owner": 1
    }  # fmt: skip


def test_a_late_record_of_the_release() -> None:
    """VCPU 0 is preempted between its release and the record of it; nobody waits for it then."""
    lines: list[Line] = [
        *on(0, 1, 2), (5, 0, ACQUIRED, L), (10, 1, CONTENDED, L), (20, 0, PREEMPTED),
        (21, 1, ACQUIRED, L), (30, 2, CONTENDED, L), (50, 1, RELEASED, L), (52, 2, ACQUIRED, L),
        (60, 0, IN), (61, 0, RELEASED, L),
    ]  # fmt: skip
    found = attribute(table(lines))
    assert parts(found, wait_of(found, 2)) == {"owner_running": 20, "no_owner": 2}
    assert found.unmatched == 0


def test_clocks_apart() -> None:
    """VCPU 1 got the lock after VCPU 0, on a clock that is 10 ns behind, and was preempted."""
    lines: list[Line] = [
        *on(0, 1, 2), (50, 1, ACQUIRED, L), (55, 0, ACQUIRED, L), (58, 0, RELEASED, L),
        (60, 2, CONTENDED, L), (70, 1, PREEMPTED), (170, 1, IN), (171, 1, RELEASED, L),
        (172, 2, ACQUIRED, L),
    ]  # fmt: skip
    found = attribute(table(lines, skew_ns=10))
    assert parts(found) == {"owner_running": 10 + 1, "owner_preempted": 100, "no_owner": 1}
    assert parts(attribute(table(lines))) == {"no_owner": 112}


def test_lost_events_make_it_unknown() -> None:
    found = attribute(
        table([
            *on(0, 1), (10, 0, ACQUIRED, L), (20, 1, CONTENDED, L), (30, 0, LOST, 5),
            (60, 0, ACQUIRED, L), (80, 0, RELEASED, L), (85, 1, ACQUIRED, L),
        ])
    )  # fmt: skip
    assert parts(found) == {"unknown": 40, "owner_running": 20, "no_owner": 5}
    assert (found.cut, found.unmatched) == (1, 0)


def test_whoever_lost_events_may_have_had_any_of_its_locks() -> None:
    """Between the last event before the loss and the first after; and until a stray RELEASED."""
    lines: list[Line] = [
        *on(0, 1, 2), (5, 0, ACQUIRED, L), (6, 0, RELEASED, L), (7, 0, ACQUIRED, M),
        (8, 2, ACQUIRED, L), (10, 1, CONTENDED, L), (12, 0, RELEASED, M), (20, 0, LOST, 3),
        (30, 0, ACQUIRED, M), (32, 0, RELEASED, M), (40, 2, RELEASED, L), (41, 1, ACQUIRED, L),
    ]  # fmt: skip
    found = attribute(table(lines))
    assert parts(found) == {"owner_running": 2 + 10, "unknown": 18, "no_owner": 1}
    assert (found.cut, found.unmatched) == (0, 0)
    found = attribute(table([*lines[:-2], (35, 0, RELEASED, L), *lines[-2:]]))
    assert parts(found) == {"owner_running": 2 + 5, "unknown": 23, "no_owner": 1}
    assert (found.cut, found.unmatched) == (1, 0)


def test_a_wait_that_was_cut_is_no_wait() -> None:
    found = attribute(
        table([
            *on(0, 1), (10, 0, ACQUIRED, L), (20, 1, CONTENDED, L), (30, 1, LOST, 1),
            (40, 1, ACQUIRED, L), (50, 1, RELEASED, L), (60, 0, RELEASED, L),
        ])
    )  # fmt: skip
    assert (len(found.waits), found.cut, found.total.sum()) == (0, 1, 0)


@pytest.mark.parametrize(
    ("lines", "unmatched"),
    [
        ([(10, 0, RELEASED, L)], 1),
        ([(10, 0, ACQUIRED, L), (11, 0, ACQUIRED, L), (12, 0, RELEASED, L)], 1),
        ([(10, 0, CONTENDED, L), (11, 0, RELEASED, L)], 2),
        ([(10, 0, GRANTED, L, 1)], 1),
        ([(10, 0, GRANTED, L, 77)], 1),
        ([(10, 0, WOKEN, L), (11, 0, SLEPT, L), (12, 0, Kind.READY)], 0),
    ],
)
def test_events_that_do_not_fit_are_counted(lines: list[Line], unmatched: int) -> None:
    found = attribute(table([*on(0, 1), *lines], end=20))
    assert (found.unmatched, found.cut, len(found.waits)) == (unmatched, 0, 0)


def test_a_run_that_ends_first() -> None:
    found = attribute(
        table([*on(0, 1), (10, 0, ACQUIRED, L), (20, 1, CONTENDED, L), (25, 0, OFF)], end=40)
    )
    assert parts(found) == {"owner_running": 5, "owner_blocked": 15}
    assert found.waits.open.tolist() == [True]
    assert costs(found) == {25: 15}


def test_no_events() -> None:
    found = attribute(table([], vcpus=2))
    assert (len(found.waits), len(found.delays), found.total.sum()) == (0, 0, 0)
    assert found.pairs().shape == (2, 2, len(Part))


def test_tables_that_are_none() -> None:
    with pytest.raises(TraceError, match="none of the 1"):
        attribute(table([(0, 3, IN)], vcpus=1))
    with pytest.raises(TraceError, match="order"):
        attribute(table([(5, 0, IN), (3, 0, PREEMPTED)]))


def test_too_entangled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvlock.trace.columns.MOST_ROWS", 3)
    with pytest.raises(TraceError, match="shorter run"):
        attribute(table(QUEUE))


def assert_equal(events: Events) -> None:
    """Compare with the slow reckoning, in every number."""
    want, found = reckon(events), attribute(events)
    waits = found.waits
    expected = sorted(
        (int(events.time[w.start]), w.vcpu, w.lock, *(w.parts.get(p, 0) for p in Part))
        for w in want.waits
    )
    got = sorted(
        (int(waits.start[i]), int(waits.vcpu[i]), found.locks[waits.lock[i]], *map(int, row))
        for i, row in enumerate(waits.parts)
    )
    assert got == expected
    assert [[mine.get(p, 0) for p in Part] for mine in want.by_vcpu] == found.by_vcpu.tolist()
    event, cost = found.costs()
    assert dict(zip(event.tolist(), cost.tolist(), strict=True)) == want.costs
    pairs = found.pairs()
    got_pairs = {(w, v, Part(p)): int(pairs[w, v, p]) for w, v, p in np.argwhere(pairs).tolist()}
    assert got_pairs == want.pairs
    assert (found.cut, found.unmatched) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.integers(0, 250),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_random_runs(rng: random.Random, steps: int, vcpus: int, locks: int) -> None:
    assert_equal(random_run(rng, steps, vcpus, locks))


EVENT = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.sampled_from(Kind), st.integers(0, 2),
    st.integers(-2, 4), st.booleans(),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENT, max_size=60), st.integers(0, 5))
def test_any_events_add_up(drawn: list[tuple[int, ...]], skew_ns: int) -> None:
    """Nonsense makes no exception, and no time appears or gets lost."""
    times = np.cumsum([line[0] for line in drawn], dtype=np.int64)
    lines = [(int(at), *line[1:5]) for at, line in zip(times, drawn, strict=True)]
    shared = [i for i, line in enumerate(drawn) if line[5]]
    found = attribute(table(lines, 3, shared=shared, skew_ns=skew_ns))
    waits, delays = found.waits, found.delays
    assert (waits.parts >= 0).all()
    assert (waits.parts.sum(axis=1) == waits.end - waits.start).all()
    own = waits.parts[:, Part.OWN_PREEMPTED] + waits.parts[:, Part.OWN_BLOCKED]
    unknown = waits.parts[:, Part.UNKNOWN]
    assert (waits.spun + waits.asleep + own + unknown >= waits.end - waits.start).all()
    for vcpu in range(3):
        mine = np.flatnonzero(waits.vcpu == vcpu)
        covered = {t for i in mine for t in range(int(waits.start[i]), int(waits.end[i]))}
        assert found.by_vcpu[vcpu].sum() == len(covered)
    assert (delays.end > delays.start).all()
    event, cost = found.costs()
    assert (found.ends_at(event) >= found.events.time[event]).all()
    assert cost.sum() <= found.total.sum()
    assert found.pairs().sum() <= found.total.sum()
    for i in range(len(waits)):
        found.chain(i, int(waits.start[i]))


# -- runs of the emulator --


def traced(guest: str, pvlock: bool, script: Sequence[Placement] | None, vcpus: int) -> Events:
    """Run a bundled guest for a while and return its events."""
    with Machine(
        vcpus, vcpus, pvlock=pvlock, script=script, trace=True, bootargs="duration=400000"
    ) as machine:
        machine.load(workload.image_of(guest, trace=True))
        assert machine.run(100_000_000) is SystemEvent.OFF
        return machine.events()


@pytest.mark.parametrize("pvlock", [False, True])
@pytest.mark.parametrize("guest", ["mutex", "qspinlock", "ticket"])
def test_a_scripted_preemption_of_the_owner(guest: str, pvlock: bool) -> None:
    """Take the CPU of VCPU 0 while it owns the lock: each wait for it is delayed by so much."""
    everywhere = [Placement(0, cpu, cpu) for cpu in range(3)]
    before = traced(guest, pvlock, everywhere, 3)
    got = (before.vcpu == 0) & (before.kind == Kind.ACQUIRED) & (before.time > 250_000)
    at = int(before.time[np.flatnonzero(got)[0]]) + 700
    back = at + 60_000
    script = [*everywhere, Placement(at, 0, None), Placement(back, 0, 0)]
    events = traced(guest, pvlock, script, 3)
    found, want = attribute(events), {}
    out = np.flatnonzero((events.vcpu == 0) & (events.kind == Kind.PREEMPTED))
    assert len(out) == 1
    first, last = int(events.time[out[0]]), int(found.ends_at(out)[0])
    waits = found.waits
    for i in range(len(waits)):
        ns = min(int(waits.end[i]), last) - max(int(waits.start[i]), first)
        if ns > 0 and waits.vcpu[i] != 0:
            want[int(waits.vcpu[i])] = ns
    assert sorted(want) == [1, 2]
    delays = found.delays
    mine = delays.event == out[0]
    got_ns = np.bincount(delays.vcpu[mine] * 0 + waits.vcpu[delays.wait[mine]],
                         (delays.end - delays.start)[mine], 3)  # fmt: skip
    assert got_ns.tolist() == [0, want[1], want[2]]
    assert found.total[Part.OWNER_PREEMPTED] == want[1] + want[2]
    assert abs(last - first - 60_000) <= 2_000
    assert (found.cut, found.unmatched, found.endless) == (0, 0, 0)


@pytest.mark.parametrize("pvlock", [False, True])
@pytest.mark.parametrize("guest", ["mutex", "rwsem", "qspinlock", "ticket", "idle"])
def test_real_runs_add_up(guest: str, pvlock: bool) -> None:
    """On an overcommitted run nothing is left over, and nothing of it is unknown."""
    settings_ = Settings(guest, vcpus=6, pcpus=3, duration_ns=4_000_000, slice_ns=500_000)
    result = workload.run("with" if pvlock else "without", settings_, trace=True)
    assert result
    assert result.events
    found = attribute(result.events)
    waits = found.waits
    assert (waits.parts.sum(axis=1) == waits.end - waits.start).all()
    assert (found.cut, found.unmatched, found.endless) == (0, 0, 0)
    assert found.total[Part.UNKNOWN] == 0
    main = int(found.acquired[0]) if guest != "idle" else int(found.acquired.sum())
    assert result.acquisitions in (main, *found.acquired.tolist())
    waited = int((waits.end - waits.start)[~waits.inside].sum())
    # The harness begins to count before the lock is asked for, and ends after it was got and, in a
    # queued lock, after the next in the queue was woken.
    sleeps = sum(vcpu.sleeps for vcpu in result.report.vcpus)
    room = 500 * result.acquisitions + 2_000 * sleeps
    assert waited <= sum(v.wait for v in result.report.vcpus) <= waited + room


@pytest.mark.parametrize(
    ("guest", "run"),
    [("mutex", "without"), ("mutex", "with"), ("qspinlock", "without"), ("ticket", "without")],
)
@pytest.mark.parametrize("trap_wfe", [False, True])
def test_spinning_agrees_with_the_guests_own_count(guest: str, run: str, trap_wfe: bool) -> None:
    """What `pvlock run` calls spinning the guest counts, by stolen time; here the events do."""
    settings_ = Settings(guest, duration_ns=10_000_000, trap_wfe=trap_wfe)
    result = workload.run(run, settings_, trace=True)
    assert result
    assert result.events
    waits = attribute(result.events).waits
    counted = sum(vcpu.spin for vcpu in result.report.vcpus)
    assert int(waits.spun[~waits.inside].sum()) == pytest.approx(counted, rel=0.02)
