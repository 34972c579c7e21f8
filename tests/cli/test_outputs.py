# SPDX-License-Identifier: GPL-2.0-or-later
"""A result is never lost: not to a full disk, not to an encoding, not to another output."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asm import ROOT
from command_line import ENVIRONMENT, PATIENCE_S, PVLOCK, SHORT, Done, complaint, pvlock
from pvlock.cli.screen import let_anything_be_printed
from pvlock.workload import image_of

RUN = ["run", "idle", "--vcpus", "2", "--pcpus", "1", *SHORT]
MICROSECONDS = ["run", "mutex", *SHORT]
SWEEP = [
    "sweep", "--guest", "idle", "--vcpus", "2", "--pcpus", "1", "--cs", "1us", "--seeds", "1",
    "--duration", "1ms", "--cache", "cache",
]  # fmt: skip


def run(*arguments: str, cwd: Path, **more: str) -> Done:
    done = subprocess.run(
        [*PVLOCK, *arguments], cwd=cwd, env=ENVIRONMENT | more, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    out, err = done.stdout.decode("latin-1"), done.stderr.decode("latin-1")
    assert "Traceback" not in out + err
    return Done(done.returncode, out, err)


# -- disks --


def test_a_full_disk_costs_neither_the_table_nor_another_file(tmp_path: Path) -> None:
    """The device that is always full stands for the disk; it is found out when it is written."""
    done = run(*RUN, "--json", "/dev/full", "--trace", "t", cwd=tmp_path)
    assert done.status == 1
    assert "acquisitions per second" in done.out
    assert "PV-lock made no difference" in done.out
    assert done.err.splitlines()[-1] == "pvlock: --json /dev/full: No space left on device"
    assert (tmp_path / "t.with").exists() and (tmp_path / "t.without").exists()
    done = run("explain", "t.with", "--json", "/dev/full", cwd=tmp_path)
    assert (done.status, "VCPU" in done.out) == (1, True)


def test_a_sweep_on_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "full.csv").symlink_to("/dev/full")
    done = run(*SWEEP, "--out", "full.csv", "--out", "cells.json", cwd=tmp_path)
    assert done.status == 1
    assert "In all: " in done.out
    assert "full.csv: No space left on device" in done.err
    assert json.loads((tmp_path / "cells.json").read_text())["kind"] == "sweep"


# -- encodings --


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8", "utf-16"])
def test_characters_that_an_encoding_lacks_are_replaced(encoding: str, tmp_path: Path) -> None:
    done = run(*MICROSECONDS, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert (done.status, done.err) == (0, "")
    text = done.out.encode("latin-1").decode(encoding)
    micro = "u" if encoding == "ascii" else "µ"
    assert f" {micro}s" in text
    assert "wait for the lock, p50" in text


def test_a_locale_of_c(tmp_path: Path) -> None:
    """With PYTHONCOERCECLOCALE and UTF-8 mode off, Python takes C for ASCII."""
    more = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run(*MICROSECONDS, cwd=tmp_path, **more)
    assert (done.status, " us" in done.out) == (0, True)
    done = run("run", "caf\xe9", cwd=tmp_path, **more)
    assert done.status == 2
    done = run(*RUN, "--json", "caf\xe9.json", cwd=tmp_path, **more)
    assert done.status == 0


def test_junit_is_what_it_says_it_is_in_every_encoding(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    arguments = ["check", "--parse", "f\xfcr-\N{GREEK SMALL LETTER MU}.log", "--format", "junit"]
    for encoding in ("utf-8", "latin-1", "ascii"):
        done = run(*arguments, cwd=tmp_path, PYTHONIOENCODING=encoding)
        suite = ElementTree.fromstring(done.out.encode("latin-1"))
        (failure,) = suite.iter("failure")
        assert "f\xfcr-\N{GREEK SMALL LETTER MU}.log" in failure.get("message", "")


def test_what_replaces_a_character_resembles_it(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        let_anything_be_printed(stream)
        stream.write("1 µs, x×2, caf\xe9 — \N{SNOWMAN}\udcff …")
    assert (tmp_path / "out").read_text() == "1 us, xx2, cafe - ?? ..."


# -- one place for two things --


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*RUN, "--json", "a", "--trace", "a"], None),
        ([*RUN, "--json", "a.with", "--trace", "a"], "--json a.with: --trace writes it"),
        ([*RUN, "--json", "sub/../a.with", "--trace", "a"], "--trace writes it"),
        ([*RUN, "--json", "link", "--trace", "a"], "--trace writes it"),
        (["run", "guest.elf", "--json", "guest.elf"], "the guest reads it"),
        (["run", "guest.elf", "--json", "a", "--trace", "a"], "--json a: --trace writes it"),
        ([*SWEEP, "--figure", "a.png", "--bars", "a.png"], "--bars a.png: --figure writes it"),
        ([*SWEEP, "--out", "a.csv", "--out", "a.csv"], "--out a.csv: --out writes it"),
        (["check", "--image", "a", "--elf", "./a"], "--elf a: --image writes it"),
        (["explain", "t", "--json", "t"], "TRACE reads it"),
        (["explain", "t", "t2", "--figure", "a.png", "--json", "a.png"], "--figure writes it"),
        ([*RUN, "--json", "/dev/null", "--trace", "a"], None),
    ],
    ids=lambda value: " ".join(value[-4:]) if isinstance(value, list) else "",
)
def test_two_outputs_are_not_one_file(
    arguments: list[str], words: str | None, tmp_path: Path
) -> None:
    (tmp_path / "guest.elf").write_bytes(image_of("idle"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("a.with")
    for name in ("t", "t2"):
        (tmp_path / name).write_bytes(b"a trace")
    before = {path.name: path.stat().st_size for path in tmp_path.glob("[!l]*")}
    done = pvlock(*arguments, cwd=tmp_path)
    if words is None:
        assert done.status == 0, done.err
        return
    line = complaint(done)
    assert (done.status, words in line) == (2, True), line
    assert {path.name: path.stat().st_size for path in tmp_path.glob("[!l]*")} == before


# -- names, limits, packages --


def test_a_mistyped_file_name_is_said_to_be_no_file_either(tmp_path: Path) -> None:
    line = complaint(pvlock("run", "mutx.elf", cwd=tmp_path))
    assert line.startswith("pvlock: 'mutx.elf' is neither a file nor a bundled guest; ")
    assert "mutex" in line


@pytest.mark.parametrize(
    ("option", "value", "limits"),
    [
        ("--slice", "100ns", "not between 1us and 3600s"),
        ("--quantum", "1s", "not between 10ns and 1ms"),
        ("--exit-cost", "2ms", "not between 100ns and 1ms"),
    ],
)
def test_limits_are_in_units_that_can_be_typed(option: str, value: str, limits: str) -> None:
    assert f"'{value}' is {limits}" in complaint(pvlock("run", option, value))


def test_the_lab_refuses_a_package_that_cannot_run_there_before_it_starts() -> None:
    started = time.monotonic()
    done = pvlock("lab", "--with", "numpy", "--exec", "--", "true")
    assert "--with numpy: it needs code for this machine's processor" in complaint(done)
    assert done.status == 2
    assert time.monotonic() - started < 30
    assert "no-such-package is not installed" in complaint(
        pvlock("lab", "--with", "no-such-package", "--exec", "--", "true")
    )


# -- Ctrl-C while it starts --


PROGRAM = ROOT / "bin" / "pvlock"


def program(folder: Path) -> Path:
    """Return the program pvlock as pip installs it."""
    path = folder / "pvlock"
    text = PROGRAM.read_text(encoding="utf-8")
    assert text.startswith("#!python\n")
    path.write_text(f"#!{sys.executable}\n{text.partition(chr(10))[2]}")
    path.chmod(0o755)
    assert os.access(PROGRAM, os.X_OK)
    return path


def test_ctrl_c_at_any_moment_of_the_start_is_no_traceback(tmp_path: Path) -> None:
    """Sent the moment that each library is opened, as the imports of a start do in their turn."""
    started = [str(program(tmp_path)), *RUN]
    statuses = set()
    for number in range(40):
        process = subprocess.Popen(
            started, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
        time.sleep(number / 100)  # chance decides where it is then; each place must do
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
        statuses.add(process.returncode)
        if "Python runtime state" in err:
            continue  # Python's own start, before it has read a line of ours
        assert "Traceback" not in out + err, err
        assert process.returncode in (-signal.SIGINT, 130, 0), (out, err)
    assert statuses & {-signal.SIGINT, 130}


def test_the_program_ignores_ctrl_c_if_it_was_told_to(tmp_path: Path) -> None:
    """A script's background jobs are started so."""
    command = f"trap '' INT; exec {program(tmp_path)} {' '.join(RUN)}"
    process = subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "acquisitions per second" in out) == (0, True)


def test_the_installed_program_is_this_one() -> None:
    installed = shutil.which("pvlock", path=str(Path(sys.executable).parent))
    if installed is None:
        pytest.skip("pvlock is not installed beside this Python")
    text = Path(installed).read_text(encoding="utf-8")
    assert text.partition("\n")[2] == PROGRAM.read_text(encoding="utf-8").partition("\n")[2]
