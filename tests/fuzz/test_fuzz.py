# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile guests: short campaigns here, long ones by `make fuzz`; and that findings would be found.

That they would is shown with hypervisors that are wrong on purpose (tests/mutants).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from asm import assemble, children, words
from frail import ABORTS_UNICORN
from mutants import catalogue
from pvlock import Machine, Policy
from pvlock.cli.fuzz import fuzz as fuzz_command
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.errors import ConfigError, PvlockError
from pvlock.fuzz import campaign
from pvlock.fuzz.case import Case, draw, load, save
from pvlock.fuzz.play import Played, _read, guest, play
from pvlock.image import Image

SMALL = Case(seed=5, operations=400, vcpus=3, pcpus=2, slice_ns=20_000)
BRANCH_TO_SELF = 0x14000000
KINDS = (
    *("calls", "power", "stores", "loads", "registers", "sgis", "sleeps", "hints", "traps"),
    *("branches", "returns", "interrupts", "flat", "tlbis", "looks"),
)

catalogue.load()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


# ---- what must hold ----


@pytest.mark.parametrize("seed", range(1, 7))
def test_the_host_survives(seed: int) -> None:
    case = draw(seed, 400)
    played = play(case)
    assert played.problems == ()
    assert played.operations >= case.operations


def test_the_guest_does_all_that_it_can() -> None:
    arguments = "seed=3 operations=2000"
    with Machine(3, 2, bootargs=arguments, engine="emulator", slice_ns=20_000) as machine:
        machine.load(guest())
        machine.run(10_000_000_000)
        lines = machine.console.text.splitlines()
        exits = machine.usage().exits
    did = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("did ")}
    assert set(did) == set(KINDS)
    assert all(count > 100 for count in did.values()), did
    assert f"operations {sum(did.values())}" in lines
    kinds = ("hvc", "smc", "wfi", "wfe", "data_abort", "fetch_abort", "sysreg", "timer")
    assert all(exits[kind] > 0 for kind in kinds), exits


def test_same_seed_same_bytes() -> None:
    assert play(SMALL) == play(SMALL)
    assert play(SMALL).digest != play(replace(SMALL, seed=6)).digest


def test_a_campaign_and_its_neighbours() -> None:
    heard = []
    totals = campaign.run(
        15, 200, campaign.Budget(2_000), jobs=2,
        done=lambda totals: heard.append(totals.operations),
    )  # fmt: skip
    assert totals.findings == []
    assert totals.operations >= 2_000
    assert totals.cases == len(heard) >= 2
    assert totals.repeated >= 1, "seed 16 is played twice"
    assert heard == sorted(heard)


def test_a_campaign_stops_when_told() -> None:
    begun = []

    def cancelled() -> bool:
        begun.append(1)
        return len(begun) > 3

    totals = campaign.run(1, 10**6, campaign.Budget(10**9), cancelled=cancelled)
    assert (totals.cases, totals.findings) == (0, [])


def test_a_campaign_stops_in_time() -> None:
    totals = campaign.run(1, 200, campaign.Budget(10**9, seconds=0.1))
    assert totals.cases == 1


def test_cases_belong_to_their_seeds() -> None:
    drawn = [draw(seed, 100) for seed in range(200)]
    assert drawn == [draw(seed, 100) for seed in range(200)]
    assert {case.policy for case in drawn} == set(Policy)
    assert {case.pvlock for case in drawn} == {case.trap_wfe for case in drawn} == {False, True}
    assert any(case.vcpus > case.pcpus for case in drawn)
    assert any(case.vcpus > 16 for case in drawn), "Aff1 is not 0"


# ---- what would be found ----


@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("writable", "is not zero behind its structures"),
        ("wide-stores-write", "is not zero behind its structures"),
        ("inverted", "its structure is"),
        ("never-cleared", "its structure is"),
        ("one-switch-late", "its structure is"),
        ("too-early", "is on a CPU, its structure is 01"),
        ("two", "its structure is"),
        ("dirty-padding", "its structure is"),
        ("x9-lost", "saw wrong preserved"),
        ("smc32-twins", "saw wrong answer"),
        ("address-moves", "saw wrong answer"),
    ],
)
def test_a_wrong_hypervisor_is_found(mutant: str, found: str) -> None:
    late = mutant in ("too-early", "one-switch-late")  # found by many switches
    case = replace(SMALL, slice_ns=5_000) if late else SMALL
    with catalogue.switched_on(mutant):
        problems = play(case).problems
    assert any(found in problem for problem in problems), problems


def played_by(code: bytes | Image) -> Played:
    with mock.patch("pvlock.fuzz.play.guest", lambda: code):
        return play(replace(SMALL, operations=1))


def test_a_dead_worker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatorEngine, "worker", "frail")
    (problem,) = played_by(words(ABORTS_UNICORN)).problems
    assert problem.startswith("WorkerDied: ")


def test_a_guest_that_gets_stuck_is_found() -> None:
    (problem,) = played_by(words(BRANCH_TO_SELF)).problems[:1]
    assert problem == "the guest got stuck: it printed nothing"


def test_a_guest_that_does_not_finish_its_report_is_found() -> None:
    code = "set x1, 0x09000000\nmov w2, #104\nstr w2, [x1]\noff"
    assert played_by(assemble(code)).problems == ("the guest did not finish its report: h",)


REPORT = """\
fuzz seed 1 operations 7 vcpus 1 pvlock 1
did calls 7
wrong own-flag 0
wrong flag 0
wrong padding 0
wrong answer 2
wrong preserved 0
operations 7
end
"""


def test_a_report() -> None:
    assert _read(REPORT) == (7, ["the guest saw wrong answer, 2 times"])
    assert _read(REPORT.replace("answer 2", "answer 0")) == (7, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("did calls 7", ""),
        ("did calls 7", "  "),
        ("did calls 7", "did calls " + "7" * 5_000),
        ("did calls 7", "did calls \N{ARABIC-INDIC DIGIT ONE}"),
        ("did calls 7", "7"),
        ("wrong flag 0\n", ""),
        ("wrong flag 0", "wrong own-flag 0"),
        ("operations 7\nend", "operations 0\nend"),
        ("operations 7\nend", "end"),
    ],
)
def test_a_report_that_was_written_over_is_found(old: str, new: str) -> None:
    text = REPORT.replace("answer 2", "answer 0")
    assert old in text
    assert _read(text.replace(old, new))[1] == ["the guest's report is not complete"]


@given(st.lists(st.sampled_from([*REPORT.splitlines(), "", "x", "9" * 5_000]) | st.text()))
def test_any_console_is_a_report_or_a_problem(lines: list[str]) -> None:
    operations, problems = _read("\n".join(lines))
    assert operations >= 0
    assert problems or operations
    assert all(problem.isprintable() and len(problem) < 1_000 for problem in problems)


@pytest.mark.parametrize(
    ("console", "problem"),
    [
        (b"\n\nend", "the guest's report is not complete"),
        (b"\x1b[2Jend", "the guest did not finish its report: \\x1b[2Jend"),
    ],
)
def test_a_guest_that_prints_nonsense_is_found(console: bytes, problem: str) -> None:
    code = "".join(f"mov w2, #{byte}\nstr w2, [x1]\n" for byte in console)
    assert played_by(assemble(f"set x1, 0x09000000\n{code}off")).problems == (problem,)


def test_another_result_of_a_neighbour_is_found() -> None:
    neighbour = campaign.Neighbour()
    assert neighbour.problems() == ()
    neighbour._settings = replace(neighbour._settings, seed=8)
    assert neighbour.problems() == ("the neighbour ended otherwise than alone",)


def test_a_neighbour_that_fails_is_found() -> None:
    neighbour = campaign.Neighbour()
    with mock.patch("pvlock.workload.run", side_effect=PvlockError("no")):
        assert neighbour.problems() == ("the neighbour failed: no",)


def test_another_end_of_the_same_case_is_found() -> None:
    digests = iter(range(100))

    def changed(case: Case, cancelled: Any) -> Played:
        return replace(play(case, cancelled), digest=str(next(digests)))

    with mock.patch.object(campaign, "play", changed):
        totals = campaign.run(16, 100, campaign.Budget(1))
    assert [finding.problems for finding in totals.findings] == [
        ("played again, it ended otherwise",)
    ]


def test_what_is_left_is_found() -> None:
    before = campaign._Host.now()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        left = campaign._Host.now().left_since(before)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
        os.close(descriptor)
    assert left == ("2 descriptors are left open", "1 processes are left")
    assert campaign._Host.now().left_since(before) == ()


def test_growth_is_found() -> None:
    with (
        mock.patch.object(campaign, "MOST_GROWTH", -(1 << 60)),
        mock.patch.object(campaign, "LARGEST_WORKER", 0),
    ):
        totals = campaign.run(1, 50, campaign.Budget(1))
    growth, worker = (finding.problems[0] for finding in totals.findings)
    assert growth.startswith("this process grew by ")
    assert worker.startswith("a worker process took ")


# ---- findings are files ----


def test_a_finding_is_kept_and_played_again(tmp_path: Path) -> None:
    arguments = ["--operations", "1", "--per-case", "150", "--seed", "2"]
    with catalogue.switched_on("writable"):
        result = CliRunner().invoke(fuzz_command, [*arguments, "--findings", str(tmp_path)])
        assert result.exit_code == 1, result.output
        assert "kept in" in result.stderr
        kept = tmp_path / "seed-2.json"
        assert load(kept) == draw(2, 150)
        again = CliRunner().invoke(fuzz_command, ["--replay", str(kept)])
        assert again.exit_code == 1
        assert again.stdout.splitlines() == json.loads(kept.read_text())["problems"]
    fixed = CliRunner().invoke(fuzz_command, ["--replay", str(kept)])
    assert (fixed.exit_code, fixed.stdout[:16]) == (0, "nothing is wrong")


def test_a_campaign_without_findings(tmp_path: Path) -> None:
    arguments = ["--operations", "500", "--per-case", "100", "--findings", str(tmp_path / "none")]
    result = CliRunner().invoke(fuzz_command, arguments)
    assert result.exit_code == 0
    assert "findings         0" in result.stdout.splitlines()
    assert not (tmp_path / "none").exists()


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    for seed in range(20):
        case = draw(seed, 7)
        assert load(save(tmp_path / "new", case, ["wrong"])) == case


GOOD = {
    "seed": 1, "operations": 1, "vcpus": 1, "pcpus": 1, "policy": "scheduled-out",
    "slice_ns": 1000, "quantum_ns": 1000, "trap_wfe": True, "exit_ns": 1000, "pvlock": True,
    "engine": "emulator",
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{}",
        "\xff",
        "[" * 100_000,
        {"pvlock-fuzz": 2, "case": GOOD},
        {"pvlock-fuzz": 1},
        {"pvlock-fuzz": 1, "case": {}},
        {"pvlock-fuzz": 1, "case": GOOD | {"more": 1}},
        {"pvlock-fuzz": 1, "case": GOOD | {"seed": -1}},
        {"pvlock-fuzz": 1, "case": GOOD | {"seed": True}},
        {"pvlock-fuzz": 1, "case": GOOD | {"seed": "1"}},
        {"pvlock-fuzz": 1, "case": GOOD | {"operations": 0}},
        {"pvlock-fuzz": 1, "case": GOOD | {"policy": "never"}},
        {"pvlock-fuzz": 1, "case": GOOD | {"policy": []}},
    ],
)
def test_what_is_no_case_is_one_line(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "case.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value) == f"{path}: not a fuzz case of this version of pvlock"


@pytest.mark.parametrize("change", [{"vcpus": 0}, {"slice_ns": 1}, {"engine": "none"}])
def test_a_case_that_no_machine_can_be_made_of(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        play(replace(SMALL, **change))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "missing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        save(tmp_path / "file", SMALL, [])


def test_ctrl_c_ends_a_campaign_with_its_totals(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pvlock", "fuzz", "--per-case", "1000000"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not worker_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "findings         0" in out.splitlines()


def worker_of(pid: int) -> bool:
    """Whether the process has started a worker: from then on it listens to Ctrl-C."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                return True
        except OSError:
            continue
    return False
