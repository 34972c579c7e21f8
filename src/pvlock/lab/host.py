# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtual host: QEMU, for as long as one command runs."""

import contextlib
import ctypes as c
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from pvlock.errors import LabError
from pvlock.lab import tools
from pvlock.lab.image import Image
from pvlock.lab.relay import CHANNELS, Relay, Streams

_PR_SET_PDEATHSIG = 1
# A panic or an oops of the kernel ends QEMU (-no-reboot) and so the run, since such a host could
# not be believed. The kernel's self-tests of its cryptography would take 2 s, and nothing uses it.
_APPEND = "console=ttyAMA0 quiet loglevel=4 oops=panic panic=-1 cryptomgr.notests rdinit=/init"


@dataclass(frozen=True)
class Host:
    """What the virtual host has: CPUs, MiB of memory, and seconds (`timeout`) that it may run."""

    cpus: int
    memory: int
    timeout: float


def arguments(host: Host, kernel: str, initrd: str, channels: Mapping[str, int]) -> list[str]:
    """Return QEMU's arguments; `channels` gives a connected socket for each of CHANNELS."""
    command = [
        # With virtualization the CPUs have EL2, so that the kernel inside has KVM. This model of
        # CPU has what KVM needs, and no pointer authentication, which is slow to emulate.
        "-M", "virt,virtualization=on,gic-version=3", "-cpu", "cortex-a76",
        "-accel", "tcg,thread=multi", "-smp", str(host.cpus), "-m", f"{host.memory}M",
        "-kernel", kernel, "-initrd", initrd, "-append", _APPEND,
        "-nodefaults", "-display", "none", "-no-reboot", "-device", "virtio-serial-pci",
    ]  # fmt: skip
    for name in CHANNELS:
        command += ["-chardev", f"socket,id={name},fd={channels[name]}"]
    command += ["-serial", "chardev:kernel", "-device", "virtconsole,chardev=terminal,nr=0"]
    for number, name in enumerate(CHANNELS[2:], 1):
        command += ["-device", f"virtserialport,chardev={name},nr={number}"]
    return command


def run(host: Host, image: Image, payload: IO[bytes], streams: Streams) -> int:
    """Start the host, run the command in `payload`, and return the command's exit status.

    QEMU ends with this call, and with this process, however the process ends. Raises LabError when
    the host ends before the command does, or when its time is over.
    """
    qemu = tools.find("qemu-system-aarch64")
    with contextlib.ExitStack() as stack:
        # These files have no name, so that nothing is left of them, whatever happens.
        initrd = stack.enter_context(tempfile.TemporaryFile())
        words = stack.enter_context(tempfile.TemporaryFile())
        _join(image, payload, initrd)
        ours, theirs = {}, {}
        for name in CHANNELS:
            ours[name], theirs[name] = socket.socketpair()
            stack.callback(ours[name].close)
            stack.callback(theirs[name].close)
        fds = {name: end.fileno() for name, end in theirs.items()}
        path = f"/dev/fd/{initrd.fileno()}"
        process = subprocess.Popen(
            [qemu, *arguments(host, str(image.kernel), path, fds)],
            pass_fds=[*fds.values(), initrd.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            # In a session of its own, so that Ctrl-C reaches us and not QEMU.
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        for end in theirs.values():
            end.close()
        relay = Relay(ours, streams)
        relay.until(time.monotonic() + host.timeout)
        code = process.wait()
        if relay.status is None:
            raise LabError(_cause(words, relay.console, code))
        return relay.status


def _join(image: Image, payload: IO[bytes], initrd: IO[bytes]) -> None:
    try:
        with image.initrd.open("rb") as base:
            shutil.copyfileobj(base, initrd, 1 << 20)
        payload.seek(0)
        shutil.copyfileobj(payload, initrd, 1 << 20)
        initrd.flush()
    except OSError as error:
        raise LabError(f"the lab's image, {image.folder}: {error.strerror}") from error


def _die_with(parent: int) -> Callable[[], None]:
    """Return a function for a new child to call, so that it dies with us, however we die."""
    libc = c.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _cause(words: IO[bytes], console: list[str], code: int) -> str:
    """Return why the host ended: in QEMU's words, by a panic, or by the console's last line."""
    words.seek(0)
    said = words.read().decode(errors="replace").strip().splitlines()
    if code < 0:
        return f"the lab's QEMU was killed by signal {-code}"
    if code:
        return f"the lab's QEMU failed: {said[-1] if said else f'exit status {code}'}"
    for line in console:
        if "Kernel panic" in line:
            return f"the lab's kernel failed: {line}"
    last = f": {console[-1]}" if console else ""
    return f"the lab's host ended before its command{last}"
