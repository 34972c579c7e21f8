# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a kernel's source comes from: Debian's package, kept once fetched, or a tree."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvlock.errors import KernelError
from pvlock.kernel import debian
from pvlock.kernel.series import Patch

DEFAULT = "6.12"
SUITES = {"6.12": "trixie", "6.1": "bookworm"}
"""The versions that the series has been tried on, and the Debian release that has each."""
_ARCHIVE, _VERSION = "source.tar.xz", "version"
TEMPORARY = "build."
"""What the names of folders begin with that a build leaves behind only if it is killed."""


class Source(ABC):
    """A kernel's source, unpatched."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is, for people."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash that changes when its content does."""

    @abstractmethod
    def unpack(self, tree: Path) -> None:
        """Put it into the empty folder `tree`. Raises KernelError and OSError."""


@dataclass(frozen=True)
class Package(Source):
    """Debian's package linux-source, in a folder where it was put by `package()`."""

    folder: Path

    @property
    def name(self) -> str:
        """The package, and its version."""
        return (self.folder / _VERSION).read_text("utf-8").strip()

    @property
    def digest(self) -> str:
        """Its name does: Debian gives other content another version."""
        return self.name

    def unpack(self, tree: Path) -> None:
        """Unpack the archive that is in the package."""
        done = subprocess.run(
            [
                *("tar", "--extract", "--xz", "--no-same-owner", "--strip-components=1"),
                *(f"--directory={tree}", f"--file={self.folder / _ARCHIVE}"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise KernelError(f"{self.name} cannot be unpacked: {_first(done.stderr)}")


def package(
    linux: str, folder: Path, mirror: str | None, say: Callable[[str], None], *, refresh: bool
) -> Package:
    """Return Debian's linux-source of version `linux`, fetching it into `folder` if need be.

    `refresh` fetches it anyway. Raises LabError when it cannot be fetched, and OSError.
    """
    name = f"linux-source-{linux}"
    target = folder / name
    found = kept(linux, folder)
    if found and not refresh:
        return found
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY) as temporary:
        new, apt = Path(temporary) / name, Path(temporary) / "apt"
        new.mkdir()
        apt.mkdir()
        archive = debian.Archive(SUITES[linux], mirror, apt)
        say(f"reading Debian's list of packages ({SUITES[linux]})")
        archive.update()
        size = int(archive.field(name, "Size")) / 1e6
        version = archive.field(name, "Version")
        say(f"downloading {name} {version}, {size:.0f} MB")
        fetched = archive.download(name)
        content = debian.extract(fetched, lambda path: path.endswith(f"/{name}.tar.xz"))
        (new / _ARCHIVE).write_bytes(content)
        (new / _VERSION).write_text(f"{name} {version}\n", "utf-8")
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)
    return Package(target)


def kept(linux: str, folder: Path) -> Package | None:
    """Return the package of version `linux` that is in `folder`, None if none is."""
    target = folder / f"linux-source-{linux}"
    whole = all((target / part).is_file() for part in (_ARCHIVE, _VERSION))
    return Package(target) if whole else None


class Tree(Source):
    """A tree of one's own. It is copied, and stays as it is."""

    def __init__(self, folder: Path) -> None:
        """Take `folder`. Raises KernelError when it is no kernel's source, or was built in."""
        self._folder = folder
        self._name = f"Linux {version_of(folder)} in {folder}"
        if (folder / ".config").exists() or (folder / "include/config").exists():
            raise KernelError(f"{folder}: a kernel was built in this tree; run make mrproper there")

    @property
    def name(self) -> str:
        """Its version, and where it is."""
        return self._name

    @property
    def digest(self) -> str:
        """A hash of all files but those of git."""
        total = hashlib.sha256()
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder)
            if name.parts[0] == ".git":
                continue
            if path.is_symlink():
                content = str(path.readlink()).encode()
            elif path.is_file():
                content = path.read_bytes()
            else:
                continue
            mode = path.lstat().st_mode & 0o111
            total.update(f"{name}\0{mode}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            total.update(content)
        return total.hexdigest()

    def unpack(self, tree: Path) -> None:
        """Copy it, without what git keeps there."""
        try:
            shutil.copytree(
                self._folder, tree, symlinks=True, dirs_exist_ok=True,
                ignore=lambda folder, _names: [".git"] if Path(folder) == self._folder else [],
            )  # fmt: skip
        except shutil.Error as error:
            # It carries all that could not be copied; the first says what is wrong.
            raise KernelError(f"{self._folder}: {error.args[0][0][2]}") from error


def version_of(tree: Path) -> str:
    """Return the version of a kernel's source, as 6.12.57. Raises KernelError if it is none."""
    try:
        text = (tree / "Makefile").read_text("utf-8", "replace")
    except OSError as error:
        raise KernelError(f"{tree}: is no kernel's source: it has no Makefile") from error
    parts = [
        re.search(rf"^{name} *= *(\d*)$", text, re.M)
        for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")
    ]
    if None in parts or not (tree / "arch/arm64/Kconfig").is_file():
        raise KernelError(f"{tree}: is no source of Linux for arm64")
    return ".".join(part[1] for part in parts if part)


def apply(patches: Sequence[Patch], tree: Path) -> None:
    """Apply patches to `tree`. Raises KernelError, naming the version, where one does not apply.

    As `git am -C1` does, it is content with one line of context: neighbours differ by version.
    """
    for patch in patches:
        done = subprocess.run(
            [
                *("patch", "--strip=1", "--fuzz=2", "--force", "--forward", "--silent"),
                *("--no-backup-if-mismatch", f"--directory={tree}", f"--input={patch.path}"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            what = f"{patch.name} does not apply to Linux {version_of(tree)}"
            raise KernelError(f"{what}: {_first(done.stdout + done.stderr)}")


def _first(text: str) -> str:
    """Return the first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
