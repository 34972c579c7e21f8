# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages for arm64, fetched by apt without root: nothing is installed.

apt works in a folder of its own, with its own list of sources. It checks the archive's signature
as always; only the way to a mirror (proxies and the like) is this machine's.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from pvlock.errors import LabError
from pvlock.lab import apt

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TOOLS = ("apt-get", "apt-cache", "dpkg-deb")
_CONFIGURATION = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Dir::State "{folder}/";
Dir::State::lists "{folder}/lists/";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache/";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
"""


class Archive:
    """A suite of Debian's archive, for arm64; `folder` is for what apt needs meanwhile."""

    def __init__(self, suite: str, mirror: str | None, folder: Path) -> None:
        """Prepare to fetch from `mirror`; None: from the one that this machine uses.

        Raises LabError when a program is missing, or no mirror is known.
        """
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if not KEYRING.exists():
            missing.append(str(KEYRING))
        if missing:
            raise LabError(
                f"{', '.join(missing)}: not here; pvlock kernel fetch needs the packages apt, "
                "dpkg and debian-archive-keyring"
            )
        uri = mirror or apt.mirror()
        if uri is None:
            raise LabError(
                "apt on this machine names no Debian archive: name one by --mirror URI or in "
                "PVLOCK_LAB_MIRROR"
            )
        self._folder = folder
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")
        lines = [_CONFIGURATION.format(folder=folder.resolve()), *apt.options()]
        (folder / "apt.conf").write_text("\n".join(lines) + "\n")

    def update(self) -> None:
        """Get the list of packages. Raises LabError."""
        self._run("apt-get", "update")

    def dependency(self, package: str) -> str:
        """Return the first package that `package` depends on. Raises LabError."""
        for line in self._run("apt-cache", "depends", package).splitlines():
            word, _, name = line.strip().partition(": ")
            if word == "Depends" and name:
                return name
        raise LabError(f"Debian's package {package} depends on nothing; it should, on a kernel")

    def field(self, package: str, name: str) -> str:
        """Return a field of what the list says of `package`. Raises LabError."""
        for line in self._run("apt-cache", "show", "--no-all-versions", package).splitlines():
            key, _, value = line.partition(": ")
            if key == name:
                return value
        raise LabError(f"Debian's list has no {name} of {package}")

    def download(self, package: str) -> Path:
        """Download a package; return its file. Raises LabError."""
        target = self._folder / package
        target.mkdir()
        self._run("apt-get", "download", package, folder=target)
        files = list(target.glob("*.deb"))
        if len(files) != 1:
            raise LabError(f"apt-get download {package}: it made {len(files)} files, not one")
        return files[0]

    def _run(self, tool: str, *arguments: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            [tool, "-q", *arguments],
            cwd=folder or self._folder,
            env=os.environ
            | {"APT_CONFIG": str(self._folder.resolve() / "apt.conf"), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            first = next((line for line in lines if line.startswith("E:")), *lines[-1:] or ["?"])
            raise LabError(f"{tool} {arguments[0]} failed: {first}")
        return done.stdout


def extract(package: Path, wanted: Callable[[str], bool]) -> bytes:
    """Return the first file in a package whose name, without a leading slash, is `wanted`.

    Raises LabError when there is none, or the package is broken.
    """
    process = subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                if member.isreg() and wanted(member.name.removeprefix("./")):
                    file = archive.extractfile(member)
                    assert file
                    return file.read()
        process.stdout.read()
        broken = process.wait()
    except tarfile.TarError as error:
        raise LabError(f"{package.name}: is broken: {error}") from error
    finally:
        # Nobody reads the rest.
        process.stdout.close()
        process.kill()
        process.wait()
    what = "is broken" if broken else "the file that was looked for is not in it"
    raise LabError(f"{package.name}: {what}")
