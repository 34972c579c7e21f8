# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock explain`: the part of the command line that says who waited for whom."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvlock.cli.outputs import refuse_collisions, write_each
from pvlock.cli.page_file import PageFile, html_option
from pvlock.cli.screen import console, show
from pvlock.cli.shared import json_output, json_writer, say
from pvlock.errors import ConfigError, TraceError
from pvlock.extras import load_extra

if TYPE_CHECKING:
    from rich.console import Console

    from pvlock.explain.findings import Findings
    from pvlock.trace.events import Events

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("trace", type=_FILE)
@click.argument("other", type=_FILE, required=False)
@click.option("--lock", metavar="NAME|ADDRESS", help="Only the waits for this lock.")
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    metavar="N",
    help="Rows of each list.",
)
@click.option(
    "--figure",
    type=_FILE,
    metavar="FILE",
    help="Draw the timeline (.png, .svg): 50 ms of it at most.",
)
@html_option("Write all this as one page for a browser, with a timeline to zoom into.")
@click.option("--json", "json_to", metavar="FILE|-", help="Write the findings as JSON.")
def explain(
    trace: Path, other: Path | None, lock: str | None, top: int, figure: Path | None,
    html_to: Path | None, json_to: str | None,
) -> None:  # fmt: skip
    """Say who waited for whom in TRACE, and what off its CPU kept them waiting.

    TRACE is a file that `pvlock run --trace` wrote. With OTHER, the two side by side. Or
    it is one that `pvlock record` wrote: then which VMs lost their CPUs, and to whom.
    """
    for module in ("numpy", "perfetto"):
        load_extra(module, "trace", "pvlock explain")
    from pvlock import report
    from pvlock.explain import findings, host
    from pvlock.trace import perfetto

    if figure:
        from pvlock.explain import timeline

        timeline.check(figure)
    page = PageFile(html_to) if html_to else None
    out = sys.stderr if json_to == "-" else sys.stdout
    shown = console(out)
    write = json_writer(json_to)
    refuse_collisions(
        [
            *([("--figure", figure)] if figure else ()),
            *([("--html", html_to)] if html_to else ()),
            *json_output(json_to),
        ],
        [("TRACE", trace), *([("OTHER", other)] if other else ())],
    )
    traces = [perfetto.read(path) for path in (trace, other) if path]
    if any(host.is_host(events) for events in traces):
        if other or lock or figure or page:
            raise ConfigError(f"{trace} is of a host: it has no locks, nor another to compare with")
        _host(shown, traces[0], top, write)
        return
    paths = (path for path in (trace, other) if path)
    found = [_findings(*each, lock, top) for each in zip(paths, traces, strict=True)]
    facts = [findings.as_dict(one) for one in found]
    if other:
        _compare(shown, found)
    else:
        _show(shown, found[0], top)

    def draw() -> None:
        if figure:
            timeline.draw(figure, found)
            say(f"wrote {figure}")

    def write_page() -> None:
        if page:
            page.write(traces, out, lock)

    result = ("explain-pair", {"traces": facts}) if other else ("explain", facts[0])
    write_each(lambda: write(report.to_json(report.document(*result))), draw, write_page)


def _host(console: "Console", events: "Events", top: int, write: Callable[[str], None]) -> None:
    from pvlock import report
    from pvlock.explain import host

    vms = host.find(events)
    console.print(host.title(events, vms))
    console.print()
    for vm in vms:
        console.print(host.sentence(vm))
    if lost := events.settings.get("lost"):
        console.print(f"Not certain: {lost:,} switches were not recorded.")
    console.print()
    show(console, host.table(vms, top))
    write(report.to_json(report.document("explain-host", host.as_dict(events, vms))))


def _findings(path: Path, events: "Events", lock: str | None, top: int) -> "Findings":
    from pvlock.explain import findings

    try:
        return findings.find(events, lock, top)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _show(console: "Console", found: "Findings", top: int) -> None:
    from pvlock.explain import findings, screen

    console.print(screen.title(found.events))
    console.print(f"\n{findings.sentence(found)}\n")
    for text in findings.doubts(found):
        console.print(f"Not certain: {text}.")
    for text in findings.not_seen(found.events):
        console.print(f"Not seen: {text}.")
    if not found.total.ns:
        return
    show(console, screen.waiting(found, top))
    if found.culprits:
        console.print()
        show(console, screen.culprits(found))
    if found.pairs:
        console.print()
        show(console, screen.pairs(found, top))
    if found.chains:
        console.print()
        for line in screen.chains(found):
            console.print(line)


def _compare(console: "Console", found: "list[Findings]") -> None:
    from pvlock.explain import findings, screen

    for one in found:
        console.print(screen.title(one.events))
        console.print(findings.sentence(one))
        for text in findings.doubts(one):
            console.print(f"Not certain: {text}.")
        console.print()
    show(console, screen.comparison(found[0], found[1]))
