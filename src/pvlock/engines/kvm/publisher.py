# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps `preempted` of one VM's VCPUs current, from inside the host's kernel.

bpf/publisher.bpf.c runs at each switch of a thread and writes the flags of the threads that were
added here. The flags are a BPF array that this process maps, and that a guest can be given as a
read-only memory slot. Then the guest's loads see what the program wrote, without an exit.
"""

import errno
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pvlock import abi, region
from pvlock.abi import Policy
from pvlock.engines.kvm import bpf
from pvlock.errors import ConfigError, EngineError, EngineUnavailable

OBJECT = Path(__file__).with_name("publisher.bpf.o")
PROGRAMS = {Policy.SCHEDULED_OUT: "scheduled_out", Policy.PREEMPTED: "preempted"}
FLAGS, STRUCTURES = "flags", "structures"
"""The names of the maps, as bpf/publisher.bpf.c has them."""


class Publisher:
    """The flags of one VM: a structure of 64 bytes per VCPU (SPECIFICATION.md, section 2).

    A publisher belongs to the process that made it. When that process ends, however it ends, the
    kernel frees everything. But a forked child that never calls exec shares the descriptors, and
    keeps the program attached until the child ends.
    """

    fd: int
    """The BPF array that holds the structures: mmapable, 64 bytes an element."""
    buffer: memoryview
    """The array's mapping: whole pages of the host, writable, of format "B"."""

    def __init__(self, vcpus: int, policy: Policy) -> None:
        """Load and attach the program of `policy`; each VCPU reads as one that is off (clause 6.6).

        Raises EngineUnavailable if the host lacks something, EngineError for any other failure.
        """
        size = region.region_size(vcpus)
        self._off = int(policy is Policy.SCHEDULED_OUT)
        program = PROGRAMS[policy]
        try:
            self._object = bpf.BpfObject(
                OBJECT, (program, "add", "remove"), {FLAGS: size // abi.STRUCTURE_STRIDE}
            )
        except bpf.LoadError as error:
            raise explain(error) from error
        try:
            self.fd = self._object.map_fd(FLAGS)
            self.buffer = memoryview(mmap.mmap(self.fd, size))
            for start in range(0, vcpus * abi.STRUCTURE_STRIDE, abi.STRUCTURE_STRIDE):
                self.buffer[start + abi.PREEMPTED_OFFSET] = self._off
            self._object.attach(program)
        except OSError as error:
            self.close()
            raise EngineError(f"cannot publish `preempted`: {error.strerror}") from error

    def add_current_thread(self, vcpu: int, index: int | None = None) -> None:
        """From now on the calling thread's switches set structure `index` (default: `vcpu`).

        This ends with the thread, or with remove_current_thread(). Raises ConfigError for an index
        that no structure has, EngineError when the thread has been added already or belongs to
        another process than those added before.
        """
        index = vcpu if index is None else index
        error = self._object.run("add", index) if 0 <= index < 1 << 32 else errno.ERANGE
        who = f"the thread of VCPU {vcpu}"
        if error == errno.ERANGE:
            raise ConfigError(f"VCPU {vcpu} has no structure {index} in {len(self.buffer)} bytes")
        if error == errno.EEXIST:
            raise EngineError(f"{who} has been added already; remove it first")
        if error == errno.EXDEV:
            raise EngineError(f"{who} is not in the process whose threads were added before")
        if error:
            raise EngineError(f"cannot publish {who}: {errno.errorcode.get(error, error)}")

    def remove_current_thread(self) -> None:
        """End what add_current_thread() began; the structure then reads as a VCPU's that is off.

        Does nothing in a thread that was not added.
        """
        error = self._object.run("remove", self._off)
        if error:
            raise EngineError(f"cannot stop publishing: {errno.errorcode.get(error, error)}")

    def close(self) -> None:
        """Detach the program and free the flags; safe to call twice.

        The memory stays as long as somebody still views it (by a ctypes array, or a slice).
        """
        self._object.close()
        self.buffer = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Need:
    """One thing that a host must have to publish. `there` asks for it, and may raise OSError."""

    what: str
    there: Callable[[], bool]
    remedy: str


NEEDS = (
    Need(
        "BTF of the kernel",
        lambda: bpf.BTF.exists(),
        "take a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's",
    ),
    Need("mmapable BPF arrays", bpf.has_mmapable_arrays, "take Linux 6.4 or newer"),
    Need(
        "BPF task storage",
        lambda: bpf.has_map_type(bpf.MAP_TYPE_TASK_STORAGE),
        "take Linux 6.4 or newer",
    ),
    Need(
        "BPF programs of type syscall",
        lambda: bpf.has_program_type(bpf.PROG_TYPE_SYSCALL),
        "take Linux 6.4 or newer",
    ),
    Need(
        "the tracepoint sched_switch",
        lambda: bpf.has_attach_point("sched_switch", bpf.TRACE_RAW_TP),
        "take a kernel with CONFIG_BPF_EVENTS, as Debian's",
    ),
)
"""All that the kernel must have. libbpf, and the permission to use BPF, are not among it."""


def not_permitted() -> EngineUnavailable:
    """Return the error for a process that may not use BPF."""
    return EngineUnavailable(
        "kvm",
        "this process may not load BPF programs",
        "run it as root of the host, or with CAP_BPF and CAP_PERFMON there (the root of a user"
        " namespace, as in a rootless container, has neither)",
    )


def explain(error: bpf.LoadError) -> EngineError:
    """Return an error that names what the host lacks, or `error` itself if it lacks nothing."""
    if error.errno == errno.EPERM:
        return not_permitted()
    for need in NEEDS:
        try:
            if not need.there():
                return EngineUnavailable("kvm", f"this host has not {need.what}", need.remedy)
        except OSError:
            continue  # nobody can tell
    return error
