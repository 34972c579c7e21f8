# SPDX-License-Identifier: GPL-2.0-or-later
"""Outcomes as TAP 14, JSON or JUnit XML. Each form agrees with the exit status."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from pvlock.conformance.outcome import Judgement, Outcome, Verdict, in_profile
from pvlock.report import document

FORMATS = ("tap", "json", "junit")


@dataclass(frozen=True)
class Report:
    """What was judged, which `subject` names in a line, and the judgement."""

    subject: str
    outcomes: Sequence[Outcome]
    judgement: Judgement


def render(report: Report, form: str) -> str:
    """Return the report in one of FORMATS, ending in a newline.

    >>> from pvlock.conformance.cases import Case
    >>> from pvlock.conformance.outcome import judge
    >>> outcome = Outcome(Case("2.4", "pvlock", "zero-or-one", frozenset(), ""), Verdict.OK)
    >>> print(render(Report("an example", [outcome], judge([outcome], "pvlock")), "tap"), end="")
    TAP version 14
    # an example
    1..1
    ok 1 - 2.4/pvlock zero-or-one
    # profile pvlock: 1 ok: conforms
    """
    return {"tap": _tap, "json": _json, "junit": _junit}[form](report)


def title(outcome: Outcome) -> str:
    """Name an outcome: clause/tag, case, and the machine it ran on."""
    case = outcome.case
    where = f" ({outcome.run})" if outcome.run else ""
    return f"{case.clause}/{case.tag} {case.name}{where}".lstrip("/")


def _tap(report: Report) -> str:
    profile = report.judgement.profile
    lines = ["TAP version 14", f"# {report.subject}", f"1..{len(report.outcomes)}"]
    for number, outcome in enumerate(report.outcomes, 1):
        bad = outcome.verdict in (Verdict.FAILED, Verdict.HOST)
        lines.append(
            f"{'not ' if bad else ''}ok {number} - {title(outcome)}{_directive(outcome, profile)}"
        )
        evidence = ({"message": outcome.reason} if bad else {}) | outcome.evidence
        if evidence:
            # JSON is YAML too, and saves us YAML's rules of quoting.
            lines.append("  ---")
            lines += [f"  {key}: {json.dumps(value)}" for key, value in evidence.items()]
            lines.append("  ...")
    lines.append(f"# {report.judgement.sentence}")
    return "\n".join(lines) + "\n"


def _directive(outcome: Outcome, profile: str) -> str:
    match outcome.verdict:
        case Verdict.SKIPPED:
            return f" # SKIP {outcome.reason}"
        case Verdict.HOST:
            return f" # TODO {outcome.reason}"
        case Verdict.FAILED if not in_profile(outcome.case, profile):
            return f" # TODO not in profile {profile}"
    return ""


def _json(report: Report) -> str:
    judgement = report.judgement
    facts = {
        "subject": report.subject,
        "profile": judgement.profile,
        "conforms": judgement.conforms,
        "conclusion": str(judgement.conclusion),
        "counts": {str(verdict): count for verdict, count in judgement.counts.items()},
        "cases": [
            {
                "clause": o.case.clause,
                "tag": o.case.tag,
                "name": o.case.name,
                "run": o.run,
                "verdict": str(o.verdict),
                "counts": in_profile(o.case, judgement.profile),
                "reason": o.reason,
                "evidence": o.evidence,
            }
            for o in report.outcomes
        ],
    }
    return json.dumps(document("check", facts), indent=1) + "\n"


def _junit(report: Report) -> str:
    profile = report.judgement.profile
    suite = ElementTree.Element("testsuite", name=f"pvlock {profile}")
    failures = skipped = 0
    for outcome in report.outcomes:
        name = f"pvlock.{outcome.run or 'log'}".replace(" ", "-")
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=title(outcome))
        counts = in_profile(outcome.case, profile)
        if outcome.verdict is Verdict.FAILED and counts:
            ElementTree.SubElement(case, "failure", message=_xml(outcome.reason))
            failures += 1
        elif outcome.verdict is not Verdict.OK:
            ElementTree.SubElement(case, "skipped", message=_xml(outcome.reason))
            skipped += 1
        if outcome.evidence:
            evidence = (f"{key}: {json.dumps(value)}" for key, value in outcome.evidence.items())
            ElementTree.SubElement(case, "system-out").text = _xml("\n".join(evidence))
    if not report.judgement.succeeds and not failures:
        case = ElementTree.SubElement(suite, "testcase", classname="pvlock", name="judgement")
        ElementTree.SubElement(case, "failure", message=_xml(report.judgement.sentence))
        failures += 1
    suite.attrib |= {"tests": str(len(suite)), "failures": str(failures), "skipped": str(skipped)}
    ElementTree.indent(suite)
    # ASCII, so that it is what it says it is in every locale.
    data: bytes = ElementTree.tostring(suite, encoding="us-ascii", xml_declaration=True)
    return f"{data.decode('ascii')}\n"


def _xml(text: str) -> str:
    """Replace the characters that XML 1.0 cannot hold."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
