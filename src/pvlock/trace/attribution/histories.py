# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories: what one VCPU did with one lock, in order (the kinds of events in USED)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvlock.trace.attribution.gaps import Gaps
from pvlock.trace.columns import Bools, Ints, keys, stable_order, stops
from pvlock.trace.events import Events, Kind

USED = (Kind.CONTENDED, Kind.ACQUIRED, Kind.RELEASED, Kind.ABANDONED)
"""The kinds of events that a history has."""
NONE = 255
"""Stands for the kind of an event where a history has no event."""


@dataclass
class Histories:
    """All histories, one after the other, by lock and VCPU; a row for each event.

    `at` is the event's position. `next_at` and `next_kind` are those of the next event of the same
    history: the end of the table, and NONE, after the last one. `cut` marks rows after which the
    VCPU lost events, before its next event or the end of the run. `previous` is the kind of the
    event before in the same history: NONE for the first one, and where events were lost between.
    """

    at: Ints
    vcpu: Ints
    lock: Ints
    kind: NDArray[np.uint8]
    next_at: Ints
    next_kind: NDArray[np.uint8]
    cut: Bools
    previous: NDArray[np.uint8]


def histories(events: Events, at: Ints, lock: Ints, locks: int, gaps: Gaps) -> Histories:
    """Sort the events at positions `at`, each with `lock`, one of `locks`, into histories."""
    history = keys(lock, events.vcpus, events.vcpu[at])
    order = stable_order(history, max(locks * events.vcpus, 1))
    at, history, lock = at[order].astype(np.int32), history[order], lock[order]
    kind, vcpu = events.kind[at], events.vcpu[at]
    final = stops(len(at), history[1:] == history[:-1])
    next_at = np.append(at[1:], 0)[: len(at)]
    next_at[final] = len(events)
    next_kind = np.append(kind[1:], 0)[: len(at)].astype(np.uint8)
    next_kind[final] = NONE
    cut = gaps.between(vcpu, at, next_at)
    previous = np.append(0, kind[:-1])[: len(at)].astype(np.uint8)
    previous[np.append(True, final | cut)[: len(at)]] = NONE
    return Histories(at, vcpu, lock, kind, next_at, next_kind, cut, previous)
