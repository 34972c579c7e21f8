# SPDX-License-Identifier: GPL-2.0-or-later
"""The outcome of a case, and the judgement of a profile on many outcomes."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pvlock.conformance.cases import Case

PROFILES = ("document", "series", "pvlock")
"""What a hypervisor can claim to conform to. Each profile includes the one before it."""


class Verdict(enum.StrEnum):
    """What became of a case. HOST is a failure that the host's kernel forces; it is no pass."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    HOST = "forced by the host"


@dataclass(frozen=True)
class Outcome:
    """The outcome of `case`. `run` names the machine, since a case can run on several.

    `reason` says why the case failed or was skipped. `evidence` is what was seen, by name.
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
"""A case that every run of the guest adds, and that counts in every profile."""


@dataclass(frozen=True)
class Judgement:
    """The judgement of a profile on outcomes: how many have each verdict, and if that conforms."""

    profile: str
    counts: dict[Verdict, int]
    outside: int
    """How many cases ran that the profile does not ask for."""

    @property
    def conforms(self) -> bool:
        """Whether a case passed, and none failed that the profile asks for."""
        return not self.failed and self.counts[Verdict.OK] > 0

    @property
    def failed(self) -> int:
        """How many cases of the profile failed."""
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

    Clauses of the document and of Arm's documents count in every profile, [series] clauses in
    `series` and `pvlock`, and [pvlock] clauses only in `pvlock`.
    """
    if case.tag == "pvlock":
        return profile == "pvlock"
    return case.tag != "series" or profile != "document"


def judge(outcomes: Iterable[Outcome], profile: str) -> Judgement:
    """Count the outcomes that `profile` asks for.

    >>> case = Case("2.4", "pvlock", "zero-or-one", frozenset(), "an example")
    >>> judge([Outcome(case, Verdict.OK)], "pvlock").sentence
    'profile pvlock: 1 ok: conforms'
    >>> judge([Outcome(case, Verdict.OK)], "document").conforms  # it does not ask for this case
    False
    """
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
    """Return the outcomes that are failures."""
    return [outcome for outcome in outcomes if outcome.verdict is Verdict.FAILED]
