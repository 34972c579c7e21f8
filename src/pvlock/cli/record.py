# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock record`: the part of the command line that records a host's switches as a trace."""

from pathlib import Path

import click

from pvlock.cli.shared import ended_by_signals, say
from pvlock.errors import TraceError, WatchError
from pvlock.extras import load_extra
from pvlock.files import refuse_unwritable, replacing


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    default="host.pftrace",
    show_default=True,
    help="The trace.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How long.",
)
@click.option("--threads", metavar="PATTERN", help="Threads of these names too, VCPUs or not.")
def record(output: Path, seconds: float, threads: str | None) -> None:
    """Record every switch of this host's VCPUs, and who had their CPUs.

    The trace is one for Perfetto, and `pvlock explain` reads it. Ctrl-C ends the recording early.
    """
    for module in ("numpy", "perfetto"):
        load_extra(module, "trace", "pvlock record")
    from rich import filesize

    from pvlock.top import names, proc, recording
    from pvlock.top.session import matching
    from pvlock.top.usage import Names
    from pvlock.top.watch import Watcher
    from pvlock.trace import perfetto

    refuse_unwritable(output, f"-o {output}")
    if not proc.in_initial_namespace():
        raise WatchError("record needs the host's PID namespace (containers: --pid=host)")
    stopped = [False]

    def stop() -> None:
        stopped[0] = True

    known = Names(names.vm_name, proc.name)
    with Watcher(ring_size=recording.RING_SIZE) as watcher:
        if threads is not None:
            found = matching(threads, proc.processes())
            if not found:
                raise WatchError(f"no thread's name matches {threads!r}")
            watcher.want(found)
        say(f"record: {seconds:g} s ...")
        try:
            with ended_by_signals(stop):
                taken = recording.record(watcher, seconds, known, lambda: not stopped[0])
        except KeyboardInterrupt:
            raise WatchError("interrupted before anything was recorded") from None
    events = recording.table(taken, known)
    try:
        with replacing(output) as temporary, temporary.open("wb") as file:
            perfetto.write(file, events)
    except TraceError as error:
        raise TraceError(f"-o {output}: {error}") from error
    size = filesize.decimal(output.stat().st_size)
    watched = events.settings["watched"]
    print(f"{output}: {watched} VCPUs, {len(events):,} events, {size}")
    if taken.lost:
        say(f"record: {taken.lost:,} switches were lost: this host is too busy to read them all")
    if untold := sum(taken.untold().values()):
        told = "the kernel did not tell {:,} switches, and its scheduler says when they were"
        say(f"record: {told.format(untold)}")
