# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run adds to the image: this very pvlock, what it imports, the user's files, the command.

The kernel unpacks these from a second archive. It is made anew for each run, so that a change of
the working tree is in the lab at once.
"""

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO

from pvlock.errors import ConfigError, LabError
from pvlock.lab import cpio

SITE = "usr/lib/python3/dist-packages"
"""Where Debian's Python finds packages."""
_PACKAGE = Path(__file__).parents[1]
_LEFT_OUT = re.compile(r"\.(so|dylib|pyc|pth)(\.|$)")
"""Code for this machine's processor, and what Python makes or reads beside the modules."""
_ALSO_PURE = {"protobuf"}
"""Packages whose code for a processor is only faster: without it their Python does the same."""
_SCRIPT = b"#!/usr/bin/python3\nfrom pvlock.__main__ import main\n\nmain()\n"


def write(
    file: IO[bytes], command: Sequence[str], environment: Mapping[str, str],
    added: Sequence[tuple[Path, str]], distributions: Sequence[str], bytecode: Path,
) -> None:  # fmt: skip
    """Write the archive for one run of `command` with `environment` to `file`.

    `added` are files or folders, each with its place in the lab. `distributions` are the names of
    installed Python packages to take along with what they require. `bytecode` is a folder of what
    Python compiled in earlier runs. Raises ConfigError for a file that is missing and for
    a package with code for this machine, LabError for one (pvlock itself, too) that is not
    installed.
    """
    archive = cpio.Writer(file)
    archive.add("init", (_PACKAGE / "lab/init").read_bytes(), 0o755)
    archive.add("lab/command", _fragment(command, environment), 0o644)
    archive.add("usr/bin/pvlock", _SCRIPT, 0o755)
    for path in _files(_PACKAGE):
        _add(archive, path, f"{SITE}/pvlock/{path.relative_to(_PACKAGE).as_posix()}")
    for distribution in _required(["pvlock", *distributions]):
        for entry in distribution.files or ():
            path = Path(str(distribution.locate_file(entry)))
            # Scripts are outside of the folder (".."). pvlock's own files were added above, since
            # an editable installation does not list them.
            inside = entry.parts[0] not in ("..", "pvlock") and not _LEFT_OUT.search(path.name)
            if inside and path.is_file():
                _add(archive, path, f"{SITE}/{entry.as_posix()}")
    for path, destination in added:
        _add_all(archive, path, destination)
    for path in sorted(bytecode.glob("[!.]*/**/*.pyc")):
        # Python itself finds out whether the source has changed. The entry has no time: see init.
        # Another process may replace the file just now.
        with contextlib.suppress(OSError):
            archive.add(f"bytecode/{path.relative_to(bytecode).as_posix()}", path.read_bytes())
    archive.close()


def check(distributions: Sequence[str]) -> None:
    """Refuse packages that cannot be taken along. Raises LabError, ConfigError as write() does."""
    for _ in _required(["pvlock", *distributions]):
        pass


def _fragment(command: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """Return the piece of shell script that `init` reads."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join([*lines, f"set -- {shlex.join(command)}", ""]).encode(
        "utf-8", "surrogateescape"
    )


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not _LEFT_OUT.search(path.name):
            yield path


def _add(archive: cpio.Writer, path: Path, name: str) -> None:
    status = path.stat()
    archive.add(name, path.read_bytes(), status.st_mode & 0o777, int(status.st_mtime))


def _add_all(archive: cpio.Writer, path: Path, destination: str) -> None:
    try:
        if path.is_dir():
            archive.folder(destination)
            for file in sorted(path.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    _add(archive, file, f"{destination}/{file.relative_to(path).as_posix()}")
        else:
            _add(archive, path, destination)
    except OSError as error:
        raise ConfigError(f"--add {path}: {error.strerror}") from error


def _needs_machine_code(name: str, distribution: metadata.Distribution) -> bool:
    has = "Root-Is-Purelib: false" in (distribution.read_text("WHEEL") or "")
    return has and name not in _ALSO_PURE


def _required(names: Sequence[str]) -> Iterator[metadata.Distribution]:
    """Yield the distributions of `names`, and all that these require, if they are pure Python.

    Others need code for this machine's processor, which cannot run in the lab. (The emulator needs
    such code.) Raises ConfigError if one of `names` is such a one.
    """
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        normal = re.sub(r"[-_.]+", "-", name).lower()
        if normal in seen:
            continue
        seen.add(normal)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            if name in names:
                raise LabError(f"{name} is not installed: pip install {name}") from error
            continue
        if name != "pvlock" and _needs_machine_code(normal, distribution):
            if name in names:
                raise ConfigError(
                    f"--with {name}: it needs code for this machine's processor, which cannot run "
                    f"in the lab; Debian's may do: --package python3-{normal}"
                )
            continue
        yield distribution
        for line in distribution.requires or ():
            # PEP 508: a name, perhaps extras, a version and a marker. Optional extras stay out.
            requirement, _, marker = line.partition(";")
            match = re.match(r"\s*([A-Za-z0-9][\w.-]*)", requirement)
            if match and "extra" not in marker:
                waiting.append(match[1])
