# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of what bpf/top.bpf.c keeps, and what it means."""

import enum
import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pvlock.top.threads import CLASSES, Displacer

GENERAL = struct.Struct("<4I")
"""epoch, features, unplaced, lost."""
PAIR = struct.Struct("<2I")
"""Slot, who: the key of a charge."""
CHARGE = struct.Struct("<Q16s")
"""ns, and the displacer's name."""
PLACE = struct.Struct("<I")
"""A slot's number; also a sequence, a thread ID."""

_SLOT = struct.Struct(f"<6I24Q2I16s{CLASSES}I")
SLOT_SIZE = -(-_SLOT.size // 8) * 8
LONGEST_AT, CHARGED_AT = 160, 176
U64 = struct.Struct("<Q")
TID_AT = 8
_HEAD_OF_SLOT = struct.Struct("<6IQ")
_READY_BY_AT = 220

DEPTH = 1024
_HEAD = struct.Struct("<2I")
_STRETCH = struct.Struct("<QII16s")
LOG_SIZE = _HEAD.size + DEPTH * _STRETCH.size

RECORD = struct.Struct("<Q6I16s")
"""Time, CPU, woken, previous, next, runnable, had, and the name of the next: see struct record."""

NO_VCPU = 0xFFFF_FFFF
_THREAD = 1 << 31


class State(enum.IntEnum):
    """What a thread does."""

    FREE = 0
    RUNNING = 1
    READY = 2
    BLOCKED = 3
    DEAD = 4


class ReadyBy(enum.IntEnum):
    """How a thread became READY; UNSEEN: before it was watched."""

    WOKEN = 0
    PREEMPTED = 1
    UNSEEN = 2


class Feature(enum.IntFlag):
    """What the program found in this kernel."""

    NOTIFIERS = 1
    VCPUS = 2
    THROTTLED = 4
    WFE_EXITS = 8
    YIELDS_TRIED = 16


class Slot(NamedTuple):
    """The members of struct slot that are of use here, in its order."""

    sequence: int
    state: State
    tid: int
    tgid: int
    vcpu: int
    cpu: int
    vm: int
    began: int
    since: int
    running: int
    ready: int
    blocked: int
    throttled: int
    open_throttled: int
    untold: int
    preemptions: int
    waits: int
    migrations: int
    exits: int
    vain: int
    yields: int
    longest: tuple[int, int]
    charged: int
    name: str
    gaps: tuple[int, ...]


class Glance(NamedTuple):
    """What a thread does at the moment: the members of struct slot that say so."""

    sequence: int
    state: State
    tid: int
    tgid: int
    vm: int
    ready_by: ReadyBy


def glance(data: mmap.mmap, start: int) -> Glance:
    """Take out of the slot at `start` what says what its thread does."""
    sequence, state, tid, tgid, _vcpu, _cpu, vm = _HEAD_OF_SLOT.unpack_from(data, start)
    (by,) = PLACE.unpack_from(data, start + _READY_BY_AT)
    return Glance(sequence, State(state), tid, tgid, vm, ReadyBy(by))


def slot(data: bytes) -> Slot:
    """Take a slot apart."""
    (
        sequence, state, tid, tgid, vcpu, cpu,
        vm, _address, began, since,
        _free, running, ready, blocked,
        throttled, open_throttled, untold, preemptions,
        waits, migrations, exits,
        vain, yields, longest, other,
        charged, _queue, _queue_throttled, _behind,
        _before, _home, _unused, name, *gaps,
    ) = _SLOT.unpack_from(data)  # fmt: skip
    return Slot(
        sequence, State(state), tid, tgid, vcpu, cpu, vm, began, since, running, ready, blocked,
        throttled, open_throttled, untold, preemptions, waits, migrations, exits, vain, yields,
        (longest, other), charged, text(name), tuple(gaps),
    )  # fmt: skip


def displacer(who: int) -> Displacer:
    """Say who that is."""
    return Displacer(who & ~_THREAD, bool(who & _THREAD))


def text(name: bytes) -> str:
    """Return a name of the kernel's as text."""
    return name.split(b"\0")[0].decode(errors="replace")


def open_charges(log: bytes, charged: int, now: int) -> Iterator[tuple[Displacer, int, str]]:
    """Say who had the CPU of this log from `charged` up to now, and how long; as charge_wait()."""
    head, _ = _HEAD.unpack_from(log)
    until = now
    for back in range(DEPTH - 1):
        if until <= charged:
            return
        place = _HEAD.size + (head - back) % DEPTH * _STRETCH.size
        begun, who, _, name = _STRETCH.unpack_from(log, place)
        if not begun:
            return
        begun = max(begun, charged)
        if begun < until:
            yield displacer(who), until - begun, text(name)
            until = begun
