# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run linux`: the part of the command line that runs loads in a Linux guest."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pvlock.cli.outputs import refuse_collisions
from pvlock.cli.screen import console
from pvlock.cli.shared import Status, ended_by_signals, json_output, json_writer, say

if TYPE_CHECKING:
    from pvlock.loads.run import Settings

GUEST = "linux"
_LINE_SECONDS = 10.0


def settings(names: str | None, engine: str, host: Mapping[str, Any]) -> "Settings":
    """Return the description of a run of loads. Raises ConfigError for a load that there is not."""
    from pvlock.loads import catalogue
    from pvlock.loads.run import Settings

    chosen = catalogue.DEFAULT if names is None else catalogue.parse(names)
    return Settings(chosen, engine=engine, **host)


def run(settings: "Settings", kernel: str | None, json_to: str | None, stream: TextIO) -> None:
    """Do the three runs, and show the table; `kernel` is a file, None for that of kernel build.

    Raises PvlockError.
    """
    from pvlock import report as common
    from pvlock.loads import report
    from pvlock.loads.run import compare

    write = json_writer(json_to)
    refuse_collisions(json_output(json_to))
    with ended_by_signals():
        files = _files(settings, kernel)
    hashes = files.hashes()
    with _progress(stream) as progress:
        comparison = compare(settings, files, progress)
    shown = console(stream)
    if comparison.runs:
        shown.print(report.table(comparison))
    shown.print(f"\nKernel {files.kernel.name}, sha256 {hashes['kernel']}.", soft_wrap=True)
    shown.print("\n" + report.sentence(comparison))
    # Last, so that a full disk does not cost the table.
    write(common.to_json(report.as_dict(comparison, settings.engine, hashes)))
    if comparison.interrupted:
        sys.exit(Status.INTERRUPTED)


def _files(settings: "Settings", kernel: str | None) -> Any:
    from pvlock import image
    from pvlock.errors import ImageError
    from pvlock.kernel import build, busybox, fetch
    from pvlock.loads.catalogue import BY_NAME
    from pvlock.loads.run import Files

    cache = fetch.default_folder()
    path = Path(kernel) if kernel is not None else build.find("guest", cache).image
    with image.opened(path) as opened:
        if opened.kind is not image.Kind.LINUX:
            raise ImageError(f"{path}: is no Linux kernel but a {opened.kind.value}")
    data = path.read_bytes()
    needs_busybox = any(BY_NAME[name].busybox for name in settings.loads)
    return Files(
        image.parse(data, str(path)), data, busybox.get(cache, None, say) if needs_busybox else None
    )


@contextlib.contextmanager
def _progress(stream: TextIO) -> Iterator[Callable[[str, float], None]]:
    """Show how far all runs are and how long it may take still: live, or a line now and then."""
    from pvlock.workload import RUNS

    shares = dict.fromkeys(RUNS, 0.0)
    began = last = time.monotonic()
    lock = threading.Lock()

    def state() -> str:
        done = sum(shares.values()) / len(shares)
        each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        spent = time.monotonic() - began
        left = f"about {spent / done * (1 - done):.0f} s left" if done > 0.05 else "no estimate yet"
        return f"{each}; {left}"

    if not stream.isatty():

        def plain(name: str, share: float) -> None:
            nonlocal last
            with lock:
                shares[name] = share
                if time.monotonic() - last >= _LINE_SECONDS:
                    last = time.monotonic()
                    print(f"  {state()}", file=stream, flush=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(file=stream), transient=True) as live:
        bar = live.add_task(state(), total=float(len(RUNS)))

        def update(name: str, share: float) -> None:
            with lock:
                shares[name] = share
                live.update(bar, completed=sum(shares.values()), description=state())

        yield update
