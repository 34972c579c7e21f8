# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/formats.md describes every key of what commands write as JSON, and no other."""

import functools
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asm import ROOT
from command_line import SHORT, pvlock
from pvlock import __version__
from pvlock.cli import host_report
from pvlock.engines.contract import Usage
from pvlock.loads import report as loads_report
from pvlock.loads import run as loads_run
from pvlock.loads.guest import Counted
from pvlock.profile.shares import KINDS, Share, Shares
from pvlock.report import FORMAT
from pvlock.report import document as as_document
from pvlock.sweep.grid import AXES
from pvlock.trace import perfetto
from pvlock.trace.events import VM, Events, Kind
from pvlock.workload import RUNS, image_of

TEXT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
HEAD = {"format", "kind", "version"}
RUN = ["--vcpus", "2", "--pcpus", "1", *SHORT]
# Sections whose keys are in others too.
WITH_SETTINGS = ("run", "run-load", "run-file", "profile", "explain")
ONLY_SOMETIMES = {
    # Of Linux: tests/linux/test_linux_locks.py.
    *("tasks[]", "not_seen[]", "culprits[].task"),
    # On KVM.
    *("repetitions[]", "gain.median", "gain.lowest", "gain.highest", "verdict", "emulated_cpus"),
    # Where /proc alone is asked, nobody is known to have displaced anybody.
    *("vms[].displaced_by[].name", "vms[].displaced_by[].ns"),
    *("vms[].threads[].displaced_by[].name", "vms[].threads[].displaced_by[].ns"),
}


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    assert found, title
    return found[1]


@functools.cache
def documented(kind: str) -> frozenset[str]:
    """Return the paths that the first columns of a section's tables have."""
    text = section(f"`{kind}`") + (section("The settings") if kind in WITH_SETTINGS else "")
    paths = set()
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        paths |= set(re.findall(r"`([^`]+)`", row))
    return frozenset(paths)


def paths(value: Any, at: str = "") -> Iterator[str]:
    """Yield the path of each thing in a document, but for those that only hold others."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{at}.{key}" if at else key)
    elif isinstance(value, list) and value and at + "[]" not in ("lost[]", "doubts[]"):
        for inner in value:
            yield from paths(inner, at + "[]")
    elif isinstance(value, list):
        yield at + "[]"
    else:
        yield at


def pattern(path: str, kind: str) -> re.Pattern[str]:
    """Return what matches the paths that a documented one stands for."""
    text = section(f"`{kind}`")

    def one(part: str) -> str:
        if not part.startswith("<"):
            return re.escape(part)
        sentence = re.search(rf"\bA `{part}` is ([^.]*)\.", text)
        assert sentence, f"{kind}: what is a {part}?"
        words = re.findall(r"`([^`]+)`", sentence[1])
        if part == "<setting>":
            words = [axis.column for axis in AXES]
        return f"({'|'.join(map(re.escape, words))})" if words else "[^.]+"

    return re.compile("".join(map(one, re.split(r"(<\w+>)", path))))


def compare(kind: str, *documents: dict[str, Any], among: str | None = None) -> None:
    wanted = documented(among or kind)
    used = set()
    for document in documents:
        if among is None:
            head = (document.pop("format"), document.pop("kind"), document.pop("version"))
            assert head == (FORMAT, kind, __version__)
        for path in paths(document):
            plain = path if path in wanted else None
            matches = [p for p in wanted if p == plain] or [
                p for p in wanted if "<" in p and pattern(p, among or kind).fullmatch(path)
            ]
            # An empty list or null stands for what could be in it.
            inside = tuple(path.removesuffix("[]") + end for end in ("[]", "."))
            empty = [p for p in wanted if p.startswith(inside)]
            assert matches or empty, f"{kind}: {path} is not documented"
            used |= set(matches or empty)
    assert used >= wanted - ONLY_SOMETIMES, wanted - used


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two traces of a bundled guest, and the JSON of the run."""
    path = tmp_path_factory.mktemp("formats")
    run = ["--vcpus", "8", "--pcpus", "2", "--slice", "100us", "--duration", "4ms"]
    done = pvlock("run", "mutex", *run, "--json", "run.json", "--trace", "t", cwd=path)
    assert done.status == 0, done.err
    return path


def load(path: Path) -> dict[str, Any]:
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(facts, dict)
    assert list(facts)[:3] == ["format", "kind", "version"]
    return facts


def test_run(folder: Path) -> None:
    compare("run", load(folder / "run.json"))


def test_run_load() -> None:
    """The run itself boots Linux; what is written of it is made of these."""
    machine = Usage(3, 2, (), {"wfi": 1})
    counted = {"spawn": Counted(10**6, (3, 4))}
    result = loads_run.Result(2, 1, True, counted, {"mmap": "no memory"}, machine)
    comparison = loads_run.Comparison(
        loads_run.Settings(("spawn", "mmap")), dict.fromkeys(RUNS, result)
    )
    compare("run-load", loads_report.as_dict(comparison, "emulator", {"kernel": "0"}))


def test_run_file(tmp_path: Path) -> None:
    (tmp_path / "guest.elf").write_bytes(image_of("idle"))
    assert pvlock("run", "guest.elf", *RUN[:4], "--json", "out", cwd=tmp_path).status == 0
    compare("run-file", load(tmp_path / "out"))


def test_profile(tmp_path: Path) -> None:
    (tmp_path / "guest.elf").write_bytes(image_of("idle"))
    assert pvlock("run", "guest.elf", *RUN[:4], "--json", "out", cwd=tmp_path).status == 0
    settings = load(tmp_path / "out")
    for key in (*HEAD, "event", "usage"):
        del settings[key]
    shares = Shares(9, 100, {kind: Share() for kind in KINDS}, {"osq_lock": 3}).as_dict()
    compare("profile", as_document("profile", settings | {"profile": shares}))


def test_explain(folder: Path) -> None:
    assert pvlock("explain", "t.without", "--json", "one", cwd=folder).status == 0
    one = load(folder / "one")
    # Chains are rare, and a short run need not have one.
    one["chains"] = one["chains"] or [
        {"waiter": 1, "links": [["lock", 2]], "reason": "slice end", "at": 0, "ns": 1}
    ]
    compare("explain", one)
    assert pvlock("explain", "t.without", "t.with", "--json", "two", cwd=folder).status == 0
    two = load(folder / "two")
    assert two["kind"] == "explain-pair"
    assert set(two) == HEAD | {"traces"}
    assert [not HEAD & set(each) for each in two["traces"]] == [True, True]
    compare("explain", *two["traces"], one, among="explain")


def test_explain_of_a_host(tmp_path: Path) -> None:
    kinds = [Kind.SCHED_IN, Kind.PREEMPTED, Kind.SCHED_IN, Kind.SCHED_IN]
    events = Events(
        time=np.array([0, 10, 10, 40], np.int64) * 10**6,
        vcpu=np.array([0, 0, 1, 0], np.int32),
        kind=np.array(kinds, np.uint8),
        object=np.zeros(4, np.uint64),
        other=np.full(4, -1, np.int32),
        flags=np.zeros(4, np.uint8),
        vcpus=2, pcpus=2, start=0, end=10**8,
        names={0: "a/0", 1: "b/0", VM: "a", VM + 1: "b"},
        settings={"host": True, "watched": 2, "lost": 0},
    )  # fmt: skip
    with (tmp_path / "host").open("wb") as file:
        perfetto.write(file, events)
    assert pvlock("explain", "host", "--json", "out", cwd=tmp_path).status == 0
    compare("explain-host", load(tmp_path / "out"))


def test_check() -> None:
    done = pvlock("check", "--engine", "emulator", "--case", "6.6", "--format", "json")
    compare("check", json.loads(done.out))


def test_sweep(tmp_path: Path) -> None:
    done = pvlock(
        "sweep", "--guest", "idle", "--vcpus", "2", "--pcpus", "1", "--cs", "1us", "--seeds", "1",
        "--duration", "1ms", "--out", "cells.json", "--cache", "cache", cwd=tmp_path,
    )  # fmt: skip
    assert done.status == 0, done.err
    compare("sweep", load(tmp_path / "cells.json"))


def test_doctor(tmp_path: Path) -> None:
    pvlock("doctor", "--json", "out", cwd=tmp_path)
    compare("doctor", load(tmp_path / "out"))


def test_host_report(tmp_path: Path) -> None:
    step = host_report.Step("run.json", ("run", "idle", *RUN, "--json", "-"))
    host_report.write(tmp_path / "a.zip", [step], lambda _text: None)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == ["index.json", "run.json", "run.json.err"]
        assert json.loads(archive.read("run.json"))["kind"] == "run"
        compare("host-report", json.loads(archive.read("index.json")))


def test_top() -> None:
    done = pvlock("top", "--threads", "*py*", "--once", "--interval", "100ms", "--json", "--no-bpf")
    compare("top", json.loads(done.out))


def test_stall() -> None:
    process = Path("/proc/self").resolve().name
    done = pvlock(
        "top", "--explain-stall", process, "--threads", "*", "--seconds", "0.5", "--json",
        "--no-bpf",
    )  # fmt: skip
    compare("stall", json.loads(done.out))


def test_every_kind_has_a_section_and_a_test() -> None:
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src").rglob("*.py"))
    kinds = set(re.findall(r'document\(\s*"([a-z-]+)"', sources)) - {"example"}
    kinds |= set(re.findall(r'\("(explain(?:-pair)?)", ', sources))
    assert kinds == set(re.findall(r"^## `([a-z-]+)`$", TEXT, re.MULTILINE))
