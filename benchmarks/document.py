# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/benchmarks.md has a section for each benchmark that writes there."""

import re
from pathlib import Path

PATH = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def write(title: str, text: str) -> None:
    """Replace the section called `title` by `text`, or add it at the end; keep all others."""
    head, *sections = re.split(r"^(?=## )", PATH.read_text(), flags=re.MULTILINE)
    new = f"## {title}\n\n{text.strip()}\n"
    titles = [section.partition("\n")[0].removeprefix("## ") for section in sections]
    if title in titles:
        sections[titles.index(title)] = new
    else:
        sections.append(new)
    PATH.write_text("\n\n".join(part.strip() for part in (head, *sections)) + "\n")
