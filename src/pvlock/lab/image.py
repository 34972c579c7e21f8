# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's images on disk. Each is built once, whole or not at all, and kept."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvlock.errors import ConfigError
from pvlock.lab import apt, cpio, recipe, tools

BYTECODE = "bytecode"
"""The folder, beside the images, for the bytecode that Python has compiled in the lab."""
_OURS = re.compile(rf"[0-9a-f]{{16}}|new\..*|{BYTECODE}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


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
    """Return the name of an image: a hash of all that decides its content, except the mirror."""
    sources = [Path(str(module.__file__)) for module in (cpio, recipe)]
    sources += sorted(path for path in recipe.GUEST.iterdir() if path.is_file())
    parts = [*sorted(packages), *(path.read_text("utf-8") for path in sources)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def get(folder: Path, more: Sequence[str], mirror: str | None, say: Callable[[str], None]) -> Image:
    """Return the image that also has the packages `more`; build it in `folder` if it is missing.

    What takes time is told to `say`. Two processes that need the same image build it once. Raises
    LabError when the image cannot be built, ConfigError when `folder` cannot be written.
    """
    for name in more:
        if not _PACKAGE.fullmatch(name):
            raise ConfigError(f"--package {name}: is not the name of a Debian package")
    packages = sorted({*recipe.PACKAGES, *more})
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
    """Remove all images, and nothing else, from `folder`; return how many bytes that freed."""
    if not folder.is_dir():
        return 0
    try:
        with _locked(folder / "lock", lambda _text: None):
            ours = [path for path in folder.iterdir() if _OURS.fullmatch(path.name)]
            files = (file for path in ours for file in path.rglob("*") if file.is_file())
            size = sum(file.stat().st_size for file in files)
            for path in ours:
                shutil.rmtree(path)
    except OSError as error:
        raise ConfigError(f"cache {folder}: {error.strerror}") from error
    return size


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `path`. The kernel frees it when the process dies, however it dies."""
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
    for leftover in target.parent.glob("new.*"):
        # We hold the lock, so the process that made this folder was killed.
        shutil.rmtree(leftover, ignore_errors=True)
    say(f"building the lab's image from Debian {recipe.SUITE} ({', '.join(packages)})")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new.") as temporary:
        folder = Path(temporary) / "image"
        folder.mkdir()
        recipe.make([tool, *recipe.arguments(packages, mirror)], folder)
        folder.rename(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    say(f"the lab's image is ready: {size / 1e6:.0f} MB in {target}")
