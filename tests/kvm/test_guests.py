# SPDX-License-Identifier: GPL-2.0-or-later
"""The same guest binaries run on KVM as on the emulator."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvm.conftest import DEADLINE_NS
from pvlock import Machine, SystemEvent, workload

Guest = Callable[[str], Path]
Emulated = Callable[[str], str]
SETTINGS = {"vcpus": 4, "pcpus": 2, "duration_ns": 30_000_000, "engine": "kvm"}

FORCED = {"arch-features", "arch-features-high", "arch-features-other"}
"""What the host's kernel answers itself: user space cannot have these calls (clause 4.3)."""
AS_A_CALL = "SMC"
"""KVM takes SMC for a call too; the emulator has no such conduit."""
UNLIKE = {"TIMER", "REGISTERS"}
"""Times and identification registers are the host's."""


def console(path: Path) -> str:
    with Machine(2, engine="kvm") as machine:
        machine.load(path)
        assert machine.run(DEADLINE_NS) is SystemEvent.OFF, machine.console.text
        return machine.console.text


@pytest.mark.parametrize("name", ["idle", "mutex", "qspinlock", "rwsem", "ticket"])
@pytest.mark.parametrize("run", ["with", "without"])
def test_bundled_guests(name: str, run: str, nothing_left: None) -> None:
    result = workload.run(run, workload.Settings(guest=name, **SETTINGS))  # type: ignore[arg-type]
    assert result is not None
    assert result.report.pvlock == (run == "with")
    assert len(result.report.vcpus) == 4
    assert name == "idle" or result.acquisitions > 0


def test_calls_answer_as_on_the_emulator(guest: Guest, emulated: Emulated) -> None:
    ours, theirs = console(guest("calls")).splitlines(), emulated("calls").splitlines()
    assert len(ours) == len(theirs) > 10
    for mine, expected in zip(ours, theirs, strict=True):
        name = mine.split()[0]
        if name not in FORCED:
            assert mine == expected
    assert ours[0] == f"arch-features {2**64 - 1:x}", "this host's kernel knows PV-lock?"


def test_stores_abort_as_on_the_emulator(guest: Guest, emulated: Emulated) -> None:
    """The guest prints the same for each kind of store: syndrome, address, and memory unchanged."""
    ours = console(guest("stores"))
    assert ours == emulated("stores")
    assert ours.count("before 0 after 0") == 19


def test_faults_reach_the_guests_vector_as_on_the_emulator(
    guest: Guest, emulated: Emulated
) -> None:
    ours, theirs = facts(console(guest("contract"))), facts(emulated("contract"))
    assert ours.keys() == theirs.keys()
    for name, mine in ours.items():
        if name in {AS_A_CALL, *UNLIKE}:
            continue
        is_abort = theirs[name]["esr"] >> 26 in (0x20, 0x21, 0x24, 0x25)
        wanted = ("at", "vector", "esr", "elr", *(("far",) if is_abort else ()))
        assert {k: mine[k] for k in wanted} == {k: theirs[name][k] for k in wanted}, name
    assert ours["REGISTERS"]["mpidr"] == theirs["REGISTERS"]["mpidr"]
    assert ours["TIMER"]["vector"] == theirs["TIMER"]["vector"]


def facts(text: str) -> dict[str, dict[str, int]]:
    found = {}
    for line in text.splitlines():
        name, *words = line.split()
        found[name] = {k: int(v, 16) for k, v in zip(words[::2], words[1::2], strict=True)}
    return found


def test_a_vcpu_that_comes_back_keeps_its_address(guest: Guest) -> None:
    with Machine(2, engine="kvm") as machine:
        machine.load(guest("reset"))
        assert machine.run(DEADLINE_NS) is SystemEvent.OFF, machine.console.text
        address = f"address {machine.pvlock.addresses[1]:x} "
        lines = machine.console.text.splitlines()
        assert len(lines) == 2 and all(line.startswith(address) for line in lines)
