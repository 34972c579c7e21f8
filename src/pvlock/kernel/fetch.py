# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own arm64 kernels, and a small initial RAM disk: fetched once, and kept."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pvlock import files
from pvlock.errors import ConfigError
from pvlock.kernel import debian
from pvlock.lab import cpio, recipe

FLAVOURS = {
    "trixie": ("cloud-arm64", "arm64", "rt-arm64", "arm64-16k"),
    "bookworm": ("cloud-arm64", "arm64", "rt-arm64"),
}
"""By suite: linux-image-FLAVOUR is the package. The kernels are 6.12 and 6.1."""
GUEST = Path(__file__).parent / "guest"
_BUSYBOX = "busybox-static"
_FILES = ("vmlinuz", "initrd", "version")


@dataclass(frozen=True)
class Kernel:
    """The files of a kernel that was fetched, in `folder`."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel, as Debian ships it."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """A root file system whose /init gives a shell on the console: busybox."""
        return self.folder / "initrd"

    @property
    def version(self) -> str:
        """The package, and its version."""
        return (self.folder / "version").read_text("utf-8").strip()


def default_folder() -> Path:
    """Return pvlock/kernel in the user's cache directory (XDG_CACHE_HOME)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "pvlock" / "kernel"


def key(suite: str, flavour: str) -> str:
    """Return the name of what is kept: a hash of all that decides what is in it but Debian."""
    sources = [Path(str(module.__file__)) for module in (cpio, debian)] + [Path(__file__)]
    sources += sorted(path for path in GUEST.iterdir() if path.is_file())
    parts = [suite, flavour, *(path.read_text("utf-8") for path in sources)]
    return f"{suite}-{flavour}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


def get(
    suite: str, flavour: str, folder: Path, mirror: str | None, say: Callable[[str], None],
    *, refresh: bool = False,
) -> Kernel:  # fmt: skip
    """Return Debian's kernel of this flavour, fetching it into `folder` if it is not there.

    `refresh` fetches it anyway: Debian updates its kernels. Says what takes time through `say`.
    Raises ConfigError for a flavour that the suite does not have, or when `folder` cannot be
    written, LabError when the kernel cannot be fetched; what was there before stays there.
    """
    if flavour not in FLAVOURS[suite]:
        raise ConfigError(f"Debian {suite} has no {flavour}; it has {', '.join(FLAVOURS[suite])}")
    target = folder / key(suite, flavour)
    made = Kernel(target)
    if not refresh and all((target / name).is_file() for name in _FILES):
        return made
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="new.") as temporary:
            new = Path(temporary) / "kernel"
            new.mkdir()
            (Path(temporary) / "apt").mkdir()
            _fetch(debian.Archive(suite, mirror, Path(temporary) / "apt"), suite, flavour, new, say)
            if target.exists():
                target.rename(Path(temporary) / "old")
            new.rename(target)
    except OSError as error:
        raise ConfigError(f"cache {folder}: {error.strerror or error}") from error
    size = sum(path.stat().st_size for path in target.iterdir())
    say(f"{made.version} is ready: {size / 1e6:.0f} MB in {target}")
    return made


def _fetch(
    archive: debian.Archive, suite: str, flavour: str, folder: Path, say: Callable[[str], None]
) -> None:
    say(f"reading Debian's list of packages ({suite}, arm64)")
    archive.update()
    package = archive.dependency(f"linux-image-{flavour}")
    fetched = {}
    for name in (package, _BUSYBOX):
        say(f"downloading {name}, {int(archive.field(name, 'Size')) / 1e6:.1f} MB")
        fetched[name] = archive.download(name)
    kernel = debian.extract(fetched[package], lambda name: name.startswith("boot/vmlinuz"))
    busybox = debian.extract(fetched[_BUSYBOX], lambda name: name.endswith("bin/busybox"))
    (folder / "vmlinuz").write_bytes(kernel)
    (folder / "initrd").write_bytes(recipe.guest_initrd(busybox, GUEST))
    (folder / "version").write_text(f"{package} {archive.field(package, 'Version')}\n")


def check(target: Path) -> None:
    """Raise ConfigError if `target` cannot be a folder to copy into."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {target}: {error.strerror}") from error
    for name in _FILES[:2]:
        files.refuse_unwritable(target / name, f"--out {target / name}")


def copy(made: Kernel, target: Path, names: tuple[str, ...]) -> Kernel:
    """Copy files of a kernel into the folder `target`, each whole or not at all.

    Raises ConfigError when that cannot be done.
    """
    for name in names:
        with files.replacing(target / name, f"--out {target / name}") as path:
            shutil.copyfile(made.folder / name, path)
    return Kernel(target)
