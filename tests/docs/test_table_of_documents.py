# SPDX-License-Identifier: GPL-2.0-or-later
"""README.md and docs/README.md name every document."""

import re

from asm import ROOT

LINK = re.compile(r"\]\(([^)#]+)\)")


def test_readme_names_every_document() -> None:
    named = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    there = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.*") if path.suffix != ".png"}
    assert "docs/kvm.md" in there
    assert not there - named
    pages = {path.name for path in ROOT.glob("*.md")} - {"README.md"}
    folders = {f"{name}/" for name in ("examples", "guest", "linux", "benchmarks")}
    assert not (pages | folders) - named


def test_the_index_of_documents_names_every_page() -> None:
    docs = ROOT / "docs"
    named = set(LINK.findall((docs / "README.md").read_text(encoding="utf-8")))
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert there - named == {"README.md"}
