# SPDX-License-Identifier: GPL-2.0-or-later
"""Who answers for a view at each instant: of all claims the strongest, as segments of the view.

The claim with the lowest Level counts, and of equal ones the oldest. Where the VCPU that made it
waits for another view itself, it has a link, and that view's segments take the place of its own. So
a chain of VCPUs that wait for each other is followed to its end.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from pvlock.trace.attribution.claims import Claims, Level, find_claims
from pvlock.trace.attribution.lives import Lives
from pvlock.trace.attribution.pairing import Pairing
from pvlock.trace.attribution.part import Part
from pvlock.trace.attribution.queues import Queues
from pvlock.trace.columns import Bools, Ints, distinct, expand, keys, last_at, pick, stops

_MOST_LINKS = 8
"""How long a chain is followed. VCPUs that wait for each other in a circle have no end."""

_PART_OF = np.array([Part[level.name] for level in Level], np.int8)


@dataclass
class Segments:
    """Segments [first, last) of all views, by view and time; they leave no gap.

    `owner` is the VCPU whose claim counts: it owns the lock, or is the head of its queue. `vcpu` is
    the VCPU that answers, at the end of a chain of `links` further waits; without a link it is
    `owner`. It owns `lock`, or is the head of the queue in front of it. Both VCPUs are -1 where
    there is none. `part` is what waiting is put down to. `switch` is the position of the schedule
    event with which `vcpu` came into its state off its CPU, or -1 if it runs, or never ran. `link`
    is the view that `vcpu` waits for, and -1 once all links have been followed.
    """

    view: Ints
    first: Ints
    last: Ints
    owner: Ints
    vcpu: Ints
    lock: Ints
    part: Ints
    switch: Ints
    links: Ints
    link: Ints

    def take(self, which: Ints | Bools) -> Self:
        """Return some of the segments: those at these places, or those marked True."""
        return type(self)(*(getattr(self, field.name)[which] for field in fields(self)))

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.first)


def segments(pairing: Pairing, queue: Queues, life: Lives) -> tuple[Segments, int]:
    """Cut all views that VCPUs wait for into segments, with all links followed.

    Also return how many segments have a chain without an end.
    """
    claims, views = find_claims(pairing, queue, life)
    return _follow(_overlay(claims, views, len(pairing.locks), pairing.span), pairing.span)


def _overlay(claims: Claims, views: Ints, locks: int, span: int) -> Segments:
    """Cut each view, from the first event to the last, where the claim that counts changes."""
    claims = claims.take(claims.last > claims.first)
    begin, end = keys(claims.view, span, claims.first), keys(claims.view, span, claims.last)
    bounds = distinct(np.concatenate([views * span, begin, end]))
    # A claim that ends with the table has no segment after it.
    bounds = bounds[bounds % span < span - 1]
    start, stop = (np.searchsorted(bounds, key).astype(np.int32) for key in (begin, end))
    del begin, end
    winner = np.full(len(bounds), -1, np.int32)
    for level in reversed(Level):
        mine = np.flatnonzero(claims.level == level)
        mine = mine[np.argsort(start[mine], kind="stable")]
        # The oldest claim counts, so each gets what those before it have left.
        earlier = np.append(0, np.maximum.accumulate(stop[mine]))[:-1]
        which, cell = expand(np.maximum(start[mine], earlier), stop[mine])
        winner[cell] = mine[which]
    view = (bounds // span).astype(np.int32)
    first = (bounds - keys(view, span)).astype(np.int32)
    last = np.append(first[1:], 0)[: len(first)]
    last[stops(len(first), view[1:] == view[:-1])] = span - 1
    vcpu = pick(claims.vcpu, winner, -1)
    del start, stop, bounds
    return Segments(
        view=view,
        first=first,
        last=last,
        owner=vcpu,
        vcpu=vcpu.copy(),
        lock=view % max(locks, 1),
        part=pick(_PART_OF[claims.level], winner, Part.NO_OWNER),
        switch=pick(claims.switch, winner, -1),
        links=np.zeros(len(view), np.int16),
        link=pick(claims.link, winner, -1),
    )


def _follow(found: Segments, span: int) -> tuple[Segments, int]:
    """Replace each segment that has a link by the segments of the view that the link leads to.

    A chain that has not ended after _MOST_LINKS goes in a circle: it is UNKNOWN, and counted.
    """
    for _ in range(_MOST_LINKS):
        away = np.flatnonzero(found.link >= 0)
        if not len(away):
            break
        begins = keys(found.view, span, found.first)
        target = np.arange(len(found), dtype=np.int32)
        stop = target + 1
        link = found.link[away]
        target[away] = last_at(begins, keys(link, span, found.first[away]))
        stop[away] = np.searchsorted(begins, keys(link, span, found.last[away]))
        which, target = expand(target, stop)
        new, moved = found.take(target), which != target
        old = which[moved]
        new.view[moved], new.owner[moved] = found.view[old], found.owner[old]
        new.first[moved] = np.maximum(found.first[old], new.first[moved])
        new.last[moved] = np.minimum(found.last[old], new.last[moved])
        new.links[moved] += found.links[old] + np.int16(1)
        found = new
    endless = found.link >= 0
    found.part[endless] = Part.UNKNOWN
    found.vcpu[endless] = found.switch[endless] = found.link[endless] = -1
    return found, int(np.count_nonzero(endless))
