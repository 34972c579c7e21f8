# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are read when their bytes are wanted, and written whole or not at all."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pvlock.errors import ConfigError, OutputError


class FileBytes:
    """The bytes of an open regular file, with a length and slices as `bytes` has them.

    Nothing is read before it is asked for. So a large file can go straight to its place, without a
    copy in between.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Take `file`, open and unbuffered, of `size` bytes."""
        self._file, self._size = file, size

    def __len__(self) -> int:
        """Return the size in bytes that the file had when it was opened."""
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        """Return the bytes of a slice without a step. Raises OSError."""
        start, stop, step = part.indices(self._size)
        if step != 1:
            raise ValueError("a slice of a file has no step")
        return os.pread(self._file.fileno(), max(stop - start, 0), start)

    def read_into(self, window: memoryview) -> None:
        """Fill `window` with the first bytes of the file. Raises OSError, also if there are few."""
        at = 0
        while at < len(window):
            count = os.preadv(self._file.fileno(), [window[at:]], at)
            if not count:
                raise OSError(0, "became shorter while it was read")
            at += count


@contextlib.contextmanager
def contents(path: str | Path) -> Iterator[bytes | FileBytes]:
    """Open a file to read from until the block ends. Raises OSError.

    A file that is not a regular one, such as a pipe, is read at once.
    """
    with Path(path).open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        yield FileBytes(file, status.st_size) if stat.S_ISREG(status.st_mode) else file.read()


def refuse_unwritable(path: Path, who: str, suffixes: Sequence[str] = ()) -> None:
    """Refuse a file early if it could not be written later, or ends in none of `suffixes`.

    Raises ConfigError, whose text begins with `who`.
    """
    if suffixes and path.suffix not in suffixes:
        raise ConfigError(f"{who}: the name must end in {' or '.join(suffixes)}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not _is_special(path):
            _beside(path).unlink()
    except OSError as error:
        raise ConfigError(f"{who}: {error.strerror}") from error


@contextlib.contextmanager
def replacing(path: Path, who: str | None = None) -> Iterator[Path]:
    """Give a file to write, which becomes `path` when the block ends without an exception.

    If `path` is there and not a regular file, such as /dev/null, it is written itself. Raises
    OutputError, whose text begins with `who` (default: `path`), also for an OSError of the block.
    """
    try:
        if _is_special(path):
            yield path
            return
        temporary = _beside(path)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{who or path}: {error.strerror or error}") from error


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _beside(path: Path) -> Path:
    """Make an empty file in the folder of `path`, named after it."""
    import tempfile  # a large library, which most runs do not need

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    return Path(name)
