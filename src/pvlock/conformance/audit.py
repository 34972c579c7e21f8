# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases that an engine judges which knows the truth of every switch (contract.Auditing).

A guest sees the flags that it looks at, when it looks. Such an engine compares every flag and every
wait with what is so, at every switch of every run of the guest: a fault in one of thousands shows.
"""

from collections import Counter
from collections.abc import Sequence

from pvlock.conformance.cases import Case
from pvlock.conformance.outcome import Outcome, Verdict
from pvlock.engines.contract import Audit, Mistake

EVERY_SWITCH = Case(
    "6.1", "document", "every-switch", frozenset(),
    "after each switch of each run the flag of each VCPU is what its policy says",
)  # fmt: skip
EVERY_WAIT = Case(
    "10.3", "DEN0057", "every-wait", frozenset(),
    "each wait for a CPU adds its length to the stolen time of that VCPU",
)  # fmt: skip
CASES = (EVERY_SWITCH, EVERY_WAIT)

WAYS = (
    *("out-slice", "out-yield", "out-block", "out-off"),
    *("in-slice", "in-yield", "in-directed", "migration"),
    *("in-block-idle", "in-block-queued", "in-off-idle", "in-off-queued"),
)
"""The ways to lose a CPU and to get one. After `in-` stands how the VCPU had lost its last CPU, and
whether it found an idle CPU when it could run again, or had to wait in the queue."""
_ENOUGH = 10
"""A way that was gone less often than this was not exercised."""

_WORDS = {"flag": EVERY_SWITCH, "stolen-time": EVERY_WAIT}


def judge(audits: Sequence[tuple[str, Audit]]) -> list[Outcome]:
    """Return the outcomes of CASES. `audits` are those of all runs, with the runs' names.

    >>> every = {way: 10 for way in WAYS}
    >>> good = Audit(every, compared=99, waits=9, wrong={}, mistakes=())
    >>> [str(outcome.verdict) for outcome in judge([("a run", good)])]
    ['ok', 'ok']
    >>> late = Mistake("flag", 3_000, 1, "after yield", 0, 1)
    >>> bad = Audit({}, compared=9, waits=0, wrong={"flag": 2}, mistakes=(late,))
    >>> judge([("a run", good), ("another", bad)])[0].reason
    'at 3000 ns VCPU 1, after yield, had flag 0, not 1; there are 2 such mistakes (another)'
    """
    ways: Counter[str] = Counter()
    for _, audit in audits:
        ways.update(audit.ways)
    evidence: dict[Case, dict[str, object]] = {
        EVERY_SWITCH: {
            "switches": sum(count for way, count in ways.items() if way.startswith("out-")),
            "flags-compared": sum(audit.compared for _, audit in audits),
            **dict(sorted(ways.items())),
        },
        EVERY_WAIT: {"waits": sum(audit.waits for _, audit in audits)},
    }
    found = []
    for word, case in _WORDS.items():
        why = _first_mistake(audits, word)
        if not why and case is EVERY_SWITCH:
            rare = [way for way in WAYS if ways[way] < _ENOUGH]
            why = f"too few switches of this kind: {', '.join(rare)}" if rare else ""
        verdict = Verdict.FAILED if why else Verdict.OK
        runs = f"{len(audits)} runs"
        found.append(Outcome(case, verdict, runs, why, evidence[case]))
    return found


def _first_mistake(audits: Sequence[tuple[str, Audit]], word: str) -> str:
    for run, audit in audits:
        for mistake in audit.mistakes:
            if mistake.what == word:
                return f"{_text(mistake)}; there are {audit.wrong[word]} such mistakes ({run})"
    return ""


def _text(mistake: Mistake) -> str:
    found, wanted = mistake.found, mistake.wanted
    where = f"at {mistake.time_ns} ns VCPU {mistake.vcpu}, {mistake.where},"
    if mistake.what == "flag":
        return f"{where} had flag {found}, not {wanted}"
    return f"{where} had {found} ns of stolen time for a wait of {wanted} ns"
