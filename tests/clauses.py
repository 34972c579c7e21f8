# SPDX-License-Identifier: GPL-2.0-or-later
"""The clauses of SPECIFICATION.md, read for tests: each one's number, tags and text."""

import re
from typing import NamedTuple

from asm import ROOT

TEXT = (ROOT / "SPECIFICATION.md").read_text(encoding="utf-8")
CLAUSE = re.compile(r"\*\*(\d+)\.(\d+)\*\* ((?:\[\w+\] )*)(.*)", re.DOTALL)


class Clause(NamedTuple):
    section: int
    number: int
    tags: list[str]
    text: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.number}"


def clauses() -> list[Clause]:
    found = (CLAUSE.fullmatch(paragraph.strip()) for paragraph in TEXT.split("\n\n"))
    return [Clause(int(m[1]), int(m[2]), re.findall(r"\[(\w+)\]", m[3]), m[4]) for m in found if m]
