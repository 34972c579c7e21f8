# SPDX-License-Identifier: GPL-2.0-or-later
"""Times on the command line: what is one, and that any other text is a usage error."""

import contextlib
from typing import Final

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock.cli.knob_options import KnobType
from pvlock.host import Knob

DURATION: Final = KnobType(Knob("duration", "", is_time=True))


@pytest.mark.parametrize(
    ("text", "ns"),
    [("100ms", 100_000_000), ("2us", 2_000), ("2µs", 2_000), ("1.5s", 1_500_000_000), ("7ns", 7)],
)
def test_times(text: str, ns: int) -> None:
    assert DURATION.convert(text, None, None) == ns


@pytest.mark.parametrize(
    "text",
    ["1e3ms", "1_000us", "+1ms", ".5s", "5.s", "0x10ns", "\N{ARABIC-INDIC DIGIT ONE}s", "1  ms"],
)
def test_only_plain_decimal_numbers_are_times(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"is not a time such as 100ms, 2us or 1\.5s"):
        DURATION.convert(text, None, None)


@given(st.text() | st.from_regex(r"[-+]?[0-9.e]{1,12}(ns|us|ms|s|m|h)", fullmatch=True))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(click.UsageError):
        assert 0 <= DURATION.convert(text, None, None) <= 3_600 * 10**9
