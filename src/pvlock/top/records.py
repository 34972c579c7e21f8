# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals as JSON, one object a line, and as CSV, one line for each thread. Times are in ns."""

import csv
import dataclasses
import datetime
import io
import json
from typing import Any

from pvlock.report import document
from pvlock.top.flags import Compared
from pvlock.top.session import Interval, Session
from pvlock.top.usage import ThreadUsage, Usage, VmUsage

_FIELDS = {
    "span_ns": "span",
    "running_ns": "running",
    "ready_ns": "ready",
    "throttled_ns": "throttled",
    "blocked_ns": "blocked",
    "preemptions": "preemptions",
    "gaps": "waits",
    "gap_p99_ns": "p99",
    "gap_longest_ns": "longest",
    "migrations": "migrations",
    "wait_exits": "exits",
    "wait_exits_in_vain": "vain",
    "directed_yields": "yields",
}
_WHO = ("time", "interval_ns", "source", "vm", "pid", "vcpu", "tid", "thread")
_FLAG = ("flag_looks", "flag_set", "flag_truth", "flag_differs")
_MOST = 10


def to_json(interval: Interval, session: Session) -> str:
    """Return a line; null is what cannot be told."""
    record = {
        "time": _time(interval),
        "interval_ns": interval.ns,
        "source": session.source,
        "unplaced_threads": interval.unplaced,
        "vms": [_vm(vm, interval, session) for vm in interval.vms],
    }
    return json.dumps(document("top", record)) + "\n"


def csv_header() -> str:
    """Return the first line."""
    return _line([*_WHO, *_FIELDS, *_FLAG, "displaced_by"])


def to_csv(interval: Interval, session: Session) -> str:
    """Return a line for each thread; an empty field is what cannot be told."""
    lines = []
    for vm in interval.vms:
        name = session.names.vm(vm.tgid)
        for each in vm.threads:
            thread = each.thread
            who = (_time(interval), interval.ns, session.source, name, vm.tgid, thread.vcpu)
            by = session.names.displaced_by(each)
            displaced = None if by is None else ";".join(f"{n}={ns}" for n, ns in by[:_MOST])
            of_flag = interval.flags.get(thread.key.tid)
            flag: list[int | None] = [None] * len(_FLAG)
            if of_flag is not None:
                flag = [of_flag.looks, of_flag.flag, of_flag.truth, of_flag.differ]
            values = (*_values(each).values(), *flag)
            lines.append(_line([*who, thread.key.tid, thread.name, *values, displaced]))
    return "".join(lines)


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _time(interval: Interval) -> str:
    ended = datetime.datetime.fromtimestamp(interval.ended, datetime.UTC)
    return ended.isoformat(timespec="milliseconds")


def _values(usage: Usage) -> dict[str, Any]:
    return {name: getattr(usage, attribute) for name, attribute in _FIELDS.items()}


def _vm(vm: VmUsage, interval: Interval, session: Session) -> dict[str, Any]:
    return {
        "name": session.names.vm(vm.tgid),
        "pid": vm.tgid,
        **_values(vm),
        "displaced_by": _displaced(vm, session),
        "threads": [_thread(each, interval, session) for each in vm.threads],
    }


def _thread(each: ThreadUsage, interval: Interval, session: Session) -> dict[str, Any]:
    return {
        "vcpu": each.thread.vcpu,
        "tid": each.thread.key.tid,
        "thread": each.thread.name,
        "alive": each.thread.alive,
        **_values(each),
        "flag": _flag(interval.flags.get(each.thread.key.tid)),
        "displaced_by": _displaced(each, session),
    }


def _flag(compared: Compared | None) -> dict[str, Any] | None:
    return None if compared is None else dataclasses.asdict(compared)


def _displaced(usage: Usage, session: Session) -> list[dict[str, Any]] | None:
    by = session.names.displaced_by(usage)
    return None if by is None else [{"name": name, "ns": ns} for name, ns in by[:_MOST]]
