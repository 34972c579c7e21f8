# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/commands.md says what the command line does."""

import re

from asm import ROOT
from pvlock.cli.shared import Status

TEXT = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_statuses_are_all_in_the_table() -> None:
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)] == [*Status]
