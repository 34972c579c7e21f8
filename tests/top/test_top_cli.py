# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock top` as its user sees it: tables, JSON, CSV, a live terminal, and what it refuses."""

import csv
import ctypes
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from top.workers import Worker, workers

COMMAND = [sys.executable, "-m", "pvlock", "top"]
WIDE, NARROW = 80, 40
_PR_SET_SECUREBITS, _NO_ROOT = 28, 1
_CAPABILITY_VERSION_3 = 0x20080522


def run(
    *arguments: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=before,
    )


def refused(*arguments: str) -> str:
    """Return the one line that a command is refused with."""
    done = run(*arguments)
    assert done.returncode != 0 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("pvlock: top: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def give_up_rights() -> None:
    """Become a process that has no capability at all, and gets none as root either."""
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0:
        assert libc.prctl(_PR_SET_SECUREBITS, _NO_ROOT, 0, 0, 0) == 0
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    assert libc.capset(header, bytes(24)) == 0


def test_a_table(may_watch: None, cpu: int) -> None:
    with workers(3, "crowd", cpu) as crowd:
        for each in crowd:
            each.do("spin 120")
        done = run("--threads", "crowd*", "--once", "--interval", "2s", "--vcpus")
    assert done.returncode == 0, done.stderr
    assert "3 processes, 3 threads; " in done.stdout
    lines = done.stdout.splitlines()
    assert lines[1].split()[:8] == ["VM", "VCPU", "run%", "ready%", "thr%", "blk%", "pre/s", "p99"]
    for number in range(3):
        (row,) = (line.split() for line in lines if line.startswith(f"crowd{number} "))
        shares = [float(value) for value in row[2:6]]
        assert sum(shares) == pytest.approx(100, abs=0.3)
        assert shares[0] > 15 and shares[1] > 50


def test_json_and_csv_say_the_same(may_watch: None, cpu: int) -> None:
    fields = ("running_ns", "ready_ns", "throttled_ns", "blocked_ns", "gap_longest_ns")
    with workers(2, "pair", cpu) as pair:
        for each in pair:
            each.do("spin 120")
        arguments = ("--threads", "pair*", "--once", "--interval", "500ms")
        found = run(*arguments, "--json")
        records = [json.loads(line) for line in found.stdout.splitlines()]
        table = run(*arguments, "--csv")
        rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert len(records) == 1 and records[0]["source"] == "bpf"
    assert {vm["pid"] for vm in records[0]["vms"]} == {each.pid for each in pair}
    for vm in records[0]["vms"]:
        (thread,) = vm["threads"]
        assert thread["displaced_by"] and vm["span_ns"] == thread["span_ns"]
        times = [thread[name] for name in fields[:4]]
        assert sum(times) == pytest.approx(thread["span_ns"], rel=0.01)
    assert {int(row["tid"]) for row in rows} == {each.pid for each in pair}
    assert all(float(row[name]) >= 0 for row in rows for name in fields)
    assert all(row["displaced_by"] for row in rows)


def test_many_intervals(may_watch: None, cpu: int) -> None:
    """One object a line, until who was asked for ends."""
    with Worker("lives", cpu) as worker:
        command = [*COMMAND, "--pid", str(worker.pid), "--threads", "*", "--json"]
        with subprocess.Popen(
            [*command, "--interval", "200ms"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            records = [json.loads(process.stdout.readline()) for _ in range(3)]
            worker.end()
            process.stdout.read()
            assert process.wait(timeout=60) == 1
            assert f"process {worker.pid} has ended" in process.stderr.read()
    assert [len(record["vms"]) for record in records] == [1, 1, 1]
    assert records[0]["time"] < records[1]["time"] < records[2]["time"]


def test_without_rights(cpu: int) -> None:
    """It says what it cannot tell, in one line, and tells the rest."""
    with workers(2, "plain", cpu) as plain:
        for each in plain:
            each.do("spin 120")
        arguments = ("--threads", "plain*", "--once", "--interval", "3s", "--json")
        done = run(*arguments, before=give_up_rights)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "from /proc only: no gaps, displacers" in done.stderr
    assert "may not load BPF programs" in done.stderr
    record = json.loads(done.stdout)
    assert record["source"] == "schedstat"
    assert {vm["pid"] for vm in record["vms"]} == {each.pid for each in plain}
    for vm in record["vms"]:
        assert vm["displaced_by"] is None and vm["throttled_ns"] is None
        assert vm["gap_longest_ns"] is None
        assert vm["running_ns"] / vm["span_ns"] == pytest.approx(0.475, abs=0.15)
        assert vm["preemptions"] > 0


def test_without_bpf_at_all(cpu: int) -> None:
    with Worker("calm", cpu):
        done = run("--threads", "calm", "--once", "--no-bpf", "--interval", "200ms")
    assert done.returncode == 0
    (row,) = (line.split() for line in done.stdout.splitlines() if line.startswith("calm "))
    assert row[2:] == ["0.0", "0.0", "–", "100.0", "0", "–", "–", "–"]


def test_wrong_input(cpu: int) -> None:
    with Worker("simple", cpu) as worker:
        pid = worker.pid
        assert refused("--pid", str(pid), "--once") == (
            f"pvlock: process {pid} (simple) is no VMM that runs VCPUs;"
            " --threads '*' watches its threads"
        )
    assert f"there is no process {pid}, or" in refused("--pid", str(pid), "--once")
    assert refused("--threads", "no such thread", "--once") == (
        "pvlock: no thread's name matches 'no such thread'"
    )
    assert "no process is in a cgroup /no/such" in refused("--cgroup", "/no/such", "--once")
    assert "use --once, --json or --csv" in refused()
    assert "do not go together" in refused("--json", "--csv")
    for wrong in ("0", "1", "99ms", "2h", "-1s"):
        done = run("--interval", wrong, "--once")
        assert done.returncode == 2 and "--interval" in done.stderr
    assert run("--pid", "0", "--once").returncode == 2


@contextmanager
def terminal(columns: int, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command in a terminal of so many columns; give the process and our end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, columns, 0, 0))
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(fd: int, pattern: str) -> str:
    """Return what came, without its colours and the like, until the pattern did."""
    data, text, deadline = b"", "", time.monotonic() + 60
    while not re.search(pattern, text):
        assert time.monotonic() < deadline, text
        if select.select([fd], [], [], 1)[0]:
            data += os.read(fd, 1 << 16)
            home = data.decode(errors="replace").replace("\x1b[H", "\n")
            text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", home)
    return text


def test_live(may_watch: None, cpu: int) -> None:
    """80 columns hold it; its keys work; and the terminal is as it was before."""
    with Worker("watched", cpu) as worker:
        arguments = ("--pid", str(worker.pid), "--threads", "*", "--interval", "300ms")
        with terminal(WIDE, *arguments) as (process, ours):
            before = termios.tcgetattr(ours)
            text = read_until(ours, "sorted by ready")
            assert "watched" in text and "displaced by" in text
            os.write(ours, b"s")
            read_until(ours, "sorted by running")
            os.write(ours, b"v")
            text = read_until(ours, rf"  watched +{worker.pid}")
            assert max(map(len, text.replace("\r", "").split("\n"))) <= WIDE
            os.write(ours, b"q")
            assert process.wait(timeout=60) == 0
            assert termios.tcgetattr(ours) == before


def test_a_terminal_that_is_too_narrow(cpu: int) -> None:
    for arguments in ((), ("--once",)):
        with terminal(NARROW, *arguments) as (process, ours):
            text = read_until(ours, r"--csv\r?\n")
            assert process.wait(timeout=60) == 2
        plain = text.replace("\r", "").replace("\n", "")
        assert "the table needs 80 columns, the terminal has 40: use --json or --csv" in plain
