# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock kernel`: the part of the command line that gets Linux kernels to boot."""

import shlex
from pathlib import Path

import click

from pvlock.cli import kernel_build
from pvlock.cli.shared import archive_options, ended_by_signals, say
from pvlock.kernel import fetch as source

_APPEND = "console=ttyAMA0"


@click.group()
def kernel() -> None:
    """Get a Linux kernel to boot."""


kernel.add_command(kernel_build.build)
kernel.add_command(kernel_build.patches)


@kernel.command()
@click.option(
    "--suite",
    type=click.Choice(list(source.FLAVOURS)),
    default="trixie",
    show_default=True,
    help="Debian's release: trixie has 6.12, bookworm 6.1.",
)
@click.option(
    "--flavour",
    type=click.Choice(source.FLAVOURS["trixie"]),
    default="cloud-arm64",
    show_default=True,
    help="For the cloud, with all drivers, for real time, with pages of 16 KiB (trixie).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Put vmlinuz and initrd there.  [default: they stay in the cache]",
)
@click.option("--no-initrd", is_flag=True, help="Only the kernel.")
@click.option("--refresh", is_flag=True, help="Fetch it again: Debian updates its kernels.")
@archive_options
def fetch(
    suite: str, flavour: str, out: Path | None, no_initrd: bool, refresh: bool,
    mirror: str | None, cache: Path | None,
) -> None:  # fmt: skip
    """Fetch Debian's own arm64 kernel, and a small initrd that ends in a shell.

    Nothing is installed, and root is not needed. Prints the paths of both, and the command that
    boots them.
    """
    if out:
        source.check(out)
    with ended_by_signals():
        made = source.get(
            suite, flavour, cache or source.default_folder(), mirror, say, refresh=refresh
        )
        if out:
            made = source.copy(made, out, ("vmlinuz",) if no_initrd else ("vmlinuz", "initrd"))
    paths = [made.kernel] if no_initrd else [made.kernel, made.initrd]
    for path in paths:
        print(path)
    disk = [] if no_initrd else ["--initrd", str(made.initrd)]
    command = ["pvlock", "run", "--kernel", str(made.kernel), *disk, "--append", _APPEND]
    print(shlex.join([*command, "--vcpus", "4", "--pcpus", "2"]))
