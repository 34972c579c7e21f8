# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches for Linux in the folder linux/, and who needs which of them."""

import re
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve()
_LINE = re.compile(r"(\S+\.patch)\s+#((?: (?:guest|host))+)")


@dataclass(frozen=True)
class Patch:
    """A patch as `git format-patch` writes it, and the kernels that it is for."""

    path: Path
    kernels: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.path.name

    @property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text("utf-8")

    @property
    def change(self) -> str:
        """What it does to a kernel, without what it says about that."""
        _, header, rest = self.text.partition("\ndiff --git ")
        return header + rest if header else self.text


def folder() -> Path:
    """Return the folder linux/: in a wheel beside this module, else at the root of the project."""
    packed = _HERE.parent / "linux"
    return packed if packed.is_dir() else _HERE.parents[3] / "linux"


def patches(kernel: str | None = None) -> list[Patch]:
    """Return the patches for a `kernel`, "guest" or "host", in their order; None: all."""
    found = []
    for line in (folder() / "series").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"linux/series: {line!r}")
        kernels = tuple(match[2].split())
        if kernel is None or kernel in kernels:
            found.append(Patch(folder() / "patches" / match[1], kernels))
    return found


def fragment(kernel: str) -> Path:
    """Return the file with the configuration of a kernel, for `make allnoconfig`."""
    return folder() / "config" / f"{kernel}.config"
