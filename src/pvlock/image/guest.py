# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest file is once it is read: its segments, and where they go."""

import enum
from dataclasses import dataclass
from typing import NamedTuple

from pvlock.files import FileBytes


class Kind(enum.Enum):
    """What a guest file is; the value is its name for people."""

    ELF_EXEC = "ELF executable"
    ELF_DYN = "position-independent ELF executable"
    LINUX = "Linux Image"
    RAW = "raw binary"


Data = bytes | FileBytes
"""A guest file or a part of one, here or still in its file: a kernel is large."""


class Segment(NamedTuple):
    """`data` goes to `ipa`; zeros follow until `memsize` bytes are filled."""

    ipa: int
    data: Data
    memsize: int


@dataclass(frozen=True)
class Image:
    """A guest file, checked as far as that goes without a machine.

    `entry` and the segments' addresses are IPAs, or count from where RAM begins, which must then be
    a multiple of `alignment` bytes: see base(). `page_size` is that of a Linux kernel
    which says so, in bytes: its CPU must have pages of that size.
    """

    name: str
    kind: Kind
    entry: int
    segments: tuple[Segment, ...]
    alignment: int = 1
    page_size: int | None = None

    def base(self, ram_base: int) -> int:
        """Return what to add to the addresses to get IPAs, where RAM begins at `ram_base`.

        A position-independent file that is linked at addresses in RAM stays there.
        """
        linked = min(segment.ipa for segment in self.segments)
        fixed = self.kind is Kind.ELF_DYN and linked >= ram_base
        return 0 if fixed or self.kind in (Kind.ELF_EXEC, Kind.RAW) else ram_base


@dataclass(frozen=True)
class Loaded:
    """Where a guest is: its `entry`, and the first (`start`) and last IPA + 1 (`end`) it takes."""

    entry: int
    start: int
    end: int
