# SPDX-License-Identifier: GPL-2.0-or-later
"""The derived mutants (tests/mutants/derive.py), of which a few are judged here.

`make mutants` judges them all, which takes half an hour of a CPU. docs/mutants.md has the result.
"""

import sys
from pathlib import Path

import pytest

from mutants import derive, publisher, results
from mutants.__main__ import result_of
from mutants.survivors import OF_THE_PUBLISHER, REASONS, SURVIVORS

EVERY = {mutant.key: mutant for module in derive.MODULES for mutant in derive.mutants(module)}
NOTICED = {
    "scheduler.Scheduler._switch_out: task.preempted = place is Place.QUEUED"
    " → task.preempted = place is not Place.QUEUED": "every-switch",
    "scheduler.Scheduler._put: self.publish(vcpu, self.flag(vcpu)) → nothing": "every-switch",
    "scheduler.Scheduler._account: task.queued_ns += now - task.since"
    " → task.queued_ns -= now - task.since": "every-wait",
    "attribute.get_attr: return -errno.EFAULT → return None": "attr-fault",
    "region.StructureRegion.set_address: return -errno.EEXIST → return None": "attr-twice",
}
"""Some mutants, and the case that fails on each, if it does not end the run."""
SURVIVES = "scheduler.Task: cpu: int = -1 → cpu: int = -2"


def test_each_mutant_has_words_of_its_own_and_differs() -> None:
    count = sum(len(derive.mutants(module)) for module in derive.MODULES)
    assert len(EVERY) == count > 400
    assert all(mutant.before != mutant.after for mutant in EVERY.values())
    words = [mutant.key for mutant in publisher.mutants()]
    assert len(set(words)) == len(words) > 60


@pytest.mark.parametrize("module", derive.MODULES)
def test_every_mutant_is_a_program(module: str) -> None:
    for mutant in derive.mutants(module)[::10]:
        tree = derive.changed(module, mutant.place, mutant.variant)
        compile(tree, module, "exec")


@pytest.mark.parametrize("key", NOTICED)
def test_it_is_noticed(key: str) -> None:
    found = result_of(EVERY[key], quick=True)
    assert found["case"] in (NOTICED[key], "completes"), found
    if found["case"] == "completes":
        assert "every-switch or every-wait" in found["why"]


def test_one_that_changes_nothing_survives() -> None:
    assert SURVIVES in SURVIVORS
    assert result_of(EVERY[SURVIVES], quick=True) == {"survives": results.QUICK}


def test_every_survivor_is_a_mutant_of_today_and_explained() -> None:
    """Where a line has changed, its mutants must be judged again: `make mutants`."""
    assert SURVIVORS.keys() == set(results.survivors(results.read(results.KEPT)))
    assert SURVIVORS.keys() <= EVERY.keys()
    of_the_publisher = results.survivors(results.read(results.OF_THE_PUBLISHER))
    assert OF_THE_PUBLISHER.keys() == set(of_the_publisher)
    assert OF_THE_PUBLISHER.keys() <= {mutant.key for mutant in publisher.mutants()}
    assert {*SURVIVORS.values(), *OF_THE_PUBLISHER.values()} == REASONS.keys()


def test_results_are_kept_and_not_judged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mutants import __main__ as command

    judged: list[str] = []

    def judge(mutant: derive.Derived, _quick: bool) -> dict[str, str]:
        judged.append(mutant.key)
        return {"case": "own-flag"}

    monkeypatch.setattr(command, "result_of", judge)
    monkeypatch.setattr(sys, "argv", ["mutants", str(tmp_path / "out"), "--only", "_switch_out"])
    assert command.main() == 0
    assert len(judged) == len((tmp_path / "out").read_text().splitlines()) > 10
    assert command.main() == 0
    assert len(judged) == len(set(judged))
    assert "0 of them not judged yet" in capsys.readouterr().out
