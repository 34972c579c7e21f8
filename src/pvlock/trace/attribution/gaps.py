# SPDX-License-Identifier: GPL-2.0-or-later
"""Gaps: where events of a VCPU were lost, because its ring in the guest was full."""

import numpy as np

from pvlock.trace.attribution.intervals import Intervals
from pvlock.trace.columns import (
    Bools,
    Ints,
    among,
    distinct,
    expand,
    keys,
    last_at,
    next_at,
    pick,
    stable_order,
)
from pvlock.trace.events import Events, Kind


class Gaps:
    """The gaps of all VCPUs, by VCPU and position.

    A LOST event marks each. The lost events may have happened at any time between the last event
    before LOST that the VCPU's guest recorded and the first one after it.
    """

    def __init__(self, events: Events) -> None:
        at = np.flatnonzero(among(events.kind, Kind.LOST))
        order = stable_order(events.vcpu[at], events.vcpus)
        self._at, self._vcpu, self._span = at[order], events.vcpu[at[order]], len(events) + 1
        self._keys = keys(self._vcpu, self._span, self._at)
        self._first, self._last = self._at, self._at
        if len(at):
            guest = np.flatnonzero((events.kind >= Kind.CONTENDED) & (events.kind != Kind.LOST))
            known = np.sort(keys(events.vcpu[guest], self._span, guest))
            base = self._keys - self._at
            before = pick(known, last_at(known, self._keys), 0)
            self._first = np.maximum(before - base, 0)
            self._last = np.minimum(next_at(known, self._keys) - base, len(events))

    def between(self, vcpu: Ints, first: Ints, last: Ints) -> Bools:
        """Tell, for each VCPU, whether it lost events between positions `first` and `last`."""
        if not len(self._keys):
            return np.zeros(len(first), bool)
        before = last_at(self._keys, keys(vcpu, self._span, first))
        result: Bools = last_at(self._keys, keys(vcpu, self._span, last)) > before
        return result

    def after(self, vcpu: Ints, at: Ints) -> Ints:
        """Return, for each VCPU, where its first gap after position `at` begins.

        The caller knows that there is one.
        """
        return self._first[last_at(self._keys, keys(vcpu, self._span, at)) + 1]

    def by_lock(self, vcpu: Ints, lock: Ints, locks: int) -> Intervals:
        """Return each gap once for every lock that its VCPU may have taken or released in it.

        These are the locks that the VCPU used at any time: the pairs of `vcpu` and `lock`.
        """
        pairs = distinct(keys(vcpu, locks, lock)) if len(self._at) else self._keys
        base = self._vcpu.astype(np.int64) * locks
        gap, user = expand(np.searchsorted(pairs, base), np.searchsorted(pairs, base + locks))
        return Intervals(
            self._vcpu[gap], pairs[user] - base[gap], self._first[gap], self._last[gap]
        )
