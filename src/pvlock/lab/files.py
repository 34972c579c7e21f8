# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that a command left in the lab's /out, brought back as a tar archive."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pvlock.errors import ConfigError, LabError


def unpack(archive: BinaryIO, target: Path) -> None:
    """Put the regular files of a tar archive into the folder `target`, each whole or not at all.

    Raises LabError when the archive is not whole, ConfigError when `target` cannot be written.
    """
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
        raise LabError(f"--out {target}: what the lab sent is not whole: {error}") from error
    except OSError as error:
        raise ConfigError(f"--out {target}: {error.strerror or error}") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> str | None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise LabError(f"--out: the lab sent a file with the name {member.name!r}")
    file = archive.extractfile(member) if member.isreg() else None
    if file is None:
        return None
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with (folder / path).open("wb") as copy:
        shutil.copyfileobj(file, copy)
    (folder / path).chmod(member.mode & 0o777 | 0o600)
    return path.as_posix()
