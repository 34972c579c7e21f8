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

    def __init__(self, events: Events, pairing: Pairing, life: Lives, segments: Segments) -> None:
        self.time = pairing.time
        self._vcpus, self._pairing, self._life, self._segments = (
            events.vcpus,
            pairing,
            life,
            segments,
        )
        self._begins = keys(segments.view, life.span, segments.first)
        # The pieces that wait for a view. Piece _pieces[i] meets segments _from[i] to _to[i] - 1.
        self._pieces = np.flatnonzero(life.waiting & (life.view >= 0)).astype(np.int32)
        first, last = life.first[self._pieces], life.last[self._pieces]
        view = life.view[self._pieces]
        self._from = last_at(self._begins, keys(view, life.span, first)).astype(np.int32)
        self._to = self._from + 1
        more = np.flatnonzero(segments.last[self._from] < last)
        wanted = keys(view[more], life.span, last[more])
        self._to[more] = np.searchsorted(self._begins, wanted)

    def waits(self) -> tuple[Waits, Ints]:
        """Return all waits, and the parts of each VCPU's waiting, every instant once."""
        life, waits, time = self._life, self._pairing.waits, self.time
        begin, end = life.at(waits.vcpu, waits.first), life.until(waits.vcpu, waits.last)
        size = len(life.key)
        # The number of waits that each piece is in. A wait's pieces are `begin` to `end` - 1.
        depth = np.zeros(size + 1, np.int32)
        np.add.at(depth, begin, 1)
        np.subtract.at(depth, end, 1)
        depth = np.cumsum(depth, dtype=np.int32)[:size]
        whole = time[life.last] - time[life.first]
        part_of, mixed, shares = self._parts_of_pieces(depth > 0)
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
            parts[:, part] = by_wait(part_of == part, shares[part])
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

    def _parts_of_pieces(self, within: Bools) -> tuple[NDArray[np.int8], Ints, list[Ints]]:
        """Return the part that each piece is put down to, -1 for a piece outside all waits.

        A piece that meets several segments can have several parts. So also return which pieces do,
        and for each Part a column with the ns that it gets of each of them. `within` marks the
        pieces that are in a wait.
        """
        life, segments, time = self._life, self._segments, self.time
        part_of = np.full(len(life.key), -1, np.int8)
        # Waits that overlap without one being inside the other, and waits that are too deep.
        part_of[within & (life.wait == NOTHING)] = Part.UNKNOWN
        part_of[life.wait >= 0] = Part.OWN_BLOCKED
        part_of[(life.wait >= 0) & (life.state == State.PREEMPTED)] = Part.OWN_PREEMPTED
        part_of[(life.wait >= 0) & (life.state == State.QUEUED)] = Part.OWN_QUEUED
        part_of[life.waiting & (life.view == GRANTED)] = Part.NO_OWNER
        part_of[self._pieces] = segments.part[self._from]
        # The first and the last of several segments may reach beyond the piece.
        many = np.flatnonzero(self._to > self._from + 1)
        mixed, begin, end = self._pieces[many], self._from[many], self._to[many] - 1
        before = time[life.first[mixed]] - time[segments.first[begin]]
        after = time[segments.last[end]] - time[life.last[mixed]]
        whole = time[segments.last] - time[segments.first]
        shares = []
        for part in Part:
            mine = segments.part == part
            so_far = sums(whole * mine)
            beyond = before * mine[begin] + after * mine[end]
            shares.append(so_far[end + 1] - so_far[begin] - beyond)
        return part_of, mixed, shares

    def delays(self) -> Delays:
        """Return all delays."""
        segments, life, time = self._segments, self._life, self.time
        off = np.flatnonzero(segments.switch >= 0).astype(np.int32)
        count = np.append(0, np.cumsum(segments.switch >= 0, dtype=np.int32))
        which, member = expand(count[self._from], count[self._to])
        segment, piece = off[member], self._pieces[which]
        start = time[np.maximum(segments.first[segment], life.first[piece])]
        end = time[np.minimum(segments.last[segment], life.last[piece])]
        event, wait, links = segments.switch[segment], life.wait[piece], segments.links[segment]
        del which, member, piece
        # Stretches are in the order of waiters and time: one goes on where the one before ends.
        some = np.flatnonzero(end > start)
        columns = event[some], wait[some], links[some], segment[some]
        event, wait, links, segment = columns
        start, end = start[some], end[some]
        goes_on = (start[1:] == end[:-1]) & (wait[1:] == wait[:-1])
        goes_on &= (event[1:] == event[:-1]) & (links[1:] == links[:-1])
        goes_on &= segments.part[segment[1:]] == segments.part[segment[:-1]]
        goes_on &= segments.lock[segment[1:]] == segments.lock[segment[:-1]]
        first, final = starts(len(some), goes_on), stops(len(some), goes_on)
        event, wait, links, segment = event[first], wait[first], links[first], segment[first]
        vcpu, lock, part = segments.vcpu[segment], segments.lock[segment], segments.part[segment]
        return Delays(event, vcpu, lock, part, wait, start[first], end[final], links)

    def pairs(self, which: Bools) -> Ints:
        """Return, by waiter, VCPU waited for, and Part, the ns of `which` waits."""
        segments, life, time, vcpus = self._segments, self._life, self.time, self._vcpus
        code = segments.vcpu * len(Part) + segments.part
        size = vcpus * len(Part)
        result = np.zeros(vcpus * size)
        waiter = np.repeat(np.arange(vcpus), np.diff(life.bounds))[self._pieces]
        counts = which[life.wait[self._pieces]]
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
            known = segments.vcpu[segment] >= 0
            row, segment = some[row[known]], segment[known]
            piece = self._pieces[row]
            first = np.maximum(segments.first[segment], life.first[piece])
            last = np.minimum(segments.last[segment], life.last[piece])
            cell = waiter[row] * size + code[segment]
            result += np.bincount(cell, time[last] - time[first], len(result))
        return result.astype(np.int64).reshape(vcpus, vcpus, len(Part))

    def _of_piece(self, i: int, code: Ints, size: int) -> NDArray[np.float64]:
        """Return, by `code`, the ns of all stretches of piece _pieces[i]."""
        segments, life, time = self._segments, self._life, self.time
        begin, end, piece = int(self._from[i]), int(self._to[i]), int(self._pieces[i])
        first, last = segments.first[begin:end].copy(), segments.last[begin:end].copy()
        first[0], last[-1] = life.first[piece], life.last[piece]
        known = segments.vcpu[begin:end] >= 0
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
            vcpu = int(self._segments.owner[int(np.searchsorted(self._begins, key, "right")) - 1])
            if (view % locks, vcpu) in found:
                break
            found.append((view % locks, vcpu))
        return found
