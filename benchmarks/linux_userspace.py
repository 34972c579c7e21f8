# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs programs of Debian's in a Linux guest, and tells whether they found anything wrong.

    linux_userspace.py python                  Python's own tests of arithmetic and threads
    linux_userspace.py stress                  stress-ng --verify, class by class
    linux_userspace.py hackbench               messages between processes and threads
    linux_userspace.py PROGRAM --command TEXT  a shell command of your own, with PROGRAM's packages

Each command is the guest's first program; with its end the guest switches off. It runs once with
a CPU for each VCPU and then on fewer CPUs, with WFE trapped and not. The status is 1 if a command
failed or a guest did not get to its end. --qemu runs the same on QEMU, to compare; --duration is
what stress-ng gets for each class, of the guest's time.

Root file systems are made of Debian packages by mmdebstrap, as the lab's is, and kept in --cache.
The kernel is that of `pvlock kernel fetch`, or --kernel.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pvlock.errors import PvlockError
from pvlock.kernel import fetch
from pvlock.lab import apt, cpio, recipe, tools

TOPOLOGIES = ((4, 4, "trap"), (4, 2, "trap"), (4, 2, "notrap"), (8, 3, "trap"), (8, 3, "notrap"))
"""VCPUs, CPUs, and what a WFE does."""
PACKAGES = {
    "python": ("python3", "libpython3.13-testsuite"),
    "stress": ("stress-ng",),
    "hackbench": ("rt-tests",),
}
CLASSES = (
    *("cpu", "vm", "mutex", "futex", "fork", "exec", "atomic", "memcpy"),
    *("fp", "vecmath", "vecfp", "bitops", "qsort", "switch", "pipe", "malloc", "shm", "sem"),
)
TESTS = "math float struct hashlib threading json zlib long"
END = re.compile(rb"^userspace: status (\d+)\r?$", re.MULTILINE)
INIT = """\
#!/usr/bin/busybox sh
export PATH=/usr/bin:/usr/sbin:/busybox HOME=/root LANG=C.UTF-8 PYTHONHASHSEED=0
/usr/bin/busybox mount -t proc proc /proc
/usr/bin/busybox mount -t sysfs sys /sys
/usr/bin/busybox mount -t devtmpfs dev /dev
/usr/bin/busybox --install -s /busybox
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
ln -s /proc/self/fd /dev/fd
ifconfig lo up
hostname guest
cd /tmp
{command}
echo "userspace: status $?"
# What was printed last may not have left the kernel yet, and "poweroff -f" does not wait for it.
sleep 1
poweroff -f
"""
# None of it is needed by a program that runs here, and all of it would have to be unpacked.
_DROPPED = re.compile(
    r"(boot|dev|var|etc/(systemd|udev)|usr/share/(doc|info|locale|man|X11|perl5|zoneinfo|icons)"
    r"|usr/lib/(modules|systemd|udev|linux-image|aarch64-linux-gnu/(gconv|systemd|dri|perl.*)))/"
    r"|usr/lib/aarch64-linux-gnu/lib(LLVM|gallium|z3)"
    r"|usr/lib/python3\.13/(pydoc_data|idlelib|ensurepip|turtledemo)/"
)


@dataclass(frozen=True)
class Run:
    """How a guest ended: the status of its command (None: it did not end), and what it took.

    `time_s` is the guest's time, `ran_s` what its VCPUs ran, all together: a second for each 10^9
    instructions and for what exits cost. On QEMU both are 0.
    """

    status: int | None
    time_s: float
    ran_s: float
    cpu_s: float


def root(program: str, cache: Path, mirror: str | None) -> Path:
    """Return the archive of the root file system for `program`, making it if it is not there."""
    target = cache / f"{program}.cpio"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    packages = ("busybox-static", *PACKAGES[program])
    arguments = recipe.arguments(packages, mirror or apt.mirror())
    process = subprocess.Popen(
        [tools.find("mmdebstrap"), "--quiet", *arguments], stdout=subprocess.PIPE
    )
    assert process.stdout
    new = target.with_suffix(".new")
    with new.open("wb") as file, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        convert(archive, cpio.Writer(file))
    process.stdout.close()
    if process.wait():
        sys.exit("mmdebstrap failed")
    return new.rename(target)


def convert(archive: tarfile.TarFile, writer: cpio.Writer) -> None:
    """Copy what is needed of a root file system, and what packages' scripts would have made."""
    for name in ("dev", "proc", "sys", "tmp", "run", "root", "busybox", "var/tmp"):
        writer.folder(name, 0o1777 if name.endswith("tmp") else 0o755)
    for name in ("bin", "lib", "sbin"):
        writer.link(name, f"usr/{name}")
    writer.link("usr/bin/sh", "busybox")
    writer.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    writer.add("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    writer.add("etc/hosts", b"127.0.0.1 localhost guest\n")
    for member in archive:
        name = member.name.removeprefix("./").strip("/")
        if name in ("bin", "lib", "sbin") or _DROPPED.match(f"{name}/" if member.isdir() else name):
            continue
        if member.isdir():
            writer.folder(name, member.mode & 0o7777)
        elif member.isreg():
            data = archive.extractfile(member)
            assert data
            writer.add(name, data.read(), member.mode & 0o7777, int(member.mtime))
        elif member.issym():
            writer.link(name, member.linkname)
        elif member.islnk():
            writer.link(name, "/" + member.linkname.removeprefix("./"))
    writer.close()


def initrd(base: Path, command: str, target: Path) -> None:
    """Write the root file system `base` with an /init that runs `command`."""
    buffer = io.BytesIO()
    writer = cpio.Writer(buffer)
    writer.add("init", INIT.format(command=command).encode(), 0o755)
    writer.close()
    target.write_bytes(base.read_bytes() + buffer.getvalue())


def pvlock(
    kernel: Path,
    disk: Path,
    memory: int,
    vcpus: int,
    pcpus: int,
    wfe: str,
    seed: int,
    results: Path,
) -> list[str]:
    return [
        *(sys.executable, "-m", "pvlock", "run", "--engine", "emulator", "--kernel", str(kernel)),
        *("--initrd", str(disk), "--append", "console=ttyAMA0 quiet", "--memory", str(memory)),
        *("--vcpus", str(vcpus), "--pcpus", str(pcpus), "--wfe", wfe, "--no-reboot"),
        *("--seed", str(seed), "--json", str(results)),
    ]


def qemu(kernel: Path, disk: Path, memory: int, vcpus: int, *_ours: object) -> list[str]:
    return [
        *("qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "max,pauth=off"),
        *("-icount", "shift=0,sleep=off"),
        *("-smp", str(vcpus), "-m", str(memory), "-nographic", "-nic", "none", "-no-reboot"),
        *("-kernel", str(kernel), "-initrd", str(disk), "-append", "console=ttyAMA0 quiet"),
    ]


def run(command: list[str], console: Path, results: Path, patience_s: float) -> Run:
    """Run a VMM to its end, its console in the file `console`; pvlock writes `results`."""
    with console.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + patience_s
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                process.terminate()
                end += 60
            time.sleep(0.2)
        process.returncode = os.waitstatus_to_exitcode(status)
    ends = END.findall(console.read_bytes())
    good = len(ends) == 1 and not process.returncode
    used = json.loads(results.read_text())["usage"] if results.exists() else None
    return Run(
        int(ends[0]) if good else None,
        used["time_ns"] / 1e9 if used else 0.0,
        sum(vcpu["running_ns"] for vcpu in used["vcpus"]) / 1e9 if used else 0.0,
        usage.ru_utime + usage.ru_stime,
    )


def commands(program: str, duration: str) -> list[tuple[str, Callable[[int], str]]]:
    """Return what is to be run: a name, and the command for a number of VCPUs."""
    if program == "python":
        modules = " ".join(f"test_{name}" for name in TESTS.split())
        return [("tests", lambda _vcpus: f"python3 -m test {modules}")]
    if program == "hackbench":
        return [
            (
                "hackbench",
                lambda _vcpus: "hackbench -g 4 -f 5 -l 100 && hackbench -T -p -g 4 -f 5 -l 100",
            )
        ]

    def of_class(name: str) -> Callable[[int], str]:
        # Some classes refuse to run as root.
        return lambda vcpus: (
            f"su nobody -s /bin/sh -c 'stress-ng --{name} {vcpus} --timeout {duration} --verify "
            "--metrics --seed 1'"
        )

    return [(name, of_class(name)) for name in CLASSES]


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", choices=tuple(PACKAGES))
    parser.add_argument("--command", metavar="TEXT", help="run this instead")
    parser.add_argument("--cache", type=Path, default=fetch.default_folder().parent / "userspace")
    parser.add_argument("--logs", type=Path, help="keep consoles there")
    parser.add_argument("--label", default="command", help="what to call it")
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--mirror")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB")
    parser.add_argument("--topology", action="append", metavar="VCPUS:CPUS:WFE", type=topology)
    parser.add_argument("--only", action="append", metavar="CLASS", help="of stress-ng's")
    parser.add_argument("--duration", default="2s", metavar="TIME")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=3600, metavar="SECONDS")
    parser.add_argument("--qemu", action="store_true")
    arguments = parser.parse_args()
    try:
        failures = play(arguments)
    except PvlockError as error:
        sys.exit(f"{error}")
    sys.exit(f"{failures} failed" if failures else 0)


def topology(text: str) -> tuple[int, int, str]:
    """Read VCPUS:CPUS:WFE."""
    vcpus, pcpus, wfe = text.split(":")
    return int(vcpus), int(pcpus), wfe


def play(arguments: argparse.Namespace) -> int:
    """Run what was asked for; return how much failed. Raises PvlockError."""
    kernel = (
        arguments.kernel
        or fetch.get(
            "trixie", "cloud-arm64", fetch.default_folder(), arguments.mirror, print
        ).kernel
    )
    base = root(arguments.program, arguments.cache, arguments.mirror)
    logs = arguments.logs or arguments.cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    todo = commands(arguments.program, arguments.duration)
    if arguments.command:
        todo = [(arguments.label, lambda _vcpus: arguments.command)]
    if arguments.only:
        todo = [(name, command) for name, command in todo if name in arguments.only]
    vmm, failures = qemu if arguments.qemu else pvlock, 0
    for vcpus, pcpus, wfe in arguments.topology or TOPOLOGIES:
        for name, command in todo:
            label = f"{arguments.program}-{name}-{vcpus}-{pcpus}-{wfe}"
            disk = logs / f"{label}.{os.getpid()}.initrd"
            results = disk.with_suffix(".json")
            initrd(base, command(vcpus), disk)
            try:
                done = run(
                    vmm(kernel, disk, arguments.memory, vcpus, pcpus, wfe, arguments.seed, results),
                    logs / f"{label}{'-qemu' if arguments.qemu else ''}.console",
                    results,
                    arguments.patience,
                )
            finally:
                disk.unlink()
                results.unlink(missing_ok=True)
            failures += done.status != 0
            said = "no end" if done.status is None else f"status {done.status}"
            figures = (
                f"{done.time_s:.2f} s of guest time, {done.ran_s:.2f} s run by its VCPUs, "
                f"{done.cpu_s:.1f} CPU seconds"
            )
            print(f"{vmm.__name__} {label}: {said}, {figures}", flush=True)
    return failures


if __name__ == "__main__":
    main()
