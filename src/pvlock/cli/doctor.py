# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock doctor`: the part of the command line that says what this host can run, and why."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from pvlock import __version__, engines
from pvlock.cli.screen import console, paragraph, show
from pvlock.cli.shared import ended_by_signals, json_writer, say
from pvlock.errors import EngineUnavailable, LabError, PvlockError
from pvlock.files import refuse_unwritable

if TYPE_CHECKING:
    from pvlock.engines.kvm.probe import Finding


@click.command()
@click.option("--json", "json_to", metavar="FILE|-", help="Write the answers as JSON.")
@click.option(
    "--report",
    "report_to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run everything that shows how pvlock does on this host, and pack it into a ZIP file.",
)
def doctor(json_to: str | None, report_to: Path | None) -> None:
    """Say what this host can run, what it lacks, and what to do about it.

    --report takes some minutes, asks nothing, and writes one file that can be sent: to show how
    pvlock does on an arm64 host, above all.

    Exit status: 0 if an engine can run here, 1 if none can.
    """
    from pvlock import report
    from pvlock.engines.kvm import probe
    from pvlock.top import probe as top

    if report_to is not None:
        _report(report_to)
        return
    write = json_writer(json_to)
    kvm, emulator, lab, seen = probe.findings(), _emulator(), _lab(), top.findings()
    engine, because = _choice(kvm, emulator)
    facts = {"engine": engine, "because": because}
    answers = {"kvm": kvm, "emulator": [emulator], "lab": lab, "top": seen}
    lists = {name: [asdict(each) for each in found] for name, found in answers.items()}
    write(report.to_json(report.document("doctor", facts | lists)))
    out = sys.stderr if json_to == "-" else sys.stdout
    takes = f"auto takes the engine {engine}" if engine else "no engine can run here"
    paragraph(f"pvlock {__version__}: {takes}: {because}", out)
    print(file=out)
    sections = {
        "engine kvm": [each for each in kvm if each.needed],
        "engine kvm does without": [each for each in kvm if not each.needed],
        "engine emulator": [emulator],
        "pvlock lab": lab,
        "pvlock top": seen,
    }
    _print(sections, out)
    paragraph(f"\n{_advice(engine, kvm, emulator, lab)}", out)
    if engine is None:
        sys.exit(1)


def _report(path: Path) -> None:
    from pvlock.cli import host_report
    from pvlock.kernel import fetch

    refuse_unwritable(path, f"--report {path}")
    engine = engines.choose("auto")
    cached = sorted(fetch.default_folder().glob("*cloud-arm64*/vmlinuz"))
    kernel = cached[-1] if cached else None
    initrd = kernel.with_name("initrd") if kernel and kernel.with_name("initrd").exists() else None
    with ended_by_signals():
        host_report.write(path, [*host_report.steps(engine, kernel, initrd)], say)
    if kernel is None:
        say("no Linux was booted: after pvlock kernel fetch, it is")
    print(path)


def _choice(kvm: "Sequence[Finding]", emulator: "Finding") -> tuple[str | None, str]:
    """Return what engines.choose("auto") takes on this host (None: nothing runs), and why."""
    from pvlock.engines.kvm.probe import State, first_missing

    named, missing = engines.named(), first_missing(kvm)
    because = f"{engines.VARIABLE} names it"
    if named != "emulator":
        if missing is None:
            return "kvm", because if named else "this host has all that it needs"
        because = f"kvm: {missing.because}"
        if missing.state is State.UNKNOWN:
            because = f"kvm: cannot tell about {missing.what}: {missing.because}"
    if named == "kvm":
        return None, because
    if emulator.state is State.YES:
        return "emulator", because
    return None, f"{because}; emulator: {emulator.because}"


def _advice(
    engine: str | None, kvm: "Sequence[Finding]", emulator: "Finding", lab: "Sequence[Finding]"
) -> str:
    """Say in one sentence what to do now."""
    from pvlock.engines.kvm.probe import State, first_missing

    if engine == "kvm":
        return "So: pvlock run works here, on this host's KVM."
    if engine is None:
        remedy = emulator.remedy
        if engines.named() == "kvm" and (missing := first_missing(kvm)):
            remedy = f"{missing.remedy or 'use another host'}, or unset {engines.VARIABLE}"
        return f"So: {remedy}; then say pvlock doctor again."
    sentence = "So: pvlock run works here, on the emulator; "
    missing = first_missing(kvm)
    if missing is None:
        return f"{sentence}--engine kvm takes this host's KVM."
    if missing.what == "arm64 CPU":
        absent = next((each for each in lab if each.state is not State.YES), None)
        first = f"{absent.remedy}, then " if absent else ""
        return f"{sentence}for KVM, {first}pvlock lab -- run mutex --engine kvm --vcpus 4."
    return f"{sentence}for KVM: {missing.remedy or missing.because}."


def _emulator() -> "Finding":
    """Start an emulated machine."""
    from pvlock.engines.kvm.probe import Finding, State
    from pvlock.machine import Machine

    state, because, remedy = State.YES, "a machine started", ""
    try:
        Machine(1, 1, engine="emulator").close()
    except EngineUnavailable as error:
        state, because, remedy = State.NO, error.capability, error.remedy
    except (PvlockError, OSError) as error:
        state, because, remedy = State.NO, str(error), "install pvlock again, with pip"
    return Finding("emulated machine", state, because, remedy, needed=True)


def _lab() -> "list[Finding]":
    """Look for the programs that `pvlock lab` runs."""
    from pvlock.engines.kvm.probe import Finding, State
    from pvlock.lab import tools

    found = []
    for name in tools.NAMES:
        state, because, remedy = State.YES, "", ""
        try:
            because = tools.find(name)
        except LabError as error:
            state, (because, _, remedy) = State.NO, str(error).partition(": ")
        found.append(Finding(name, state, because, remedy, needed=True))
    return found


def _print(sections: "dict[str, list[Finding]]", say: TextIO) -> None:
    from rich.table import Table
    from rich.text import Text

    from pvlock.engines.kvm.probe import State

    colours = {State.YES: "green", State.NO: "red", State.UNKNOWN: "yellow"}
    table = Table(box=None, pad_edge=False, show_header=False)
    remedy = ""
    for title, found in sections.items():
        table.add_row(Text(title, style="bold"))
        for each in found:
            because = each.because
            # One remedy often helps for several lines.
            if each.remedy != remedy and each.remedy:
                because += f"\nremedy: {each.remedy}"
            remedy = each.remedy
            answer = Text(each.state, style=colours[each.state], no_wrap=True)
            table.add_row(Text(f"  {each.what}", no_wrap=True), answer, because)
    show(console(say), table, 2)
