# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run`: what a workload and a guest file print, and their JSON."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from asm import assemble
from command_line import ENVIRONMENT, PATIENCE_S, SHORT, complaint, pvlock
from pvlock.workload import image_of

OTHER: Final = [*SHORT, "--vcpus", "6", "--pcpus", "3", "--policy", "preempted", "--seed", "5"]


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
