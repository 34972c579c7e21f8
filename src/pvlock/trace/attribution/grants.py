# SPDX-License-Identifier: GPL-2.0-or-later
"""Grants: a VCPU that releases a lock makes a waiter its owner, which learns of it later."""

import numpy as np

from pvlock.trace.attribution.intervals import Intervals
from pvlock.trace.columns import Ints, keys, last_at
from pvlock.trace.events import Events


def find_grants(
    events: Events, waits: Intervals, at: Ints, lock: Ints, time: Ints
) -> tuple[Ints, int]:
    """Match the GRANTED events at positions `at`, each of its `lock`, with the waits.

    Return, for each wait, the position from which on the waiter owned the lock, which is the end of
    the wait without a grant; and the number of grants to a VCPU that did not wait.

    The clocks of giver and taker differ by up to the skew, so a grant can seem to come before the
    wait, or after its end.
    """
    span = len(events) + 1
    granted = waits.last.copy()
    vcpu = events.other[at]
    valid = (vcpu >= 0) & (vcpu < events.vcpus)
    at, lock, vcpu = at[valid], lock[valid], vcpu[valid]
    stray = int(np.count_nonzero(~valid))
    if not len(at) or not len(waits):
        return granted, stray + len(at)
    group = keys(waits.lock, events.vcpus, waits.vcpu) * span
    mine = keys(lock, events.vcpus, vcpu) * span
    before = last_at(group + waits.first, mine + at)
    after = np.minimum(before + 1, len(waits) - 1)
    same_before = (before >= 0) & (group[before] == mine)
    inside = same_before & (waits.last[before] > at)
    early = (
        ~inside
        & (before + 1 < len(waits))
        & (group[after] == mine)
        & (time[waits.first[after]] - time[at] <= events.skew_ns)
    )
    late = same_before & ~inside & (time[at] - time[waits.last[before]] <= events.skew_ns)
    np.minimum.at(granted, before[inside], at[inside])
    granted[after[early]] = waits.first[after[early]]
    return granted, stray + int(np.count_nonzero(~(inside | early | late)))
