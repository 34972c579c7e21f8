# SPDX-License-Identifier: GPL-2.0-or-later
"""Positions to ns: how the waiting pieces of lives meet the segments of what they wait for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvlock.trace.blame import Part, Segments
from pvlock.trace.columns import Bools, Ints, expand, keys, last_at, starts, stops, sums
from pvlock.trace.events import Events
from pvlock.trace.lives import GRANTED, NOTHING, Lives, State
from pvlock.trace.waits import Pairing

_LONG = 256
"""Segments within one piece from which on they are worth a call of their own."""

_ROWS = 1 << 21
"""Rows at a time, to bound memory."""


@dataclass
class Waits:
    """All waits, by lock, VCPU and time; times in ns.

    `lock` is a place in Attribution.locks. `parts` has a column for each Part. `spun` is how long
    the waiter was on a CPU and awake, `asleep` how long it was between SLEPT and WOKEN and not
    kept from a CPU. `shared`: as a reader. `open`: the run ended first. `inside`: it is part of
    another wait of the same VCPU.
    """

    vcpu: Ints
    lock: Ints
    start: Ints
    end: Ints
    parts: Ints
    spun: Ints
    asleep: Ints
    shared: Bools
    open: Bools
    inside: Bools

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.start)


@dataclass
class Delays:
    """Which VCPU off its CPU kept which wait waiting; a row for each uninterrupted stretch.

    `event` is the position of the schedule event since which `vcpu` is off its CPU (PREEMPTED,
    BLOCKED, OFF, or READY: woken, and without a CPU). It owned `lock`, or was the head of its queue
    (`part`). `wait` is the place of the wait, `start` and `end` are ns. `links` says through how
    many more waits; without any, `lock` is that of the wait.
    """

    event: Ints
    vcpu: Ints
    lock: Ints
    part: Ints
    wait: Ints
    start: Ints
    end: Ints
    links: Ints

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.start)


class Meter:
    """Asks segments about pieces of lives; `time` has the ns of each position."""

    def __init__(self, events: Events, pairing: Pairing, life: Lives, found: Segments) -> None:
        self.time = pairing.time
        self._vcpus, self._pairing, self._life, self._found = events.vcpus, pairing, life, found
        self._begins = keys(found.view, life.span, found.first)
        # The pieces that wait for somebody, and the segments from one to before another of each.
        self._looking = np.flatnonzero(life.waiting & (life.view >= 0)).astype(np.int32)
        first, last = life.first[self._looking], life.last[self._looking]
        view = life.view[self._looking]
        self._from = last_at(self._begins, keys(view, life.span, first)).astype(np.int32)
        self._to = self._from + 1
        more = np.flatnonzero(found.last[self._from] < last)
        wanted = keys(view[more], life.span, last[more])
        self._to[more] = np.searchsorted(self._begins, wanted)

    def waits(self) -> tuple[Waits, Ints]:
        """Return the waits with their parts, and the parts of all waiting of each VCPU."""
        life, waits, time = self._life, self._pairing.waits, self.time
        begin, end = life.at(waits.vcpu, waits.first), life.until(waits.vcpu, waits.last)
        size = len(life.key)
        depth = np.zeros(size + 1, np.int32)
        np.add.at(depth, begin, 1)
        np.subtract.at(depth, end, 1)
        depth = np.cumsum(depth, dtype=np.int32)[:size]
        whole = time[life.last] - time[life.first]
        kind, mixed, shares = self._kinds(depth > 0)
        parts = np.zeros((len(waits), len(Part)), np.int64)
        by_vcpu = np.zeros((self._vcpus, len(Part)), np.int64)
        # One buffer for all: there is a place in it for every piece.
        ns, before = np.empty_like(whole), np.zeros(size + 1, np.int64)

        def by_wait(which: Bools, several: Ints | None = None) -> Ints:
            np.multiply(whole, which, out=ns)
            if several is not None:
                ns[mixed] = several
            np.cumsum(ns, out=before[1:])
            return np.asarray(before[end] - before[begin])

        for part in Part:
            parts[:, part] = by_wait(kind == part, shares[part])
            by_vcpu[:, part] = np.diff(before[life.bounds])
        spun, asleep = by_wait(life.waiting & ~life.asleep), by_wait(life.asleep)
        return Waits(
            vcpu=waits.vcpu,
            lock=waits.lock,
            start=time[waits.first],
            end=time[waits.last],
            parts=parts,
            spun=spun,
            asleep=asleep,
            shared=self._pairing.shared,
            open=waits.last == life.span - 1,
            inside=depth[begin] > 1,
        ), by_vcpu

    def _kinds(self, within: Bools) -> tuple[NDArray[np.int8], Ints, list[Ints]]:
        """Return the part that each piece of life is, -1 for none of a wait.

        And the pieces that are several: which, and by Part how much of each.
        """
        life, found, time = self._life, self._found, self.time
        kind = np.full(len(life.key), -1, np.int8)
        # Waits that overlap, and are not within one another, or are too deep.
        kind[within & (life.wait == NOTHING)] = Part.UNKNOWN
        kind[life.wait >= 0] = Part.OWN_BLOCKED
        kind[(life.wait >= 0) & (life.state == State.PREEMPTED)] = Part.OWN_PREEMPTED
        kind[life.waiting & (life.view == GRANTED)] = Part.NO_OWNER
        kind[self._looking] = found.part[self._from]
        # Of several segments, the first and the last may reach beyond the piece.
        many = np.flatnonzero(self._to > self._from + 1)
        mixed, begin, end = self._looking[many], self._from[many], self._to[many] - 1
        before = time[life.first[mixed]] - time[found.first[begin]]
        after = time[found.last[end]] - time[life.last[mixed]]
        whole = time[found.last] - time[found.first]
        shares = []
        for part in Part:
            mine = found.part == part
            so_far = sums(whole * mine)
            beyond = before * mine[begin] + after * mine[end]
            shares.append(so_far[end + 1] - so_far[begin] - beyond)
        return kind, mixed, shares

    def delays(self) -> Delays:
        """Return where VCPUs off their CPUs kept waits waiting."""
        found, life, time = self._found, self._life, self.time
        off = np.flatnonzero(found.switch >= 0).astype(np.int32)
        count = np.append(0, np.cumsum(found.switch >= 0, dtype=np.int32))
        which, member = expand(count[self._from], count[self._to])
        segment, piece = off[member], self._looking[which]
        start = time[np.maximum(found.first[segment], life.first[piece])]
        end = time[np.minimum(found.last[segment], life.last[piece])]
        event, wait, links = found.switch[segment], life.wait[piece], found.links[segment]
        del which, member, piece
        # Rows are in the order of VCPUs and time: one goes on where the one before it ends.
        some = np.flatnonzero(end > start)
        columns = event[some], wait[some], links[some], segment[some]
        event, wait, links, segment = columns
        start, end = start[some], end[some]
        goes_on = (start[1:] == end[:-1]) & (wait[1:] == wait[:-1])
        goes_on &= (event[1:] == event[:-1]) & (links[1:] == links[:-1])
        goes_on &= found.part[segment[1:]] == found.part[segment[:-1]]
        goes_on &= found.lock[segment[1:]] == found.lock[segment[:-1]]
        first, final = starts(len(some), goes_on), stops(len(some), goes_on)
        event, wait, links, segment = event[first], wait[first], links[first], segment[first]
        vcpu, lock, part = found.vcpu[segment], found.lock[segment], found.part[segment]
        return Delays(event, vcpu, lock, part, wait, start[first], end[final], links)

    def pairs(self, which: Bools) -> Ints:
        """Return, by waiter, by VCPU waited for, and by Part, how long in ns `which` waits were."""
        found, life, time, vcpus = self._found, self._life, self.time, self._vcpus
        code = found.vcpu * len(Part) + found.part
        size = vcpus * len(Part)
        result = np.zeros(vcpus * size)
        waiter = np.repeat(np.arange(vcpus), np.diff(life.bounds))[self._looking]
        counts = which[life.wait[self._looking]]
        # The segments of a long wait are many and all its own.
        long = counts & (self._to - self._from > _LONG)
        for i in np.flatnonzero(long).tolist():
            place = int(waiter[i]) * size
            result[place : place + size] += self._long(i, code, size)
        short = np.flatnonzero(counts & ~long)
        so_far = np.cumsum((self._to - self._from)[short], dtype=np.int64)
        cuts = np.searchsorted(so_far, np.arange(_ROWS, so_far[-1] if len(short) else 0, _ROWS))
        for some in np.split(short, cuts + 1):
            row, segment = expand(self._from[some], self._to[some])
            known = found.vcpu[segment] >= 0
            row, segment = some[row[known]], segment[known]
            piece = self._looking[row]
            first = np.maximum(found.first[segment], life.first[piece])
            last = np.minimum(found.last[segment], life.last[piece])
            cell = waiter[row] * size + code[segment]
            result += np.bincount(cell, time[last] - time[first], len(result))
        return result.astype(np.int64).reshape(vcpus, vcpus, len(Part))

    def _long(self, i: int, code: Ints, size: int) -> NDArray[np.float64]:
        found, life, time = self._found, self._life, self.time
        begin, end, piece = int(self._from[i]), int(self._to[i]), int(self._looking[i])
        first, last = found.first[begin:end].copy(), found.last[begin:end].copy()
        first[0], last[-1] = life.first[piece], life.last[piece]
        known = found.vcpu[begin:end] >= 0
        ns = (time[last] - time[first])[known]
        return np.bincount(code[begin:end][known], ns, size).astype(np.float64)

    def chain(self, wait: int, at: int) -> list[tuple[int, int]]:
        """Return who waits for whom at `at` ns of a wait: (lock, VCPU), then that VCPU's, ...

        The VCPU is -1 where there is none. A circle is shown once.
        """
        life, locks = self._life, len(self._pairing.locks)
        position = int(np.searchsorted(self.time, at, "right")) - 1
        vcpu = int(self._pairing.waits.vcpu[wait])
        found: list[tuple[int, int]] = []
        while vcpu >= 0:
            piece = int(np.searchsorted(life.key, vcpu * life.span + position, "right")) - 1
            view = int(life.view[piece])
            if view < 0 or not life.waiting[piece]:
                break
            key = view * life.span + position
            vcpu = int(self._found.owner[int(np.searchsorted(self._begins, key, "right")) - 1])
            if (view % locks, vcpu) in found:
                break
            found.append((view % locks, vcpu))
        return found
