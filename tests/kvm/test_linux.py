# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own, unmodified kernel in a PV-lock machine on KVM, by the command line.

PVLOCK_LINUX names a folder with the kernel's Image and an initrd whose /init starts a shell on the
console. In the lab, that folder is /guest.
"""

import gzip
import os
import re
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from kvm.conftest import FILES

_FOLDER = os.environ.get("PVLOCK_LINUX", "/guest" if FILES is not None else "")
KERNEL, INITRD = Path(_FOLDER, "Image"), Path(_FOLDER, "initrd")
BOOT_SECONDS = 240
PROMPT = "~ # "


@pytest.fixture(autouse=True)
def needs_a_kernel() -> None:
    if not _FOLDER:
        pytest.skip("set PVLOCK_LINUX to a folder with an arm64 Image and an initrd")


class Session:
    """`pvlock run` on Linux, and a reader of its console that waits with a deadline."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pvlock", "run", "--engine", "kvm", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.text = ""
        self._at = 0
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)

    def expect(self, pattern: str, seconds: float = BOOT_SECONDS) -> re.Match[str]:
        """Wait until what was not yet expected matches; return the match."""
        deadline = time.monotonic() + seconds
        while not (found := re.compile(pattern, re.M).search(self.text, self._at)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in: ...{self.text[-3000:]}"
            if self._selector.select(left) and self.process.stdout is not None:
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"ended without {pattern!r}: ...{self.text[-3000:]}"
                self.text += data.decode("utf-8", "replace").replace("\r", "")
        self._at = found.end()
        return found

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._selector.close()
        self.process.kill()
        self.process.communicate()

    def end(self, seconds: float = 60) -> int:
        text, _ = self.process.communicate(timeout=seconds)
        self.text += text.decode("utf-8", "replace").replace("\r", "")
        return self.process.returncode


def test_a_session_with_a_reboot(nothing_left: None) -> None:
    """A session has a prompt, commands, a CPU off and on, a reboot, and power-off with status 0."""
    with Session(
        *("--kernel", str(KERNEL), "--initrd", str(INITRD), "--vcpus", "4"),
        *("--append", "console=ttyAMA0 quiet"),
    ) as session:
        _converse(session)


def _converse(session: Session) -> None:
    assert "policy preempted" in session.expect(r"^pvlock .*\n")[0]
    session.expect(PROMPT)
    session.say("nproc; uname -m; echo $((6 * 7))")
    assert session.expect(r"^(\d+)\n(\w+)\n(\d+)\n").groups() == ("4", "aarch64", "42")
    session.expect(PROMPT)
    session.say("cd /sys/devices/system/cpu; echo 0 > cpu1/online; cat online")
    assert session.expect(r"^([\d,-]+)\n")[1] == "0,2-3"
    session.say("echo 1 > cpu1/online; cat online; cd /")
    assert session.expect(r"^([\d,-]+)\n")[1] == "0-3"
    # Linux has found the interrupt controller, and a console that interrupts.
    session.say("grep -c GICv3 /proc/interrupts; grep -o uart-pl011 /proc/interrupts")
    assert int(session.expect(r"^(\d+)\nuart-pl011\n")[1]) >= 2
    session.say("reboot")
    session.expect(r"BusyBox")
    session.expect(PROMPT)
    session.say("cat /sys/devices/system/cpu/online")
    assert session.expect(r"^([\d,-]+)\n")[1] == "0-3"
    session.say("poweroff")
    assert session.end() == 0, session.text
    assert "pvlock: guest off after" in session.text


SCRIPT = r"""
wait "~ # " within 240s
type "echo $((6 * 7))\n"
wait "\n42\r\n" within 60s
wait "~ # " within 60s
type "poweroff -f\n"
"""


def test_a_packed_kernel_and_a_session_by_script(nothing_left: None, tmp_path: Path) -> None:
    kernel, script = tmp_path / "vmlinuz", tmp_path / "keys"
    kernel.write_bytes(gzip.compress(KERNEL.read_bytes(), 1))
    script.write_text(SCRIPT)
    options = ("--kernel", str(kernel), "--initrd", str(INITRD), "--vcpus", "2")
    with Session(*options, "--append", "console=ttyAMA0 quiet", "--input", str(script)) as session:
        assert session.end(BOOT_SECONDS) == 0, session.text
        assert "pvlock: guest off after" in session.text
    script.write_text('wait "never" within 2s')
    with Session(*options, "--append", "console=ttyAMA0", "--input", str(script)) as session:
        assert session.end(BOOT_SECONDS) == 1, session.text
    assert f'pvlock: {script}:1: the guest did not print "never" within 2 s' in session.text


def test_a_panic_ends_the_run(nothing_left: None) -> None:
    with Session(
        *("--kernel", str(KERNEL), "--initrd", str(INITRD), "--vcpus", "1"),
        *("--append", "console=ttyAMA0 quiet rdinit=/nowhere root=/dev/nowhere"),
    ) as session:
        assert session.end(BOOT_SECONDS) == 1, session.text
    error = session.text[session.text.index("pvlock: the guest gave up") :]
    assert "Kernel panic - not syncing: " in error.splitlines()[0]
    assert len(error.splitlines()) > 3
    assert "Traceback" not in session.text


@pytest.mark.parametrize(
    ("kernel", "initrd", "words"),
    [
        (b"MZ", None, "neither an ELF file nor a Linux arm64 kernel"),
        (..., b"\x1f\x8b\x08\x00", "a gzip file that is cut off"),
        (slice(0, -4096), None, "is cut off"),
        (slice(0, 100), None, "is cut off"),
    ],
)
def test_a_wrong_file_is_one_line(
    kernel: object, initrd: bytes | None, words: str, tmp_path: Path
) -> None:
    image, disk = tmp_path / "Image", tmp_path / "initrd"
    whole = KERNEL.read_bytes()
    image.write_bytes(whole[kernel] if isinstance(kernel, slice) else whole)
    if isinstance(kernel, bytes):
        image.write_bytes(kernel)
    options = ["--kernel", str(image)]
    if initrd is not None:
        disk.write_bytes(initrd)
        options += ["--initrd", str(disk)]
    with Session(*options) as session:
        assert session.end() == 1
    (line,) = [line for line in session.text.splitlines() if "policy" not in line]
    assert line.startswith(f"pvlock: {tmp_path}")
    assert words in line
