# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel with PV-lock that `pvlock kernel build` makes, and an initrd to look at it with."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pvlock.errors import KernelError
from pvlock.kernel import build, debian, fetch, source, tools
from pvlock.lab import cpio

INIT = Path(__file__).resolve().parent / "kernel" / "init.c"


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="session")
def pvlock_kernel() -> Path:
    """The kernel for guests, from the user's cache: a first build takes minutes."""
    for name in ("apt-get", "dpkg-deb"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    if not debian.KEYRING.exists():
        pytest.skip("needs debian-archive-keyring")
    try:
        tools.check()
    except KernelError as error:
        pytest.skip(str(error))
    cache = fetch.default_folder()
    return build.get(
        "guest", cache, lambda: source.package("6.12", cache, None, quiet, refresh=False), 2, quiet
    ).image


@pytest.fixture(scope="session")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initrd with init.c and nothing else."""
    folder = tmp_path_factory.mktemp("initrd")
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-s"]
    subprocess.run([*compiler, *flags, str(INIT), "-o", str(folder / "init")], check=True)
    with (folder / "initrd").open("wb") as file:
        archive = cpio.Writer(file)
        for name in ("dev", "proc", "sys"):
            archive.folder(name)
        archive.add("init", (folder / "init").read_bytes(), 0o755)
        archive.close()
    return folder / "initrd"
