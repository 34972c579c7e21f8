# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line as its user meets it: a process with a status, and what it printed."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm import ROOT, assemble
from pvlock import Machine, __version__
from pvlock.cli.knob_options import KnobType
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.host import Knob
from pvlock.workload import image_of

PVLOCK: Final = [sys.executable, "-m", "pvlock"]
ENVIRONMENT: Final = os.environ | {
    # As pytest found the package, so that other working directories find it too.
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    "PYTHONUNBUFFERED": "1",
}
PATIENCE_S: Final = 120
SHORT: Final = ["--duration", "2ms"]
DURATION: Final = KnobType(Knob("duration", "", is_time=True))


@dataclass
class Done:
    """A finished pvlock: its status and what it wrote."""

    status: int
    out: str
    err: str


def pvlock(*arguments: str, cwd: Path | None = None) -> Done:
    done = subprocess.run(
        [*PVLOCK, *arguments],
        capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=PATIENCE_S, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def complaint(done: Done) -> str:
    """Return the one line that says what is wrong; click's usage lines do not count."""
    assert done.status in (1, 2), done
    noise = ("Usage:", "Try ", "pvlock 0")
    lines = [line for line in done.err.splitlines() if line and not line.startswith(noise)]
    assert len(lines) == 1, done.err
    assert all(line.startswith("pvlock 0") for line in done.out.splitlines()), done.out
    return lines[0]


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


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """Return a guest that prints its boot arguments' place and a greeting, and powers off."""
    path = tmp_path / "hello.elf"
    greeting = "adr x1, text\nset x2, 0x09000000\n1: ldrb w3, [x1], #1\ncbz w3, 2f\nstrb w3, [x2]\n"
    path.write_bytes(assemble(greeting + 'b 1b\n2: off\ntext: .asciz "Hello\\nguest\\n"\n'))
    return path


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    path = tmp_path / "endless.elf"
    path.write_bytes(assemble("b ."))
    return path


# ---- help ----


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["run", "--help"]])
def test_help(arguments: list[str]) -> None:
    done = pvlock(*arguments)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Usage:")


def test_help_names_every_option_of_run() -> None:
    text = " ".join(pvlock("run", "--help").out.split())
    for option in (
        *("--vcpus", "--pcpus", "--duration", "--slice", "--quantum", "--policy", "--engine"),
        *("--cs", "--think", "--seed", "--json", "--no-pvlock"),
    ):
        assert option in text
    for default in ("8", "4", "100ms", "3ms", "1us", "scheduled-out", "auto", "2us", "8us"):
        assert f"default: {default}" in text


def test_version() -> None:
    done = pvlock("--version")
    assert (done.status, done.err) == (0, "")
    assert __version__ in done.out


# ---- what makes no sense ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["--vcpus", "0"],
        ["--vcpus", "-1"],
        ["--vcpus", "10000"],
        ["--vcpus", "many"],
        ["--pcpus", "0"],
        ["--pcpus", "10000"],
        ["--duration", "-1ms"],
        ["--duration", "0"],
        ["--duration", "0ms"],
        ["--duration", "10"],
        ["--duration", "long"],
        ["--duration", "1e400s"],
        ["--duration", "nans"],
        ["--duration", "infs"],
        ["--duration", "2h"],
        ["--duration", ""],
        ["--duration", "9999s"],
        ["--slice", "-3ms"],
        ["--slice", "0ns"],
        ["--quantum", "-1us"],
        ["--quantum", "1ns"],
        ["--quantum", "2ms"],
        ["--cs", "-1us"],
        ["--think", "-1us"],
        ["--exit-cost", "0ns"],
        ["--exit-cost", "1s"],
        ["--switch-cost", "-1ns"],
        ["--switch-cost", "1s"],
        ["--policy", "never"],
        ["--seed", "-1"],
        ["--seed", "x"],
        ["--engine", "nonesuch"],
        ["--nonesuch"],
        ["--no-pvlock"],
        ["--append", "x=1"],
        ["nonesuch"],
        ["mutex", "mutex"],
    ],
    ids=" ".join,
)
def test_an_option_that_makes_no_sense_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    done = pvlock("run", *SHORT, *arguments, "--json", "out.json", cwd=tmp_path)
    complaint(done)
    assert done.status == 2
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_is_one_line() -> None:
    complaint(pvlock("nonesuch"))


def test_an_unknown_guest_is_answered_with_those_there_are() -> None:
    assert "mutex" in complaint(pvlock("run", "nonesuch"))


def files() -> dict[str, bytes]:
    return {
        "empty": b"",
        "text": b"#!/bin/sh\necho no guest\n",
        "for this host": Path(sys.executable).read_bytes(),
        "headers cut": image_of("mutex")[:100],
        "segments cut": image_of("mutex")[:5000],
        "damaged": image_of("mutex")[:16] + os.urandom(2000),
    }


@pytest.mark.parametrize("name", files())
def test_a_file_that_is_no_guest_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "guest file"
    path.write_bytes(files()[name])
    done = pvlock("run", str(path), "--json", str(tmp_path / "out.json"))
    assert "guest file" in complaint(done)
    assert done.status == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["guest file"]


@pytest.mark.parametrize("path", ["./nonesuch.elf", "/nonexistent/guest", "/", "./", "/dev/null"])
def test_a_path_where_no_guest_is_is_one_line(path: str, tmp_path: Path) -> None:
    complaint(pvlock("run", path, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_guest_that_faults_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "astray"
    path.write_bytes(assemble("set x1, 0xdead0000\nbr x1"))
    line = complaint(pvlock("run", str(path), "--vcpus", "2"))
    assert "VCPU 0" in line
    assert "0x200" in line


def test_a_guest_that_kills_the_emulator_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "killer"
    path.write_bytes(assemble(".inst 0x4ecf27d6"))
    line = complaint(pvlock("run", str(path)))
    for part in ("SIGABRT", "VCPU 0", "0x40200000"):
        assert part in line


def test_a_guest_that_stalls_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "asleep"
    path.write_bytes(assemble("1: wfi\nb 1b"))
    complaint(pvlock("run", str(path)))


@pytest.mark.parametrize("target", ["/nonexistent/out.json", "/proc/out.json", "/dev/null/x", "."])
def test_json_that_cannot_be_written_is_one_line_before_anything_runs(
    target: str, tmp_path: Path
) -> None:
    done = pvlock("run", *SHORT, "--json", target, cwd=tmp_path)
    # complaint() sees to it that no run has been done.
    assert target in complaint(done)
    assert not list(tmp_path.iterdir())


# ---- a workload ----


def test_a_run_prints_its_engine_a_table_and_a_sentence() -> None:
    done = pvlock("run", *SHORT)
    assert (done.status, done.err) == (0, "")
    first = done.out.splitlines()[0]
    assert "emulator" in first
    assert "auto" in first
    for part in (
        *("without PV-lock", "with PV-lock", "not overcommitted", "8 VCPUs, 4 CPUs"),
        *("acquisitions per second", "p50", "p99", "max", "spinning", "switches"),
    ):
        assert part in done.out
    assert "PV-lock " in done.out.split("\n\n")[-1]
    assert done.out.rstrip().endswith(".")


def test_the_engine_that_was_asked_for_is_named_without_auto() -> None:
    first = pvlock("run", *SHORT, "--engine", "emulator").out.splitlines()[0]
    assert "emulator" in first
    assert "auto" not in first


def promised(facts: dict[str, Any]) -> None:
    assert facts["guest"] == "mutex"
    assert facts["engine"] == "emulator"
    assert (facts["vcpus"], facts["pcpus"]) == (6, 3)
    assert facts["policy"] == "preempted"
    assert facts["seed"] == 5
    assert list(facts["runs"]) == ["without", "with", "baseline"]
    for run in facts["runs"].values():
        assert run["throughput"] > 0
        assert run["wait_ns"].keys() == {"p50", "p99", "max"}
        assert 0 <= run["wait_ns"]["p50"] <= run["wait_ns"]["p99"] <= run["wait_ns"]["max"]
        assert 0 <= run["spin_share"] <= 1


OTHER: Final = [*SHORT, "--vcpus", "6", "--pcpus", "3", "--policy", "preempted", "--seed", "5"]


def test_json_to_stdout_is_all_there_is_on_stdout() -> None:
    done = pvlock("run", *OTHER, "--json", "-")
    assert done.status == 0
    promised(json.loads(done.out))
    assert "not overcommitted" in done.err


def test_json_to_a_file_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    done = pvlock("run", *OTHER, "--json", "out.json", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    promised(json.loads(path.read_text()))
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    first, again, other = (
        pvlock("run", *SHORT, "--seed", seed, "--json", "-") for seed in ("1", "1", "2")
    )
    assert first.out == again.out
    runs = [json.loads(done.out)["runs"] for done in (first, other)]
    assert runs[0] != runs[1]


# ---- a file ----


def test_a_file_has_its_console_on_stdout(guest: Path) -> None:
    done = pvlock("run", str(guest))
    assert (done.status, done.out) == (0, "Hello\nguest\n")
    assert "engine emulator" in done.err.splitlines()[0]


def test_a_file_with_a_name_in_this_directory_is_a_file(guest: Path) -> None:
    assert pvlock("run", guest.name, cwd=guest.parent).out == "Hello\nguest\n"


def test_a_file_with_json_to_stdout_has_its_console_on_stderr(guest: Path) -> None:
    done = pvlock("run", str(guest), "--json", "-", "--vcpus", "2", "--no-pvlock")
    assert done.status == 0
    facts = json.loads(done.out)
    assert (facts["event"], facts["pvlock"], facts["vcpus"]) == ("off", False, 2)
    assert "Hello\nguest\n" in done.err


def test_a_file_that_never_ends_is_a_clear_error(endless: Path) -> None:
    done = pvlock("run", str(endless), *SHORT, "--json", str(endless.parent / "out.json"))
    line = complaint(done)
    assert "2 ms" in line
    assert "--duration" in line
    assert list(endless.parent.iterdir()) == [endless]


# ---- interruptions ----


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test started, each in a process group of its own; they end with it."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()
        assert not group_members(process.pid)


def start(started: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*PVLOCK, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    started.append(process)
    return process


def interrupt(process: subprocess.Popen[str]) -> Done:
    """Press Ctrl-C: all of the group get it. Five seconds are allowed."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=5)
    assert "Traceback" not in out + err
    assert not group_members(process.pid)
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


# ---- times ----


@pytest.mark.parametrize(
    ("text", "ns"),
    [("100ms", 100_000_000), ("2us", 2_000), ("2µs", 2_000), ("1.5s", 1_500_000_000), ("7ns", 7)],
)
def test_times(text: str, ns: int) -> None:
    assert DURATION.convert(text, None, None) == ns


@pytest.mark.parametrize(
    "text",
    ["1e3ms", "1_000us", "+1ms", ".5s", "5.s", "0x10ns", "\N{ARABIC-INDIC DIGIT ONE}s", "1  ms"],
)
def test_only_plain_decimal_numbers_are_times(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"is not a time such as 100ms, 2us or 1\.5s"):
        DURATION.convert(text, None, None)


@given(st.text() | st.from_regex(r"[-+]?[0-9.e]{1,12}(ns|us|ms|s|m|h)", fullmatch=True))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(click.UsageError):
        assert 0 <= DURATION.convert(text, None, None) <= 3_600 * 10**9


@pytest.mark.parametrize("linux", [False, True])
def test_the_policy_that_a_run_takes_by_default(tmp_path: Path, linux: bool) -> None:
    """A Linux Image is recognised by its header: this one is `b .` and powers nothing off."""
    header = struct.pack("<II6Q4sI", 0x14000000, 0, 0, 0x1000, 0xA, 0, 0, 0, b"ARM\x64", 0)
    guest = tmp_path / "Image"
    guest.write_bytes(header if linux else assemble("off"))
    done = pvlock("run", str(guest), "--duration", "10us", "--vcpus", "1")
    assert f"policy {'preempted' if linux else 'scheduled-out'}\n" in done.err


def test_a_guest_file_starts_without_the_libraries_of_other_commands(tmp_path: Path) -> None:
    """Importing them takes longer than all the rest of a machine's start."""
    (tmp_path / "guest.elf").write_bytes(image_of("idle"))
    code = (
        "import sys; from pvlock import cli; from pvlock.cli import guest_run as g; first = g.run;"
        "g.run = lambda *a, **k: (print(*sys.modules), sys.stdout.flush(), first(*a, **k))[2];"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--engine", "emulator", tmp_path / "guest.elf"],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.partition("\n")[0].split())
    assert {"pvlock.cli.guest_run", "pvlock.machine", "click"} <= loaded
    others = {"rich", "json", "tempfile", "concurrent.futures", "pvlock.sweep", "pvlock.report"}
    assert not loaded & others


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run idle --vcpus 1 --duration 1ms > /dev/full", "No space left on device"),
        ("run guest.elf > /dev/full", "No space left on device"),
        ("check --list > /dev/full", "No space left on device"),
        (f"run {'x' * 300}", "File name too long"),
        (f"run idle --json {'x' * 300}", "File name too long"),
        ("run guest.elf --engine emulator >&-", ""),
        ("run guest.elf --engine emulator 2>&-", ""),
        ("run idle --vcpus 1 --duration 1ms >&- 2>&-", ""),
    ],
)
def test_what_the_system_refuses_is_one_line(arguments: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "guest.elf").write_bytes(image_of("idle"))
    done = subprocess.run(
        f'"{sys.executable}" -m pvlock {arguments}',
        shell=True, cwd=tmp_path, capture_output=True, text=True,
        env=ENVIRONMENT, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("pvlock: ")]
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert (done.returncode != 0) == bool(words)
    assert not words or (len(said) == 1 and words in said[0]), done.stderr
