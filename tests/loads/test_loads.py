# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads of a Linux guest: what the guest says is read right, and each load does what it should."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kernels
from asm import ROOT
from command_line import ENVIRONMENT, Done, complaint, pvlock
from pvlock import image
from pvlock.errors import EngineError, ImageError, LabError
from pvlock.kernel import busybox, fetch
from pvlock.loads import catalogue, index, report, run
from pvlock.loads.catalogue import BY_NAME
from pvlock.loads.guest import Reader
from pvlock.loads.run import Comparison, Files, Settings
from pvlock.workload import RUNS

E2FSCK = shutil.which("e2fsck", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
FILE_SYSTEM = """
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include "loads.h"
_Noreturn void die(const char *what) { perror(what); exit(1); }
int opened(const char *path, int flags) { return open(path, flags); }
int main(int count, char **names) { return count == 2 ? (make_ext4(names[1]), 0) : 2; }
"""
ENDLESS = b"\0\0\0\x14"
"""An instruction that jumps to itself."""
SHORT_NS = 1_000_000
PUBLISHED = {
    "Execl Throughput": 2718.0,
    "File Copy 1024 bufsize 2000 maxblocks": 158011.8,
    "File Copy 256 bufsize 500 maxblocks": 37664.0,
    "File Copy 4096 bufsize 8000 maxblocks": 441108.8,
    "Pipe Throughput": 6021457.6,
    "Pipe-based Context Switching": 184255.3,
    "Process Creation": 3706.6,
    "Shell Scripts (1 concurrent)": 6436.1,
    "Shell Scripts (8 concurrent)": 931.1,
    "System Call Overhead": 3883287.8,
}
"""What a published run of UnixBench measured, in its units; it gives 1327.6 as the index."""
ARITHMETIC = (335319028.3 / 116700 * 10, 32849.6 / 55 * 10)
"""The indexes of the same run's two tests that are no loads here."""


def load_of(test: str) -> catalogue.Load:
    return next(load for load in catalogue.LOADS if load.test and load.test.name == test)


def test_the_index_is_unixbench_s() -> None:
    scores = []
    for name, value in PUBLISHED.items():
        test = load_of(name).test
        assert test is not None
        scores.append(index.of_test(test, value / test.scale))
    assert statistics.geometric_mean((*scores, *ARITHMETIC)) == pytest.approx(1327.6, abs=0.1)
    assert len(scores) == sum(load.test is not None for load in catalogue.LOADS)
    throughputs = {load_of(name).name: 1.0 for name in PUBLISHED}
    with_mmap = index.of_loads(throughputs | {"mmap": 5.0})
    assert with_mmap == index.of_loads(throughputs)  # mmap is no test of UnixBench
    assert index.of_loads({"mmap": 5.0}) is None
    assert index.of_loads(throughputs | {"pipe": 0.0}) == 0


def test_what_the_guest_says_is_read_in_pieces() -> None:
    reader = Reader()
    text = (
        b"[    0.1] noise\nloads: pvlock present\r\nloads: begin mmap\nloads: result mmap 500 1 3\n"
    )
    for at in range(len(text)):
        reader(text[at : at + 1])
    assert reader.pvlock is True
    assert reader.begun == ["mmap"]
    counted = reader.counted["mmap"]
    assert (counted.throughput, counted.fairness) == (8_000_000, 1 / 3)
    assert not reader.ended
    assert "load mmap" in reader.where
    reader(b"loads: refused x this kernel has no ext4\nloads: end\n")
    assert reader.refused == {"x": "this kernel has no ext4"}
    assert reader.ended


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("failed fork: Cannot allocate memory", "load fork: Cannot allocate memory"),
        ("result mmap 500 1 x", "mmap: its result is not whole"),
        ("result mmap 0 1", "mmap: its result is not whole"),
        ("result mmap 500", "mmap: its result is not whole"),
        ("hello", "nobody understands: hello"),
    ],
)
def test_what_makes_no_sense_is_an_error(line: str, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        Reader()(f"loads: {line}\n".encode())


def test_a_guest_that_does_not_finish_says_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel that does nothing but run."""
    monkeypatch.setattr(run, "_PATIENCE_NS", 0)
    kernel = ENDLESS + kernels.header(image_size=1 << 16)[len(ENDLESS) :]
    parsed = image.parse(kernel, "endless")
    settings = Settings(("mmap",), engine="emulator", vcpus=1, pcpus=1, duration_ns=SHORT_NS)
    with pytest.raises(
        EngineError, match=r"said nothing for .* before any load; last line: nothing"
    ):
        run.run("with", settings, Files(parsed, kernel, None))


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    known = complaint(pvlock("run", "linux", "--load", "mmap,x"))
    assert "no load is called 'x'" in known
    assert all(name in known for name in (*BY_NAME, "fscopy", "all"))
    assert "--load is for the guest linux" in complaint(pvlock("run", "mutex", "--load", "mmap"))
    assert "--cs" in complaint(pvlock("run", "linux", "--cs", "2us"))
    assert "--append" in complaint(pvlock("run", "linux", "--append", "x"))
    assert "--trace" in complaint(pvlock("run", "linux", "--trace", str(tmp_path / "x")))
    assert "neither" in complaint(pvlock("run", "linux", "--kernel", __file__))
    none = str(tmp_path / "none")
    assert "No such file" in complaint(pvlock("run", "linux", "--kernel", none))


def test_without_a_kernel_there_is_the_command_that_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "XDG_CACHE_HOME", str(tmp_path))
    assert complaint(pvlock("run", "linux")).endswith("pvlock kernel build guest makes it")
    assert not list(tmp_path.iterdir())


def loads(*arguments: str) -> tuple[Done, dict[str, Any]]:
    done = pvlock("run", "linux", *arguments, "--json", "-")
    assert done.status == 0, done.err
    return done, json.loads(done.out)


@pytest.mark.usefixtures("pvlock_kernel")
def test_three_machines_a_table_and_the_same_digits_again() -> None:
    arguments = ("--load", "create,pipe", "--duration", "10ms", "--wfe", "notrap")
    done, facts = loads(*arguments)
    for part in ("without PV-lock", "not overcommitted", "8 VCPUs, 4 CPUs", "create", "index"):
        assert part in done.err
    assert facts["policy"] == "preempted"
    assert len(facts["sha256"]["kernel"]) == 64
    runs = facts["runs"]
    assert [runs[name]["pvlock"] for name in ("without", "with", "baseline")] == [False, True, True]
    create = {name: each["loads"]["create"]["throughput"] for name, each in runs.items()}
    pipe = {name: each["loads"]["pipe"]["throughput"] for name, each in runs.items()}
    assert create["with"] > 1.3 * create["without"]
    # Nobody shares anything, so the CPUs do the same, however many VCPUs they run.
    assert pipe["with"] == pytest.approx(pipe["without"], rel=0.02)
    assert pipe["with"] == pytest.approx(pipe["baseline"], rel=0.02)
    assert loads(*arguments)[1] == facts


def test_where_times_mean_nothing_there_is_no_verdict(everything: run.Result) -> None:
    settings = Settings(tuple(BY_NAME), engine="emulator")
    runs = dict.fromkeys(RUNS, everything)
    assert "neither: " in report.sentence(Comparison(settings, runs))
    silent = Comparison(settings, runs, timeless=True)
    assert "no verdict" in report.sentence(silent)
    assert " x" not in report.sentence(silent)
    assert not any(
        "x1.0" in str(cell) for column in report.table(silent).columns for cell in column.cells
    )


@pytest.fixture(scope="module")
def everything(pvlock_kernel: Path) -> run.Result:
    """Run each load for a moment on 2 VCPUs and 1 CPU."""
    try:
        shell = busybox.get(fetch.default_folder(), None, lambda _text: None)
    except LabError as error:
        pytest.skip(str(error))
    data = pvlock_kernel.read_bytes()
    settings = Settings(
        tuple(BY_NAME), engine="emulator", vcpus=2, pcpus=1, duration_ns=3 * SHORT_NS
    )
    result = run.run("with", settings, Files(image.parse(data, "Image"), data, shell))
    assert result is not None
    return result


def test_each_load_runs(everything: run.Result) -> None:
    assert not everything.refused
    assert list(everything.loads) == list(BY_NAME)
    # A script may take longer than this run.
    idle = [name for name, counted in everything.loads.items() if not sum(counted.operations)]
    assert set(idle) <= {"shell1", "shell8"}


def test_each_load_takes_its_time(everything: run.Result) -> None:
    for name, counted in everything.loads.items():
        wanted = 3 * SHORT_NS * BY_NAME[name].times
        assert wanted <= counted.duration_ns < wanted + 20 * SHORT_NS, name


def test_a_kernel_without_pv_lock_is_refused() -> None:
    try:
        kernel = fetch.get(
            "trixie", "cloud-arm64", fetch.default_folder(), None, lambda _text: None
        )
    except LabError as error:
        pytest.skip(str(error))
    data = kernel.kernel.read_bytes()
    settings = Settings(("mmap",), engine="emulator", vcpus=1, pcpus=1, duration_ns=SHORT_NS)
    with pytest.raises(ImageError, match=r"debian: .* not use PV-lock; pvlock kernel build guest"):
        run.run("with", settings, Files(image.parse(data, "debian"), data, None))


@pytest.mark.parametrize("mib", [6, 16, 128])
def test_the_file_system_is_whole(tmp_path: Path, mib: int) -> None:
    if E2FSCK is None:
        pytest.skip("needs e2fsck")
    source, program, disk = (tmp_path / name for name in ("main.c", "main", "disk"))
    source.write_text(FILE_SYSTEM)
    folder = ROOT / "linux" / "loads"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-O1", "-I", str(folder)]
    subprocess.run([*compiler, source, folder / "ext4.c", "-o", program], check=True)
    # What was there before does not matter.
    disk.write_bytes(b"\xff" * (mib << 20))
    subprocess.run([program, disk], check=True)
    done = subprocess.run([E2FSCK, "-fn", disk], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
