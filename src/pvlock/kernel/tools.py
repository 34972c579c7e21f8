# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that a kernel's build needs."""

import platform
import shutil
import subprocess

from pvlock.errors import KernelError
from pvlock.extras import system_packages

_NATIVE = platform.machine() in ("aarch64", "arm64")
CROSS_COMPILE = "" if _NATIVE else "aarch64-linux-gnu-"
"""What the names of the arm64 compiler and its companions begin with."""
COMPILER = f"{CROSS_COMPILE}gcc"
PACKAGES = {
    COMPILER: "gcc" if _NATIVE else "gcc-aarch64-linux-gnu",
    f"{CROSS_COMPILE}ld": "binutils" if _NATIVE else "binutils-aarch64-linux-gnu",
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "make": "make",
    "patch": "patch",
    "perl": "perl",
    "tar": "tar",
    "xz": "xz-utils",
}
"""Each program, and the Debian package that it is in."""
_HEADERS = "libc6-dev"


def check() -> None:
    """Raise KernelError, with the line for apt-get, when a program is missing."""
    missing = {name: package for name, package in PACKAGES.items() if shutil.which(name) is None}
    if "gcc" not in missing and not _has_headers():
        missing["the C library's headers"] = _HEADERS
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        verb = "are" if len(missing) > 1 else "is"
        raise KernelError(f"{', '.join(missing)} {verb} missing: {system_packages(packages)}")


def _has_headers() -> bool:
    """Ask the compiler for this machine, which makes the programs that the build itself runs."""
    done = subprocess.run(
        ["gcc", "-E", "-x", "c", "-"],
        input=b"#include <stdio.h>\n",
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def compiler_version() -> str:
    """Return the first line of what the arm64 compiler says of itself. Raises KernelError."""
    try:
        done = subprocess.run(
            [COMPILER, "--version"], capture_output=True, text=True, errors="replace", check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise KernelError(f"{COMPILER} cannot be run: {error}") from error
    return done.stdout.partition("\n")[0]
