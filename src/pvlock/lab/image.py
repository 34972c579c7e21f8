# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's kernel and root file system, made of Debian packages once and kept."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from pvlock.errors import ConfigError, LabError
from pvlock.lab import apt, cpio, tools

SUITE = "trixie"
"""Its kernel is 6.12: the oldest stable suite whose kernel has KVM's SMCCC filter (6.4)."""
PACKAGES = ("busybox-static", "libbpf1", "linux-image-cloud-arm64", "python3")

_MAGIC = slice(0x38, 0x3C), b"ARMd"
"""Of a raw arm64 Image (Documentation/arch/arm64/booting.rst): the one form QEMU and we load."""

# What no command in the lab needs; a kernel that needs no module for it leaves these out, too.
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
_FOLDERS = ("busybox", "bytecode", "dev", "etc", "out", "proc", "root", "run", "sys", "tmp", "var/tmp")
_USR = ("bin", "lib", "sbin")
_GUEST = Path(__file__).parent / "guest"
_GUEST_FOLDERS = ("dev", "proc", "root", "run", "sys", "tmp", "usr/bin")


@dataclass(frozen=True)
class Image:
    """The files of an image: what QEMU boots."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel, a raw arm64 Image."""
        return self.folder / "Image"

    @property
    def initrd(self) -> Path:
        """The root file system, without pvlock."""
        return self.folder / "initrd"


def default_folder() -> Path:
    """Return pvlock/lab in the user's cache directory (XDG_CACHE_HOME)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "pvlock" / "lab"


def key(packages: Sequence[str]) -> str:
    """Return the name of an image: a hash of all that decides what is in it, but the mirror."""
    here = Path(__file__).parent
    parts = [SUITE, *sorted(packages)]
    sources = (here / "cpio.py", here / "image.py", *sorted(_GUEST.iterdir()))
    parts += [path.read_text("utf-8") for path in sources]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def get(
    folder: Path, more: Sequence[str], mirror: str | None, say: Callable[[str], None]
) -> Image:
    """Return the image with the packages `more`, building it in `folder` if it is not there.

    Says what takes time through `say`. Two processes that need the same image build it once.
    Raises LabError when it cannot be built, ConfigError when `folder` cannot be written.
    """
    packages = sorted({*PACKAGES, *more})
    target = folder / key(packages)
    if target.is_dir():
        return Image(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock", say):
            if not target.is_dir():
                _build(target, packages, mirror or apt.mirror(), say)
    except OSError as error:
        raise ConfigError(f"cache {folder}: {error.strerror or error}") from error
    return Image(target)


def clean(folder: Path) -> int:
    """Remove every image in `folder`; return how many bytes that freed."""
    if not folder.is_dir():
        return 0
    with _locked(folder / "lock", lambda _text: None):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
    return size


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `path`: the kernel lets go of it when a process dies, however it does."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds the lab's image: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(
    target: Path, packages: Sequence[str], mirror: str | None, say: Callable[[str], None]
) -> None:
    tool = tools.find("mmdebstrap")
    say(f"building the lab's image from Debian {SUITE} ({', '.join(packages)})")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new.") as temporary:
        folder = Path(temporary) / "image"
        folder.mkdir()
        _from_packages([tool, *_arguments(packages, mirror)], folder)
        folder.rename(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    say(f"the lab's image is ready: {size / 1e6:.0f} MB in {target}")


def _arguments(packages: Sequence[str], mirror: str | None) -> list[str]:
    # Extracted only: nothing of another architecture is executed, and no privilege is needed.
    return [
        "--variant=extract", "--architectures=arm64", "--format=tar", "--quiet",
        f"--include={','.join(packages)}", SUITE, "-", *([mirror] if mirror else []),
    ]  # fmt: skip


def _from_packages(command: Sequence[str], folder: Path) -> None:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout
        broken: Exception | None = None
        try:
            _convert(process.stdout, folder)
        except (tarfile.TarError, LabError) as error:
            broken = error
        finally:
            process.stdout.close()
            status = process.wait()
        if status:
            errors.seek(0)
            raise LabError(f"mmdebstrap failed: {_reason(errors)}")
        if broken:
            raise LabError(f"the lab's image: {broken}") from broken


def _reason(errors: IO[bytes]) -> str:
    """Return the line that says most: apt's first error, or else the last line."""
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    return next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "?")


def _convert(stream: IO[bytes], folder: Path) -> None:
    """Make the kernel and the initrd of what mmdebstrap writes, a tar archive."""
    kernel = busybox = b""
    with (folder / "initrd").open("wb") as file:
        root = cpio.Writer(file)
        for name in _FOLDERS:
            root.folder(name, 0o1777 if name in ("tmp", "var/tmp") else 0o755)
        for name in _USR:
            root.link(name, f"usr/{name}")
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
            raise LabError("its kernel is not a raw arm64 Image")
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
        # A hard link: a symbolic one does as well here, where nothing is ever replaced.
        root.link(name, "/" + member.linkname.removeprefix("./"))


def guest_initrd(busybox: bytes) -> bytes:
    """Return the root file system of a Linux guest: busybox, with a prompt on the console."""
    buffer = io.BytesIO()
    root = cpio.Writer(buffer)
    for name in _GUEST_FOLDERS:
        root.folder(name)
    root.add("usr/bin/busybox", busybox, 0o755)
    root.link("bin", "usr/bin")
    root.link("sbin", "usr/bin")
    root.link("init", "bin/busybox")
    root.add("etc/inittab", (_GUEST / "inittab").read_bytes())
    root.add("etc/rc", (_GUEST / "rc").read_bytes(), 0o755)
    root.close()
    return buffer.getvalue()
