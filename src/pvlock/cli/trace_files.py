# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the command line's --trace goes."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pvlock.errors import TraceError
from pvlock.extras import load_extra
from pvlock.files import refuse_unwritable, replacing

if TYPE_CHECKING:
    from pvlock.trace.events import Events


class TraceFiles:
    """The files of --trace `target`, one for each of `runs`, or `target` itself for the run ""."""

    def __init__(self, target: str, runs: Sequence[str]) -> None:
        """Refuse early what could not be written later. Raises ConfigError."""
        path = Path(target)
        for module in ("numpy", "perfetto"):
            load_extra(module, "trace", "--trace")
        refuse_unwritable(path, f"--trace {target}")
        self._paths = {
            run: path.with_name(f"{path.stem}.{run}{path.suffix}") if run else path for run in runs
        }
        for one in self._paths.values():
            refuse_unwritable(one, f"--trace {one}")
        self._traced: set[Path] = set()
        self.outputs = [("--trace", one) for one in self._paths.values()]

    def say_what_is_next(self, say: IO[str]) -> None:
        """Name the command that makes sense of what was written."""
        if self._traced:
            for path in (path for path in self._paths.values() if path in self._traced):
                print(f"next: pvlock explain {shlex.quote(str(path))}", file=say, flush=True)
        else:
            print("next: open the trace at https://ui.perfetto.dev", file=say, flush=True)

    def write(self, run: str, events: "Events", say: IO[str]) -> None:
        """Write the events of a run, whole or not at all, and say so. Raises ConfigError."""
        from rich import filesize

        from pvlock.trace import perfetto

        if run not in self._paths:
            return
        path = self._paths[run]
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                perfetto.write(file, events)
        except TraceError as error:
            raise TraceError(f"--trace {path}: {error}") from error
        self._traced |= {path} if events.locks() else set()
        size = filesize.decimal(path.stat().st_size)
        print(f"trace: {path}, {len(events):,} events, {size}", file=say)
        if events.tasks:
            print(f"trace: {path}: {events.tasks:,} tasks of the guest", file=say)
        elif not events.locks():
            why = "was not compiled with guest/include/pvlock_trace.h, or took none"
            print(f"trace: {path}: the guest recorded no locks: it {why}", file=say)
        for count, what in (
            (sum(events.dropped), "events were lost: the guest recorded more than was kept"),
            (sum(events.rejected), "entries of the guest's rings were no events"),
        ):
            if count:
                print(f"trace: {path}: {count:,} {what}", file=say)
