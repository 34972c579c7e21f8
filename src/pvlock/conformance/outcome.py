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


JUDGED = Case("", "run", "is-judged", frozenset(), "there is a whole report to judge")
"""A case that is added as a failure where a log is not whole, or an engine cannot run."""
OFFERED = Case("", "run", "is-offered", frozenset(), "the guest found PV-lock")
"""A case that --present adds; it counts in every profile."""


_BESIDES = (RUN, JUDGED, OFFERED)
"""These count as failures only, since nothing passes by a run that ended."""


class Conclusion(enum.StrEnum):
    """What a judgement comes to. CONFORMS and RIGHTLY_ABSENT are a success."""

    CONFORMS = "conforms"
    FAILED = "does not conform"
    UNKNOWN = "not judged"
    NOTHING = "nothing was judged, which is a failure"
    ABSENT = "PV-lock is not offered"
    RIGHTLY_ABSENT = "PV-lock is not offered, and its absence is right"


@dataclass(frozen=True)
class Judgement:
    """The judgement of a profile on outcomes: how many have each verdict, and if that conforms."""

    profile: str
    counts: dict[Verdict, int]
    outside: int
    """How many cases ran that the profile does not ask for."""
    offered: bool = True
    """Whether the hypervisor offered PV-lock. If it did not, it cannot be said to conform."""
    absent_ok: bool = False
    """Whether a hypervisor that does not offer it is a success."""
    whole: bool = True
    """Whether there was a whole report to judge. If there was none, that is one failure."""

    @property
    def conclusion(self) -> Conclusion:
        """What the counts come to."""
        if self.failed and not self.whole and self.failed == 1:
            return Conclusion.UNKNOWN
        if self.failed:
            return Conclusion.FAILED
        if not self.counts[Verdict.OK]:
            return Conclusion.NOTHING
        if self.offered:
            return Conclusion.CONFORMS
        return Conclusion.RIGHTLY_ABSENT if self.absent_ok else Conclusion.ABSENT

    @property
    def succeeds(self) -> bool:
        """Whether the hypervisor is what was asked for."""
        return self.conclusion in (Conclusion.CONFORMS, Conclusion.RIGHTLY_ABSENT)

    @property
    def conforms(self) -> bool:
        """Whether PV-lock is offered, a case passed, and none failed that the profile asks for."""
        return self.conclusion is Conclusion.CONFORMS

    @property
    def failed(self) -> int:
        """How many cases of the profile failed."""
        return self.counts[Verdict.FAILED]

    @property
    def sentence(self) -> str:
        """The result in a line."""
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items() if n)
        beside = f" ({self.outside} more are outside of it)" if self.outside else ""
        return f"profile {self.profile}: {counts or 'no case'}{beside}: {self.conclusion}"


def in_profile(case: Case, profile: str) -> bool:
    """Tell whether a hypervisor that claims `profile` owes this case.

    Clauses of the document and of Arm's documents count in every profile, [series] clauses in
    `series` and `pvlock`, and [pvlock] clauses only in `pvlock`.
    """
    if case.tag == "pvlock":
        return profile == "pvlock"
    return case.tag != "series" or profile != "document"


def judge(
    outcomes: Iterable[Outcome], profile: str, *, offered: bool = True, absent_ok: bool = False
) -> Judgement:
    """Count the outcomes that `profile` asks for. `offered` and `absent_ok`: see Judgement.

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
    counts = {v: sum(o.verdict is v and o.case not in _BESIDES for o in counted) for v in Verdict}
    counts[Verdict.FAILED] = sum(o.verdict is Verdict.FAILED for o in counted)
    whole = all(outcome.case is not JUDGED for outcome in counted)
    return Judgement(profile, counts, outside, offered, absent_ok, whole)


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that are failures."""
    return [outcome for outcome in outcomes if outcome.verdict is Verdict.FAILED]
