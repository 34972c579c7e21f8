# SPDX-License-Identifier: GPL-2.0-or-later
"""A schedule that is known to the nanosecond, and what the guest must see on it.

VCPU 0 has a CPU to itself, and writes down each change of VCPU 1's flag. VCPU 1 gets its CPU and
loses it at known times. Only an engine with scripted schedules can do this.
"""

import itertools
from collections.abc import Sequence
from typing import cast

from pvlock.engines.contract import Placement

CHANGES_NS = (40_000_000, 40_040_000, 40_050_000, 40_051_000, 40_120_000, 40_200_000, 40_477_000,
              40_600_000, 42_000_000, 42_003_000)  # fmt: skip
"""VCPU 1 loses its CPU at the first of these times, gets it back at the second, and so on."""
WATCH_NS = 42_100_000
"""How long the guest watches."""
SLACK_NS = 100
"""How late the guest may see a change: by a turn of its loop and the rest of a block."""

Event = tuple[int, int, int]
"""Time in ns, flag, heartbeats."""


def script() -> list[Placement]:
    """Return the schedule. Until its first change both VCPUs have a CPU, so that they can start."""
    lines = [Placement(0, 0, 0), Placement(0, 1, 1)]
    for number, time in enumerate(CHANGES_NS):
        lines.append(Placement(time, 1, None if number % 2 == 0 else 1))
    return lines


def mismatch(evidence: object) -> str:
    """Return why the events that the guest saw are not those of script(), or an empty text.

    `evidence` is what the guest printed: a list of lists of three numbers.

    >>> mismatch([[0, 0, 0], [40_000_007, 1, 9]])
    '1 changes of the flag at 10 switches'
    """
    if not isinstance(evidence, list) or not all(_is_event(event) for event in evidence):
        return "the guest reported no events"
    events = [cast(Event, tuple(event)) for event in evidence]
    if not events or events[0][1] != 0 or events[0][0] >= CHANGES_NS[0]:
        return "the flag was not 0 before the first switch"
    if len(events) != len(CHANGES_NS) + 1:
        return f"{len(events) - 1} changes of the flag at {len(CHANGES_NS)} switches"
    for number, (switch, event) in enumerate(zip(CHANGES_NS, events[1:], strict=True)):
        seen, flag, _ = event
        if flag != (number + 1) % 2:
            return f"at {switch} ns the flag became {flag}"
        if not switch <= seen <= switch + SLACK_NS:
            return f"the switch at {switch} ns was seen at {seen} ns"
    return _progress(events)


def _progress(events: Sequence[Event]) -> str:
    """Check that VCPU 1 ran while its flag was 0. The guest checks that it stood still at 1."""
    for (_, flag, beats), (until, _, later) in itertools.pairwise(events):
        if not flag and beats == later:
            return f"VCPU 1 did not run before {until} ns"
    return ""


def _is_event(event: object) -> bool:
    return isinstance(event, list) and len(event) == 3 and all(isinstance(n, int) for n in event)
