# SPDX-License-Identifier: GPL-2.0-or-later
"""Libraries that only some commands need, each in an extra, and programs of the system."""

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from pvlock.errors import ConfigError

_EXTRA = re.compile(r"""extra *== *["']([\w-]+)["']""")
_MANAGERS = ("apt-get", "dnf", "zypper", "pacman", "apk")


def load_extra(module: str, extra: str, needed_for: str) -> Any:
    """Import an optional library. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{needed_for} needs {package}, which is not installed: {remedy(extra)}"
        ) from error


def remedy(extra: str) -> str:
    """Return the command that installs what an extra stands for, here.

    It names the libraries themselves, since no index need know this very pvlock: it can have been
    installed from a clone or from a wheel.
    """
    names = requirements(extra)
    if not names:
        names = [f"pvlock[{extra}]"]
    return f"{_installer()} {shlex.join(names)}"


def requirements(extra: str) -> list[str]:
    """Return what the installed package says that an extra needs on this Python."""
    from importlib import metadata  # a large library, which most commands do not need

    try:
        lines = metadata.requires("pvlock") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        names = _EXTRA.findall(marker)
        # The newest Python needs no backport.
        old_only = re.search(r"python_version *< *[\"']3\.(\d+)", marker)
        if extra in names and not (old_only and sys.version_info >= (3, int(old_only[1]))):
            found.append(requirement.strip())
    return found


def _installer() -> str:
    """Return the command by which this environment gets more packages."""
    parts = Path(sys.prefix).parts
    if "pipx" in parts:
        return f"pipx inject {parts[-1]}"
    beside = Path(sys.executable).with_name("pip")
    if beside.exists() and shutil.which("pip") != str(beside):
        return shlex.quote(str(beside)) + " install"
    return "pip install" if beside.exists() else f"{shlex.quote(sys.executable)} -m pip install"


def system_packages(debian: str) -> str:
    """Return what to say of packages whose names on Debian are `debian`, on this host."""
    manager = next((name for name in _MANAGERS if shutil.which(name)), None)
    if manager == "apt-get":
        return f"apt-get install {debian}"
    return f"install {debian} (their names on Debian), by {manager or 'your package manager'}"
