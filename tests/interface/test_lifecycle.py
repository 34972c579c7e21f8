# SPDX-License-Identifier: GPL-2.0-or-later
"""VCPUs that go off and on again (SPECIFICATION.md, lifecycle)."""

from collections.abc import Callable
from pathlib import Path

from pvlock import Machine, SystemEvent


def test_reset_keeps_addresses(guest: Callable[[str], Path]) -> None:
    with Machine(2) as machine:
        machine.load(guest("reset"))
        assert machine.run(10_000_000) is SystemEvent.OFF
        expected = f"address {machine.pvlock.addresses[1]:x} flag 1"
        assert machine.console.text.splitlines() == [expected, expected]
