# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest kernel that `pvlock kernel build` makes, in plain QEMU: no PV-lock there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pvlock.errors import KernelError
from pvlock.kernel import build, debian, fetch, source, tools
from pvlock.lab import cpio

HERE = Path(__file__).resolve().parent
LINE = re.compile(r"^\[ *\d+\.\d+\] (pvlock: .*)$", re.M)


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="session")
def kernel() -> Path:
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
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initrd with tests/linux/init.c and nothing else."""
    folder = tmp_path_factory.mktemp("initrd")
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-s"]
    subprocess.run(
        [*compiler, *flags, str(HERE / "linux" / "init.c"), "-o", str(folder / "init")], check=True
    )
    with (folder / "initrd").open("wb") as file:
        archive = cpio.Writer(file)
        for name in ("dev", "proc", "sys"):
            archive.folder(name)
        archive.add("init", (folder / "init").read_bytes(), 0o755)
        archive.close()
    return folder / "initrd"


def console(kernel: Path, initrd: Path, append: str, *options: str) -> str:
    """Boot in QEMU; return what the guest printed until it switched itself off."""
    qemu = shutil.which("qemu-system-aarch64")
    if qemu is None:
        pytest.skip("needs qemu-system-aarch64")
    done = subprocess.run(
        [
            *(qemu, "-M", "virt,gic-version=3", "-cpu", "max", "-smp", "2", "-m", "256"),
            *("-nographic", "-nic", "none", "-no-reboot", *options),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", f"console=ttyAMA0 {append}"),
        ],
        capture_output=True, text=True, errors="replace", timeout=300, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    text = done.stdout.replace("\r", "")
    assert done.returncode == 0, text + done.stderr
    assert "init: done" in text, text
    assert "Kernel panic" not in text
    return text


def test_it_says_that_there_is_none(kernel: Path, initrd: Path) -> None:
    """QEMU's PSCI stops the search at its second step; CPUs go off and on all the same."""
    text = console(kernel, initrd, "hotplug=1 samples=2")
    assert LINE.findall(text) == ["pvlock: not present: no SMCCC 1.1"]
    assert "init: cpus 2\n" in text
    assert not re.search(r"init: (flag|sample|off|again) \d", text)


def test_it_can_be_switched_off(kernel: Path, initrd: Path) -> None:
    text = console(kernel, initrd, "pvlock=off")
    assert LINE.findall(text) == ["pvlock: switched off on the command line"]


def test_no_paravirtual_spinlocks_without_a_hypervisor(kernel: Path, initrd: Path) -> None:
    text = console(kernel, initrd, "pvspinlock=on")
    assert "pvlock: no paravirtual spinlocks without PV-lock" in LINE.findall(text)
    # Nobody slept in one.
    assert set(re.findall(r"^init: spinlock \d (.*)$", text, re.M)) == {"0 0 0 0"}


def test_it_is_small(kernel: Path) -> None:
    assert kernel.stat().st_size < 6_000_000
