# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock explain`: its findings, what it prints and draws, and what it refuses."""

import dataclasses
import io
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Final

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from rich.console import Console

from asm import ROOT
from pvlock import report
from pvlock.cli.explain import _compare, _show
from pvlock.errors import TraceError
from pvlock.explain import findings, timeline
from pvlock.explain.findings import Chain, Culprit, Findings, Pair, find, sentence, vcpu_ms
from pvlock.extras import remedy
from pvlock.trace import perfetto
from pvlock.trace import table as trace_table
from pvlock.trace.attribution import Part
from pvlock.trace.drawing import draw
from pvlock.trace.events import Events, Flag, Setting
from tracing import (
    ACQUIRED,
    BLOCKED,
    CONTENDED,
    IN,
    LOST,
    PREEMPTED,
    RELEASED,
    Line,
    random_run,
    table,
)

PATIENCE_S: Final = 120
MS: Final = 1_000_000
L, M = 0x40001000, 0x40002000


def story(scale: int = MS, pvlock: bool = False) -> Events:
    """VCPU 0 is preempted with the inner lock; VCPU 1 waits for it with the outer, 2 for that."""
    lines: list[Line] = [
        (0, 0, IN), (0, 1, IN), (0, 2, IN), (1, 0, ACQUIRED, M), (1, 1, ACQUIRED, L),
        (2, 2, CONTENDED, L), (3, 1, CONTENDED, M), (4, 0, PREEMPTED), (15, 0, IN),
        (16, 0, RELEASED, M), (16, 1, ACQUIRED, M), (17, 1, RELEASED, M), (18, 1, RELEASED, L),
        (19, 2, ACQUIRED, L), (20, 2, RELEASED, L), (20, 2, BLOCKED),
    ]  # fmt: skip
    events = table([(at * scale, *rest) for at, *rest in lines], end=21 * scale)
    events.names = {L: "outer", M: "inner"}
    events.flags[7] = Flag.SCRIPT
    settings: dict[str, Setting] = {
        "guest": "story",
        "engine": "emulator",
        "policy": "preempted",
        "pvlock": pvlock,
    }
    return dataclasses.replace(events, settings=settings)


def saved(events: Events, path: Path) -> Path:
    with path.open("wb") as file:
        perfetto.write(file, events)
    return path


@dataclasses.dataclass
class Done:
    """A finished pvlock: its status and what it wrote."""

    status: int
    out: str
    err: str


def explain(*arguments: str | Path, before: str = "") -> Done:
    """Run `pvlock explain`; `before` is Python that runs first in its process."""
    code = f"import sys\n{before}\nfrom pvlock.cli import main\nmain()"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "explain", *map(str, arguments)],
        capture_output=True, encoding="utf-8", env=environment, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


# -- findings --


def test_findings() -> None:
    found = find(story())
    assert sentence(found) == (
        "73% of all waiting was for VCPUs that were off their CPUs (22 of 30 VCPU·ms); the worst "
        "preemption, VCPU 0 (owner of inner) at 4 ms for 11 ms, cost 22 VCPU·ms."
    )
    culprit = Culprit(
        vcpu=0, reason="preempted (script)", start=4 * MS, end=15 * MS, cost=22 * MS, waits=2,
        lock="inner", queue=False, row=0,
    )  # fmt: skip
    assert found.culprits == [culprit]
    assert found.worst == culprit
    assert found.pairs == [
        Pair(1, 0, 13 * MS, 11 * MS), Pair(2, 0, 13 * MS, 11 * MS), Pair(2, 1, 3 * MS, 0),
    ]  # fmt: skip
    reason = "preempted (script)"
    assert found.chains == [Chain(2, [("outer", 1), ("inner", 0)], reason, 4 * MS, 11 * MS)]
    assert found.caused == [22 * MS, 0, 0]
    assert [(name, acquired, t.waits, t.ns) for name, (acquired, t) in found.locks.items()] == [
        ("outer", 2, 1, 17 * MS), ("inner", 2, 1, 13 * MS),
    ]  # fmt: skip
    assert [total.ns for total in found.vcpus] == [0, 13 * MS, 17 * MS]
    assert (found.total.off_cpu, found.total.spun, found.total.asleep) == (22 * MS, 30 * MS, 0)
    assert findings.doubts(found) == []


@pytest.mark.parametrize("lock", ["inner", f"{M:#x}"])
def test_one_lock(lock: str) -> None:
    found = find(story(), lock)
    assert list(found.locks) == ["inner"]
    assert found.total.ns == 13 * MS
    assert [total.ns for total in found.vcpus] == [0, 13 * MS, 0]
    assert [(pair.waiter, pair.vcpu) for pair in found.pairs] == [(1, 0)]
    assert found.culprits[0].cost == 11 * MS
    assert sentence(found).startswith(f"85% of all waiting for {lock} was ")


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("inner", "inner"), (f"inner@{L:#x}", f"inner@{M:#x}")),
        (("", "  "), (f"{L:#x}", f"{M:#x}")),
        (("a", " a"), (f"a@{L:#x}", f"a@{M:#x}")),
        ((f"{M:#x}", ""), (f"{M:#x}@{L:#x}", f"{M:#x}")),
        ((f"x@{M:#x}", "x"), (f"x@{M:#x}@{L:#x}", "x")),
    ],
)
def test_no_two_locks_are_called_the_same(names: tuple[str, str], called: tuple[str, str]) -> None:
    """Findings, and so screen and JSON, the file for Perfetto, and --lock agree."""
    events = story()
    events.names = dict(zip((L, M), names, strict=True))
    found = find(events)
    assert {name: total.ns for name, (_, total) in found.locks.items()} == {
        called[0]: 17 * MS, called[1]: 13 * MS,
    }  # fmt: skip
    assert [lock["name"] for lock in findings.as_dict(found)["locks"]] == list(called)
    assert found.culprits[0].lock == called[1]
    assert found.chains[0].links == [(called[0], 1), (called[1], 0)]
    tracks = [track.name for track in draw(events).tracks]
    assert set(called) <= set(tracks)
    for address, name, ns in zip((L, M), called, (17 * MS, 13 * MS), strict=True):
        assert find(events, name).total.ns == find(events, f"{address:#x}").total.ns == ns


def test_a_name_that_several_locks_have_means_all_of_them() -> None:
    events = story()
    events.names = {L: "mutex", M: "mutex"}
    found = find(events, "mutex")
    assert list(found.locks) == [f"mutex@{L:#x}", f"mutex@{M:#x}"]
    assert found.total.ns == find(events).total.ns
    assert sentence(found).startswith("73% of all waiting for mutex was ")
    events = story()
    events.names = {L: "mutex", M: "mutex", 0x9: "other"}
    with pytest.raises(TraceError, match=f"there are: mutex@{L:#x}, mutex@{M:#x}"):
        find(events, "other")


def test_no_preemption_is_to_blame() -> None:
    """A blocked owner is off its CPU too; but nobody took it."""
    found = find(
        table([
            (0, 0, IN), (0, 1, IN), (1, 0, ACQUIRED, L), (2, 1, CONTENDED, L), (3, 0, BLOCKED),
            (7, 0, IN), (8, 0, RELEASED, L), (8, 1, ACQUIRED, L),
        ])
    )  # fmt: skip
    assert sentence(found).endswith("; no preemption kept anybody waiting.")
    assert [(one.reason, one.cost) for one in found.culprits] == [("blocked", 4)]
    assert found.worst is None


def test_nobody_waited() -> None:
    found = find(table([(0, 0, IN), (1, 0, ACQUIRED, L), (2, 0, RELEASED, L)]))
    assert sentence(found) == "Nobody waited for a lock."
    assert (found.culprits, found.pairs, found.chains, found.worst) == ([], [], [], None)


def test_what_is_not_certain_is_said() -> None:
    events = table([
        (0, 0, IN), (0, 1, IN), (1, 0, ACQUIRED, L), (2, 1, CONTENDED, L), (3, 0, LOST, 7),
        (5, 0, ACQUIRED, L), (6, 0, RELEASED, L), (7, 1, ACQUIRED, L), (8, 0, RELEASED, M),
    ])  # fmt: skip
    found = find(dataclasses.replace(events, dropped=(7, 0), rejected=(0, 2)))
    assert findings.doubts(found) == [
        "7 events were lost",
        "2 records of the guest were no events",
        "1 waits and holds were cut by lost events",
        "1 waits and holds have events that do not fit",
        "3 VCPU ns of waiting: nobody can say who had the lock",
    ]


def test_what_cannot_be_found() -> None:
    with pytest.raises(TraceError, match="the guest recorded no locks"):
        find(table([(0, 0, IN)]))
    with pytest.raises(TraceError, match="no lock is called 'other'; there are: inner, outer"):
        find(story(), "other")


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0"), (82, "8.2e-05"), (35_600, "0.0356"), (1_234_567, "1.23"), (12_345_678, "12.3"),
     (123_456_789, "123"), (12_345_678_901, "12,346")],
)  # fmt: skip
def test_vcpu_ms(ns: int, text: str) -> None:
    assert vcpu_ms(ns) == text


# -- the command --


def test_a_screen(tmp_path: Path) -> None:
    """The whole output, of a trace in which every number is known."""
    done = explain(saved(story(), tmp_path / "story.pftrace"))
    assert (done.status, done.err) == (0, "")
    assert [line.rstrip() for line in done.out.splitlines()] == SCREEN.splitlines()


SCREEN: Final = """\
story, 3 VCPUs on 1 CPUs, without PV-lock, emulator: 21 ms, 16 events

73% of all waiting was for VCPUs that were off their CPUs (22 of 30 VCPU·ms); the worst preemption,
VCPU 0 (owner of inner) at 4 ms for 11 ms, cost 22 VCPU·ms.

                                              owner      owner     no
waiting    acquired  waits  longest  VCPU·ms   runs  preempted  owner
all locks         4      2    17 ms       30    23%        73%     3%
outer             2      1    17 ms       17    29%        65%     6%
inner             2      1    13 ms       13    15%        85%      –
VCPU 2                   1    17 ms       17    29%        65%     6%
VCPU 1                   1    13 ms       13    15%        85%      –

                                cost,
off its CPU        at    for  VCPU·ms  waits  why                 and it was
VCPU 0       4.000 ms  11 ms       22      2  preempted (script)  owner of inner

waiter  waited for  VCPU·ms  while that was off its CPU
VCPU 1  VCPU 0           13                         85%
VCPU 2  VCPU 0           13                         85%
VCPU 2  VCPU 1            3                          0%

VCPU 2 → outer → VCPU 1 → inner → VCPU 0, preempted (script): 11 ms from 4.000 ms on
"""


def test_it_fits_a_screen(tmp_path: Path) -> None:
    """Whatever the run: at most 40 lines of 100 columns."""
    events = random_run(random.Random(7), 4_000, vcpus=40, locks=30)
    events = dataclasses.replace(events, time=events.time * 997, end=events.end * 997)
    done = explain(saved(events, tmp_path / "any.pftrace"))
    lines = done.out.splitlines()
    assert done.status == 0
    assert 30 <= len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_two_traces(tmp_path: Path) -> None:
    one = saved(story(), tmp_path / "one.pftrace")
    other = saved(story(scale=MS // 1000, pvlock=True), tmp_path / "other.pftrace")
    done = explain(one, other)
    assert (done.status, done.err) == (0, "")
    assert "waiting, VCPU·ms                        30             0.03" in done.out
    assert "  the owner was preempted         22   73%      0.022   73%" in done.out
    both = json.loads(explain(one, other, "--json", "-").out)["traces"]
    assert [trace["pvlock"] for trace in both] == [False, True]


def test_json(tmp_path: Path) -> None:
    path = saved(story(), tmp_path / "story.pftrace")
    done = explain(path, "--json", "-", "--top", "1")
    facts = json.loads(done.out)
    assert "73% of all waiting" in done.err
    assert facts["summary"] == sentence(find(story()))
    assert (facts["guest"], facts["run_ns"], facts["events"]) == ("story", 21 * MS, 16)
    assert facts["total"]["parts"] | {"owner_preempted": 0} == {
        part.name.lower(): {Part.OWNER_RUNNING: 7 * MS, Part.NO_OWNER: MS}.get(part, 0)
        for part in Part
        if not part.name.endswith("_QUEUED")  # only guests with tasks have these
    }
    assert facts["culprits"][0]["cost"] == 22 * MS
    assert facts["chains"][0]["links"] == [["outer", 1], ["inner", 0]]
    assert len(facts["pairs"]) == 3
    target = tmp_path / "facts.json"
    assert explain(path, "--json", target, "--top", "1").status == 0
    assert json.loads(target.read_text()) == facts


def test_refusals(tmp_path: Path) -> None:
    good = saved(story(), tmp_path / "good.pftrace")
    short = tmp_path / "short.pftrace"
    short.write_bytes(good.read_bytes()[:-200])
    text = tmp_path / "text"
    text.write_text("not a trace\n")
    empty = saved(table([(0, 0, IN)]), tmp_path / "empty.pftrace")
    cases: list[tuple[list[str | Path], int, str]] = [
        ([tmp_path / "none"], 1, "No such file"),
        ([tmp_path], 1, "Is a directory"),
        ([text], 1, "text: not a Perfetto trace"),
        ([short], 1, "short.pftrace: "),
        ([empty], 1, "empty.pftrace: the guest recorded no locks"),
        ([good, "--lock", "x"], 1, "no lock is called 'x'"),
        ([good, "--top", "0"], 2, "--top"),
        ([good, "--figure", tmp_path / "a.jpg"], 2, "must end in .png or .svg"),
        ([good, "--figure", tmp_path / "no" / "a.png"], 2, "No such file or directory"),
        ([good, "--json", tmp_path], 2, "Is a directory"),
    ]
    for arguments, status, words in cases:
        done = explain(*arguments)
        said = [x for x in done.err.splitlines() if x and not x.startswith(("Usage:", "Try "))]
        assert done.status == status, (arguments, done)
        assert len(said) == 1
        assert words in said[0]
        assert done.out == ""


@pytest.mark.parametrize(
    ("module", "extra", "figure"),
    [("numpy", "trace", False), ("perfetto", "trace", False), ("matplotlib", "plot", True)],
)
def test_missing_extras(module: str, extra: str, figure: bool, tmp_path: Path) -> None:
    path = saved(story(), tmp_path / "story.pftrace")
    options: list[str | Path] = ["--figure", tmp_path / "a.png"] if figure else []
    done = explain(path, *options, before=f"sys.modules[{module!r}] = None")
    assert done.status == 2
    assert f"{module}, which is not installed: {remedy(extra)}" in done.err
    assert (done.out, done.err.count("\n")) == ("", 1)
    assert not (tmp_path / "a.png").exists()


# -- the picture --


def test_the_picture(tmp_path: Path) -> None:
    path = saved(story(), tmp_path / "story.pftrace")
    pictures = [tmp_path / name for name in ("a.png", "b.png", "c.svg")]
    for picture in pictures:
        assert explain(path, path, "--figure", picture).status == 0
    one, again, svg = (picture.read_bytes() for picture in pictures)
    assert one.startswith(b"\x89PNG")
    assert one == again
    assert svg.startswith(b"<?xml")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "name",
    ["$\\frac{$", "锁🔒\u0301", "m" * 48, "n" * 250, "two words " * 20, "[red]x[/]", "  "],
    ids=["maths", "no glyph", "long", "longest", "words", "markup", "blank"],
)
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_any_name_is_shown_and_drawn(name: str, suffix: str, tmp_path: Path) -> None:
    events = story()
    events.names = {L: name, M: name}
    events.settings["guest"] = name
    picture = tmp_path / f"a{suffix}"
    done = explain(saved(events, tmp_path / "a.pftrace"), "--figure", picture, "--json", "-")
    lines = [line for line in done.err.splitlines() if line.startswith("pvlock: ")]
    assert (done.status, lines) == (0, [f"pvlock: wrote {picture}"])
    assert "Warning" not in done.err
    assert "17 ms       30    23%        73%     3%" in done.err, "only names give way"
    called = [f"{name.strip()}@{at:#x}" if name.strip() else f"{at:#x}" for at in (L, M)]
    assert [lock["name"] for lock in json.loads(done.out)["locks"]] == called
    assert picture.stat().st_size > 1_000


def test_coverage() -> None:
    """Each column says for how much of its time the intervals last; nothing is made up."""
    rng = np.random.default_rng(1)
    edges = np.sort(rng.choice(np.arange(1, 270_000), 400, replace=False))
    start, end = edges[::2], edges[1::2]
    window = 1_350, 1_350 * 181
    found = timeline._coverage(np.zeros(200, np.int32), start, end, window, 2)
    assert found.shape == (2, 1_350)
    width = (window[1] - window[0]) / 1_350
    inside = np.minimum(end, window[1]) - np.maximum(start, window[0])
    assert found[0].sum() * width == pytest.approx(np.maximum(inside, 0).sum(), rel=1e-3)
    assert (found[1] == 0).all()
    column = 700
    left, right = window[0] + column * width, window[0] + (column + 1) * width
    mine = np.maximum(np.minimum(end, right) - np.maximum(start, left), 0).sum() / width
    assert found[0, column] == pytest.approx(mine, abs=1e-3)


def test_a_long_run_is_drawn_around_its_worst_preemption() -> None:
    long = find(story(scale=MS * 100))
    assert long.worst
    first, last = timeline._window([long])
    assert last - first == 50 * MS
    assert first < (long.worst.start + long.worst.end) // 2 < last
    assert timeline._window([find(story())]) == (0, 21 * MS)


def test_a_preemption_longer_than_the_picture(tmp_path: Path) -> None:
    """Its frame and its label begin at the edge, not 100 days to the left of it."""
    picture = tmp_path / "a.png"
    timeline.draw(picture, [find(story(scale=10**15))])
    assert picture.read_bytes().startswith(b"\x89PNG")


# -- any file --


NUMBERS = st.sampled_from([-1, 0, 1, 3, 2**62, 2**63 - 1, 2**63, 2**64]) | st.integers()
ANYTHING: st.SearchStrategy[Any] = NUMBERS | st.none() | st.booleans() | st.floats() | st.text()
NAMES = st.dictionaries(
    st.sampled_from([f"{L:#x}", f"{M:#x}"]), st.text(max_size=40).filter(str.isprintable)
)
SETTINGS: st.SearchStrategy[dict[str, Setting]] = st.dictionaries(
    st.sampled_from(["guest", "engine", "policy", "pvlock"]),
    st.text().filter(str.isprintable) | st.integers(0, 99) | st.none(),
)
FACTS: dict[str, st.SearchStrategy[Any]] = {
    "pvlock-trace": ANYTHING,
    "events": ANYTHING,
    "vcpus": st.integers(1, 2_000) | ANYTHING,
    "pcpus": st.integers(1, 2_000) | ANYTHING,
    "start": ANYTHING,
    "end": st.integers(0, 2**63) | ANYTHING,
    "skew_ns": st.integers(0, 2**63) | ANYTHING,
    "names": NAMES | st.dictionaries(st.text(), ANYTHING) | ANYTHING,
    "dropped": st.lists(st.integers(0), max_size=3) | st.lists(ANYTHING) | ANYTHING,
    "rejected": st.lists(st.integers(0), max_size=3) | st.lists(ANYTHING) | ANYTHING,
    "settings": SETTINGS | st.dictionaries(st.text(), ANYTHING) | ANYTHING,
}
ONE_FACT = st.sampled_from(sorted(FACTS)).flatmap(lambda k: st.fixed_dictionaries({k: FACTS[k]}))
MOST: Final = 2**62 - 1
"""Of all VCPUs' time together, of any time, and of the skew."""
CHANGES = ONE_FACT | st.fixed_dictionaries({}, optional=FACTS)


@st.composite
def stories(draw: st.DrawFn) -> Events:
    """Return the story at any time, of any length that a table may have."""
    events = story(draw(st.sampled_from([0, 1, MS, MOST // 3 // 21]) | st.integers(0, 2**55)))
    most = MOST - events.end
    shift = draw(st.sampled_from([0, most]) | st.integers(0, most))
    start = draw(st.sampled_from([0, shift]))
    if (shift + events.end - start) * 3 > MOST:
        start = shift
    return dataclasses.replace(
        events, time=events.time + shift, start=start, end=shift + events.end,
        skew_ns=draw(st.sampled_from([0, MOST]) | st.integers(0, MOST)),
        names={int(lock, 16): name for lock, name in draw(NAMES).items()},
        settings=draw(SETTINGS),
    )  # fmt: skip


def everything(found: Findings) -> str:
    """Return all that `pvlock explain` prints of a trace, and of two."""
    file = io.StringIO()
    console = Console(file=file, width=100, highlight=False, markup=False, emoji=False)
    _show(console, found, 4)
    _compare(console, [found, found])
    return file.getvalue() + report.to_json(findings.as_dict(found))


@given(stories(), CHANGES)
@settings(max_examples=300, deadline=None)
def test_a_file_with_any_head_is_refused_or_shown(events: Events, change: dict[str, Any]) -> None:
    head = json.dumps(json.loads(trace_table.head(events)) | change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = find(trace_table.table(head, list(trace_table.parts(events))))
        except TraceError as error:
            assert str(error).isprintable()
            return
        assert everything(found)
    parts = [found.total.parts.tolist(), *(total.parts.tolist() for total in found.vcpus)]
    assert all(ns >= 0 for mine in parts for ns in mine), "no sum overflows"


@given(stories())
@settings(max_examples=20, deadline=None)
def test_what_a_table_may_hold_is_shown_and_drawn(
    tmp_path_factory: pytest.TempPathFactory, events: Events
) -> None:
    read = trace_table.table(trace_table.head(events), list(trace_table.parts(events)))
    picture = tmp_path_factory.mktemp("any") / "a.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find(read)
        assert everything(found)
        timeline.draw(picture, [found, found])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_where_cpus_were_emulated_the_times_are_in_doubt() -> None:
    events = story()
    assert not any("emulated" in text for text in findings.doubts(find(events)))
    events.settings["emulated_cpus"] = True
    assert findings.doubts(find(events))[0].startswith(
        "all times, as the host's CPUs were emulated"
    )
