# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest kernel that `pvlock kernel build` makes, in plain QEMU: no PV-lock there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

LINE = re.compile(r"^\[ *\d+\.\d+\] (pvlock: .*)$", re.M)


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


def test_it_says_that_there_is_none(pvlock_kernel: Path, init: Path) -> None:
    """QEMU's PSCI stops the search at its second step; CPUs go off and on all the same."""
    text = console(pvlock_kernel, init, "hotplug=1 samples=2")
    assert LINE.findall(text) == ["pvlock: not present: no SMCCC 1.1"]
    assert "init: cpus 2\n" in text
    assert not re.search(r"init: (flag|sample|off|again) \d", text)


def test_it_can_be_switched_off(pvlock_kernel: Path, init: Path) -> None:
    text = console(pvlock_kernel, init, "pvlock=off")
    assert LINE.findall(text) == ["pvlock: switched off on the command line"]


def test_no_paravirtual_spinlocks_without_a_hypervisor(pvlock_kernel: Path, init: Path) -> None:
    text = console(pvlock_kernel, init, "pvspinlock=on")
    assert "pvlock: no paravirtual spinlocks without PV-lock" in LINE.findall(text)
    # Nobody slept in one.
    assert set(re.findall(r"^init: spinlock \d (.*)$", text, re.M)) == {"0 0 0 0"}


def test_it_is_small(pvlock_kernel: Path) -> None:
    assert pvlock_kernel.stat().st_size < 6_000_000
