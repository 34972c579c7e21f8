# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger: every ns of waiting, under the part, the VCPU and the event that it is put down to.

A piece in which a VCPU waits meets the segments of the view that it waits for. Each overlap of the
two is a stretch; its ns are put down to the segment's part and VCPU.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvlock.trace.attribution.blame import Segments
from pvlock.trace.attribution.lives import GRANTED, NOTHING, Lives, State
from pvlock.trace.attribution.pairing import Pairing
from pvlock.trace.attribution.part import Part
from pvlock.trace.columns import Bools, Ints, expand, keys, last_at, starts, stops, sums
from pvlock.trace.events import Events

_LONG = 256
"""A piece with more segments than this is reckoned in a call of its own."""

_ROWS = 1 << 21
"""How many stretches are reckoned at a time, to bound memory."""


@dataclass
class Waits:
    """All waits, by lock, VCPU and time; a row for each, with times in ns.

    `lock` is the lock's place in Attribution.locks. `parts` has a column for each Part: how much of
    the wait is put down to it. `spun` is how long the waiter was awake on a CPU. `asleep` is how
    long it was between SLEPT and WOKEN, less the time for which it could have run and had no CPU.
    `shared` marks the waits of readers, `open` those that the end of the run cut off, `inside`
    those that are inside another wait of the same VCPU.
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
        """Return the number of waits."""
        return len(self.start)


@dataclass
class Delays:
    """All delays: from `start` to `end`, in ns, a VCPU off its CPU kept one wait waiting.

    `event` is the position of the schedule event since which `vcpu` is off its CPU: PREEMPTED,
    BLOCKED, OFF, or READY where it was woken and has no CPU yet. `vcpu` owned `lock`, or was the
    head of the queue in front of it; `part` says which. `wait` is the row in Waits. `links` is the
    number of further waits between that wait and `vcpu`; with 0, `lock` is what it waits for.
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
        """Return the number of delays."""
        return len(self.start)


class Ledger:
    """Puts the stretches of all waits together; `time` has the ns of each position."""

    def __init__(self, events: Events, pairing: Pairing, life: Lives, found: Segments) -> None:
        self.time = pairing.time
        self._vcpus, self._pairing, self._life, self._found = events.vcpus, pairing, life, found
        self._begins = keys(found.view, life.span, found.first)
        # The pieces that wait for a view. Piece _looking[i] meets segments _from[i] to _to[i] - 1.
        self._looking = np.flatnonzero(life.waiting & (life.view >= 0)).astype(np.int32)
        first, last = life.first[self._looking], life.last[self._looking]
        view = life.view[self._looking]
        self._from = last_at(self._begins, keys(view, life.span, first)).astype(np.int32)
        self._to = self._from + 1
        more = np.flatnonzero(found.last[self._from] < last)
        wanted = keys(view[more], life.span, last[more])
        self._to[more] = np.searchsorted(self._begins, wanted)

    def waits(self) -> tuple[Waits, Ints]:
        """Return all waits, and the parts of each VCPU's waiting, every instant once."""
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
        # One buffer for all parts, to save memory: a number for each piece.
        ns, before = np.empty_like(whole), np.zeros(size + 1, np.int64)

        def by_wait(which: Bools, several: Ints | None = None) -> Ints:
            """Return, for each wait, how long `which` of its pieces are in all."""
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
        """Return the part that each piece is put down to, -1 for a piece outside all waits.

        Pieces that meet several segments can have several parts. Also return which pieces these
        are, and for each Part how many ns of each of these pieces it gets.
        """
        life, found, time = self._life, self._found, self.time
        kind = np.full(len(life.key), -1, np.int8)
        # Waits that overlap without one being inside the other, and waits that are too deep.
        kind[within & (life.wait == NOTHING)] = Part.UNKNOWN
        kind[life.wait >= 0] = Part.OWN_BLOCKED
        kind[(life.wait >= 0) & (life.state == State.PREEMPTED)] = Part.OWN_PREEMPTED
        kind[life.waiting & (life.view == GRANTED)] = Part.NO_OWNER
        kind[self._looking] = found.part[self._from]
        # The first and the last of several segments may reach beyond the piece.
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
        """Return all delays."""
        found, life, time = self._found, self._life, self.time
        off = np.flatnonzero(found.switch >= 0).astype(np.int32)
        count = np.append(0, np.cumsum(found.switch >= 0, dtype=np.int32))
        which, member = expand(count[self._from], count[self._to])
        segment, piece = off[member], self._looking[which]
        start = time[np.maximum(found.first[segment], life.first[piece])]
        end = time[np.minimum(found.last[segment], life.last[piece])]
        event, wait, links = found.switch[segment], life.wait[piece], found.links[segment]
        del which, member, piece
        # Stretches are in the order of waiters and time: one goes on where the one before ends.
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
        """Return, by waiter, VCPU waited for, and Part, the ns of `which` waits."""
        found, life, time, vcpus = self._found, self._life, self.time, self._vcpus
        code = found.vcpu * len(Part) + found.part
        size = vcpus * len(Part)
        result = np.zeros(vcpus * size)
        waiter = np.repeat(np.arange(vcpus), np.diff(life.bounds))[self._looking]
        counts = which[life.wait[self._looking]]
        # A piece of a long wait can meet millions of segments.
        long = counts & (self._to - self._from > _LONG)
        for i in np.flatnonzero(long).tolist():
            place = int(waiter[i]) * size
            result[place : place + size] += self._of_piece(i, code, size)
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

    def _of_piece(self, i: int, code: Ints, size: int) -> NDArray[np.float64]:
        """Return, by `code`, the ns of all stretches of piece _looking[i]."""
        found, life, time = self._found, self._life, self.time
        begin, end, piece = int(self._from[i]), int(self._to[i]), int(self._looking[i])
        first, last = found.first[begin:end].copy(), found.last[begin:end].copy()
        first[0], last[-1] = life.first[piece], life.last[piece]
        known = found.vcpu[begin:end] >= 0
        ns = (time[last] - time[first])[known]
        return np.bincount(code[begin:end][known], ns, size).astype(np.float64)

    def chain(self, wait: int, at: int) -> list[tuple[int, int]]:
        """Return the chain at time `at`, in ns, of a wait: see Attribution.chain()."""
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
