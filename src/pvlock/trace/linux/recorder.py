# SPDX-License-Identifier: GPL-2.0-or-later
"""Collects the events of a machine that runs Linux: of the host, of its tasks, of its locks.

The guest does nothing for it: the engine watches functions of its kernel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvlock.engines.contract import WATCHED, Seen, WatchingRecording
from pvlock.trace.columns import MOST_VCPUS
from pvlock.trace.events import MOST_EVENTS, Events, Kind, Setting
from pvlock.trace.linux import names
from pvlock.trace.linux.locks import KIND_OF, Locks
from pvlock.trace.linux.points import (
    CALLER,
    CALLERS_CALLER,
    COUNT,
    NEXT_PID,
    OWNER,
    PREVIOUS_COMM,
    PREVIOUS_PID,
    Points,
    Role,
)
from pvlock.trace.linux.rows import Rows
from pvlock.trace.linux.tasks import Tasks
from pvlock.trace.recorder import SWITCH_ROW, scheduling

_RELEASES = (Role.MUTEX_UNLOCK, Role.OSQ_UNLOCK, Role.UP_READ, Role.UP_WRITE, Role.DOWNGRADE)


class LinuxRecorder:
    """Call collect() now and then while the machine runs, and events() at the end."""

    def __init__(
        self, points: Points, vcpus: int, pcpus: int, engine: WatchingRecording,
        limit: int = MOST_EVENTS,
    ) -> None:  # fmt: skip
        """Watch `points` of the guest's kernel; keep at most about `limit` events."""
        self._points, self._vcpus, self._pcpus = points, vcpus, pcpus
        self._engine, self._limit = engine, limit
        self._rows = Rows()
        self._tasks = Tasks(self._rows, vcpus)
        self._locks = Locks(self._rows, self._tasks)
        self._switches: list[NDArray[Any]] = []
        self._count = self._lost = 0
        self._end: int | None = None
        engine.watch(points.points)

    def collect(self, now_ns: int, slack_ns: int = 0) -> None:
        """Take the events that are new; the engine's clock shows `now_ns`."""
        switches = np.frombuffer(self._engine.take_switches(), SWITCH_ROW)
        records, lost = self._engine.take_watched()
        self._lost += lost
        if self._end is not None:
            self._lost += len(switches)
            return
        self._switches.append(switches)
        self._count += len(switches)
        for record in WATCHED.iter_unpack(records):
            self._take(record)
        if lost:
            self._locks.forget()
        if self._count + len(self._rows) >= self._limit:
            self._end = now_ns

    def _take(self, record: tuple[int, ...]) -> None:
        time, lock, x0, x1, _, lr, address = record[:7]
        point, vcpu, kind, last = record[13:]
        role, values = self._points.roles[point], record[7:13]
        if kind == Seen.WORDS:
            self._locks.words(lock, (x0, x1), bool(last), time)
            return
        if kind == Seen.RETURN and role is Role.WAKE:
            self._tasks.woke(lock, bool(x0 & 0xFFFFFFFF))
            return
        task = self._tasks.on(vcpu, address, time)
        if kind == Seen.RETURN:
            if role in KIND_OF:
                self._locks.wait_over(task, lock, role, x0, time)
        elif role in KIND_OF:
            callers = (lr, values[CALLER], values[CALLERS_CALLER])
            words = values[OWNER], values[COUNT]
            if role in (Role.RWSEM_READ, Role.RWSEM_WRITE):
                words = values[COUNT], values[OWNER]
            self._locks.wait(task, lock, role, words, callers, time)
        elif role is Role.SWITCH:
            known = self._points
            if known.has_comm:
                task.name = _text(values[PREVIOUS_COMM : PREVIOUS_COMM + 2])
            if known.has_pid:
                task.pid = values[PREVIOUS_PID]
            pid = values[NEXT_PID] if known.has_pid else None
            self._tasks.switched(vcpu, task, x1, pid, time)
        elif role is Role.WAKE:
            self._tasks.waking(x0, time)
        elif role is Role.NEW:
            self._tasks.made(x0, time)
        elif role in _RELEASES:
            self._locks.released(task, lock, role, time)
        elif role is Role.FUTEX_WAKE:
            self._locks.woken(task, lock, time)

    def events(self, end_ns: int, settings: Mapping[str, Setting], start_ns: int = 0) -> Events:
        """Return all events of a run up to now, which is `end_ns` on the engine's clock."""
        rows = self._rows.table()
        chosen, number = self._chosen(rows)
        rows = rows[number[rows["task"]] >= 0]
        switches = np.concatenate([np.empty(0, SWITCH_ROW), *self._switches])
        host = scheduling(switches)
        time = np.concatenate([host["time"], rows["time"]])
        kind = np.concatenate([host["kind"], rows["kind"]])
        # At one time a VCPU gets its CPU first, and loses it last: in between, the guest runs.
        place = np.ones(len(time), np.int8)
        place[: len(host)] = np.where(host["kind"] == Kind.SCHED_IN, 0, 2)
        order = np.lexsort((place, time))
        other = rows["other"]
        other = np.where(other >= 0, number[np.maximum(other, 0)], -1)
        actors = np.concatenate([switches["vcpu"], number[rows["task"]]]).astype(np.int32)
        last = int(time[order[-1]]) if len(time) else 0
        end = max(last, (end_ns if self._end is None else self._end))
        return Events(
            time=time[order],
            vcpu=actors[order],
            kind=kind[order],
            object=np.concatenate([host["object"], rows["object"]])[order],
            other=np.concatenate([host["other"], other])[order].astype(np.int32),
            flags=np.concatenate([host["flags"], rows["flags"]])[order],
            vcpus=self._vcpus + len(chosen),
            pcpus=self._pcpus,
            start=0,
            end=end,
            names=self._names(rows, chosen),
            dropped=(self._lost, *([0] * (self._vcpus + len(chosen) - 1))),
            rejected=(),
            skew_ns=self._engine.skew_ns,
            settings=dict(settings) | {"vcpus": self._vcpus},
            tasks=len(chosen),
        )

    def _chosen(self, rows: NDArray[Any]) -> tuple[list[int], NDArray[np.int64]]:
        """Return the tasks that the table has, and the number there of each task, or -1.

        Those that have most to do with locks come first; there is not room for any number.
        """
        count = len(self._tasks.all)
        locking = np.bincount(rows["task"][rows["kind"] >= Kind.CONTENDED], minlength=count)
        any_ = np.bincount(rows["task"], minlength=count)
        order = np.lexsort((np.arange(count), -any_, -locking))
        order = order[(any_ > 0)[order]][: MOST_VCPUS - self._vcpus]
        chosen = order.tolist()
        number = np.full(count, -1)
        number[chosen] = self._vcpus + np.arange(len(chosen))
        return chosen, number

    def _names(self, rows: NDArray[Any], chosen: list[int]) -> dict[int, str]:
        found = {
            self._vcpus + place: self._tasks.all[task].called for place, task in enumerate(chosen)
        }
        locks = np.unique(rows["object"][rows["kind"] >= Kind.CONTENDED])
        for lock in locks.tolist():
            found[lock] = self._name_of(lock)
        return found

    def _name_of(self, lock: int) -> str:
        kind, callers = self._locks.callers[lock]
        behind = self._locks.behind.get(lock)
        if behind is not None:
            return f"{kind} of {self._name_of(behind)}"
        return names.name_of(kind, lock, callers, self._points.symbols)


def _text(words: tuple[int, ...]) -> str:
    raw = b"".join(word.to_bytes(8, "little") for word in words)
    text = raw.split(b"\0")[0].decode("ascii", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
