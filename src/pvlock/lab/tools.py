# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of others that the lab needs."""

import shutil

from pvlock.errors import LabError

_PACKAGES = {"mmdebstrap": "mmdebstrap", "qemu-system-aarch64": "qemu-system-arm"}
"""The Debian package of each."""
NAMES = tuple(_PACKAGES)
"""All that `pvlock lab` needs."""


def find(name: str) -> str:
    """Return the path of the program `name`; raises LabError, with the remedy, if there is none."""
    path = shutil.which(name)
    if path is None:
        raise LabError(f"{name} is missing: apt-get install {' '.join(sorted(_PACKAGES.values()))}")
    return path
