# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock lab` with QEMU and Debian's packages. Boots are few: each takes both cores for 6 s."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_lab import PATIENCE_S, lab

from command_line import ENVIRONMENT, PVLOCK, Done, complaint
from pvlock import __version__
from pvlock.lab import image, relay, tools
from pvlock.trace import perfetto


@pytest.fixture(scope="module")
def real() -> None:
    """Skip where there is no lab. Build its image first, so that no test's time is spent on it."""
    for name in tools.NAMES:
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    done = lab("--build")
    assert done.status == 0, done.err


FACTS = """
import ctypes, fcntl, json, os, pwd, resource, subprocess, sys
system = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(system, 0xAE01, 0)
image = open("/guest/Image", "rb").read(64)
facts = {
    "machine": os.uname().machine,
    "release": os.uname().release,
    "kvm": fcntl.ioctl(system, 0xAE00),
    "vm": vm >= 0,
    "image": image[0x38:0x3C].decode(),
    "libbpf": bool(ctypes.CDLL("libbpf.so.1")),
    "btf": os.path.exists("/sys/kernel/btf/vmlinux"),
    "tracing": os.path.exists("/sys/kernel/tracing/trace_pipe"),
    "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY,
    "uid": os.getuid(),
    "user": pwd.getpwuid(0).pw_name,
    "shell": subprocess.run("exit 3", shell=True).returncode,
    "cpus": os.cpu_count(),
    "arguments": sys.argv[1:],
    "input": sys.stdin.read(),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
}
print(json.dumps(facts))
print("to stderr", file=sys.stderr)
os.makedirs("/out/sub")
with open("/out/sub/big", "wb") as file:
    file.write(bytes(range(256)) * 20_000)
os.link("/guest/initrd", "/out/initrd")
sys.exit(41)
"""


@pytest.fixture(scope="module")
def facts(real: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """Return what one command finds in the lab, and the files that it brings back."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "facts.py").write_text(FACTS)
    done = lab(
        "--out", str(folder / "out"), "--add", f"{folder / 'facts.py'}:/root/x/facts.py",
        "--cpus", "3", "--exec", "--", "python3", "x/facts.py", "a b", "$HOME", "", "--cpus",
        given=b"line 1\nline 2",
    )  # fmt: skip
    return done, folder / "out"


def test_a_command_in_the_lab(facts: tuple[Done, Path]) -> None:
    done, _out = facts
    assert (done.status, done.err) == (41, "to stderr\n")
    found = json.loads(done.out)
    release = tuple(map(int, found.pop("release").split("-")[0].split(".")[:2]))
    assert release >= (6, 4)
    assert found.pop("descriptors") == [0, 1, 2, 3, 4, 5]
    assert found == {
        "machine": "aarch64", "kvm": 12, "vm": True, "image": "ARMd", "libbpf": True, "btf": True,
        "tracing": True, "memlock": True, "uid": 0, "user": "root",
        "shell": 3, "cpus": 3,
        "arguments": ["a b", "$HOME", "", "--cpus"], "input": "line 1\nline 2",
    }  # fmt: skip


def test_what_the_command_left_comes_back(facts: tuple[Done, Path]) -> None:
    _done, out = facts
    assert (out / "sub/big").read_bytes() == bytes(range(256)) * 20_000
    assert {path.name for path in out.iterdir()} == {"sub", "initrd"}


class Session:
    """A program with its input and output on a terminal, as expect(1) would use it."""

    def __init__(self, command: list[str]) -> None:
        self.text = b""
        self._leader, follower = os.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
        self.before = termios.tcgetattr(follower)
        self._follower = follower
        self.process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env=ENVIRONMENT,
            start_new_session=True,
            # Its controlling terminal: Ctrl-C there is SIGINT.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
        )  # fmt: skip

    def expect(self, words: bytes) -> None:
        """Wait for `words`, and drop the output before them."""
        assert self.seen(words, PATIENCE_S), f"no {words!r} in {self.text!r}"
        self.text = self.text.partition(words)[2]

    def seen(self, words: bytes, seconds: float) -> bool:
        """Return whether `words` come in time."""
        deadline = time.monotonic() + seconds
        while words not in self.text:
            left = max(deadline - time.monotonic(), 0)
            if not select.select([self._leader], [], [], left)[0]:
                return False
            # The terminal adds carriage returns to those that QEMU sends.
            self.text += os.read(self._leader, 1000).replace(b"\r", b"")
        return True

    def type(self, keys: bytes) -> None:
        os.write(self._leader, keys)

    def end(self) -> int:
        """Wait for the program to end. The terminal must be as it was."""
        status = self.process.wait(PATIENCE_S)
        assert termios.tcgetattr(self._follower) == self.before
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)
        os.close(self._follower)


@pytest.fixture
def session() -> Iterator[Callable[[list[str]], Session]]:
    with contextlib.ExitStack() as stack:

        def start(command: list[str]) -> Session:
            started = Session(command)
            stack.callback(started.close)
            return started

        yield start


def interrupt(shell: Session) -> None:
    """Start a program that answers, so that it surely has the terminal, and interrupt it."""
    shell.type(b"sed s/^/answer-/\r")
    for _ in range(PATIENCE_S):
        # The shell may have read, and so lost, what is typed before the program has the terminal.
        shell.type(b"x\r")
        if shell.seen(b"answer-x", 1):
            break
    shell.expect(b"answer-x")
    shell.type(b"\x03")
    shell.expect(b"# ")


def test_a_command_with_a_terminal(real: None, session: Callable[[list[str]], Session]) -> None:
    shell = session([*PVLOCK, "lab", "--exec", "--", "sh"])
    shell.expect(b"# ")
    shell.type(b"stty size; pvlock --version\r")
    shell.expect(b"\n33 99\n")
    shell.expect(f"pvlock, version {__version__}\n".encode())
    interrupt(shell)
    shell.type(b"exit 5\r")
    assert shell.end() == 5


def test_ctrl_c_and_escape_end_the_lab(real: None, session: Callable[[list[str]], Session]) -> None:
    early = session([*PVLOCK, "lab", "--exec", "--", "cat"])
    deadline = time.monotonic() + PATIENCE_S
    while not children(early.process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    early.type(b"\x03")
    assert early.end() == 130
    deaf = session([*PVLOCK, "lab", "--exec", "--", "sh", "-c", "trap '' INT; echo up; cat"])
    deaf.expect(b"up\n")
    deaf.type(b"\x03")
    deaf.type(relay.ESCAPE)
    deaf.expect(b"pvlock: interrupted")
    assert deaf.end() == 130


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_qemu_dies_with_us(real: None, number: signal.Signals) -> None:
    command = [*PVLOCK, "lab", "--exec", "--", "cat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"up\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"up\n"
        (qemu,) = children(process.pid)
        assert b"qemu-system-aarch64" in Path(f"/proc/{qemu}/cmdline").read_bytes()
        process.send_signal(number)
        deadline = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{qemu}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.wait(PATIENCE_S) == (-9 if number == signal.SIGKILL else 143)


def test_time_is_up(real: None, tmp_path: Path) -> None:
    done = lab("--timeout", "1", "--out", str(tmp_path / "out"), "--", "--version")
    assert done.status == 1
    assert "--timeout" in complaint(done)
    assert not list((tmp_path / "out").iterdir())


def test_a_trace_in_one_command(real: None, tmp_path: Path) -> None:
    """What docs/lab.md says: nothing else is asked for. (QEMU is only so that no image is new.)"""
    done = lab(
        "--package", "qemu-system-arm", "--out", str(tmp_path), "--", "run", "mutex",
        "--engine", "kvm", "--vcpus", "4", "--pcpus", "2", "--duration", "20ms",
        "--trace", "/out/mutex.pftrace",
    )  # fmt: skip
    assert done.status == 0, done.err
    # One comparison, and no verdict, as its CPUs are emulated.
    assert "without: done" in done.out and "No verdict: the CPUs of this host are" in done.out
    for name, pvlock_there in (("without", False), ("with", True)):
        events = perfetto.read(tmp_path / f"mutex.{name}.pftrace")
        assert (events.vcpus, events.pcpus) == (4, 2)
        assert events.settings["pvlock"] is pvlock_there
        assert events.settings["emulated_cpus"] is True
        assert events.locks()


def test_a_panic_of_the_labs_kernel(real: None) -> None:
    done = lab("--exec", "--", "sh", "-c", "echo before; echo c > /proc/sysrq-trigger")
    assert (done.status, done.out) == (1, "before\n")
    (line,) = done.err.splitlines()
    assert "Kernel panic - not syncing: sysrq triggered crash" in line


def test_the_guests_kernel_and_initrd(
    facts: tuple[Done, Path], session: Callable[[list[str]], Session]
) -> None:
    """The kernel and the initrd of `pvlock run --kernel /guest/Image ...` boot on QEMU's own VM."""
    made = image.get(image.default_folder(), [], None, lambda _text: None)
    guest = session([
        "qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "cortex-a76", "-smp", "2",
        "-m", "512M", "-kernel", str(made.kernel), "-initrd", str(facts[1] / "initrd"),
        "-append", "console=ttyAMA0 quiet", "-nodefaults", "-nographic",
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
    ])  # fmt: skip
    guest.expect(b"# ")
    interrupt(guest)
    guest.type(b"echo 0 > /sys/devices/system/cpu/cpu1/online; nproc\r")
    guest.expect(b"nproc\n1\n")
    guest.type(b"echo 1 > /sys/devices/system/cpu/cpu1/online; nproc\r")
    guest.expect(b"nproc\n2\n")
    guest.type(b"reboot\r")
    guest.expect(b"reboot: Restarting system")
    guest.expect(b"# ")
    guest.type(b"poweroff\r")
    guest.expect(b"reboot: Power down")
    assert guest.end() == 0
