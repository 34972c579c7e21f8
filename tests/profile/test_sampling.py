# SPDX-License-Identifier: GPL-2.0-or-later
"""When samples are taken, of what, and that no guest can tell."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from asm import ENTRY, assemble
from pvlock import Machine, workload
from pvlock.engines.contract import SAMPLE, HostEvent, Placement, Sampled, Sampling
from pvlock.errors import EngineError, StateError

PERIOD = 997
MS = 1_000_000


class Taken(NamedTuple):
    """A sample as the engine packs it, with its frames."""

    time: int
    points: int
    vcpu: int
    in_wfe: bool
    frames: tuple[int, ...]


def taken(machine: Machine) -> Iterator[Taken]:
    assert isinstance(machine.engine, Sampled)
    packed, lost = machine.engine.take_samples()
    assert not lost
    at = 0
    while at < len(packed):
        time, _, _, _, points, vcpu, _, _, flags, kernel, user, _ = SAMPLE.unpack_from(packed, at)
        at += SAMPLE.size
        frames = struct.unpack_from(f"<{kernel + user}Q", packed, at)
        at += 8 * len(frames)
        yield Taken(time, points, vcpu, bool(flags & 1), frames)


def sampled(machine: Machine, period_ns: int = PERIOD) -> None:
    assert isinstance(machine.engine, Sampled)
    machine.engine.sample(Sampling(period_ns))


def test_a_sample_is_exact_to_the_instruction() -> None:
    """In code without a branch, the instruction says how much time has passed."""
    guest = assemble("nop\n" * 20_000 + "off\n")
    with Machine(1, script=[Placement(0, 0, 0)], engine="emulator") as machine:
        sampled(machine)
        machine.load(guest)
        machine.run(MS)
        found = list(taken(machine))
    in_nops = [one for one in found if ENTRY <= one.frames[0] < ENTRY + 4 * 20_000]
    assert len(in_nops) == 21
    begun = {one.time - (one.frames[0] - ENTRY) // 4 for one in in_nops}
    assert len(begun) == 1
    assert [one.time for one in found] == [PERIOD * n for n in range(len(found))]


def test_each_point_of_the_grid_at_which_a_vcpu_has_a_cpu() -> None:
    """For a lock under overcommitment: as many points as the record of switches says."""
    arguments = "duration=3000000 cs=2000 think=8000"
    with Machine(
        4, 2, engine="emulator", record=True, bootargs=arguments, slice_ns=200_000
    ) as machine:
        sampled(machine)
        machine.load(workload.image_of("mutex"))
        machine.run(50 * MS)
        end = machine.usage().time_ns
        switches, found = machine.switches(), list(taken(machine))
    assert len(switches) > 20
    since: dict[int, int] = {}
    expected = [0] * 4
    for one in switches:
        if one.event is HostEvent.IN:
            since[one.vcpu] = one.time_ns
        else:
            expected[one.vcpu] += -(-one.time_ns // PERIOD) - -(-since.pop(one.vcpu) // PERIOD)
    for vcpu, begun in since.items():
        expected[vcpu] += -(-end // PERIOD) - -(-begun // PERIOD)
    points = [sum(one.points for one in found if one.vcpu == vcpu) for vcpu in range(4)]
    # A block that an exception ends early is sampled as if it went on; the end is a quantum wide.
    for counted, wanted in zip(points, expected, strict=True):
        assert counted == pytest.approx(wanted, abs=3)
    for vcpu in range(4):
        times = [one.time for one in found if one.vcpu == vcpu]
        assert all(time % PERIOD == 0 for time in times)
        assert len(set(times)) == len(times)


def test_a_wait_in_wfe_is_on_the_cpu() -> None:
    guest = assemble("sevl\nwfe\nwfe\n1: b 1b\n")
    with Machine(1, script=[Placement(0, 0, 0)], engine="emulator", trap_wfe=False) as machine:
        sampled(machine)
        machine.load(guest)
        machine.run(MS // 10)
        found = list(taken(machine))
    assert sum(one.points for one in found) == MS // 10 // PERIOD + 1
    assert [one.in_wfe for one in found] == [False] + [True] * (len(found) - 1)
    assert {one.frames[0] for one in found} == {ENTRY, ENTRY + 12}


def test_a_vcpu_off_its_cpu_is_not_sampled() -> None:
    guest = assemble("1: b 1b\n")
    script = [Placement(0, 0, 0), Placement(40_000, 0, 1), Placement(70_000, 0, None)]
    script.append(Placement(90_000, 0, 0))
    with Machine(2, 1, script=script, engine="emulator") as machine:
        sampled(machine, 1000)
        entry = machine.load(guest).entry
        machine.vcpus[1].start(entry)
        machine.run(MS // 10)
        found = list(taken(machine))
    assert sum(one.points for one in found if one.vcpu == 0) == pytest.approx(50, abs=2)
    assert sum(one.points for one in found if one.vcpu == 1) == pytest.approx(30, abs=2)
    assert all(38_000 < one.time < 74_000 for one in found if one.vcpu == 1)


@pytest.mark.parametrize("guest", ["mutex", "rwsem", "qspinlock"])
@pytest.mark.parametrize("wfe", [True, False], ids=["trap", "notrap"])
def test_no_guest_can_tell(guest: str, wfe: bool) -> None:
    def run(period_ns: int | None) -> tuple[str, object]:
        arguments = "duration=2000000 cs=2000 think=8000"
        with Machine(4, 2, engine="emulator", bootargs=arguments, trap_wfe=wfe) as machine:
            if period_ns:
                sampled(machine, period_ns)
            machine.load(workload.image_of(guest))
            machine.run(50 * MS)
            if period_ns:
                assert len(list(taken(machine))) > 100
            return machine.console.text, machine.usage()

    without = run(None)
    assert "workload" in without[0]
    assert run(PERIOD) == without
    assert run(100) == without


def test_samples_are_taken_once_only() -> None:
    with Machine(1, engine="emulator") as machine:
        sampled(machine)
        with pytest.raises(EngineError, match="sampled already"):
            sampled(machine)
        with pytest.raises(StateError, match="not sampled"):
            machine.profile()
