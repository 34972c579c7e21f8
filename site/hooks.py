# SPDX-License-Identifier: GPL-2.0-or-later
"""What mkdocs does not know: pages outside of docs/, links to the source, and the API's page.

The documents are written for who reads the clone. There, a link may lead to a file of the source.
The site takes along each file that a page links to, so a link that leads nowhere fails here too.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "index.md": "README.md",
    "SPECIFICATION.md": "SPECIFICATION.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
"""Pages of the site that are files of the clone's top folder, by their place in the site."""
API = {
    "The machine": ("pvlock.machine",),
    "The description of a host": ("pvlock.host",),
    "Bundled guests": ("pvlock.workload",),
    "Conformance": ("pvlock.conformance.runner", "pvlock.conformance.userspace"),
    "Traces": ("pvlock.trace.events", "pvlock.trace.attribution"),
    "Errors": ("pvlock.errors",),
}
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")
_TAG = re.compile(r"\[(document|series|pvlock|DEN\d+)\](?![(\[:])")
"""The tags of clauses. Two in a row would be a link."""
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decisions, which nobody should have to list twice, and what has no place yet."""
    assert config.nav is not None
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    config.nav[-1] = {"Decisions": [f"decisions/{path.name}" for path in decisions]}
    listed = str(config.nav)
    others = [path.name for path in sorted((ROOT / "docs").glob("*.md"))]
    if more := [name for name in others if f"'{name}'" not in listed]:
        config.nav.insert(-1, {"More": more})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that are not in docs/."""
    for place, name in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    files.append(File.generated(config, "api.md", content=_api()))
    known = {file.src_uri for file in files}
    for file in [*files.documentation_pages()]:
        for target in _targets(file):
            place = _place(target)
            if place not in known and (ROOT / target).is_file():
                known.add(place)
                files.append(
                    File.generated(
                        config,
                        place,
                        abs_src_path=str(ROOT / target),
                        inclusion=InclusionLevel.NOT_IN_NAV,
                    )
                )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their targets are in the site. A folder has no page."""

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = _resolve(page.file, target)
        if (ROOT / path).is_dir():
            return text.strip("[]")
        place = _place(path)
        here = posixpath.dirname(page.file.src_uri)
        return f"{text}({posixpath.relpath(place, here or '.')}{anchor})"

    parts = _FENCE.split(markdown)
    parts[::2] = [_TAG.sub(r"\\[\1\\]", _LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def _source(file: File) -> str:
    """Return the file of the clone that a page is made of."""
    return PAGES.get(file.src_uri, f"docs/{file.src_uri}")


def _resolve(file: File, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(_source(file)), target))


def _targets(file: File) -> set[str]:
    text = _FENCE.sub("", file.content_string)
    targets = (match[2] for match in _LINK.finditer(text))
    return {_resolve(file, target) for target in targets if "://" not in target}


def _place(path: str) -> str:
    """Return where a file of the clone is in the site."""
    for place, name in PAGES.items():
        if name == path:
            return place
    # A page's ending would make it a page, and some servers do not show the others.
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.txt"


def _api() -> str:
    lines: list[Any] = ["# Python API", ""]
    lines += ["`from pvlock import Machine` is where scripts begin ([tutorial](tutorial.md)).", ""]
    for title, modules in API.items():
        lines += [f"## {title}", ""]
        lines += [f"::: {module}\n    options: {{heading_level: 3}}\n" for module in modules]
    return "\n".join(lines)
