# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's busybox for arm64, linked statically: fetched once, and kept."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from pvlock import files
from pvlock.errors import ConfigError
from pvlock.kernel import debian

_SUITE, _PACKAGE = "trixie", "busybox-static"


def get(folder: Path, mirror: str | None, say: Callable[[str], None]) -> bytes:
    """Return the program, fetching it into `folder` if it is not there.

    Raises LabError when it cannot be fetched, ConfigError when `folder` cannot be written.
    """
    target = folder / f"busybox-{_SUITE}"
    try:
        if target.is_file():
            return target.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="new.") as temporary:
            archive = debian.Archive(_SUITE, mirror, Path(temporary))
            archive.update()
            say(f"downloading {_PACKAGE}, {int(archive.field(_PACKAGE, 'Size')) / 1e6:.1f} MB")
            package = archive.download(_PACKAGE)
            program = debian.extract(package, lambda name: name.endswith("bin/busybox"))
        with files.replacing(target) as path:
            path.write_bytes(program)
    except OSError as error:
        raise ConfigError(f"cache {folder}: {error.strerror or error}") from error
    return program
