# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own recorder of switches (tracefs), as a second opinion on what threads did.

It shares nothing with pvlock but the kernel's clock. Needs root.
"""

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TRACING = Path("/sys/kernel/tracing")
BUFFER_KB = 16_384
_LINE = re.compile(
    rb"\[(\d+)\] .{5} +(\d+)\.(\d+): sched_(switch|wakeup): (.*)$"
)  # CPU, s, µs, event, arguments
_SWITCH = re.compile(rb"prev_pid=(\d+) .*prev_state=(\S+) ==> .*next_pid=(\d+) ")
_WAKEUP = re.compile(rb" pid=(\d+) ")
RUNNING, READY, BLOCKED = "running", "ready", "blocked"


@dataclass
class Recorded:
    """The changes of each thread's state (ns, state), in their order, once recorded() has ended."""

    changes: dict[int, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    first: dict[int, str] = field(default_factory=dict)
    """The state of each before its first change, which that tells."""

    def stretches(self, tid: int, begin: int, end: int) -> Iterator[tuple[int, int, str]]:
        """Yield what a thread did from `begin` to `end`. It must have changed in between."""
        assert tid in self.first, f"nothing was recorded of thread {tid}"
        state, since = self.first[tid], begin
        for at, now in self.changes[tid]:
            if at <= begin:
                state = now
                continue
            if since < min(at, end):
                yield since, min(at, end), state
            state, since = now, max(at, begin)
        if since < end:
            yield since, end, state

    def times(self, tid: int, begin: int, end: int) -> dict[str, int]:
        """Return the ns that it spent in each state."""
        total = dict.fromkeys((RUNNING, READY, BLOCKED), 0)
        for start, stop, state in self.stretches(tid, begin, end):
            total[state] += stop - start
        return total

    def waited_for(self, tid: int, others: Collection[int], begin: int, end: int) -> int:
        """Return the ns that a thread was ready while others ran, all of them on one CPU."""
        ran = sorted(
            (start, stop)
            for other in others
            for start, stop, state in self.stretches(other, begin, end)
            if state == RUNNING
        )
        return sum(
            max(0, min(stop, until) - max(start, since))
            for since, until, state in self.stretches(tid, begin, end)
            if state == READY
            for start, stop in ran
        )

    def read(self, text: bytes, tids: Collection[int]) -> None:
        """Take in what the kernel wrote."""
        state: dict[int, str] = {}

        def change(at: int, tid: int, before: str, now: str) -> None:
            if tid in tids and state.get(tid) != now:
                self.first.setdefault(tid, before)
                state[tid] = now
                self.changes[tid].append((at, now))

        for line in text.splitlines():
            found = _LINE.search(line)
            if found is None:
                assert b"LOST" not in line, line
                continue
            at = int(found[2]) * 10**9 + int(found[3]) * 1000
            if found[4] == b"wakeup":
                woken = _WAKEUP.search(found[5])
                assert woken is not None, line
                # Also told of a thread that has not left its CPU, which is no change.
                if state.get(int(woken[1])) in (None, BLOCKED):
                    change(at, int(woken[1]), BLOCKED, READY)
                continue
            switch = _SWITCH.search(found[5])
            assert switch is not None, line
            left = READY if switch[2][:1] == b"R" else BLOCKED
            change(at, int(switch[1]), RUNNING, left)
            change(at, int(switch[3]), READY, RUNNING)


@contextlib.contextmanager
def recorded(tids: Collection[int]) -> Iterator[Recorded]:
    """Record the switches of these threads until the end of the block."""
    instance = TRACING / "instances" / f"pvlock-{os.getpid()}"
    try:
        instance.mkdir()
    except OSError as error:
        pytest.skip(f"no tracefs: {error}")
    found = Recorded()
    try:
        either = " || ".join(f"prev_pid=={tid} || next_pid=={tid}" for tid in tids)
        woken = " || ".join(f"pid=={tid}" for tid in tids)
        for name, text in (
            ("trace_clock", "mono"),
            ("buffer_size_kb", str(BUFFER_KB)),
            ("events/sched/sched_switch/filter", either),
            ("events/sched/sched_wakeup/filter", woken),
            ("events/sched/sched_switch/enable", "1"),
            ("events/sched/sched_wakeup/enable", "1"),
        ):
            (instance / name).write_text(text)
        yield found
        (instance / "tracing_on").write_text("0")
        for cpu in instance.glob("per_cpu/cpu*"):
            stats = dict(line.split(": ") for line in (cpu / "stats").read_text().splitlines())
            assert int(stats["overrun"]) == int(stats["dropped events"]) == 0, stats
        found.read((instance / "trace").read_bytes(), tids)
    finally:
        instance.rmdir()
