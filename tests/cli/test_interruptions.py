# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C, and readers that go away: what there is is printed, and no process is left."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asm import assemble
from command_line import ENVIRONMENT, PATIENCE_S, PVLOCK, SHORT, Done
from pvlock import Machine
from pvlock.engines.emulator.engine import EmulatorEngine


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test started, each in a process group of its own; they end with it."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()
        wait_for_end_of_group(process.pid)


def wait_for_end_of_group(group: int) -> None:
    """Wait until nothing of a process is left.

    What it had started dies by the kernel's hand when the process is dead, and can be preempted on
    its way out.
    """
    deadline = time.monotonic() + PATIENCE_S
    while left := group_members(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def group_members(group: int) -> list[str]:
    """Return the command lines of the live processes in a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(pgrp) == group and state != "Z":
                found.append((stat.parent / "cmdline").read_text(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
    return found


def start(started: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*PVLOCK, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    started.append(process)
    return process


def interrupt(process: subprocess.Popen[str]) -> Done:
    """Press Ctrl-C: all of the group get it. Half a minute is allowed, for a busy machine."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert "Traceback" not in out + err
    wait_for_end_of_group(process.pid)
    return Done(process.returncode, out, err)


def test_ctrl_c_before_a_worker_can_ignore_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to all processes of the terminal, and what it means is the parent's decision."""
    (tmp_path / "early.py").write_text(
        "import os, signal\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "from pvlock.engines.emulator.worker import main\n"
        "main()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(EmulatorEngine, "worker", "early")
    Machine(1, engine="emulator").close()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_before_any_result(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start(started, "run", "--duration", "60s", "--json", str(tmp_path / "out.json"))
    assert process.stdout is not None
    process.stdout.readline()  # which engine; the machines are about to start
    done = interrupt(process)
    assert done.status == 130
    assert not list(tmp_path.glob(".*"))


def test_ctrl_c_half_way_prints_what_there_is(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    # Two machines run at a time: when the first is done, the third has yet to begin.
    path = tmp_path / "out.json"
    process = start(started, "run", "--vcpus", "2", "--pcpus", "1", "--duration", "1s",
                    "--json", str(path))  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "done" in line:
            break
    done = interrupt(process)
    assert done.status == 130
    assert "acquisitions per second" in done.out
    assert "Interrupted: no result for" in done.out
    facts = json.loads(path.read_text())
    assert facts["interrupted"]
    assert 1 <= len(facts["runs"]) <= 2
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_ends_a_file(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    path = tmp_path / "talker.elf"
    path.write_bytes(assemble("set x1, 0x09000000\nmov w2, #10\nstrb w2, [x1]\nb ."))
    process = start(started, "run", str(path), "--duration", "3000s", "--vcpus", "1")
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"  # the guest runs
    assert interrupt(process).status == 130


@pytest.mark.parametrize("arguments", [["run", *SHORT], ["run", *SHORT, "--json", "-"], ["--help"]])
def test_a_reader_that_has_gone_is_no_traceback(
    started: list[subprocess.Popen[str]], arguments: list[str]
) -> None:
    process = start(started, *arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(PATIENCE_S)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert process.returncode != 0 or arguments == ["--help"]
    process.stdout = None


def test_a_console_whose_reader_has_gone_is_no_traceback(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "chatty.elf"
    path.write_bytes(assemble("set x1, 0x09000000\nmov w2, #10\n1: strb w2, [x1]\nb 1b"))
    process = start(started, "run", str(path), "--duration", "1s", "--vcpus", "1")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(PATIENCE_S) != 0
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    process.stdout = None
