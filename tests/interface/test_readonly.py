# SPDX-License-Identifier: GPL-2.0-or-later
"""The PV-lock region is read-only to guests (SPECIFICATION.md, section 7)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pvlock import Machine, SystemEvent

KINDS = (
    *("STR", "STRB", "STUR", "STR-post", "STLR", "STP", "STNP", "STXR", "STLXP"),
    *("LDADD", "STSET", "SWPAL", "CAS", "CASP"),
    *("SIMD-STR", "SIMD-STP", "SIMD-ST1", "SIMD-ST4", "DC-ZVA"),
)
DATA_ABORT_SAME_EL, EXTERNAL = 0x25, 0x10


@pytest.fixture(scope="module")
def stores(guest: Callable[[str], Path]) -> dict[str, list[int]]:
    """Run the guest that tries every store; the structure holds a pattern that it did not write."""
    with Machine(1) as machine:
        machine.load(guest("stores"))
        assert machine.run(10_000_000) is SystemEvent.OFF
        lines = [line.split() for line in machine.console.text.splitlines()]
        assert machine.memory.read(machine.pvlock.addresses[0], 64, "test") == bytes(64)
        assert lines[-1] == ["end"], machine.console.text
        found = {line[0]: [int(word, 16) for word in line[2::2]] for line in lines[1:-1]}
        return found | {"structure": [int(lines[0][1], 16)]}


@pytest.mark.parametrize("kind", KINDS)
def test_store_aborts_and_changes_nothing(stores: dict[str, list[int]], kind: str) -> None:
    (structure,) = stores["structure"]
    esr, far, before, after = stores[kind]
    assert esr >> 26 == DATA_ABORT_SAME_EL
    assert esr & 0x3F == EXTERNAL
    assert structure <= far < structure + 64
    assert before == after == 0


def test_every_kind_was_tried(stores: dict[str, list[int]]) -> None:
    assert set(stores) == {"structure", *KINDS}


def test_store_does_not_undo_a_published_flag(guest: Callable[[str], Path]) -> None:
    """The same stores while the field is not 0: it stays as the host wrote it."""
    with Machine(1) as machine:
        machine.load(guest("stores"))
        while "structure" not in machine.console.text:
            assert machine.run(machine.usage().time_ns + 1_000) is None
        machine.memory.write_u64(machine.pvlock.addresses[0], 1, "test")
        assert machine.run(10_000_000) is SystemEvent.OFF
        for line in machine.console.text.splitlines()[1:-1]:
            assert line.endswith("before 1 after 1"), line
