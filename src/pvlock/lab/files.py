# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that a command left in the lab's /out, brought back as a tar archive."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO

from pvlock.errors import ConfigError, LabError

_END = bytes(1024)


def check(target: Path) -> None:
    """Raise ConfigError if `target` cannot be a folder to put files into."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target):
            pass
    except OSError as error:
        raise ConfigError(f"--out {target}: {error.strerror}") from error


def unpack(archive: IO[bytes], target: Path) -> None:
    """Put the regular files of a tar archive into the folder `target`, each whole or not at all.

    Raises LabError when the archive is not whole, ConfigError when `target` cannot be written.
    """
    # tarfile takes an archive that is cut off between two files for a whole one.
    size = archive.seek(0, os.SEEK_END)
    archive.seek(max(size - len(_END), 0))
    if archive.read() != _END:
        raise LabError(f"{target}: the files from the lab are not whole")
    archive.seek(0)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=target, prefix=".new.") as temporary,
            tarfile.open(fileobj=archive, mode="r:") as members,
        ):
            names = [
                name for member in members if (name := _extract(members, member, Path(temporary)))
            ]
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / name, target / name)  # noqa: PTH105
    except tarfile.TarError as error:
        raise LabError(f"{target}: the files from the lab are not whole: {error}") from error
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror or error}") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> str | None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise LabError(f"the lab sent a file with the name {member.name!r}")
    file = archive.extractfile(member) if member.isreg() else None
    if file is None:
        return None
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with (folder / path).open("wb") as copy:
        shutil.copyfileobj(file, copy)
    (folder / path).chmod(member.mode & 0o777 | 0o600)
    return path.as_posix()
