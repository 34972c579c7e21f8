# SPDX-License-Identifier: GPL-2.0-or-later
"""Both levels of a Linux guest in one: what its tasks did, and whether they had a CPU for it.

In a trace of a Linux guest a task has a VCPU, and a VCPU has a CPU. A task runs while both hold. It
loses the CPU with its VCPU, by the host's scheduler, or it loses the VCPU, by the guest's.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvlock.trace.columns import Ints
from pvlock.trace.events import Events, Flag, Kind


def by_task(events: Events) -> Events:
    """Return the events of the tasks in `events`, as those of VCPUs that share the machine's CPUs.

    The schedule events of a task are its own (Flag.GUEST), and, while it has a VCPU, those of that
    VCPU; `object` is the VCPU in both. Any other table is returned as it is.

    Task 0 has VCPU 0 from 10 to 50 ns, and the host takes its CPU at 20 ns:

    >>> from pvlock.trace.events import Flag
    >>> rows = [  # time, VCPU or task, kind, object, flags
    ...     (0, 0, Kind.SCHED_IN, 0, 0), (10, 1, Kind.SCHED_IN, 0, Flag.GUEST),
    ...     (20, 0, Kind.PREEMPTED, 0, 0), (40, 0, Kind.SCHED_IN, 0, 0),
    ...     (50, 1, Kind.BLOCKED, 0, Flag.GUEST),
    ... ]
    >>> time, vcpu, kind, objects, flags = np.array(rows).T
    >>> none = time * 0 - 1
    >>> two = Events(time, vcpu, kind, objects, none, flags, 2, 1, 0, 60, {1: "make"}, tasks=1)
    >>> one = by_task(two)
    >>> [(int(at), Kind(kind).name) for at, kind in zip(one.time, one.kind)]
    [(10, 'SCHED_IN'), (20, 'PREEMPTED'), (40, 'SCHED_IN'), (50, 'BLOCKED')]
    >>> one.vcpu_name(0)
    'make'
    """
    return by_task_from(events)[0]


def by_task_from(events: Events) -> tuple[Events, Ints]:
    """Return the same as by_task(), and where in `events` each of its events is."""
    vcpus = events.vcpus - events.tasks
    if not events.tasks or not vcpus:
        return events, np.arange(len(events))
    own = np.flatnonzero(events.vcpu >= vcpus)
    host, task = _of_hosts(events, vcpus)
    at = np.concatenate([own, host])
    actor = np.concatenate([events.vcpu[own] - vcpus, task])
    # As the table has it: at one time a CPU comes first, and goes last.
    place = np.ones(len(at), np.int8)
    place[len(own) :] = np.where(events.kind[host] == Kind.SCHED_IN, 0, 2)
    order = np.lexsort((at, place, events.time[at]))
    at, actor, place = at[order], actor[order], place[order]
    objects, other = events.object[at], events.other[at]
    from_host = place != 1
    objects[from_host] = events.vcpu[at[from_host]].astype(np.uint64)
    names = {
        number - vcpus if number < events.vcpus else number: name
        for number, name in events.names.items()
        if number >= vcpus
    }
    result = replace(
        events,
        time=events.time[at],
        vcpu=actor.astype(np.int32),
        kind=events.kind[at],
        object=objects,
        other=np.where(other >= 0, other - vcpus, -1).astype(np.int32),
        flags=events.flags[at],
        vcpus=events.tasks,
        names=names,
        settings=events.settings | {"vcpus": vcpus},
    )
    return result, at


def _of_hosts(events: Events, vcpus: int) -> tuple[Ints, Ints]:
    """Return the schedule events of VCPUs that had a task, and which task of the table that was."""
    switched = np.flatnonzero(
        (events.vcpu >= vcpus)
        & ((events.flags & Flag.GUEST) != 0)
        & (events.kind < Kind.READY)
        & (events.object < vcpus)
    )
    host = np.flatnonzero((events.vcpu < vcpus) & (events.kind <= Kind.READY))
    # By VCPU, and then by place in the table: who has it from there on, or nobody.
    span = len(events) + 1
    key = events.object[switched].astype(np.int64) * span + switched
    order = np.argsort(key, kind="stable")
    key, switched = key[order], switched[order]
    wanted = events.vcpu[host].astype(np.int64) * span + host
    before = np.searchsorted(key, wanted) - 1
    known = before >= 0
    known[known] &= key[before[known]] // span == events.vcpu[host[known]]
    known[known] &= events.kind[switched[before[known]]] == Kind.SCHED_IN
    return host[known], _narrow(events.vcpu[switched[before[known]]] - vcpus)


def _narrow(values: NDArray[Any]) -> Ints:
    return values.astype(np.int32)
