# SPDX-License-Identifier: GPL-2.0-or-later
"""A worker process that dies, is killed or hangs: a typed error of its machine, and of no other."""

import os
import signal

import pytest

from asm import ENTRY, assemble, children, words
from fragments import SETUP, TELLING_VECTOR
from frail import ABORTS_UNICORN
from hostile import BRANCH_TO_SELF, MS, run
from pvlock.engines.contract import SystemEvent
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.errors import PvlockError, WorkerDied
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
def frail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that are made here can be killed by ABORTS_UNICORN."""
    monkeypatch.setattr(EmulatorEngine, "worker", "frail")


@pytest.mark.usefixtures("frail")
def test_a_worker_that_dies_is_a_typed_error_with_signal_vcpu_and_pc() -> None:
    died = run(words(ABORTS_UNICORN)).event
    assert isinstance(died, WorkerDied)
    assert died.how.startswith("signal SIGABRT")
    assert (died.vcpu, died.pc) == (0, ENTRY)
    for text in ("SIGABRT", "VCPU 0", f"{ENTRY:#x}"):
        assert text in str(died)


@pytest.mark.usefixtures("frail")
def test_the_vcpu_that_killed_the_worker_is_named() -> None:
    guest = assemble(f"cmp x0, #2\nb.ne .\nb 1f\n1: .inst {ABORTS_UNICORN:#x}")
    died = run(guest, vcpus=4, start_all=True).event
    assert isinstance(died, WorkerDied)
    assert died.vcpu == 2
    assert died.pc in range(ENTRY, ENTRY + 16)


@pytest.mark.usefixtures("frail")
def test_a_dead_machine_says_so_and_another_one_lives_on() -> None:
    with Machine() as good, Machine() as bad:
        good.load(words(BRANCH_TO_SELF))
        bad.load(words(ABORTS_UNICORN))
        with pytest.raises(WorkerDied):
            bad.run(MS)
        for _ in range(2):
            with pytest.raises(PvlockError):
                bad.run(MS)
            with pytest.raises(PvlockError):
                bad.vcpus[0].get("pc")
        assert good.run(MS) is None


@pytest.mark.usefixtures("frail")
def test_what_the_dying_worker_prints_stays_with_us(capfd: pytest.CaptureFixture[str]) -> None:
    """The caller gets one typed error; QEMU's last words are not for the caller's terminal."""
    run(words(ABORTS_UNICORN))
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_is_killed_is_a_typed_error() -> None:
    with Machine() as machine:
        machine.load(words(BRANCH_TO_SELF))
        machine.run(MS)
        before = children()
        assert len(before) == 1
        os.kill(before.pop(), signal.SIGKILL)
        with pytest.raises(WorkerDied) as died:
            machine.run(2 * MS)
        assert died.value.how == "signal SIGKILL"
        assert not children()


def test_a_worker_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would if Unicorn itself were in a loop: here the kernel stops it."""
    with Machine() as machine:
        machine.load(assemble("b ."))
        machine.run(1_000)
        # Not before: a worker that is well may take longer than this on a busy machine.
        monkeypatch.setattr(EmulatorEngine, "patience_s", 0.2)
        (worker,) = children()
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(WorkerDied, match="no progress for"):
            machine.run(MS)
    assert not children()


@pytest.mark.parametrize("word", [ABORTS_UNICORN, 0x5E78D96D, 0x6E500DC8, 0x7EF9FB07, 0x1EE22820])
def test_half_precision_is_not_there_and_kills_nobody(word: int) -> None:
    """Four undefined encodings of it, and FADD of halves, at EL0."""
    guest = SETUP + f"mrs x3, id_aa64pfr0_el1\nto_el0\n.inst {word:#x}\nb .\n" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1", "x3"))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] == 1 << 25  # unknown reason
    assert end.registers["x3"] >> 16 & 0xFF == 0  # FP and AdvSIMD without half precision
