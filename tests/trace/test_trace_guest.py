# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest records and what the engine records, on one clock (SPECIFICATION.md, section 11)."""

import itertools
import re
import shutil
from collections import Counter
from pathlib import Path

import build_native
import numpy as np
import pytest

from asm import ROOT
from pvlock import Machine, Placement, SystemEvent, workload
from pvlock.errors import StateError
from pvlock.trace.events import Events, Flag, Kind
from pvlock.workload import Result, Settings

LOCK = 0x1000
OUT = (Kind.PREEMPTED, Kind.BLOCKED, Kind.OFF)
SETTINGS = Settings(duration_ns=5_000_000, slice_ns=500_000, engine="emulator")

Row = tuple[int, int, int, int, int]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("guests") / "traced.elf"
    sources = [ROOT / "tests" / "guests" / "traced.c", *build_native.library_sources()]
    sources += build_native.trace_sources()
    build_native.build_guest(sources, output, build_native.TRACED)
    return output


def rows(events: Events, vcpu: int) -> list[Row]:
    """Return (time, kind, object, other, flags) of a VCPU, in order."""
    of = events.vcpu == vcpu
    columns = (events.time, events.kind, events.object, events.other, events.flags)
    return list(zip(*(column[of].tolist() for column in columns), strict=True))


def play(guest: Path, bootargs: str, **options: object) -> tuple[Events, str]:
    defaults: dict[str, object] = {"engine": "emulator", "trace": True}
    with Machine(2, 2, bootargs=bootargs, **(defaults | options)) as machine:  # type: ignore[arg-type]
        machine.load(guest)
        assert machine.run(50_000_000) is SystemEvent.OFF
        return machine.events(guest="traced"), machine.console.text


def test_every_kind_arrives_with_its_time(traced: Path) -> None:
    """One clock: the guest's counter is the engine's time, to the tick."""
    events, text = play(traced, "")
    printed = [
        tuple(map(int, line.split()[1:])) for line in text.splitlines() if "recorded" in line
    ]
    recorded = [row for row in rows(events, 0) if row[1] >= Kind.CONTENDED]
    shared = Flag.SHARED
    assert [row[1:] for row in recorded] == [
        (Kind.CONTENDED, LOCK, 1, 0),
        (Kind.SLEPT, LOCK, -1, 0),
        (Kind.WOKEN, LOCK, -1, 0),
        (Kind.ACQUIRED, LOCK, -1, shared),
        (Kind.RELEASED, LOCK, -1, shared),
        (Kind.GRANTED, LOCK, 1, 0),
    ]
    for (time, *_), (_, before, after) in zip(recorded, printed, strict=True):
        assert before < time < after <= before + 40
    assert events.names == {LOCK: "a lock"}
    assert events.settings == {"engine": "emulator", "guest": "traced"}
    assert sum(events.dropped) == sum(events.rejected) == 0


def test_scripted_schedule_is_recorded_exactly(traced: Path) -> None:
    """VCPU 1 records all the time: never while off its CPU, and up to the instants it was on."""
    script = [Placement(0, 0, 0), Placement(0, 1, 1)]
    script += [Placement(300_000, 1, None), Placement(320_000, 1, 1), Placement(351_000, 1, None)]
    script += [Placement(420_000, 1, 1)]
    events, _ = play(traced, "loops=5000 pause=60", script=script)
    mine = rows(events, 1)
    switches = [row[:3] for row in mine if row[1] < Kind.CONTENDED]
    start = switches[0][0]
    # A step of the CPU ends where its block ends: up to that much after the script's time.
    assert [(kind, cpu) for _, kind, cpu in switches] == [
        (Kind.READY, 0), (Kind.SCHED_IN, 1), (Kind.PREEMPTED, 1), (Kind.SCHED_IN, 1),
        (Kind.PREEMPTED, 1), (Kind.SCHED_IN, 1),
    ]  # fmt: skip
    scripted = [start, start, 300_000, 320_000, 351_000, 420_000]
    for (time, *_), wanted in zip(switches, scripted, strict=True):
        assert wanted <= time <= wanted + 20
    assert all(row[4] == Flag.SCRIPT for row in mine if row[1] == Kind.PREEMPTED)
    times = np.array([row[0] for row in mine if row[1] >= Kind.CONTENDED])
    for out, back in ((2, 3), (4, 5)):
        gone, here = switches[out][0], switches[back][0]
        assert not ((times > gone) & (times < here)).any()
        assert gone - 160 <= times[times <= gone].max()
        assert times[times >= here].min() <= here + 160


def test_overflow_is_counted_to_the_event(traced: Path) -> None:
    pairs = 60_000
    events, _ = play(traced, f"loops={pairs}")
    kinds = Counter(row[1] for row in rows(events, 1))
    lost = [row[2] for row in rows(events, 1) if row[1] == Kind.LOST]
    assert len(lost) > 3
    assert events.dropped == (0, sum(lost))
    assert kinds[Kind.ACQUIRED] + kinds[Kind.RELEASED] + sum(lost) == 2 * pairs
    assert sum(events.rejected) == 0


@pytest.mark.parametrize(
    ("how", "kept", "rejected", "dropped"),
    [
        (1, [Kind.ACQUIRED, Kind.RELEASED], 5, False),
        (2, [Kind.ACQUIRED], 0, True),
        (3, [Kind.ACQUIRED], 0, False),
    ],
)
def test_hostile_rings(
    traced: Path, how: int, kept: list[Kind], rejected: int, dropped: bool
) -> None:
    """What is no event is counted and left out; the rest stays."""
    events, _ = play(traced, f"forge={how}")
    of_guest = [row[1] for row in rows(events, 0) if row[1] >= Kind.CONTENDED]
    assert [kind for kind in of_guest if kind != Kind.LOST] == kept
    assert (events.dropped[0] > 0) is dropped
    if how == 1:
        assert events.rejected == (rejected, 0)
    assert set(events.names.values()) <= {"a lock", "name"}
    assert np.all(np.diff(events.time) >= 0)
    assert int(events.time.max(initial=0)) <= events.end <= 50_000_000


def test_untraced_machine_has_no_events(traced: Path) -> None:
    with Machine(1, engine="emulator") as machine:
        machine.load(traced)
        assert machine.run(50_000_000) is SystemEvent.OFF
        with pytest.raises(StateError, match="not traced"):
            machine.events()


def run(guest: str, name: str, seed: int = 1, trap_wfe: bool = True) -> tuple[Result, Events]:
    settings = Settings(**{**SETTINGS.__dict__, "guest": guest, "seed": seed, "trap_wfe": trap_wfe})
    result = workload.run(name, settings, trace=True)
    assert result is not None
    assert result.events is not None
    return result, result.events


CASES = [(guest, name, seed) for guest in workload.names() for name in workload.RUNS[:2]
         for seed in (1, 2)]  # fmt: skip


@pytest.mark.parametrize(("guest", "name", "seed"), CASES)
def test_every_run_is_complete_and_in_order(guest: str, name: str, seed: int) -> None:
    result, events = run(guest, name, seed, trap_wfe=seed == 1)
    assert sum(events.dropped) == sum(events.rejected) == 0
    assert np.all(np.diff(events.time) >= 0)
    _check_scheduling(result, events)
    _check_locks(result, events)
    _check_spinning(result, events)


def _check_scheduling(result: Result, events: Events) -> None:
    """The events say to the ns what the scheduler itself accounted for."""
    on_cpu: dict[int, list[tuple[int, int]]] = {}
    for vcpu, used in enumerate(result.usage.vcpus):
        running = waiting = 0
        before, since, cpu = int(Kind.OFF), 0, -1
        for time, kind, where, *_ in rows(events, vcpu):
            if kind >= Kind.CONTENDED:
                assert before == Kind.SCHED_IN, "a VCPU off its CPU records nothing"
                continue
            if kind == Kind.SCHED_IN:
                assert before in (Kind.PREEMPTED, Kind.READY)
                waiting += time - since
                cpu = where
            elif kind == Kind.READY:
                assert before in (Kind.BLOCKED, Kind.OFF)
            else:
                assert kind in OUT
                assert (before, where) == (Kind.SCHED_IN, cpu)
                running += time - since
                on_cpu.setdefault(cpu, []).append((since, time))
            before, since = kind, time
        rest = max(result.usage.time_ns - since, 0)
        running += rest if before == Kind.SCHED_IN else 0
        waiting += rest if before in (Kind.PREEMPTED, Kind.READY) else 0
        assert (running, waiting) == (used.running_ns, used.queued_ns)
    for turns in on_cpu.values():
        turns.sort()
        for (_, left), (came, _) in itertools.pairwise(turns):
            assert came >= left + SETTINGS.switch_ns
    outs = int(np.isin(events.kind, OUT).sum())
    assert outs == result.usage.switches


def _check_locks(result: Result, events: Events) -> None:
    """Each VCPU goes through the states of a lock one by one; the guest counted the same."""
    follows = {
        None: {Kind.CONTENDED, Kind.ACQUIRED},
        Kind.CONTENDED: {Kind.CONTENDED, Kind.ACQUIRED, Kind.SLEPT},
        Kind.SLEPT: {Kind.WOKEN},
        Kind.WOKEN: {Kind.ACQUIRED, Kind.SLEPT, Kind.CONTENDED},
        Kind.ACQUIRED: {Kind.RELEASED},
        Kind.RELEASED: {Kind.CONTENDED, Kind.ACQUIRED},
    }
    names = set(events.names.values()) - {"list of sleepers"}
    assert len(names) == 1 or all(name.startswith("own lock") for name in names)
    for vcpu, counts in enumerate(result.report.vcpus):
        last: dict[int, Kind] = {}
        acquired = slept = 0
        for _, number, lock, *_ in rows(events, vcpu):
            kind = Kind(number)
            if kind < Kind.CONTENDED or kind == Kind.GRANTED:
                continue
            assert kind in follows[last.get(lock)], f"VCPU {vcpu}: {last.get(lock)}, {kind}"
            last[lock] = kind
            acquired += kind == Kind.ACQUIRED and events.names[lock] != "list of sleepers"
            slept += kind == Kind.SLEPT
        assert (acquired, slept) == (counts.acquisitions, counts.sleeps)
        assert set(last.values()) <= {Kind.RELEASED}


def _check_spinning(result: Result, events: Events) -> None:
    """The spinning that the guest reports is the waiting that the events show, on a CPU and awake.

    They stamp their clocks some instructions apart. The guest does not count the spinlock around
    the list of sleepers; qspinlock counts as spinning how it kicks its successor, with the lock.
    """
    kick = SETTINGS.exit_ns + 100 if "qspinlock" in events.names.values() else 0
    for vcpu, counts in enumerate(result.report.vcpus):
        spun = waits = since = 0
        on = awake = inside = False
        waited_for = 0
        for time, number, lock, _, flags in rows(events, vcpu):
            kind, is_list = Kind(number), events.names.get(lock) == "list of sleepers"
            if on and awake and waited_for and not inside:
                spun += time - since
            since = time
            if kind == Kind.SCHED_IN or kind in OUT:
                on = kind == Kind.SCHED_IN
            elif is_list:
                inside = kind == Kind.CONTENDED
            elif kind == Kind.CONTENDED and not waited_for and not flags & Flag.SHARED:
                waited_for, awake, waits = lock, True, waits + 1
            elif lock == waited_for and kind in (Kind.SLEPT, Kind.WOKEN):
                awake = kind == Kind.WOKEN
                waits += 1
            elif lock == waited_for and kind == Kind.ACQUIRED:
                waited_for = 0
        assert counts.spin - (80 + kick) * waits <= spun <= counts.spin + 80 * waits


@pytest.mark.parametrize("guest", workload.names())
def test_a_guest_that_records_nothing_has_nothing_of_it(guest: str, tmp_path: Path) -> None:
    """The bundled guests are those of sources from which every trace of traces was cut out."""
    root = tmp_path / "guest"
    shutil.copytree(build_native.GUEST, root)
    for source in root.rglob("*.[chS]"):
        source.write_text(_without_traces(source.read_text()))
    (root / "include" / "pvlock_trace.h").unlink()
    left = [s.name for s in root.rglob("*.[ch]") if re.search(r"trace|TRACE", s.read_text())]
    assert left == ["trace.c"]
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        flags = [f.replace(str(build_native.GUEST), str(root)) for f in build_native.GUEST_FLAGS]
        patch.setattr(build_native, "GUEST_FLAGS", flags)
        library = [root / s.relative_to(build_native.GUEST)
                   for s in build_native.library_sources()]  # fmt: skip
        sources = [root / "payloads" / f"{guest}.c", root / "harness" / "workload.c", *library]
        build_native.build_guest(sources, tmp_path / "cut.elf")
    assert (tmp_path / "cut.elf").read_bytes() == workload.image_of(guest)


def _without_traces(text: str) -> str:
    text = re.sub(r"#ifdef PVLOCK_TRACE\n(?:(?!#endif).)*?#endif\n", "", text, flags=re.DOTALL)
    text = re.sub(r"/\* ---- traces.*?(?=/\* ---- spinning)", "", text, flags=re.DOTALL)
    text = re.sub(r'#include "pvlock_trace.h"\n', "", text)
    text = re.sub(r"^\s*trace(_init|_name)?\(.*\);\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^\s*TRACED\(.*\).*\n", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("guest", workload.names())
def test_without_rings_a_traced_guest_runs_too(guest: str) -> None:
    """No node in the device tree, no rings: it records nothing and works."""
    with Machine(2, 1, bootargs="duration=1000000", engine="emulator") as machine:
        machine.load(workload.image_of(guest, trace=True))
        assert machine.run(50_000_000) is SystemEvent.OFF
        assert workload.read(machine.console.text).duration_ns == 1_000_000


def test_emptying_the_rings_changes_nothing() -> None:
    """A machine that is stopped every 250 µs lives the same life as one that never is."""
    outputs = []
    for step in (250_000, 50_000_000):
        with Machine(4, 2, bootargs="duration=3000000", engine="emulator") as machine:
            machine.load(workload.image_of("mutex"))
            now, event = 0, None
            while event is None:
                now += step
                event = machine.run(now)
            outputs.append((machine.console.text, machine.usage()))
    assert outputs[0] == outputs[1]
