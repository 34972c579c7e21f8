# SPDX-License-Identifier: GPL-2.0-or-later
"""conformance/tap.py takes a log that is whole and consistent, and refuses others with a reason."""

import functools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvlock import Machine, SystemEvent
from pvlock.conformance.cases import binary, guest_cases
from pvlock.conformance.outcome import Verdict
from pvlock.conformance.tap import parse
from pvlock.errors import LogError

STRUCTURE = re.compile(r"TAP version|# |1\.\.|(not )?ok |  (---|\.\.\.)$")


@functools.cache
def log() -> str:
    """Return a real log: all cases of a machine with one VCPU, so that some are skipped."""
    with Machine(1, bootargs="observe=1") as machine:
        machine.load(binary("Image"))
        assert machine.run(1_000_000_000) is SystemEvent.OFF
        return machine.console.text


def lines() -> list[str]:
    return log().splitlines(keepends=True)


def refusal(text: str) -> str:
    with pytest.raises(LogError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def with_case(text: str) -> str:
    """Return a log of one case, 6.2, whose lines are `text`."""
    head = log().partition("\n1..")[0]
    counts = {"ok": (1, 0, 0), "not ok": (0, 1, 0)}["not ok" if "not ok" in text else "ok"]
    return f"{head}\n1..1\n{text}# summary: %d ok, %d not ok, %d skipped\n" % counts


def test_a_whole_log() -> None:
    found = parse(log())
    assert [outcome.case for outcome in found.outcomes] == list(guest_cases())
    assert found.interface == "present"
    assert set(found.facts) == {"psci", "machine", "interface", "wake", "policy"}
    verdicts = {outcome.verdict for outcome in found.outcomes}
    assert verdicts == {Verdict.OK, Verdict.SKIPPED}
    by_name = {outcome.case.name: outcome for outcome in found.outcomes}
    assert by_name["discovery-order"].evidence["smccc-version"] == "0x10001"
    assert by_name["distinct"].reason == "one VCPU"


def test_firmware_before_it_and_the_vmm_after_it() -> None:
    noise = "U-Boot 2023.01\r\r\n\x1b[2J## Loading kernel ...\r\nok, starting\r\n"
    quiet = noise.replace("ok, starting\r\n", "")
    assert parse(quiet + log() + "[vmm] guest is off\n").interface == "present"
    assert "before 'TAP version 14'" in refusal(noise + log())


@pytest.mark.parametrize("end", ["\r\n", "\r\r\n"])
def test_line_ends_of_serial_consoles(end: str) -> None:
    assert len(parse(log().replace("\n", end)).outcomes) == len(guest_cases())


def test_nothing() -> None:
    """What a log holds is said, and not what may have caused it."""
    for text in ("", "\n", " \r\n\r\n"):
        assert refusal(text) == "no line says 'TAP version 14': the log is empty"
    for text in ("Linux version 6.12\n\n", "a\nTAP version 13\n", "x" * 99):
        last = text.strip().splitlines()[-1]
        assert f"; the log ends in line {text.strip().count(chr(10)) + 1}: " in refusal(text)
        assert last[:60] in refusal(text)
    behind = "".join(lines()[2:])
    assert "line 1 is the guest's: the log lacks its beginning" in refusal(behind)


PREFIXES = [
    "[    0.123456] ", "[2026-11-25 20:24:07] ", "2026-11-25T20:24:07.1+01:00 ", "20:24:07.123 | ",
    "Nov  5 20:24:07 host qemu[812]: ", "vm1: ", "\x1b[32m[ 9.1]\x1b[0m ", "> ", "12 ", "a 1 2 3 ",
]  # fmt: skip


def later(prefix: str, line: int) -> str:
    """Return a prefix as a logger writes it in front of a later line."""

    def grown(number: re.Match[str]) -> str:
        value = str((int(number[0]) + line * 7919) % 10**6)
        return value.rjust(len(number[0])) if number[0].startswith(" ") else value

    return re.sub(r" *\d+(?![\d;]*m)", grown, prefix).replace("Nov", "Dec" if line > 9 else "Nov")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_loggers_put_a_prefix_before_each_line(prefix: str) -> None:
    plain = parse(log())
    prefixed = "".join(later(prefix, n) + line for n, line in enumerate(lines()))
    found = parse("BIOS says hello\n" + prefixed + "[vmm] gone\n")
    assert (found.facts, found.outcomes) == (plain.facts, plain.outcomes)
    assert parse(prefixed.replace("\n", "\r\n")).outcomes == plain.outcomes
    # A logger may leave out the blanks of a line that is otherwise empty.
    assert parse(prefixed.replace(" \n", "\n")).outcomes == plain.outcomes


@pytest.mark.parametrize("prefix", PREFIXES[:3])
def test_a_prefix_excuses_nothing(prefix: str) -> None:
    everything = [later(prefix, n) + line for n, line in enumerate(lines())]
    structure = [n for n, line in enumerate(lines()) if STRUCTURE.match(line)]
    for number in structure[1:-1:5]:
        refusal("".join(everything[:number] + everything[number + 1 :]))
        refusal("".join(everything[: number + 1]))
        refusal("".join([*everything[:number], everything[number], *everything[number:]]))
    assert "a second time" in refusal("".join(everything + everything))


def test_a_prefix_takes_no_time() -> None:
    """A number could be divided between those of a prefix in very many ways, if they touched."""
    text = "1 " * 90 + "TAP version 14\n" + ("1" * 400 + "x\n") * 50
    started = time.perf_counter()
    refusal(text)
    assert time.perf_counter() - started < 5


def test_any_part_of_a_log_is_refused() -> None:
    text = log()
    assert parse(text)
    for cut in range(0, len(text) - 1, 7):
        refusal(text[:cut])
    assert parse(text[:-1])  # all that is missing is the end of the last line
    for number in range(len(lines())):
        if number > 1:
            refusal("".join(lines()[number:]))


def test_each_line_of_structure_counts() -> None:
    """A log is refused if a line of structure is missing, doubled, or behind the next line."""
    everything = lines()
    for number, line in enumerate(everything[:-1]):
        if not STRUCTURE.match(line):
            continue
        before, after = everything[:number], everything[number + 1 :]
        refusal("".join(before + after))
        refusal("".join([*before, line, line, *after]))
        if after[0] != line and STRUCTURE.match(after[0]):
            refusal("".join([*before, after[0], line, *after[1:]]))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("ok 2 -", "ok 3 -", "case 2 should be here"),
        ("ok 2 -", "not ok 2 -", "does not say why"),
        ("# SKIP one VCPU", "# SKIP", "not the result of case"),
        ("1..", "1..9", "the log ends where|not the result of case"),
        ("3.1/DEN0028 conduit", "3.1/DEN0028 conduct", "does not know"),
        ("3.1/DEN0028 conduit", "3.1/document conduit", "does not know"),
        ("format 1", "format 2", "another version of the guest"),
        ("# pvlock conformance", "# other", "not the conformance guest"),
        ("# policy:", "# psci:", "neither the plan nor a fact"),
        ("  steps: 5\n", "", ""),
        ("  steps: 5\n", "  steps: 5\n  steps: 5\n", "not evidence"),
        ("  steps: 5\n", "  steps: 5\npanic\n", "not evidence"),
        ("0 not ok", "1 not ok", "does not agree"),
        ("ok 2 -", "Bail out! exception: esr 96000010\nok 2 -", "gave up: exception: esr 96000010"),
    ],
)
def test_changes(old: str, new: str, why: str) -> None:
    text = log().replace(old, new, 1)
    assert text != log()
    if why:
        assert re.search(why, refusal(text))
    else:
        parse(text)


def test_a_guest_that_starts_twice() -> None:
    """If a crash resets the machine, neither run counts."""
    assert "a second time" in refusal(log() + log())
    assert "a second time" in refusal(log()[:2000] + "\n" + log())


def test_tap_after_the_summary() -> None:
    for line in ("ok 59 - 6.2/document own-flag", "1..3", "Bail out! late", "not ok 1 - x"):
        assert "TAP after the summary" in refusal(f"{log()}{line}\n")


def test_order_of_cases() -> None:
    both = "ok 1 - 3.5/series arch-features\nok 2 - 4.1/document discovery-order\n"
    text = with_case(both).replace("1..1\n", "1..2\n")
    assert "out of order" in refusal(text)


def test_evidence_of_a_failure() -> None:
    text = with_case(
        'not ok 1 - 6.2/document own-flag\n  ---\n  message: "it read 1"\n  reads: 7\n'
        "  kind: STR-post-indexed\n  uid: [0x1, 2]\n  list:\n    - [1, 0x2]\n    - [3]\n  ...\n"
    )
    (outcome,) = parse(text, "somewhere").outcomes
    assert (outcome.verdict, outcome.reason, outcome.run) == ("failed", "it read 1", "somewhere")
    assert outcome.evidence == {
        "reads": 7, "kind": "STR-post-indexed", "uid": ["0x1", 2], "list": [[1, "0x2"], [3]],
    }  # fmt: skip
    both = with_case("not ok 1 - 6.2/document own-flag # SKIP why\n")
    assert "both failed and skipped" in refusal(both)


@pytest.mark.parametrize(
    "value",
    [
        "[" * 3_000 + "]" * 3_000, "[[1]]", "[]", "[1,2]", "[word]", "9" * 21, "0x" + "f" * 17,
        "two words", "-1", "1.5", '"', '"a"b"', "'a'", "\N{ARABIC-INDIC DIGIT ONE}", "",
    ],
)  # fmt: skip
def test_evidence_that_no_guest_prints(value: str) -> None:
    head = "ok 1 - 6.2/document own-flag\n  ---\n"
    assert parse(with_case(f"{head}  x: 1\n  ...\n")).outcomes[0].evidence == {"x": 1}
    why = refusal(with_case(f"{head}  x: {value}\n  ...\n"))
    assert re.search("not evidence|nothing that the guest prints", why)
    why = refusal(with_case(f"{head}  x:\n    - {value or 7}\n  ...\n"))
    assert re.search("not evidence|nothing that the guest prints", why)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("interface: present", "interface:  ", "no interface that the guest names"),
        ("interface: present", "interface: maybe", "no interface that the guest names"),
        ("interface: present", "interface: presents", "no interface that the guest names"),
        ("0 not ok", "0" * 5_000 + " not ok", "nothing that the guest prints"),
        ("0 not ok", "00000 not ok", "not the summary"),
        ("SKIP one VCPU", "SKIP \x1b[2J", "nothing that the guest prints"),
        ("SKIP one VCPU", "SKIP caf\xe9", "nothing that the guest prints"),
        ("# wake: ", "# wake: \x1b]0;pwn\x07", "nothing that the guest prints"),
        ("# psci: ", "# psci: " + "x" * 500, "nothing that the guest prints"),
    ],
)
def test_lines_that_no_guest_prints(old: str, new: str, why: str) -> None:
    assert old in log()
    message = refusal(log().replace(old, new, 1))
    assert why in message
    assert message.isprintable()


def test_size_is_bounded() -> None:
    assert "longer than" in refusal("x" * (1 << 24) + "x")


@settings(max_examples=300)
@given(st.text())
def test_any_text_is_refused_in_one_line(text: str) -> None:
    refusal(text)
    try:
        parse("TAP version 14\n" + text)
    except LogError as error:
        assert "\n" not in str(error)


@settings(max_examples=300)
@given(st.data())
def test_any_edit_is_refused_or_tells_the_same(data: st.DataObject) -> None:
    """No edit of a real log raises anything else, or changes a verdict."""
    text = log()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 200)))
    piece = data.draw(st.text(max_size=20) | st.sampled_from(lines()))
    try:
        found = parse(text[:start] + piece + text[end:])
    except LogError as error:
        assert str(error).isprintable()
    else:
        assert [(o.case, o.verdict) for o in found.outcomes] == [
            (o.case, o.verdict) for o in parse(text).outcomes
        ]
