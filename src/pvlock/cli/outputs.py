# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that a command writes: no two in one place, and one that fails costs no other."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pvlock.errors import ConfigError, OutputError, PvlockError

Named = tuple[str, Path]
"""A file, and the option or argument that names it."""


def refuse_collisions(outputs: Iterable[Named], inputs: Iterable[Named] = ()) -> None:
    """Refuse outputs that are one file, or are a file that is read. Raises ConfigError.

    What is there and no regular file, as /dev/null, can take any number of outputs.
    """
    taken = {_identity(path): f"{name} reads it" for name, path in inputs if path.is_file()}
    for name, path in outputs:
        if path.exists() and not path.is_file():
            continue
        if other := taken.get(_identity(path)):
            raise ConfigError(f"{name} {path}: {other}; an output needs a file of its own")
        taken[_identity(path)] = f"{name} writes it"


def write_each(*writes: Callable[[], object]) -> None:
    """Call all of `writes`, also after one has failed. Raises the first failure.

    A full disk must cost neither the table that can still be printed nor a file elsewhere.
    """
    failures: list[PvlockError] = []
    for write in writes:
        try:
            write()
        except (OutputError, ConfigError) as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _identity(path: Path) -> str:
    """Return what two names of one file have in common, whether it is there yet or not."""
    return os.path.realpath(path)
