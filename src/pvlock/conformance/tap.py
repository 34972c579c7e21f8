# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads what the conformance guest prints: TAP 14, strictly.

Firmware and boot loaders may print before `TAP version 14`, and the VMM after the summary, as long
as no such line begins like TAP. A logger may put a prefix before each line (console_log.py). A log
in which anything else is missing, doubled, out of order or contradictory is worthless, and LogError
says why. What is taken from a log is printable ASCII, as the guest prints nothing else, so it can
be shown anywhere.
"""

import re
from dataclasses import dataclass, field

from pvlock.conformance.cases import Case, guest_cases
from pvlock.conformance.console_log import VERSION, lines_of, short
from pvlock.conformance.outcome import Outcome, Verdict
from pvlock.errors import LogError

_FORMAT = "# pvlock conformance guest, format "
_KNOWN_FORMAT = "1"
_LINE = re.compile(r"[ -~]{0,500}")
_PLAN = re.compile(r"1\.\.(\d{1,4})")
_RESULT = re.compile(
    r"(?P<not>not )?ok (?P<number>\d{1,4}) - (?P<clause>\d+\.\d+)/(?P<tag>\w+) (?P<name>[a-z0-9-]+)"
    r"(?: # SKIP (?P<skip>.+))?"
)
_SUMMARY = re.compile(r"# summary: (\d{1,4}) ok, (\d{1,4}) not ok, (\d{1,4}) skipped")
_FACTS = ("psci", "machine", "interface", "wake", "policy")
_FACT = re.compile(r"# ([a-z]+): (.+)")
_INTERFACE = re.compile(r"(present|unset|absent) \(.+\)")
# Evidence is a number, a word, a message or a list of numbers; or, below its key, many lists.
_KEY = re.compile(r"  ([a-z0-9-]+):(?: (.+))?")
_ITEM = re.compile(r"    - (.+)")
_NUMBER = r"(?:0x[0-9a-f]{1,16}|[0-9]{1,20})"
_LIST = re.compile(rf"\[({_NUMBER}(?:, {_NUMBER})*)\]")
_WORD = re.compile(rf'{_NUMBER}|[A-Za-z][A-Za-z0-9-]*|"[^"]*"')
_LONGEST = 1 << 24


@dataclass
class Log:
    """What the guest said in a run: facts about the machine, and an outcome for each case."""

    facts: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def interface(self) -> str:
        """How much of PV-lock was found: present, unset or absent."""
        return self.facts["interface"].split()[0]


class _Reader:
    """Gives a line at a time, and knows its number for errors."""

    def __init__(self, lines: list[str], first: int) -> None:
        self._lines, self.at = lines, first

    def peek(self) -> str | None:
        return self._lines[self.at] if self.at < len(self._lines) else None

    def next(self, wanted: str) -> str:
        line = self.peek()
        if line is None:
            raise LogError(f"the log ends where {wanted} should be")
        if line.startswith("Bail out!"):
            raise LogError(f"line {self.at + 1}: the guest gave up: {short(line[9:].strip())}")
        self.at += 1
        if not _LINE.fullmatch(line):
            raise self.error("nothing that the guest prints")
        return line

    def error(self, what: str) -> LogError:
        """Complain about the line that next() returned last."""
        return LogError(f"line {self.at}: {what}: {short(self._lines[self.at - 1])}")


def parse(text: str, run: str = "") -> Log:
    """Return what the guest reported in a console log. Raises LogError if the report is not whole.

    Outcome.run of each outcome becomes `run`.

    >>> from pvlock.conformance.cases import binary
    >>> from pvlock.image import parse as guest
    >>> from pvlock.machine import Machine
    >>> with Machine(2, engine="emulator", bootargs="cases=own-flag") as machine:
    ...     loaded = machine.load(guest(binary("Image"), "Image"))
    ...     event = machine.run(1_000_000_000)
    >>> log = parse(machine.console.text)
    >>> log.interface, [(str(outcome.verdict), outcome.case.name) for outcome in log.outcomes]
    ('present', [('ok', 'own-flag')])
    """
    log = Log()
    read(text, log, run)
    return log


def read(text: str, log: Log, run: str = "") -> None:
    """Add to `log` what parse() would return. After a LogError, `log` has what came before it."""
    if len(text) > _LONGEST:
        raise LogError(f"the log is longer than {_LONGEST >> 20} MiB")
    lines, start = lines_of(text)
    for number, line in enumerate(lines[:start]):
        if _looks_like_tap(line):
            raise LogError(f"line {number + 1}: before {VERSION!r}: {short(line)}")
    reader = _Reader(lines, start + 1)
    plan = _header(reader, log)
    known = {case.name: case for case in guest_cases()}
    order = {name: position for position, name in enumerate(known)}
    last = -1
    for number in range(1, plan + 1):
        outcome = _result(reader, number, known, run)
        if order[outcome.case.name] <= last:
            raise reader.error("a case a second time, or out of order")
        last = order[outcome.case.name]
        outcome.evidence.update(_evidence(reader))
        if outcome.verdict is Verdict.FAILED:
            if "message" not in outcome.evidence:
                raise LogError(f"line {reader.at}: case {number} failed, and does not say why")
            outcome = outcome.but(Verdict.FAILED, str(outcome.evidence.pop("message")))
        log.outcomes.append(outcome)
    _end(reader, log)


def _header(reader: _Reader, log: Log) -> int:
    line = reader.next("the guest's name")
    if not line.startswith(_FORMAT):
        raise reader.error("not the conformance guest of pvlock")
    if line != _FORMAT + _KNOWN_FORMAT:
        raise reader.error("another version of the guest: use the pvlock that wrote the image")
    while True:
        line = reader.next("the plan")
        if plan := _PLAN.fullmatch(line):
            break
        fact = _FACT.fullmatch(line)
        if not fact or fact[1] not in _FACTS[len(log.facts) : len(log.facts) + 1]:
            raise reader.error("neither the plan nor a fact that belongs here")
        if fact[1] == "interface" and not _INTERFACE.fullmatch(fact[2]):
            raise reader.error("no interface that the guest names")
        log.facts[fact[1]] = fact[2]
    if len(log.facts) < len(_FACTS):
        raise reader.error(f"the plan comes before the fact {_FACTS[len(log.facts)]!r}")
    return int(plan[1])


def _result(reader: _Reader, number: int, known: dict[str, Case], run: str) -> Outcome:
    line = reader.next(f"case {number}")
    found = _RESULT.fullmatch(line)
    if not found:
        raise reader.error(f"not the result of case {number}")
    if int(found["number"]) != number:
        raise reader.error(f"case {number} should be here")
    case = known.get(found["name"])
    if case is None or (case.clause, case.tag) != (found["clause"], found["tag"]):
        raise reader.error("a case that this version of pvlock does not know")
    if found["skip"] is not None:
        if found["not"]:
            raise reader.error("both failed and skipped")
        return Outcome(case, Verdict.SKIPPED, run, found["skip"])
    return Outcome(case, Verdict.FAILED if found["not"] else Verdict.OK, run)


def _evidence(reader: _Reader) -> dict[str, object]:
    evidence: dict[str, object] = {}
    if reader.peek() != "  ---":
        return evidence
    reader.next("evidence")
    lists: list[object] | None = None
    while (line := reader.next("the end of the evidence")) != "  ...":
        key, item = _KEY.fullmatch(line), _ITEM.fullmatch(line)
        if item and lists is not None and _LIST.fullmatch(item[1]):
            lists.append(_value(item[1]))
        elif not key or key[1] in evidence:
            raise reader.error("not evidence")
        elif key[2] is None:
            evidence[key[1]] = lists = []
        elif _WORD.fullmatch(key[2]) or _LIST.fullmatch(key[2]):
            evidence[key[1]], lists = _value(key[2]), None
        else:
            raise reader.error("not evidence")
    return evidence


def _value(text: str) -> object:
    if numbers := _LIST.fullmatch(text):
        return [_value(number) for number in numbers[1].split(", ")]
    # An address stays as it is written; a message loses its quotes.
    return int(text) if text.isdecimal() else text.strip('"')


def _end(reader: _Reader, log: Log) -> None:
    line = reader.next("the summary")
    summary = _SUMMARY.fullmatch(line)
    if not summary:
        raise reader.error("not the summary")
    verdicts = (Verdict.OK, Verdict.FAILED, Verdict.SKIPPED)
    for verdict, count in zip(verdicts, summary.groups(), strict=True):
        if int(count) != sum(outcome.verdict is verdict for outcome in log.outcomes):
            raise reader.error("the summary does not agree with the cases")
    while (rest := reader.peek()) is not None:
        reader.at += 1
        if _looks_like_tap(rest):
            raise reader.error("TAP after the summary")


def _looks_like_tap(line: str) -> bool:
    return bool(re.match(r"(not )?ok\b|1\.\.|Bail out!|# summary|TAP version", line))
