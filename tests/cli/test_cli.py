# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line's manners: help, its version, and one line for what makes no sense or fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import command_line
from asm import ROOT, assemble
from command_line import ENVIRONMENT, PATIENCE_S, SHORT, complaint, pvlock
from frail import ABORTS_UNICORN
from pvlock import __version__
from pvlock.workload import image_of


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


def test_a_guest_that_kills_the_emulator_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "killer"
    path.write_bytes(assemble(f".inst {ABORTS_UNICORN:#x}"))
    monkeypatch.setattr(command_line, "PVLOCK", [sys.executable, str(ROOT / "tests" / "frail.py")])
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
