# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock lab`: the part of the command line that runs a command on a virtual arm64 host."""

import contextlib
import os
import shutil
import sys
import tempfile
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from pvlock import engines
from pvlock.cli.shared import ended_by_signals, say
from pvlock.errors import ConfigError, LabError

_FILE = click.Path(path_type=Path)
TRACE_PACKAGES, TRACE_WITH = ("python3-numpy",), ("perfetto", "protobuf")
"""What writing a trace needs in the lab: packages of Debian, and Python packages from here."""


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ARGS...")
@click.option("--exec", "execute", is_flag=True, help="ARGS is a command, not pvlock's arguments.")
@click.option(
    "--cpus",
    type=click.IntRange(1, 8),
    default=2,
    show_default=True,
    metavar="N",
    help="Its CPUs.",
)
@click.option(
    "--memory",
    type=click.IntRange(512, 1 << 20),
    default=2048,
    show_default=True,
    metavar="MIB",
    help="Its memory.",
)
@click.option(
    "--timeout",
    type=click.IntRange(1, 1_000_000),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="End it, with an error, if it runs for longer.",
)
@click.option(
    "--add",
    multiple=True,
    metavar="PATH[:DEST]",
    help="Take a file or folder along.  [default DEST: in /root, where ARGS run]",
)
@click.option("--out", type=_FILE, metavar="DIR", help="Bring back the files in /out.")
@click.option(
    "--with",
    "distributions",
    multiple=True,
    metavar="NAME",
    help="Take along an installed Python package, and what it requires. Pure Python only.",
)
@click.option(
    "--package", "packages", multiple=True, metavar="NAME", help="A further Debian package."
)
@click.option(
    "--mirror",
    envvar="PVLOCK_LAB_MIRROR",
    metavar="URI",
    help="A Debian archive.  [default: apt's; PVLOCK_LAB_MIRROR]",
)
@click.option(
    "--cache",
    type=_FILE,
    metavar="DIR",
    help="Where images are kept.  [default: ~/.cache/pvlock/lab]",
)
@click.option("--build", is_flag=True, help="Only make the image, if it is not there.")
@click.option("--clean", is_flag=True, help="Remove all images.")
@click.option("--verbose", is_flag=True, help="Show the messages of its kernel.")
def lab(
    arguments: tuple[str, ...], execute: bool, cpus: int, memory: int, timeout: int,
    add: tuple[str, ...], out: Path | None, distributions: tuple[str, ...],
    packages: tuple[str, ...], mirror: str | None, cache: Path | None, build: bool, clean: bool,
    verbose: bool,
) -> None:  # fmt: skip
    """Run `pvlock ARGS...` as root on a virtual arm64 host with a stock Debian kernel.

    The host is emulated by QEMU, starts for this command and ends with it; its KVM works. The exit
    status is the command's. Ctrl-] ends a command that has the terminal.
    """
    from pvlock.lab import files, image, payload, tools
    from pvlock.lab.host import Host, run
    from pvlock.lab.relay import Streams

    folder = cache or image.default_folder()
    if clean:
        say(f"removed {image.clean(folder) / 1e6:.0f} MB from {folder}")
    if not arguments and not build:
        if clean:
            return
        raise click.UsageError("nothing to run: pvlock lab [OPTIONS] -- ARGS...")
    added = [_added(text) for text in add]
    if not execute and (trace := _option_of(arguments, "--trace")) is not None:
        _refuse_to_lose(trace, out)
        packages, distributions = (*packages, *TRACE_PACKAGES), (*distributions, *TRACE_WITH)
    if out:
        files.check(out)
    if arguments:
        payload.check(distributions)
    tools.find("qemu-system-aarch64")
    made = image.get(folder, packages, mirror, say)
    if not arguments:
        return
    command = list(arguments) if execute else ["pvlock", *arguments]
    source = None if sys.stdin is None else 0
    terminal = source is not None and os.isatty(0) and os.isatty(1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_line_errors())
        stack.enter_context(ended_by_signals())
        archive, brought, compiled = (
            stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)
        )
        payload.write(
            archive, command, _environment(terminal), added, distributions, folder / image.BYTECODE
        )
        sinks = {
            "terminal": _to(1), "output": _to(1), "errors": _to(2),
            "bytecode": compiled.write,
        }  # fmt: skip
        if out:
            sinks["files"] = brought.write
        if verbose:
            sinks["kernel"] = _to(2)

        def started() -> None:
            if terminal:
                stack.enter_context(_raw_terminal(0))

        streams = Streams(sinks, source, terminal, started)
        status = run(Host(cpus, memory, timeout), made, archive, streams)
        if out:
            files.unpack(brought, out)
        if compiled.tell():
            # It only makes the next run quicker. What did not come whole must not cost this one.
            with contextlib.suppress(LabError):
                files.unpack(compiled, folder / image.BYTECODE)
    sys.exit(status)


def _option_of(arguments: Sequence[str], option: str) -> str | None:
    """Return the value of an option of pvlock's own arguments, if it is there."""
    for number, word in enumerate(arguments):
        if word == option:
            return arguments[number + 1] if number + 1 < len(arguments) else ""
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def _refuse_to_lose(trace: str, out: Path | None) -> None:
    if out is None or not trace.startswith("/out/"):
        name = Path(trace).name or "FILE"
        raise ConfigError(
            f"--trace {trace}: the file would be lost with the lab; say --out DIR before the --,"
            f" and --trace /out/{name} after it"
        )


def _added(text: str) -> tuple[Path, str]:
    """Return a file to take along, and where to."""
    path, _, destination = text.partition(":")
    if not Path(path).exists():
        raise ConfigError(f"--add {path}: no such file or folder")
    if not destination.strip("/") or destination.endswith("/"):
        destination += ("" if destination else "root/") + Path(path).resolve().name
    return Path(path), destination.strip("/")


def _environment(terminal: bool) -> dict[str, str]:
    """Return what `init` reads in the lab, and the command too."""
    environment = {"TERM": os.environ.get("TERM", "dumb"), engines.EMULATED_CPUS: "1"}
    if terminal:
        size = shutil.get_terminal_size()
        environment |= {"terminal": "1", "rows": str(size.lines), "columns": str(size.columns)}
    return environment


def _to(fd: int) -> Callable[[bytes], object]:
    """Return a function that writes all of its argument to `fd` at once."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return write


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Report what the system refuses, a full disk above all, as any other error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LabError(f"the lab: {error}") from error


@contextlib.contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    """Pass every key on as it is pressed: the terminal in the lab does the rest."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
