# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that the lab needs, and that are not pvlock's."""

import shutil

from pvlock.errors import LabError
from pvlock.extras import system_packages

_PACKAGES = {"mmdebstrap": "mmdebstrap", "qemu-system-aarch64": "qemu-system-arm"}
"""The Debian package of each program."""
NAMES = tuple(_PACKAGES)
"""All programs that `pvlock lab` needs."""


def find(name: str) -> str:
    """Return the path of the program `name`; raises LabError, with the remedy, if it is missing."""
    path = shutil.which(name)
    if path is None:
        packages = system_packages(" ".join(sorted(_PACKAGES.values())))
        raise LabError(f"{name} is missing: {packages}")
    return path
