# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the command line's --json goes."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pvlock.errors import ConfigError


@contextlib.contextmanager
def json_writer(target: str | None) -> Iterator[Callable[[str], None]]:
    """Give a function that writes to a file, all or nothing, or to stdout; refuse early."""
    if target is None:
        yield lambda _text: None
    elif target == "-":
        yield lambda text: print(text, end="", flush=True)
    else:
        path = Path(target)
        if path.is_dir():
            raise ConfigError(f"--json {target}: is a directory")
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except OSError as error:
            raise ConfigError(f"--json {target}: {error.strerror}") from error
        os.close(handle)
        written = False

        def write(text: str) -> None:
            nonlocal written
            Path(temporary).write_text(text)
            written = True

        try:
            yield write
            if written:
                Path(temporary).chmod(0o644)
                Path(temporary).replace(path)
        except OSError as error:
            raise ConfigError(f"--json {target}: {error.strerror}") from error
        finally:
            Path(temporary).unlink(missing_ok=True)
