# SPDX-License-Identifier: GPL-2.0-or-later
"""What several modules of the sweep need: files written whole or not at all, optional libraries."""

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvlock.errors import ConfigError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write that becomes `path` when the block ends well. Raises ConfigError."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            yield Path(name)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def load_extra(module: str, extra: str, needed_for: str) -> Any:
    """Import an optional library. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{needed_for} needs {package}, which is not installed: pip install 'pvlock[{extra}]'"
        ) from error
