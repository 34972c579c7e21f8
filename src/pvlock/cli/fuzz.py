# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock fuzz`: the part of the command line that runs hostile guests."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvlock import engines
from pvlock.cli.shared import Status, engine_option, say

if TYPE_CHECKING:
    from pvlock.fuzz.campaign import Finding, Totals

_LINE_SECONDS = 10.0
_FILE = click.Path(path_type=Path)
_COUNT = click.IntRange(1, 10**12)


@click.command()
@click.option(
    "--operations",
    type=_COUNT,
    default=1_000_000,
    show_default=True,
    metavar="N",
    help="Stop when the guests have done so many things.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Stop after this time.  [default: no limit]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62),
    default=1,
    show_default=True,
    metavar="N",
    help="The first seed.",
)
@click.option(
    "--per-case",
    type=click.IntRange(1, 10**9),
    default=10_000,
    show_default=True,
    metavar="N",
    help="What VCPU 0 of each guest does.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="Guests at a time.",
)
@engine_option("emulator")
@click.option(
    "--findings",
    type=_FILE,
    default="findings",
    show_default=True,
    metavar="DIR",
    help="Where cases that show something wrong are kept.",
)
@click.option("--replay", type=_FILE, metavar="FILE", help="Play a kept case again, only that.")
def fuzz(
    operations: int, seconds: float | None, seed: int, per_case: int, jobs: int, engine: str,
    findings: Path, replay: Path | None,
) -> None:  # fmt: skip
    """Run guests that do random things, each beside a machine that must not notice.

    Exit status: 0 nothing is wrong; 1 a finding; 130 Ctrl-C.
    """
    if replay is not None:
        _replay(replay)
        return
    from pvlock.fuzz import campaign

    engine = engines.choose(engine)
    stop = threading.Event()
    shown, last = 0, time.monotonic()

    def done(totals: "Totals") -> None:
        nonlocal shown, last
        for finding in totals.findings[shown:]:
            _keep(findings, finding)
        shown = len(totals.findings)
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            share = min(totals.operations / operations, 1)
            say(f"{totals.operations:,} operations ({share:.0%}), {shown} findings")

    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        budget = campaign.Budget(operations, float("inf") if seconds is None else seconds)
        totals = campaign.run(seed, per_case, budget, jobs, engine, done, stop.is_set)
    finally:
        signal.signal(signal.SIGINT, before)
    for finding in totals.findings[shown:]:
        _keep(findings, finding)
    _print(totals, engine)
    if stop.is_set():
        sys.exit(Status.INTERRUPTED)
    sys.exit(bool(totals.findings))


def _replay(path: Path) -> None:
    from pvlock.fuzz.case import load
    from pvlock.fuzz.play import play

    case = load(path)
    played = play(case)
    for problem in played.problems:
        print(problem)
    if not played.problems:
        print(f"nothing is wrong: {played.operations:,} operations")
    sys.exit(bool(played.problems))


def _keep(folder: Path, finding: "Finding") -> None:
    from pvlock.fuzz.case import save

    if finding.case is None:
        say(finding.problems[0])
        return
    path = save(folder, finding.case, finding.problems)
    say(f"seed {finding.case.seed}: {finding.problems[0]}; kept in {path}")


def _print(totals: "Totals", engine: str) -> None:
    print(f"operations       {totals.operations:,} on engine {engine}")
    print(f"cases            {totals.cases}, seeds {totals.first_seed} to {totals.last_seed}")
    print(f"played twice     {totals.repeated}")
    print(f"time             {totals.seconds:.0f} s")
    print(f"largest worker   {totals.largest_worker / 2**20:.0f} MiB")
    print(f"this process     grew by {totals.growth / 2**20:.1f} MiB")
    print(f"findings         {len(totals.findings)}")
