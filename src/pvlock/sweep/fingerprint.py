# SPDX-License-Identifier: GPL-2.0-or-later
"""A hash of the code, on which a result depends besides its settings."""

import hashlib
from importlib import metadata
from pathlib import Path

import pvlock
from pvlock import workload

_PACKAGE = Path(pvlock.__file__).parent
_ABOVE = {
    "__main__.py", "cli", "conformance", "explain", "fuzz", "lab", "report.py", "sweep", "trace",
}  # fmt: skip
"""Code that shows results and does not change them. Most of it is in the layers above workload."""


def of_code(guest: str) -> str:
    """Return a hash of all that a run of `guest` executes. Raises ConfigError for an unknown guest.

    That is the guest's ELF files, the modules of the package up to workload.py, the emulator's
    helper, and the versions of pvlock and Unicorn.
    """
    parts = [pvlock.__version__.encode(), metadata.version("unicorn").encode()]
    parts += [workload.image_of(guest), workload.image_of(guest, hinted=True)]
    for path in sorted((*_PACKAGE.rglob("*.py"), *_PACKAGE.rglob("libvcpu.*"))):
        name = path.relative_to(_PACKAGE)
        if name.parts[0] not in _ABOVE:
            parts += [name.as_posix().encode(), path.read_bytes()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
