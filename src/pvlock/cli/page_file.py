# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the command line's --html goes."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from pvlock.extras import load_extra

if TYPE_CHECKING:
    from rich.table import Table

    from pvlock.trace.events import Events


def html_option(text: str) -> Callable[..., Any]:
    """Return the option --html, with its help text."""
    return click.option(
        "--html", "html_to", type=click.Path(path_type=Path), metavar="FILE", help=text
    )


class PageFile:
    """The file of --html `path`."""

    def __init__(self, path: Path) -> None:
        """Refuse early what could not be written later. Raises ConfigError."""
        load_extra("numpy", "html", "--html")
        from pvlock.explain import page

        page.check(path)
        self._path = path
        self.outputs = [("--html", path)]

    def write(
        self,
        traces: Sequence["Events"],
        say: IO[str],
        lock: str | None = None,
        table: "Table | None" = None,
        summary: str = "",
    ) -> None:
        """Write the page, and say so; `lock`: as findings.find(). Raises PvlockError."""
        from pvlock.explain import findings, page

        found = [findings.find(events, lock, page.TOP) for events in traces]
        page.write(self._path, shlex.join(["pvlock", *sys.argv[1:]]), found, table, summary)
        print(f"page: {self._path}", file=say)
