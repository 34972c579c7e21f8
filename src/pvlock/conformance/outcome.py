# SPDX-License-Identifier: GPL-2.0-or-later
"""What came of a case, and what a profile makes of many."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pvlock.conformance.cases import Case

PROFILES = ("document", "series", "pvlock")
"""What a hypervisor can claim: each includes the one before it."""


class Verdict(enum.StrEnum):
    """`HOST` is a failure that the host's kernel forces on the engine: known, and no pass."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    HOST = "forced by the host"


@dataclass(frozen=True)
class Outcome:
    """What came of `case`. `run` names the machine, since one case can run on several.

    `reason` says why it failed or was skipped; `evidence` is what was seen, by name.
    """

    case: Case
    verdict: Verdict
    run: str = ""
    reason: str = ""
    evidence: dict[str, object] = field(default_factory=dict)

    def but(self, verdict: Verdict, reason: str) -> "Outcome":
        """Return this outcome with another verdict."""
        return replace(self, verdict=verdict, reason=reason)


RUN = Case("", "run", "completes", frozenset(), "the guest runs to its end and its log is whole")
"""The case that every run of the guest adds; it counts in every profile."""


@dataclass(frozen=True)
class Judgement:
    """What a profile makes of outcomes: numbers by verdict, and whether that conforms."""

    profile: str
    counts: dict[Verdict, int]
    outside: int
    """Cases that ran and that the profile does not ask for."""

    @property
    def conforms(self) -> bool:
        """Something ran, and nothing that the profile asks for failed."""
        return not self.failed and self.counts[Verdict.OK] > 0

    @property
    def failed(self) -> int:
        """Cases of the profile that failed."""
        return self.counts[Verdict.FAILED]

    @property
    def sentence(self) -> str:
        """The result in a line."""
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items() if n)
        end = "conforms" if self.conforms else "does not conform"
        if not self.failed and not self.counts[Verdict.OK]:
            end = "nothing was judged, which is a failure"
        beside = f" ({self.outside} more are outside of it)" if self.outside else ""
        return f"profile {self.profile}: {counts or 'no case'}{beside}: {end}"


def in_profile(case: Case, profile: str) -> bool:
    """Tell whether a hypervisor that claims `profile` owes this case.

    `document` and the clauses of Arm's documents count always, [series] from `series` on.
    """
    if case.tag == "pvlock":
        return profile == "pvlock"
    return case.tag != "series" or profile != "document"


def judge(outcomes: Iterable[Outcome], profile: str) -> Judgement:
    """Count the outcomes that `profile` asks for."""
    counted: list[Outcome] = []
    outside = 0
    for outcome in outcomes:
        if in_profile(outcome.case, profile):
            counted.append(outcome)
        else:
            outside += outcome.verdict is not Verdict.SKIPPED
    counts = {v: sum(o.verdict is v and o.case is not RUN for o in counted) for v in Verdict}
    counts[Verdict.FAILED] = sum(o.verdict is Verdict.FAILED for o in counted)
    return Judgement(profile, counts, outside)


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return those that failed."""
    return [outcome for outcome in outcomes if outcome.verdict is Verdict.FAILED]
