# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock lab`: the part of the command line that runs a command on a virtual arm64 host."""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import click

from pvlock.errors import ConfigError

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ARGS...")
@click.option("--exec", "execute", is_flag=True, help="ARGS is a command of its own, not pvlock's.")
@click.option("--cpus", type=click.IntRange(1, 8), default=2, show_default=True)
@click.option("--memory", type=click.IntRange(512), default=4096, show_default=True, metavar="MIB")
@click.option("--timeout", type=click.FloatRange(1), default=600, show_default=True, metavar="S")
@click.option("--add", multiple=True, metavar="PATH[:DEST]", help="Take a file or folder along.")
@click.option("--with", "distributions", multiple=True, metavar="NAME", help="Python package.")
@click.option("--package", "packages", multiple=True, metavar="NAME", help="Debian package.")
@click.option("--out", type=_FILE, metavar="DIR", help="Bring back what is in /out.")
@click.option("--mirror", envvar="PVLOCK_LAB_MIRROR", metavar="URI")
@click.option("--cache", type=_FILE, metavar="DIR")
@click.option("--build", is_flag=True, help="Build the image only.")
@click.option("--clean", is_flag=True, help="Remove the images.")
@click.option("--verbose", is_flag=True, help="Show the host's kernel messages.")
def lab(
    arguments: tuple[str, ...], execute: bool, cpus: int, memory: int, timeout: float,
    add: tuple[str, ...], distributions: tuple[str, ...], packages: tuple[str, ...],
    out: Path | None, mirror: str | None, cache: Path | None, build: bool, clean: bool,
    verbose: bool,
) -> None:  # fmt: skip
    """Run pvlock on a virtual arm64 host with a stock kernel: `pvlock lab -- run mutex`."""
    from pvlock.lab import files, host, image, payload, tools

    folder = cache or image.default_folder()
    if clean:
        _say(f"removed {image.clean(folder) / 1e6:.0f} MB from {folder}")
        return
    if not arguments and not build:
        raise click.UsageError("nothing to run: pvlock lab -- ARGS...")
    tools.find("qemu-system-aarch64")
    made = image.get(folder, packages, mirror, _say)
    if build:
        return
    command = list(arguments) if execute else ["pvlock", *arguments]
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    environment = {"TERM": os.environ.get("TERM", "dumb")}
    if terminal:
        size = shutil.get_terminal_size()
        environment |= {"terminal": "1", "rows": str(size.lines), "columns": str(size.columns)}
    with contextlib.ExitStack() as stack:
        payload_file = stack.enter_context(tempfile.TemporaryFile())
        bytecode = folder / "bytecode"
        payload.write(
            payload_file, command, environment, [_added(text) for text in add], distributions,
            bytecode,
        )  # fmt: skip
        compiled = stack.enter_context(tempfile.TemporaryFile())
        brought = stack.enter_context(tempfile.TemporaryFile())
        if terminal:
            stack.enter_context(host.raw_terminal(0))
        status = host.run(
            host.Host(cpus, memory, timeout), made, payload_file,
            host.Streams(
                output=lambda data: _write(1, data),
                errors=lambda data: _write(2, data),
                kernel=lambda data: _write(2, data) if verbose else None,
                files=lambda data: None if out is None else brought.write(data) and None,
                bytecode=lambda data: compiled.write(data) and None,
                input_fd=0,
                terminal=terminal,
            ),
        )  # fmt: skip
        if out:
            brought.seek(0)
            files.unpack(brought, out)
        if compiled.tell():
            compiled.seek(0)
            files.unpack(compiled, bytecode)
    sys.exit(status)


def _added(text: str) -> tuple[Path, str]:
    path, _, destination = text.partition(":")
    if not Path(path).exists():
        raise ConfigError(f"--add {path}: No such file or directory")
    return Path(path), (destination or f"root/{Path(path).resolve().name}").strip("/")


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _say(text: str) -> None:
    print(f"pvlock: {text}", file=sys.stderr, flush=True)
