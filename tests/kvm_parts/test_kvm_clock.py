# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock of traces on KVM, with a counter made of CLOCK_MONOTONIC in place of a guest's."""

import time

from pvlock.engines.kvm.clock import Clock

HZ = 62_500_000
TICK_NS = 16
BEHIND_NS = 123_456_789_012


class Guest:
    """A counter that starts long after the host did, and can be made to run ahead of it."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def read(self) -> int:
        ns = time.monotonic_ns() - self.begin + BEHIND_NS + self.ahead_ns
        return ns * HZ // 1_000_000_000

    begin = time.monotonic_ns()

    def ns(self, clock: Clock) -> int:
        """Return what an event that is stamped now has as its time."""
        return self.read() * 1_000_000_000 // HZ + clock.counter.offset_ns


def test_both_sides_have_one_time() -> None:
    guest = Guest()
    clock = Clock(guest.read, HZ)
    assert clock.counter.hz == HZ
    assert TICK_NS <= clock.skew_ns < 100_000
    for _ in range(100):
        before = clock.now()
        at = guest.ns(clock)
        after = clock.now()
        assert before - clock.skew_ns <= at <= after + clock.skew_ns
    assert 0 <= clock.now() < 60_000_000_000


def test_what_they_go_apart_is_said() -> None:
    guest = Guest()
    clock = Clock(guest.read, HZ)
    error = clock.skew_ns
    clock.begin()
    guest.ahead_ns = 10_000_000
    clock.end()
    assert 10_000_000 - 2 * error <= clock.skew_ns <= 10_000_000 + 3 * max(error, 100_000)
    before, apart = clock.now(), clock.skew_ns
    assert before < guest.ns(clock)
    clock.begin()
    assert abs(clock.now() - guest.ns(clock)) < 5_000_000, "compared anew, they agree"
    assert clock.skew_ns == apart, "and what was before is not forgotten"
