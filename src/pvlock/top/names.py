# SPDX-License-Identifier: GPL-2.0-or-later
"""What people call a VM, by the command line of its VMM; and which threads are its VCPUs.

Where the kernel tells which threads are VCPUs (watch.py), their names are not asked.
"""

import contextlib
import re
from pathlib import Path

from pvlock.top import proc

_DEBUGFS = Path("/sys/kernel/debug/kvm")
_OPTIONS = {
    "firecracker": ("--id",),
    "crosvm": ("--name",),
    "lkvm": ("--name", "-n"),
    "vm": ("--name", "-n"),
    "cloud-hypervisor": ("--api-socket",),
}
"""The option that names a VM, by the program's name."""
_VCPU_NAMES = (
    re.compile(r"CPU (\d+)/KVM"),  # QEMU with debug-threads=on, as libvirt and kubevirt start it
    re.compile(r"fc_vcpu (\d+)"),  # Firecracker
    re.compile(r"vcpu(\d+)"),  # Cloud Hypervisor
    re.compile(r"crosvm_vcpu(\d+)"),
    re.compile(r"kvm-vcpu-(\d+)"),  # kvmtool
)


def vm_name(pid: int, command: list[str] | None = None) -> str:
    """Return the name of the VM of a process, or else the process's name and ID."""
    command = proc.command(pid) if command is None else command
    found = _named_by(command) if command else None
    return found or f"{proc.name(pid) or '?'}:{pid}"


def _named_by(command: list[str]) -> str | None:
    program = Path(command[0]).name
    if program.startswith(("qemu", "kvm")):
        return _qemu_name(command)
    if _is_pvlock(command):
        return _pvlock_name(command)
    for option in _OPTIONS.get(program, ()):
        if value := _value(command, option):
            # A socket is called after its VM, if after anything.
            return Path(value).stem if option == "--api-socket" else value
    return None


def _value(command: list[str], option: str) -> str | None:
    for at, word in enumerate(command[1:], 1):
        if word == option and at + 1 < len(command):
            return command[at + 1]
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def _qemu_name(command: list[str]) -> str | None:
    """-name web-3, or -name guest=web-3,debug-threads=on, where a comma in a value is doubled."""
    value = _value(command, "-name") or _value(command, "--name")
    if not value:
        return None
    fields = [field.replace("\0", ",") for field in value.replace(",,", "\0").split(",")]
    for field in fields:
        if field.startswith("guest="):
            return field.removeprefix("guest=") or None
    return fields[0] if "=" not in fields[0] else None


def _is_pvlock(command: list[str]) -> bool:
    words = [Path(word).name for word in command[:4]]
    return "pvlock" in words


def _pvlock_name(command: list[str]) -> str | None:
    """`pvlock run NAME` is called pvlock-NAME."""
    words = [Path(word).name for word in command]
    after = words[words.index("pvlock") + 1 :]
    if after[:1] != ["run"]:
        return None
    guest = next(iter(after[1:2]), "mutex")
    return "pvlock-mutex" if guest.startswith("-") else f"pvlock-{guest}"


def vcpu_number(thread: str) -> int | None:
    """Return the number of the VCPU whose thread has this name; None: it is no VCPU's."""
    for pattern in _VCPU_NAMES:
        if match := pattern.fullmatch(thread):
            return int(match[1])
    return None


def vcpu_threads(pids: list[int]) -> dict[int, tuple[int, int]]:
    """Return process and VCPU of the threads that KVM's debugfs or their names call VCPUs."""
    told = _told_by_kvm()
    found = {tid: where for tid, where in told.items() if where[0] in pids}
    known = {pid for pid, _ in found.values()}
    for pid, tid, name in proc.all_threads([pid for pid in pids if pid not in known]):
        number = vcpu_number(name)
        if number is not None:
            found[tid] = (pid, number)
    return found


def _told_by_kvm() -> dict[int, tuple[int, int]]:
    """Read .../PID-FD/vcpuN/pid, which KVM has had since Linux 6.0 or so, for root."""
    found = {}
    with contextlib.suppress(OSError):
        for path in _DEBUGFS.glob("*-*/vcpu*/pid"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(path.parts[-3].split("-")[0])
                tid = int(path.read_text())
                if tid:
                    found[tid] = (pid, int(path.parts[-2].removeprefix("vcpu")))
    return found
