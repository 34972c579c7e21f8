# SPDX-License-Identifier: GPL-2.0-or-later
"""Collects the events of one machine while it runs: the engine's switches, the guest's rings."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pvlock.engines.contract import SWITCH, HostEvent, Recording
from pvlock.memory import MemorySlot
from pvlock.trace.events import MOST_EVENTS, Events, Flag, Kind, Setting
from pvlock.trace.rings import ROW, Rings, region_size

_FIELDS = zip(("time", "vcpu", "cpu", "event"), SWITCH.format.removeprefix("<"), strict=True)
SWITCH_ROW = np.dtype([(name, f"<{code}") for name, code in _FIELDS])
_KINDS = {
    HostEvent.IN: (Kind.SCHED_IN, 0),
    HostEvent.SLICE: (Kind.PREEMPTED, 0),
    HostEvent.YIELD: (Kind.PREEMPTED, Flag.YIELD),
    HostEvent.WFI: (Kind.BLOCKED, 0),
    HostEvent.OFF: (Kind.OFF, 0),
    HostEvent.SCRIPT: (Kind.PREEMPTED, Flag.SCRIPT),
    HostEvent.READY: (Kind.READY, 0),
}
_SLACK_NS = 10_000_000

_Rows = NDArray[np.void]


class Recorder:
    """Call collect() now and then while the machine runs, and events() at the end."""

    region_size = staticmethod(region_size)

    def __init__(
        self, slot: MemorySlot, vcpus: int, pcpus: int, engine: Recording, limit: int = MOST_EVENTS
    ) -> None:
        """Offer the guest its rings in `slot`; keep at most about `limit` events."""
        self._vcpus, self._pcpus, self._engine, self._limit = vcpus, pcpus, engine, limit
        self._rings = Rings(slot, vcpus, engine.counter, engine.ring_events)
        self._rows: list[list[_Rows]] = [[] for _ in range(vcpus)]
        self._switches: list[_Rows] = []
        self._count = 0
        self._end: int | None = None
        self._dropped = np.zeros(vcpus, np.int64)

    def collect(self, now_ns: int, slack_ns: int = _SLACK_NS) -> None:
        """Take the events that are new; the engine's clock shows `now_ns`, within `slack_ns`."""
        switches = np.frombuffer(self._engine.take_switches(), SWITCH_ROW)
        known = (switches["vcpu"] >= 0) & (switches["vcpu"] < self._vcpus)
        switches = switches[known & (switches["time"] >= 0)]
        drained = self._rings.drain(now_ns + slack_ns)
        if self._end is not None:
            self._dropped += np.bincount(switches["vcpu"], minlength=self._vcpus)
            for vcpu, rows in drained:
                self._dropped[vcpu] += len(rows)
            return
        self._switches.append(switches)
        self._count += len(switches)
        for vcpu, rows in drained:
            self._rows[vcpu].append(rows)
            self._count += len(rows)
        if self._count >= self._limit:
            self._end = now_ns

    def events(self, end_ns: int, settings: Mapping[str, Setting], start_ns: int = 0) -> Events:
        """Return all events of a run up to now, which is `end_ns` on the engine's clock.

        The run began at `start_ns` on that clock; that is 0 in the events' times.
        """
        switches = np.concatenate([np.empty(0, SWITCH_ROW), *self._switches])
        by_vcpu = np.argsort(switches["vcpu"], kind="stable")
        bounds = np.searchsorted(switches["vcpu"][by_vcpu], np.arange(self._vcpus + 1))
        parts = [
            _in_order(
                scheduling(switches[by_vcpu[bounds[vcpu] : bounds[vcpu + 1]]]),
                np.concatenate([np.empty(0, ROW), *self._rows[vcpu]]),
            )
            for vcpu in range(self._vcpus)
        ]
        rows = np.concatenate(parts)
        vcpu = np.repeat(np.arange(self._vcpus, dtype=np.int32), [len(part) for part in parts])
        order = np.argsort(rows["time"], kind="stable")
        rows, vcpu = rows[order], vcpu[order]
        time = np.maximum(rows["time"] - start_ns, 0)  # a guest writes what it likes
        last = int(time[-1]) if len(rows) else 0
        dropped = self._dropped.copy()
        if self._engine.lost_switches:
            dropped += np.array(self._engine.lost_switches, np.int64)
        locks = np.unique(rows["object"][(rows["kind"] >= Kind.CONTENDED)])
        return Events(
            time=time,
            vcpu=vcpu,
            kind=np.ascontiguousarray(rows["kind"]),
            object=np.ascontiguousarray(rows["object"]),
            other=np.ascontiguousarray(rows["other"]),
            flags=np.ascontiguousarray(rows["flags"]),
            vcpus=self._vcpus,
            pcpus=self._pcpus,
            start=0,
            end=max(last, (end_ns if self._end is None else self._end) - start_ns),
            names=self._rings.names(locks),
            dropped=tuple(
                lost + int(more) for lost, more in zip(self._rings.lost, dropped, strict=True)
            ),
            rejected=self._rings.rejected,
            skew_ns=self._engine.skew_ns,
            settings=dict(settings),
        )


def scheduling(switches: _Rows) -> _Rows:
    """Return what the host's scheduler did, packed as in SWITCH_ROW, as events."""
    kinds, flags = np.array([_KINDS[event] for event in HostEvent], np.uint8).T
    event = np.minimum(switches["event"], max(HostEvent))
    rows = np.empty(len(switches), ROW)
    rows["time"], rows["object"], rows["other"] = switches["time"], switches["cpu"], -1
    rows["kind"], rows["flags"] = kinds[event], flags[event]
    return rows


def _in_order(scheduling: _Rows, guest: _Rows) -> _Rows:
    """Return both kinds of events of one VCPU in one order.

    What the guest did, it did on a CPU: so at equal times, its events come after SCHED_IN and
    before the VCPU leaves the CPU.
    """
    times = scheduling["time"]
    is_in = scheduling["kind"] == Kind.SCHED_IN
    place = np.searchsorted(times, guest["time"], side="left")
    # Where the VCPU was off its CPU up to the time of a guest's event, it came back before it.
    after_in = np.append(False, is_in)[place]
    ins = np.append(np.flatnonzero(is_in), len(scheduling))
    back = ins[np.searchsorted(ins, place)]
    same = np.append(times, np.iinfo(np.int64).max)[back] == guest["time"]
    place = np.where(~after_in & same, back + 1, place)
    keys = np.concatenate([2 * np.arange(len(scheduling)) + 1, 2 * place])
    rows: _Rows = np.concatenate([scheduling, guest])[np.argsort(keys, kind="stable")]
    return rows
