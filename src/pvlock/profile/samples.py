# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples as an engine packs them, and the call stacks in them."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pvlock.engines.contract import SAMPLE, Awaits
from pvlock.errors import TraceError
from pvlock.profile.frames import USER, Names

_IN_WFE = 1


class Frame(NamedTuple):
    """A function in a call stack; `address` is 0 where the name stands for many addresses."""

    name: str
    address: int
    kernel: bool


Stack = tuple[Frame, ...]
"""Innermost first."""


class Sample(NamedTuple):
    """What a VCPU did at `points` times of the grid in a row, from `time_ns` on."""

    time_ns: int
    points: int
    vcpu: int
    stack: int
    """Which of the stacks."""
    waits: bool
    """It waited in WFE, on its CPU."""
    awaits: Awaits
    awaited: int | None
    """The VCPU that it spun for, as far as that is known."""


class Stacks:
    """All stacks, each kept once."""

    def __init__(self, names: Names) -> None:
        """Begin with none."""
        self.all: list[Stack] = []
        self._names = names
        self._by_addresses: dict[tuple[int, ...], int] = {}
        self._by_stack: dict[Stack, int] = {}

    def number(self, kernel: tuple[int, ...], user: tuple[int, ...], into: int, lr: int) -> int:
        """Return which stack these addresses are."""
        caller = lr if kernel and not self._names.has_frame(kernel[0] - 4 * into) else 0
        key = (len(kernel), caller, *kernel, *user)
        number = self._by_addresses.get(key)
        if number is None:
            stack = self._stack(kernel, user, caller)
            number = self._by_stack.setdefault(stack, len(self.all))
            if number == len(self.all):
                self.all.append(stack)
            self._by_addresses[key] = number
        return number

    def _stack(self, kernel: tuple[int, ...], user: tuple[int, ...], caller: int) -> Stack:
        addresses = list(kernel)
        if caller >> 63 and caller not in kernel[1:2]:
            addresses.insert(1, caller)
        frames = []
        for index, address in enumerate(addresses):
            # What is called returns behind the call, which may be another function.
            name = self._names.kernel(address - 4 if index else address)
            frames.append(Frame(name, address, True))
        for index, address in enumerate(user):
            name = self._names.user(address - 4 if index else address)
            frame = Frame(name, 0 if name == USER else address, False)
            if name != USER or not frames or frames[-1].name != USER:
                frames.append(frame)
        return tuple(frames)


def unpack(packed: bytes, stacks: Stacks) -> Iterator[Sample]:
    """Read what Sampled.take_samples() returns. Raises TraceError for nonsense."""
    at, end = 0, len(packed)
    try:
        while at < end:
            (
                time, _task, lr, _owner, points, vcpu, awaited, awaits, flags, kernel, user, into
            ) = SAMPLE.unpack_from(packed, at)  # fmt: skip
            at += SAMPLE.size
            frames = struct.unpack_from(f"<{kernel + user}Q", packed, at)
            at += 8 * (kernel + user)
            yield Sample(
                time,
                points,
                vcpu,
                stacks.number(frames[:kernel], frames[kernel:], into, lr),
                bool(flags & _IN_WFE),
                Awaits(awaits),
                awaited if awaited >= 0 else None,
            )
    except (struct.error, ValueError):
        raise TraceError("the engine's samples make no sense") from None
