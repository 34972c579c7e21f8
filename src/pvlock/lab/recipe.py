# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the lab's image, and how it is made of Debian packages.

Nothing of another architecture is executed, and nothing is needed but mmdebstrap: no root, no
loop device, no mount. What mmdebstrap unpacks goes from its tar archive into ours.
"""

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pvlock.errors import LabError
from pvlock.lab import apt, cpio

SUITE = "trixie"
"""Its kernel is 6.12: the oldest stable suite whose kernel has KVM's SMCCC filter (6.4)."""
PACKAGES = ("busybox-static", "libbpf1", "linux-image-cloud-arm64", "python3")

_MAGIC = slice(0x38, 0x3C), b"ARMd"
"""Where a raw arm64 Image has which bytes (Documentation/arch/arm64/booting.rst)."""

# No command in the lab needs these files. All drivers that the lab needs are built into the kernel.
_DROPPED = (
    "boot/System.map",
    "boot/config",
    "etc/systemd",
    "etc/udev",
    "usr/lib/aarch64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/systemd",
    "usr/lib/linux-image",
    "usr/lib/modules",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/python3.13/test",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl5",
    "usr/share/zoneinfo",
    "var/",
)
_FOLDERS = (
    "busybox",
    "bytecode",
    "dev",
    "etc",
    "out",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var/tmp",
)
_USR = ("bin", "lib", "sbin")
# The packages' scripts would have made these files, but none is run.
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": b"root:x:0:\n",
    "etc/hosts": b"127.0.0.1 localhost lab\n",
}
GUEST = Path(__file__).parent / "guest"
_GUEST_FOLDERS = ("dev", "proc", "root", "run", "sys", "tmp", "usr/bin")


def arguments(packages: Sequence[str], mirror: str | None) -> list[str]:
    """Return mmdebstrap's arguments for `packages`; without `mirror` it takes its own default."""
    mode = "root" if os.geteuid() == 0 else "chrootless"
    return [
        "--variant=extract", "--architectures=arm64", "--format=tar", f"--mode={mode}",
        *(f"--aptopt={option}" for option in apt.options()),
        f"--include={','.join(packages)}", SUITE, "-", *([mirror] if mirror else []),
    ]  # fmt: skip


def make(command: Sequence[str], folder: Path) -> None:
    """Run mmdebstrap, `command`, and put Image and initrd into `folder`.

    Raises LabError when it fails, or when there is no kernel that fits in what it wrote.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout
        broken: tarfile.TarError | None = None
        try:
            _convert(process.stdout, folder)
            process.stdout.read()
        except tarfile.TarError as error:
            broken = error
        finally:
            process.stdout.close()
            status = process.wait()
        if status:
            errors.seek(0)
            raise LabError(f"mmdebstrap failed: {_reason(errors)}") from broken
        if broken:
            raise LabError(f"what mmdebstrap wrote is not whole: {broken}") from broken


def _reason(errors: IO[bytes]) -> str:
    """Return the line that says most: apt's first error, or else the last line."""
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    return next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "?")


def _convert(stream: IO[bytes], folder: Path) -> None:
    """Make the kernel and the initrd from the tar archive that mmdebstrap writes."""
    kernel = busybox = b""
    with (folder / "initrd").open("wb") as file:
        root = cpio.Writer(file)
        for name in _FOLDERS:
            root.folder(name, 0o1777 if name in ("tmp", "var/tmp") else 0o755)
        for name in _USR:
            root.link(name, f"usr/{name}")
        for name, text in _FILES.items():
            root.add(name, text)
        root.link("usr/bin/sh", "busybox")
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./").strip("/")
                data = _data(archive, member)
                if name.startswith("boot/vmlinuz"):
                    kernel = data
                elif name == "usr/bin/busybox":
                    busybox = data
                if name not in _USR and not name.startswith(("boot/", "dev/", *_DROPPED)):
                    _copy(root, name, member, data)
        if kernel[_MAGIC[0]] != _MAGIC[1]:
            raise LabError("Debian's kernel is not a raw arm64 Image; pvlock cannot use it")
        root.add("guest/Image", kernel)
        root.add("guest/initrd", guest_initrd(busybox))
        root.close()
    (folder / "Image").write_bytes(kernel)


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() else None
    return file.read() if file else b""


def _copy(root: cpio.Writer, name: str, member: tarfile.TarInfo, data: bytes) -> None:
    if member.isdir():
        root.folder(name, member.mode & 0o7777)
    elif member.isreg():
        root.add(name, data, member.mode & 0o7777, int(member.mtime))
    elif member.issym():
        root.link(name, member.linkname)
    elif member.islnk():
        # A symbolic link can stand for a hard link here, since no file is ever replaced.
        root.link(name, "/" + member.linkname.removeprefix("./"))


def guest_initrd(busybox: bytes, guest: Path = GUEST) -> bytes:
    """Return the root file system of a Linux guest: busybox, with a prompt on the console.

    `guest` has the inittab and rc of busybox's init.
    """
    buffer = io.BytesIO()
    root = cpio.Writer(buffer)
    for name in _GUEST_FOLDERS:
        root.folder(name)
    root.add("usr/bin/busybox", busybox, 0o755)
    root.link("bin", "usr/bin")
    root.link("sbin", "usr/bin")
    root.link("init", "bin/busybox")
    root.add("etc/inittab", (guest / "inittab").read_bytes())
    root.add("etc/rc", (guest / "rc").read_bytes(), 0o755)
    root.close()
    return buffer.getvalue()
