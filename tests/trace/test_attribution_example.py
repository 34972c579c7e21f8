# SPDX-License-Identifier: GPL-2.0-or-later
"""The worked example in pvlock.trace.attribution is what comes out of its events, line by line.

The events are read from the docstring. What each module finds in them is written in the words of
the docstring again, and compared with what stands there.
"""

import re
from collections.abc import Callable

import numpy as np
import pytest

from pvlock.trace import attribution
from pvlock.trace.attribution import Part, attribute
from pvlock.trace.attribution.blame import segments
from pvlock.trace.attribution.claims import Level, find_claims
from pvlock.trace.attribution.intervals import Intervals
from pvlock.trace.attribution.lives import State, lives
from pvlock.trace.attribution.pairing import pair
from pvlock.trace.attribution.queues import queues
from pvlock.trace.events import Events, Kind
from tracing import table

TEXT = attribution.__doc__ or ""
LOCK = 0x1000
EVENT = re.compile(r"^ +(\d+) +(\d+) +(\d) +([A-Z_]+)(?: behind (\d))?$", re.MULTILINE)
END = re.compile(r"^ +(\d+) +(\d+) +\(end of the run\)$", re.MULTILINE)


def example() -> Events:
    """Return the events that the docstring lists."""
    rows = EVENT.findall(TEXT)
    (last,) = END.findall(TEXT)
    assert [int(row[0]) for row in rows] == list(range(int(last[0])))
    return table(
        [
            (int(ns), int(vcpu), Kind[kind], LOCK if Kind[kind] >= Kind.CONTENDED else 0,
             int(behind) if behind else -1)
            for _, ns, vcpu, kind, behind in rows
        ],
        end=int(last[1]),
    )  # fmt: skip


class Example:
    """What each module finds in the example."""

    def __init__(self) -> None:
        self.events = example()
        self.pairing = pair(self.events)
        self.queue = queues(self.events, self.pairing)
        self.life = lives(self.events, self.pairing, self.queue)
        self.claims, _ = find_claims(self.pairing, self.queue, self.life)
        self.segments, _ = segments(self.pairing, self.queue, self.life)
        self.found = attribute(self.events)
        self.time = self.pairing.time.tolist()

    def ns(self, first: int, last: int) -> str:
        return f"[{self.time[first]}, {self.time[last]})"

    def intervals(self, some: Intervals) -> list[tuple[str, str, str]]:
        rows = zip(some.vcpu, some.first, some.last, strict=True)
        return [(f"VCPU {vcpu}", self.ns(first, last), "") for vcpu, first, last in rows]

    def waits(self) -> list[tuple[str, str, str]]:
        return self.intervals(self.pairing.waits)

    def stages(self) -> list[tuple[str, str, str]]:
        of, vcpu = self.pairing.stages, self.pairing.waits.vcpu
        return [
            (f"VCPU {vcpu[wait]}", self.ns(first, last),
             f"behind VCPU {other}" if other >= 0 else "behind nobody")
            for wait, first, last, other in zip(of.wait, of.first, of.last, of.other, strict=True)
        ]  # fmt: skip

    def holds(self) -> list[tuple[str, str, str]]:
        return self.intervals(self.pairing.holds)

    def places(self) -> list[tuple[str, str, str]]:
        heads = [f"head from {self.time[head]} on" for head in self.queue.head]
        rows = zip(self.intervals(self.queue.places), heads, strict=True)
        return [(vcpu, ns, head) for (vcpu, ns, _), head in rows]

    def pieces(self) -> list[tuple[str, str, str]]:
        life, rows = self.life, []
        for i, (first, last) in enumerate(zip(life.first, life.last, strict=True)):
            if self.time[first] == self.time[last]:
                continue  # before SCHED_IN at 0
            text = State(life.state[i]).name
            text += f", waits for view {life.view[i]}" if life.waiting[i] else ""
            rows.append((f"VCPU {life.key[i] // life.span}", self.ns(first, last), text))
        return rows

    def made(self) -> list[tuple[str, str, str]]:
        of = self.claims
        order = np.lexsort((of.first, of.view)).tolist()
        return [
            (f"view {of.view[i]}", self.ns(of.first[i], of.last[i]),
             f"VCPU {of.vcpu[i]}: {Level(of.level[i]).name}")
            for i in order
        ]  # fmt: skip

    def answer(self, segment: int) -> str:
        part, vcpu = Part(self.segments.part[segment]).name, self.segments.vcpu[segment]
        return f"{part}, VCPU {vcpu}" if vcpu >= 0 else part

    def cut(self) -> list[tuple[str, str, str]]:
        of = self.segments
        return [
            (f"view {of.view[i]}", self.ns(of.first[i], of.last[i]), self.answer(i))
            for i in range(len(of))
        ]

    def overlaps(self) -> list[tuple[int, int, int, int]]:
        """Return all stretches: a piece, a segment, and from when to when."""
        life, of, rows = self.life, self.segments, []
        for piece in np.flatnonzero(life.waiting).tolist():
            for segment in np.flatnonzero(of.view == life.view[piece]).tolist():
                first = max(self.time[life.first[piece]], self.time[of.first[segment]])
                last = min(self.time[life.last[piece]], self.time[of.last[segment]])
                if first < last:
                    rows.append((piece, segment, first, last))
        return rows

    def stretches(self) -> list[tuple[str, str, str]]:
        vcpu = self.life.key // self.life.span
        return [
            (f"VCPU {vcpu[piece]}", f"[{first}, {last})", self.answer(segment))
            for piece, segment, first, last in self.overlaps()
        ]

    def delays(self) -> list[tuple[str, str, str]]:
        of, waits = self.found.delays, self.found.waits
        return [
            (f"VCPU {waits.vcpu[of.wait[i]]}", f"[{of.start[i]}, {of.end[i]})",
             f"{Part(of.part[i]).name}, VCPU {of.vcpu[i]}, since event {of.event[i]}")
            for i in range(len(of))
        ]  # fmt: skip

    def parts(self) -> list[tuple[str, str, str]]:
        waits = self.found.waits
        return [
            (f"VCPU {waits.vcpu[i]}", f"{waits.end[i] - waits.start[i]} ns:",
             ", ".join(f"{part.name} {row[part]}" for part in Part if row[part]))
            for i, row in enumerate(waits.parts)
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "method"),
    [
        ("wait", Example.waits),
        ("stage", Example.stages),
        ("hold", Example.holds),
        ("place", Example.places),
        ("piece", Example.pieces),
        ("claim", Example.made),
        ("segment", Example.cut),
        ("stretch", Example.stretches),
        ("delay", Example.delays),
    ],
)
def test_what_comes_out_is_what_the_docstring_says(
    word: str, method: Callable[[Example], list[tuple[str, str, str]]]
) -> None:
    line = rf"^    {word} +(VCPU \d|view \d)  (\[\d+, \d+\)) *(.*)$"
    stands = re.findall(line, TEXT, re.MULTILINE)
    assert stands
    assert method(Example()) == stands


def test_the_parts_are_what_the_docstring_says() -> None:
    stands = re.findall(r"^    parts +(VCPU \d)  (\d+ ns:) (.+)$", TEXT, re.MULTILINE)
    assert stands
    assert Example().parts() == stands


def test_the_parts_are_the_sums_of_the_stretches() -> None:
    """And of the pieces in which the waiter itself has no CPU."""
    mine = Example()
    sums = np.zeros_like(mine.found.waits.parts)
    for piece, segment, first, last in mine.overlaps():
        sums[mine.life.wait[piece], mine.segments.part[segment]] += last - first
    for piece in np.flatnonzero((mine.life.wait >= 0) & ~mine.life.waiting).tolist():
        ns = mine.time[mine.life.last[piece]] - mine.time[mine.life.first[piece]]
        sums[mine.life.wait[piece], Part.OWN_PREEMPTED] += ns
    assert (sums == mine.found.waits.parts).all()
    assert [column.tolist() for column in mine.found.costs()] == [[6], [20]]


def test_the_drawing_is_what_the_docstring_shows() -> None:
    mine = Example()
    life, end = mine.life, mine.events.end
    lines = {f"VCPU {vcpu}": [" "] * end for vcpu in range(3)}
    for piece, (first, last) in enumerate(zip(life.first, life.last, strict=True)):
        look = "x" if life.state[piece] == State.PREEMPTED else "?" if life.waiting[piece] else "."
        line = lines[f"VCPU {life.key[piece] // life.span}"]
        line[mine.time[first] : mine.time[last]] = look * (mine.time[last] - mine.time[first])
    holds = mine.pairing.holds
    for vcpu, first, last in zip(holds.vcpu, holds.first, holds.last, strict=True):
        assert set(lines[f"VCPU {vcpu}"][mine.time[first] : mine.time[last]]) == {"."}
        lines[f"VCPU {vcpu}"][mine.time[first] : mine.time[last]] = "=" * (
            mine.time[last] - mine.time[first]
        )
    for view, first, last, vcpu in zip(
        mine.segments.view, mine.segments.first, mine.segments.last, mine.segments.vcpu, strict=True
    ):
        line = lines.setdefault(f"view {view}", [])
        line += (str(vcpu) if vcpu >= 0 else "-") * (mine.time[last] - mine.time[first])
    drawn = [f"    {name}  {''.join(line)}" for name, line in lines.items()]
    assert "\n".join(drawn) in TEXT
    ruler = "    ns      " + "".join(f"{ns:<10}" for ns in range(0, end + 1, 10)).rstrip()
    assert f"{ruler}\n{drawn[0]}" in TEXT
