# SPDX-License-Identifier: GPL-2.0-or-later
"""The conformance suite tells wrong hypervisors from right ones (tests/mutants).

docs/mutants.md has the same list. PVLOCK_UPDATE=1 pytest tests/conformance/test_mutants.py
writes it.
"""

import ast
import os
from collections.abc import Iterator
from typing import Any

import pytest

from asm import ROOT, children
from mutants import catalogue, results
from mutants.catalogue import MUTANTS
from mutants.survivors import OF_THE_PUBLISHER, REASONS, SURVIVORS
from pvlock import Machine, Policy, conformance
from pvlock.conformance import Verdict, audit
from pvlock.conformance.cases import guest_cases
from pvlock.conformance.userspace import cases as user_space_cases
from pvlock.engines.emulator.engine import EmulatorEngine

TABLE = ROOT / "docs" / "mutants.md"

catalogue.load()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


def make(vcpus: int, pcpus: int, **options: Any) -> Machine:
    return Machine(vcpus, pcpus, engine="emulator", **options)


def failed(policy: Policy, cases: tuple[str, ...]) -> dict[str, str]:
    """Return the cases that fail on the machines that are made now, and why."""
    outcomes = conformance.run(make, policy, cases)
    assert {outcome.case.name for outcome in outcomes} >= set(cases)
    return {o.case.name: o.reason for o in outcomes if o.verdict is Verdict.FAILED}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_case_named_catches_its_mutant(name: str) -> None:
    mutant = MUTANTS[name]
    with catalogue.switched_on(name):
        found = failed(mutant.policy, mutant.caught_by)
    assert set(mutant.caught_by) <= set(found), found
    # The case must fail, and the machine must not break.
    assert not any("ended before" in reason for reason in found.values()), found


@pytest.mark.parametrize("policy", Policy)
def test_without_a_mutant_the_same_cases_pass(policy: Policy) -> None:
    cases = {case for mutant in MUTANTS.values() for case in mutant.caught_by}
    assert failed(policy, tuple(sorted(cases))) == {}


def test_switched_off_nothing_of_a_mutant_is_left() -> None:
    environment, worker = dict(os.environ), EmulatorEngine.worker
    before = {name: vars(owner).copy() for name, owner in owners().items()}
    for name in MUTANTS:
        with catalogue.switched_on(name):
            pass
    assert {name: vars(owner).copy() for name, owner in owners().items()} == before
    assert (dict(os.environ), EmulatorEngine.worker) == (environment, worker)
    assert worker == "pvlock.engines.emulator.worker"


def owners() -> dict[str, Any]:
    from pvlock import attribute, fdt, hypercall, machine, region

    classes = (hypercall.Hypercalls, region.PvLockRegion, machine.Machine, EmulatorEngine)
    return {owner.__name__: owner for owner in (attribute, fdt, machine, *classes)}


def test_there_are_enough_and_each_breaks_a_clause_of_its_own_words() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.what for mutant in MUTANTS.values()}) == len(MUTANTS)
    specification = (ROOT / "SPECIFICATION.md").read_text(encoding="utf-8")
    assert all(f"**{mutant.clause}**" in specification for mutant in MUTANTS.values())
    assert all(mutant.caught_by for mutant in MUTANTS.values())


def test_every_case_catches_a_mutant() -> None:
    known = {case.name for case in (*guest_cases(), *audit.CASES, *user_space_cases())}
    assert {case for mutant in MUTANTS.values() for case in mutant.caught_by} == known


def test_the_package_knows_nothing_of_mutants() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "mutant" not in text.lower(), path
        modules = [n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)]
        assert not any(module and module.startswith("tests") for module in modules), path


def table() -> str:
    lines = [
        "<!-- SPDX-License-Identifier: GPL-2.0-or-later -->",
        "<!-- Written by PVLOCK_UPDATE=1 pytest tests/conformance/test_mutants.py -->",
        "# Wrong hypervisors that the suite catches",
        "",
        f"Would the conformance suite notice? Each of these {len(MUTANTS)} hypervisors is pvlock's "
        "own emulator, made wrong on purpose in one way. They exist only in the tests "
        "(`tests/mutants/`). Every case in the last column fails on its hypervisor, and passes on "
        "the right one: `tests/conformance/test_mutants.py` runs them all. Other cases can fail "
        "too. No case of the suite is without a hypervisor that it catches.",
        "",
        "| clause | what is wrong | its name | caught by |",
        "|---|---|---|---|",
    ]
    for mutant in sorted(MUTANTS.values(), key=lambda m: [int(n) for n in m.clause.split(".")]):
        policy = " (policy `preempted`)" if mutant.policy is Policy.PREEMPTED else ""
        cases = ", ".join(f"`{case}`" for case in mutant.caught_by)
        lines.append(f"| {mutant.clause} | {mutant.what} | {mutant.name} | {cases}{policy} |")
    return "\n".join([*lines, *derived(), ""])


def derived() -> list[str]:
    """What is derived and not made by hand, and the survivors by the reason why they may live."""
    found, programs = results.read(results.KEPT), results.read(results.OF_THE_PUBLISHER)
    alive = results.survivors(found)
    thorough = sum(found[key]["survives"] == results.ALL for key in alive)
    lines = [
        "",
        "## Derived, not thought of",
        "",
        "Whoever makes wrong hypervisors by hand thinks of the same faults as whoever makes the "
        "cases. So more are derived from the code of the scheduler, the machine that publishes "
        "(`vm.py`), the structures, the hypercalls and the attribute: each operator, constant and "
        "condition is changed, and each statement left out, one at a time "
        "(`tests/mutants/derive.py`). `make mutants` judges each by the cases of `pvlock check "
        "--engine emulator` under both policies. That takes half an hour of a CPU or more; it can "
        "be stopped, and goes on where it was. `MUTANTS=--quick` runs the cases that are likely to "
        "fail. Others are derived from the BPF program that publishes on KVM, and judged by "
        "`tests/kvm_parts` (`python -m mutants.publisher`, as root).",
        "",
        f"Of {len(found)} that were judged, {len(found) - len(alive)} are noticed. Of the "
        f"{len(alive)} others, {thorough} have been through all cases, and the rest through the "
        f"likely ones. Of {len(programs)} BPF programs that were judged, "
        f"{len(programs) - len(results.survivors(programs))} are noticed, or do not compile. Here "
        "are the survivors, with the reason why they may be. Where such a line changes, "
        "`tests/conformance/test_derived.py` fails until its mutants are judged again.",
    ]
    for reason, text in REASONS.items():
        lines += ["", text, ""]
        for explained in (SURVIVORS, OF_THE_PUBLISHER):
            lines += [f"- `{key}`" for key, why in explained.items() if why == reason]
    return lines


def test_the_table_is_current() -> None:
    if os.environ.get("PVLOCK_UPDATE"):
        TABLE.write_text(table(), encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == table()
