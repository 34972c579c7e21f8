# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as one HTML file: what the screen says, tables to sort, and timelines to zoom into.

The file holds all that it needs, and asks the network for nothing. Names of locks come from guests,
so no text gets into the page as it is.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from pvlock import __version__
from pvlock.explain import findings, screen, zoomable
from pvlock.explain.findings import Findings
from pvlock.extras import load_extra
from pvlock.files import refuse_unwritable, replacing

if TYPE_CHECKING:
    from rich.table import Table

TOP = 50
"""Rows of each list: a page has room for more than a screen."""
_TEMPLATE = Path(__file__).with_name("page.html")
_HOW_TO_ZOOM = (
    "Drag to move, turn the wheel or use the buttons to zoom, point at a bar to see what it is, "
    "click on a word of the legend to hide what it names. Where a lane is empty, its VCPU was "
    "blocked or off."
)


def check(path: Path) -> None:
    """Raise ConfigError if a page could not be written to `path`: before the work, not after."""
    load_extra("bokeh", "html", f"--html {path}")
    refuse_unwritable(path, f"--html {path}", (".html", ".htm"))


def write(
    path: Path,
    command: str,
    traces: Sequence[Findings],
    table: "Table | None" = None,
    summary: str = "",
) -> None:
    """Write the report of one trace, or of two that are compared, to `path`.

    `command` is what the user typed. `table` and `summary` are those of a workload's runs. Raises
    ConfigError.
    """
    guest = str(traces[0].events.settings.get("guest", "guest"))
    title = f"{guest}: who waited for whom"
    parts = [f"<h1>{escape(title)}</h1>", f"<pre>{escape(command)}</pre>"]
    if summary:
        parts.append(f"<p><strong>{escape(summary)}</strong></p>")
    if table is not None:
        parts += [_table(table, "", sortable=False)]
    if len(traces) > 1:
        compared = screen.comparison(traces[0], traces[1])
        parts += ["<h2>What the waiting was for</h2>", _table(compared, "", sortable=False)]
    timelines = []
    for number, found in enumerate(traces):
        parts += _trace(found, f"timeline-{number}")
        item, missing = zoomable.figure(found)
        timelines.append(item | {"target_id": f"timeline-{number}"})
        parts.append(f'<p class="pale">{escape(f"{_HOW_TO_ZOOM} {missing}".strip())}</p>')
    page = Template(_TEMPLATE.read_text()).substitute(
        title=escape(title),
        body="\n".join(parts),
        footer=escape(f"pvlock {__version__}"),
        scripts=_scripts(timelines),
    )
    with replacing(path, f"--html {path}") as file:
        file.write_text(page, encoding="utf-8")


def _trace(found: Findings, timeline: str) -> list[str]:
    """Return what is to be said of a trace; its timeline goes into the element `timeline`."""
    parts = [
        f"<h2>{escape(screen.title(found.events))}</h2>",
        f"<p><strong>{escape(findings.sentence(found))}</strong></p>",
    ]
    parts += [f"<p>Not certain: {escape(text)}.</p>" for text in findings.doubts(found)]
    parts.append(f'<div class="timeline" id="{timeline}"></div>')
    if found.total.ns:
        parts.append(_table(screen.waiting(found, TOP), "Waiting"))
    if found.culprits:
        parts.append(_table(screen.culprits(found), "VCPUs that kept others waiting"))
    if found.pairs:
        parts.append(_table(screen.pairs(found, TOP), "Who waited for whom"))
    if found.chains:
        lines = "".join(f"<li>{escape(line)}</li>" for line in screen.chains(found))
        parts.append(f"<h3>Chains</h3><ul>{lines}</ul>")
    known = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in found.events.settings.items()
    )
    parts.append(f'<h3>Settings</h3><div class="wide"><table>{known}</table></div>')
    return parts


def _table(table: "Table", title: str, *, sortable: bool = True) -> str:
    """Return one of the screen's tables in HTML."""
    kinds = ['class="right"' if one.justify == "right" else "" for one in table.columns]
    heads = "".join(
        f'<th scope="col" {kind}>{escape(str(one.header).strip())}</th>'
        for one, kind in zip(table.columns, kinds, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(f"<td {k}>{escape(str(c))}</td>" for k, c in zip(kinds, row, strict=True))
        + "</tr>"
        for row in zip(*(one.cells for one in table.columns), strict=True)
    )  # fmt: skip
    head = f"<h3>{escape(title)}</h3>" if title else ""
    kind = ' class="sort"' if sortable else ""
    return (
        f'{head}<div class="wide"><table{kind}><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _scripts(timelines: list[dict[str, Any]]) -> str:
    resources = load_extra("bokeh.resources", "html", "an HTML report")
    library = resources.Resources(mode="inline", components=["bokeh"])
    code = "\n".join(library.js_raw)
    # What a guest called its locks must not end the script.
    data = json.dumps(timelines, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f"<script>{code}</script>\n<script>\n"
        f"for (const item of {data}) Bokeh.embed.embed_item(item);\n</script>"
    )
