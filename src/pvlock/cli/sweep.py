# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock sweep`: the part of the command line that runs grids."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pvlock.cli.outputs import refuse_collisions, write_each
from pvlock.cli.screen import console, show
from pvlock.cli.shared import Status, say
from pvlock.sweep.grid import AXES, SEEDS, Axis

if TYPE_CHECKING:
    from pvlock.sweep.executors import Executor
    from pvlock.sweep.plan import Plan
    from pvlock.sweep.results import CellResult
    from pvlock.sweep.run import Outcome, Run

_LINE_SECONDS = 5.0
_PIPE_COLUMNS = 160
_FIGURES = 6
"""The last columns of a summary are figures, the others say which cells they are of."""
_FILE = click.Path(path_type=Path)


def _axis_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each axis; grid.py checks the values, together with the file's."""
    for axis in reversed((*AXES, SEEDS)):
        help_ = f"{axis.help}  [default: {axis.default}]"
        command = click.option(
            f"--{axis.name}", _parameter(axis), multiple=True, metavar="LIST", help=help_
        )(command)
    return command


def _parameter(axis: Axis) -> str:
    return f"axis_{axis.name.replace('-', '_')}"


@click.command()
@click.argument("grid", required=False, type=_FILE)
@_axis_options
@click.option(
    "--out",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="Write every cell (.csv, .parquet, .json), or the table (.md).",
)
@click.option(
    "--figure",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="Draw the gain as heat maps (.png, .svg).",
)
@click.option(
    "--bars",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="Draw the throughput as bars with ranges (.png, .svg).",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Machines at a time.  [default: cores]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster: tcp://HOST:PORT.")
@click.option(
    "--cache",
    type=_FILE,
    metavar="DIR",
    help="Where results are kept.  [default: ~/.cache/pvlock/sweep]",
)
def sweep(
    grid: Path | None, out: tuple[Path, ...], figure: tuple[Path, ...], bars: tuple[Path, ...],
    jobs: int | None, scheduler: str | None, cache: Path | None, **axes: tuple[str, ...],
) -> None:  # fmt: skip
    """Run a grid of workloads, each cell without PV-lock, with it and not overcommitted.

    All runs are on the emulator. GRID is a TOML file. Options override it, take lists (1ms,3ms) and
    may repeat. Results are kept: the same command goes on where it was interrupted, and no run is
    done twice.
    """
    from pvlock.sweep import figures, files
    from pvlock.sweep.cache import Cache, default_folder
    from pvlock.sweep.executors import DaskExecutor, LocalExecutor, cores
    from pvlock.sweep.grid import cells as cells_of
    from pvlock.sweep.plan import Plan
    from pvlock.sweep.results import collect

    options = {axis.name: axes[_parameter(axis)] for axis in (*AXES, SEEDS)}
    cells = cells_of(grid, options)
    for path in out:
        files.check(path, "--out")
    for option, paths in (("--figure", figure), ("--bars", bars)):
        for path in paths:
            figures.check(path, option)
    named = (("--out", out), ("--figure", figure), ("--bars", bars))
    refuse_collisions(
        [(option, path) for option, paths in named for path in paths],
        [("GRID", grid)] if grid else (),
    )
    plan = Plan(cells, Cache(cache or default_folder()))
    known = len(plan.outcomes)
    say(f"{len(cells)} cells need {known + len(plan.missing)} runs; {known} are known")
    if plan.missing:
        executor: Executor = (
            DaskExecutor(scheduler) if scheduler else LocalExecutor(jobs or cores())
        )
        _carry_out(plan, executor)
    results = collect(cells, plan.outcomes)
    _print_table(results)

    def write(path: Path) -> None:
        files.write(path, results)
        say(f"wrote {path}")

    def draw(what: Callable[..., "list[Path]"], path: Path) -> None:
        for written in what([path], results):
            say(f"wrote {written}")

    write_each(
        *(partial(write, path) for path in out),
        *(partial(draw, figures.heat_maps, path) for path in figure),
        *(partial(draw, figures.bars, path) for path in bars),
    )
    failed = [result for result in results if result.error]
    if failed:
        say(f"{len(failed)} of {len(cells)} cells failed, the first: {failed[0].error}")
        sys.exit(1)


def _carry_out(plan: "Plan", executor: "Executor") -> None:
    """Do the runs, showing progress; Ctrl-C says how to go on."""
    try:
        with _progress(plan) as done:
            plan.carry_out(executor, done)
    except KeyboardInterrupt:
        total = len(plan.outcomes) + len(plan.missing)
        say(
            f"interrupted; {len(plan.outcomes)} of {total} runs are done and kept. "
            "The same command goes on from there."
        )
        sys.exit(Status.INTERRUPTED)


@contextlib.contextmanager
def _progress(plan: "Plan") -> Iterator[Callable[["Run", "Outcome"], None]]:
    """Show how far the sweep is, on stderr: live on a terminal, else a line now and then."""
    from pvlock.sweep.plan import Estimate
    from pvlock.sweep.run import Failure

    estimate, total = Estimate(plan.missing), len(plan.missing)
    told = set()

    def state() -> str:
        return f"{total - len(plan.missing)} of {total} runs, {_left(estimate.seconds_left)}"

    def note(run: "Run", outcome: "Outcome", show: Callable[[str], Any]) -> None:
        estimate.add(run)
        if isinstance(outcome, Failure) and outcome not in told:
            told.add(outcome)
            show(f"pvlock: a run of {run.settings.guest} failed: {outcome.reason}")

    if not sys.stderr.isatty():
        last = time.monotonic()

        def plain(run: "Run", outcome: "Outcome") -> None:
            nonlocal last
            note(run, outcome, lambda text: print(text, file=sys.stderr, flush=True))
            if time.monotonic() - last >= _LINE_SECONDS:
                last = time.monotonic()
                say(state())

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as live:
        bar = live.add_task(state(), total=1.0)

        def update(run: "Run", outcome: "Outcome") -> None:
            note(run, outcome, lambda text: live.console.print(text, markup=False, highlight=False))
            live.update(bar, completed=estimate.share, description=state())

        yield update


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "no estimate yet"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes >= 2 else f"about {seconds:.0f} s left"


def _print_table(results: "Sequence[CellResult]") -> None:
    from rich.table import Table

    from pvlock.sweep.results import grouped, summary

    common, titles, lines = summary(grouped(results))
    table = Table(box=None, pad_edge=False)
    for title in titles:
        justify: Literal["left", "right"] = "left" if title in ("", "guest") else "right"
        table.add_column(title, justify=justify, no_wrap=True)
    for line in lines:
        table.add_row(*line)
    # Where there is no terminal, rows stay whole: they are for grep and sort.
    shown = console(sys.stdout, _PIPE_COLUMNS)
    show(shown, table, max(len(titles) - _FIGURES, 1))
    shown.print(f"\nIn all: {common}.", soft_wrap=not sys.stdout.isatty())
