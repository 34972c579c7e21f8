# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands share: --engine, where --json goes, lines for the user, how signals end them."""

import contextlib
import enum
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from pvlock import engines, files


class Status(enum.IntEnum):
    """The exit statuses of all commands. `pvlock lab` ends with that of the command it ran.

    What SIGTERM ends has 128 and its number, as shells count.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_OFFERED = 3
    INTERRUPTED = 130


def engine_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --engine."""
    return click.option(
        "--engine",
        type=click.Choice(engines.NAMES),
        default=default,
        show_default=True,
        help=f"auto: what {engines.VARIABLE} names; else kvm where it can run, else the emulator.",
    )


def archive_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that fetches from Debian its options --mirror and --cache."""
    mirror = click.option(
        "--mirror",
        envvar="PVLOCK_LAB_MIRROR",
        metavar="URI",
        help="A Debian archive.  [default: apt's; PVLOCK_LAB_MIRROR]",
    )
    cache = click.option(
        "--cache",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where kernels are kept.  [default: ~/.cache/pvlock/kernel]",
    )
    return mirror(cache(command))


def say(text: str) -> None:
    """Print a line on stderr, at once."""
    print(f"pvlock: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def ended_by_signals(first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make SIGTERM clean up as Ctrl-C does, a raw terminal above all; both call `first` before."""

    def end(number: int, _frame: object) -> None:
        first()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    # A process may have been started with Ctrl-C ignored, as in the background of a script.
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def json_output(target: str | None) -> list[tuple[str, Path]]:
    """Return the file of --json, if there is one, with the name of its option."""
    return [] if target in (None, "-") else [("--json", Path(target or ""))]


def json_writer(target: str | None) -> Callable[[str], None]:
    """Return what writes to a file, whole or not at all, or to stdout ("-"), or nowhere (None).

    Refuses early what could not be written later. Raises ConfigError.
    """
    if target is None:
        return lambda _text: None
    if target == "-":
        return lambda text: print(text, end="", flush=True)
    path, who = Path(target), f"--json {target}"
    files.refuse_unwritable(path, who)

    def write(text: str) -> None:
        with files.replacing(path, who) as file:
            file.write_text(text)

    return write
