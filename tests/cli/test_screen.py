# SPDX-License-Identifier: GPL-2.0-or-later
"""What people see on terminals of 80, 100 and 200 columns, on a dumb one, and in a pipe."""

import re
import sys
from pathlib import Path

import pytest

from command_line import ENVIRONMENT, PVLOCK, pvlock
from pvlock.cli.screen import PIPE_COLUMNS, console, show
from terminals import on_terminal

COLUMNS = [80, 100, 200]
RUN = ["run", "rwsem", "--vcpus", "8", "--pcpus", "2", "--slice", "100us", "--duration", "2ms"]
SWEEP = [
    "sweep", "--guest", "mutex,idle", "--cs", "1us,20us", "--vcpus", "4", "--pcpus", "2",
    "--duration", "1ms", "--seeds", "2", "--cache", "cache",
]  # fmt: skip
RANGE = re.compile(r"(x\d\.\d{3}|[\d.]+%) \([\d.]+%?–[\d.]+%?\)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two traces, and a sweep whose runs are known."""
    path = tmp_path_factory.mktemp("screen")
    assert pvlock(*RUN, "--trace", "t", cwd=path).status == 0
    assert pvlock(*SWEEP, cwd=path).status == 0
    return path


def seen(folder: Path, columns: int, *arguments: str, term: str = "xterm") -> list[str]:
    """Return the lines that a command leaves on a terminal, none of which is too long."""
    status, lines = on_terminal([*PVLOCK, *arguments], columns, folder, ENVIRONMENT, term)
    assert status in (0, 1)
    long = [line for line in lines if len(line) > columns]
    assert not long
    return lines


def blocks(lines: list[str], first: str) -> list[list[str]]:
    """Return the tables whose heading begins with `first`: their lines up to a blank one."""
    found = []
    for number, line in enumerate(lines):
        if line.startswith(first):
            rest = lines[number + 1 :]
            end = next((n for n, text in enumerate(rest) if not text.strip()), len(rest))
            found.append(rest[:end])
    return found


@pytest.mark.parametrize("columns", COLUMNS)
def test_explain(columns: int, folder: Path) -> None:
    lines = seen(folder, columns, "explain", "t.without")
    text = "\n".join(lines)
    waiting = blocks(lines, "waiting ")
    assert len(waiting) == (1 if columns == 200 else 2 if columns == 80 else len(waiting))
    names = {tuple(re.split(r"  +", line.strip())[0] for line in block) for block in waiting}
    (rows,) = names  # each part of the table has the same rows
    assert {"all locks", "rwsem"} <= set(rows)
    assert [row for row in rows if re.fullmatch(r"VCPU \d", row)]
    assert not [line for line in lines if re.match(r"(VCP|VCPU|tin|U \d)\s*$", line)]
    for heading in ("off its CPU", "waited for", "longest", "preempted"):
        assert heading in text
    comparison = seen(folder, columns, "explain", "t.without", "t.with")
    assert [line for line in comparison if line.startswith("  the waiter had no CPU  ")]


@pytest.mark.parametrize("columns", COLUMNS)
def test_sweep(columns: int, folder: Path) -> None:
    """Ranges are whole, and each part of the table says which cells it is of."""
    lines = seen(folder, columns, *SWEEP)
    parts = blocks(lines, "guest ")
    assert len(parts) == (2 if columns < 120 else 1)
    for part in parts:
        cells = [line.split()[:3] for line in part]
        assert cells == [[guest, cs, "µs"] for guest in ("mutex", "idle") for cs in ("1", "20")]
    ranges = [match[0] for line in lines for match in RANGE.finditer(line)]
    assert len(ranges) == 8  # gain and kept of four cells
    assert not [line for line in lines if line.count("(") != line.count(")")]


@pytest.mark.parametrize("columns", COLUMNS)
def test_run(columns: int, folder: Path) -> None:
    lines = seen(folder, columns, *RUN)
    first = next(n for n, line in enumerate(lines) if line.startswith("pvlock 0."))
    assert "policy" in " ".join(lines[first : first + 2])
    assert [line for line in lines if re.match(r"acquisitions per second( +[\d,]+){3} *$", line)]
    # Where a line was broken, it was between words.
    said = " ".join(line.strip() for line in lines if line.strip())
    assert re.search(r"engine emulator \(auto: \S+ \w+", said)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("arguments", [["doctor"], ["check", "--list"]], ids=" ".join)
def test_other_commands(columns: int, arguments: list[str], folder: Path) -> None:
    words = set(" ".join(pvlock(*arguments, cwd=folder).out.split()).split())
    # No word is broken in two, but for paths and the like, longer than a line has room for.
    there = set(" ".join(seen(folder, columns, *arguments)).split())
    assert not {word for word in there if word not in words and word.isalpha() and len(word) < 20}


@pytest.mark.parametrize("arguments", [["explain", "t.without"], SWEEP, RUN], ids=lambda a: a[0])
def test_a_dumb_terminal_gets_text_only(arguments: list[str], folder: Path) -> None:
    command = [*PVLOCK, *arguments]
    status, lines = on_terminal(command, 80, folder, ENVIRONMENT | {"NO_COLOR": "1"}, "dumb")
    assert status == 0
    assert not [line for line in lines if len(line) > 80]


@pytest.mark.parametrize(
    "arguments", [["explain", "t.without"], ["explain", "t.without", "t.with"], SWEEP, RUN,
                  ["doctor"]], ids=lambda a: a[0],
)  # fmt: skip
def test_a_pipe_gets_no_trailing_blanks(arguments: list[str], folder: Path) -> None:
    out = pvlock(*arguments, cwd=folder).out
    assert "\x1b" not in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]


def test_a_pipe_has_whole_rows_of_a_sweep(folder: Path) -> None:
    """One can look for them with grep: each has the cell, its figures and both ranges."""
    rows = [line for line in pvlock(*SWEEP, cwd=folder).out.splitlines() if "µs" in line[:14]]
    assert [len(RANGE.findall(row)) for row in rows] == [2, 2, 2, 2]


def test_no_column_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """However narrow the screen: what has no room follows below."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number in range(12):
        table.add_column(f"heading {number}", no_wrap=True)
    table.add_row("the row", *(f"{number} " * 6 + "end" for number in range(1, 12)))
    shown = console(sys.stdout)
    show(shown, table)
    out = capsys.readouterr().out
    assert [n for n in range(12) if f"heading {n}" in out] == [*range(12)]
    assert out.count("the row") == out.count("heading 0") > 1
    assert max(map(len, out.splitlines())) <= PIPE_COLUMNS


def test_the_next_command_is_named_after_a_trace(tmp_path: Path) -> None:
    done = pvlock("run", "mutex", "--duration", "1ms", "--trace", "a b", cwd=tmp_path)
    commands = re.findall(r"^next: pvlock (explain .*)$", done.out, re.MULTILINE)
    assert commands == ["explain 'a b.without'", "explain 'a b.with'"]
    assert pvlock("explain", "a b.without", cwd=tmp_path).status == 0
