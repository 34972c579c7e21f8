# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock kernel build` and `pvlock kernel patches`: Linux with PV-lock."""

import os
import shutil
from pathlib import Path

import click

from pvlock import files
from pvlock.cli.shared import archive_options, ended_by_signals, say
from pvlock.kernel import build as builder
from pvlock.kernel import fetch, series, source


@click.command()
@click.argument("kernel", type=click.Choice(builder.KERNELS))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Put the Image there.  [default: it stays in the cache]",
)
@click.option(
    "--linux",
    type=click.Choice(list(source.SUITES)),
    default=source.DEFAULT,
    show_default=True,
    help="Which of Debian's linux-source packages.",
)
@click.option(
    "--source",
    "tree",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Another kernel's source, unpatched. It is copied.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    metavar="N",
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="one for each CPU",
    help="How many files to compile at a time.",
)
@click.option("--refresh", is_flag=True, help="Fetch the source again: Debian updates it.")
@archive_options
def build(
    kernel: str, out: Path | None, linux: str, tree: Path | None, jobs: int, refresh: bool,
    mirror: str | None, cache: Path | None,
) -> None:  # fmt: skip
    """Build a Linux kernel that uses PV-lock, of Debian's source and the patches in linux/.

    guest is a small kernel for a virtual machine. Nothing is installed, and root is not needed.
    Prints the Image's path and SHA-256, and the source that it was built of.
    """
    if out:
        files.refuse_unwritable(out, f"--out {out}")
    folder = cache or fetch.default_folder()

    def take() -> source.Source:
        if tree:
            return source.Tree(tree)
        return source.package(linux, folder, mirror, say, refresh=refresh)

    with ended_by_signals():
        made = builder.get(kernel, folder, take, jobs, say)
    path = made.image
    if out:
        with files.replacing(out, f"--out {out}") as copy:
            shutil.copyfile(made.image, copy)
        path = out
    print(f"{path}\nsha256 {made.sha256}\nsource {made.source}")


@click.command()
@click.option(
    "--for",
    "kernel",
    type=click.Choice(["guest", "host"]),
    help="Only those that this kernel needs.  [default: all]",
)
def patches(kernel: str | None) -> None:
    """Print the patches in linux/, in their order, for `git am`.

    On Linux 6.1 it must be `git am -C1`: neighbouring lines differ.
    """
    for patch in series.patches(kernel):
        print(patch.text, end="")
