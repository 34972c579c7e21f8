# SPDX-License-Identifier: GPL-2.0-or-later
"""Repeated comparisons: what their verdict is, and what they show."""

import json

import pytest
from rich.console import Console
from test_workload import compared

from command_line import pvlock
from pvlock import repeats, report
from pvlock.repeats import Repeats
from pvlock.workload import Comparison


def repeated(*counts: tuple[int, int], emulated: bool = False) -> Repeats:
    """Return comparisons with these acquisitions, without PV-lock and with it."""
    found = [compared(without, with_, 1_000) for without, with_ in counts]
    return Repeats(len(counts), emulated, found)


@pytest.mark.parametrize(
    ("counts", "verdict", "words"),
    [
        (
            [(500, 1_000), (500, 600), (500, 750)],
            repeats.GAINED,
            "PV-lock gained: median x1.50, x1.20 to x2.00, compared 3 times.",
        ),
        (
            [(500, 400), (500, 450)],
            repeats.COST,
            "PV-lock cost: median x0.85, x0.80 to x0.90, compared 2 times.",
        ),
        # The four runs that began this: each by itself sounded like a law.
        (
            [(1_000, 1_090), (1_000, 25), (1_000, 2_360), (1_000, 529)],
            repeats.MIXED,
            "Mixed: PV-lock gained in 2 and cost in 2 of 4: median x0.81, x0.03 to x2.36, compared"
            " 4 times.",
        ),
        # No difference in one of them is no gain in all of them.
        (
            [(1_000, 1_000), (1_000, 1_500)],
            repeats.MIXED,
            "Mixed: PV-lock gained in 1 and cost in 0 of 2: median x1.25, x1.00 to x1.50, compared"
            " 2 times.",
        ),
        (
            [(1_000, 1_001), (1_000, 999)],
            repeats.NO_DIFFERENCE,
            "PV-lock made no difference here: median x1.00, x1.00 to x1.00, compared 2 times.",
        ),
        (
            [(500, 1_000)],
            repeats.GAINED,
            "PV-lock gained: x2.00, compared once, which on a real host proves little.",
        ),
        (
            [(0, 10), (10, 20)],
            repeats.NONE,
            "The lock was hardly ever taken: the runs are too short to say anything.",
        ),
    ],
)
def test_the_verdict(counts: list[tuple[int, int]], verdict: str, words: str) -> None:
    found = repeated(*counts)
    assert found.verdict == verdict
    assert found.sentence() == words


def test_where_the_cpus_are_emulated_there_is_no_verdict() -> None:
    found = repeated((500, 1_000), (500, 900), emulated=True)
    assert found.verdict == repeats.NONE
    said = found.sentence()
    assert said.startswith("No verdict: the CPUs of this host are emulated")
    assert not any(word in said for word in ("gained", "cost", "won back", "x2.00"))


def test_the_table_has_medians_and_the_range() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(repeated((500, 1_000), (700, 900), (600, 2_000)).table())
    lines = capture.get().splitlines()
    assert lines[2].split()[3:] == ["600,000", "1,000,000", "1,000,000"]
    assert lines[3].split() == ["lowest", "500,000", "900,000", "1,000,000"]
    assert lines[4].split() == ["highest", "700,000", "2,000,000", "1,000,000"]
    assert len(lines) == 2 + len(report.ROWS) + 2


def test_json_has_each_comparison_and_the_median_one() -> None:
    found = repeated((500, 1_000), (500, 600), (500, 750))
    facts = json.loads(json.dumps(found.as_dict("kvm")))
    assert facts["gain"] == {"median": 1.5, "lowest": 1.2, "highest": 2.0}
    assert facts["verdict"] == "gained" and facts["emulated_cpus"] is False
    assert facts["runs"] == facts["repetitions"][2]
    assert [each["with"]["throughput"] for each in facts["repetitions"]] == [1e6, 6e5, 7.5e5]
    assert facts["summary"] == found.sentence()


def test_one_that_is_interrupted_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(number: int) -> Comparison:
        made = compared(500, 1_000, 1_000)
        if number == 2:
            made.interrupted = True
            del made.runs["with"], made.runs["baseline"]
        return made

    found = repeats.repeat(5, False, compare)
    assert len(found.comparisons) == 3 and len(found.whole) == 2
    assert found.sentence().startswith("Interrupted: compared 2 times, not 5. PV-lock gained")
    alone = repeats.repeat(5, False, lambda _number: compare(2))
    assert alone.sentence() == "Interrupted: no result for with, baseline."
    assert alone.as_dict("kvm")["gain"]["median"] is None
    assert len(alone.table().columns) == 2


def test_the_emulator_needs_no_repetition() -> None:
    done = pvlock("run", "mutex", "--engine", "emulator", "--repeat", "3")
    assert done.status == 2 and "repeat to the byte" in done.err
