# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtual host while it runs: QEMU, and what goes in and out."""

import contextlib
import ctypes as c
import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pvlock.errors import LabError
from pvlock.lab import tools
from pvlock.lab.image import Image

_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 16
_LAST_WORDS = 1 << 14
_CHANNELS = ("kernel", "terminal", "input", "output", "errors", "status", "files", "bytecode")
_APPEND = "console=ttyAMA0 quiet loglevel=4 panic=-1 rdinit=/init"


@dataclass(frozen=True)
class Host:
    """What the virtual host has: CPUs, memory in MiB; how long it may run, in seconds."""

    cpus: int
    memory: int
    timeout: float


@dataclass
class Streams:
    """Where output goes; each takes bytes as they come. `input_fd` is read until it ends."""

    output: Callable[[bytes], None]
    errors: Callable[[bytes], None]
    kernel: Callable[[bytes], None]
    files: Callable[[bytes], None]
    bytecode: Callable[[bytes], None]
    input_fd: int | None
    terminal: bool = False


def arguments(host: Host, kernel: Path, initrd: Path, fds: dict[str, int]) -> list[str]:
    """Return QEMU's arguments; `fds` are our ends' peers, by channel."""
    # Emulated always: KVM would have to offer EL2 to the lab's own KVM.
    command = [
        "-M", "virt,virtualization=on,gic-version=3", "-cpu", "cortex-a76",
        "-accel", "tcg,thread=multi", "-smp", str(host.cpus), "-m", f"{host.memory}M",
        "-kernel", str(kernel), "-initrd", str(initrd), "-append", _APPEND,
        "-nodefaults", "-display", "none", "-no-reboot", "-device", "virtio-serial-pci",
    ]  # fmt: skip
    for name in _CHANNELS:
        command += ["-chardev", f"socket,id={name},fd={fds[name]}"]
    command += ["-serial", "chardev:kernel", "-device", "virtconsole,chardev=terminal,nr=0"]
    for number, name in enumerate(_CHANNELS[2:], 1):
        command += ["-device", f"virtserialport,chardev={name},nr={number},name=pvlock.{name}"]
    return command


def run(host: Host, image: Image, payload: BinaryIO, streams: Streams) -> int:
    """Start the host, run its command, return the command's exit status.

    Raises LabError when the host does not get that far, or takes too long.
    """
    qemu = tools.find("qemu-system-aarch64")
    with contextlib.ExitStack() as stack:
        initrd = stack.enter_context(tempfile.NamedTemporaryFile(prefix="pvlock-lab."))
        with image.initrd.open("rb") as base:
            shutil.copyfileobj(base, initrd, 1 << 20)
        payload.seek(0)
        shutil.copyfileobj(payload, initrd, 1 << 20)
        initrd.flush()
        ours, theirs = {}, {}
        for name in _CHANNELS:
            ours[name], theirs[name] = socket.socketpair()
            stack.callback(ours[name].close)
        words = stack.enter_context(tempfile.TemporaryFile())
        fds = {name: end.fileno() for name, end in theirs.items()}
        process = subprocess.Popen(
            [qemu, *arguments(host, image.kernel, Path(initrd.name), fds)],
            pass_fds=list(fds.values()),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            preexec_fn=_die_with(os.getpid()),
            start_new_session=True,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        for end in theirs.values():
            end.close()
        relay = _Relay(ours, streams)
        relay.until(time.monotonic() + host.timeout)
        process.wait()
        status = bytes(relay.kept["status"]).strip()
        if status.isdigit():
            return int(status)
        words.seek(0)
        raise LabError(_death(words.read(), bytes(relay.kept["kernel"]), process.returncode))


def _die_with(parent: int) -> Callable[[], None]:
    """Return what makes a child die with us, however we die."""
    libc = c.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _death(words: bytes, console: bytes, code: int) -> str:
    lines = [line.strip() for line in console.decode(errors="replace").splitlines()]
    panic = next((line for line in lines if "Kernel panic" in line), None)
    said = words.decode(errors="replace").strip().splitlines()
    if panic:
        return f"the lab's kernel panicked: {panic}"
    if code and said:
        return f"QEMU failed: {said[-1]}"
    last = f"; its console ends: {lines[-1]}" if lines else ""
    return f"the lab's host ended before its command did{last}"


class _Relay:
    """Passes bytes on between our files and the host's channels, until the host is gone."""

    def __init__(self, ends: dict[str, socket.socket], streams: Streams) -> None:
        self._ends, self._streams = ends, streams
        self.kept = {"status": bytearray(), "kernel": bytearray()}
        self._pending = b""
        self._open = {*ends}
        self._selector = selectors.PollSelector()
        for name, end in ends.items():
            end.setblocking(False)
            self._selector.register(end, selectors.EVENT_READ, name)
        if streams.input_fd is not None:
            self._selector.register(streams.input_fd, selectors.EVENT_READ, "stdin")
        else:
            ends["input"].shutdown(socket.SHUT_WR)

    def until(self, deadline: float) -> None:
        """Relay until QEMU has closed every channel. Raises LabError at the deadline."""
        # The input's channel closes when our side of it has ended: it says nothing.
        while self._open - {"input"}:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError("the lab's time is up (--timeout)")
            for key, events in self._selector.select(left):
                if key.data == "stdin":
                    self._take()
                elif events & selectors.EVENT_WRITE:
                    self._give()
                if key.data != "stdin" and events & selectors.EVENT_READ:
                    self._receive(key.data)

    @property
    def _inlet(self) -> str:
        return "terminal" if self._streams.terminal else "input"

    def _receive(self, name: str) -> None:
        try:
            data = self._ends[name].recv(_CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(self._ends[name])
            self._open.discard(name)
            return
        if name in self.kept:
            self.kept[name] += data
            del self.kept[name][:-_LAST_WORDS]
        streams = self._streams
        sink = {
            "kernel": streams.kernel,
            "terminal": streams.output,
            "output": streams.output,
            "errors": streams.errors,
            "files": streams.files,
            "bytecode": streams.bytecode,
        }.get(name)
        if sink:
            sink(data)

    def _take(self) -> None:
        """Read our input; no more until the host has taken it."""
        fd = self._streams.input_fd
        assert fd is not None
        data = os.read(fd, _CHUNK)
        self._selector.unregister(fd)
        if not data:
            if self._inlet in self._open:
                self._ends[self._inlet].shutdown(socket.SHUT_WR)
            return
        self._pending = data
        if self._inlet in self._open:
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(self._ends[self._inlet], both, self._inlet)

    def _give(self) -> None:
        end = self._ends[self._inlet]
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._pending = self._pending[end.send(self._pending) :]
        if not self._pending:
            self._selector.modify(end, selectors.EVENT_READ, self._inlet)
            assert self._streams.input_fd is not None
            self._selector.register(self._streams.input_fd, selectors.EVENT_READ, "stdin")


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Pass every key on as it is pressed, while the host has the terminal."""
    import termios
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
