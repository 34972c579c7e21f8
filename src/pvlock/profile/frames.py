# SPDX-License-Identifier: GPL-2.0-or-later
"""From addresses to names: the kernel's by its symbols, a program's by its ELF file."""

import bisect
import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pvlock.errors import ConfigError
from pvlock.linux_image import Symbols
from pvlock.profile.spinning import code_of

USER, MODULE = "[user]", "[module]"
"""Code of a program whose ELF file was not given, and of the kernel outside of its Image."""
_TEXT_END = "_etext"
_LONGEST_FUNCTION = 1 << 16

# The instructions by which a function makes its frame, and takes it away again.
_SAVES = ((0xFFC07FFF, 0xA9807BFD), (0xFFC07FFF, 0xA9007BFD))  # STP X29, X30, [SP, ...]
_POINTS = (0xFFC003FF, 0x910003FD)  # ADD X29, SP, #...
_RESTORES = ((0xFFC07FFF, 0xA8C07BFD), (0xFFC07FFF, 0xA9407BFD))  # LDP X29, X30, [SP, ...]
_RETURNS = ((0xFFFFFC1F, 0xD65F0000), (0xFC000000, 0x14000000))  # RET, B
_FEWEST_WITH_FRAMES = 0.2


class Program(NamedTuple):
    """A program's ELF file: where its functions are, and their names."""

    name: str
    start: int
    end: int
    starts: list[int]
    names: list[str]

    def at(self, address: int) -> str | None:
        """Return the name of the function at an address; None outside of the program."""
        if not self.start <= address < self.end:
            return None
        index = bisect.bisect_right(self.starts, address) - 1
        return self.names[index] if index >= 0 else f"[{self.name}]"


def program(described: str) -> Program:
    """Read an ELF file, `FILE` or `FILE@ADDRESS` where it is loaded. Raises ConfigError."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    path, _, base = described.partition("@")
    try:
        moved = int(base, 0) if base else 0
        with Path(path).open("rb") as file:
            elf = ELFFile(file)
            if elf.header["e_machine"] != "EM_AARCH64":
                raise ConfigError(f"--program {path}: is not for AArch64")
            if elf.header["e_type"] == "ET_DYN" and not base:
                raise ConfigError(
                    f"--program {path}: can be loaded anywhere; say where: {path}@ADDRESS"
                )
            loaded = [
                (s["p_vaddr"], s["p_vaddr"] + s["p_memsz"])
                for s in elf.iter_segments("PT_LOAD")
                if s["p_flags"] & 1
            ]
            found: dict[int, str] = {}
            for section in elf.iter_sections():
                if isinstance(section, SymbolTableSection):
                    for symbol in section.iter_symbols():
                        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_value"]:
                            found.setdefault(symbol["st_value"] + moved, symbol.name)
    except OSError as error:
        raise ConfigError(f"--program {path}: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"--program {described}: {base!r} is no address") from None
    except (ELFError, KeyError, TypeError, struct.error) as error:
        raise ConfigError(f"--program {path}: is no ELF file that can be read") from error
    if not loaded:
        raise ConfigError(f"--program {path}: has no code")
    starts = sorted(found)
    return Program(
        Path(path).name,
        min(start for start, _ in loaded) + moved,
        max(end for _, end in loaded) + moved,
        starts,
        [found[start] for start in starts],
    )


class Names:
    """Names for the addresses of one guest."""

    def __init__(self, data: bytes, symbols: Symbols, programs: Sequence[Program] = ()) -> None:
        """Take the kernel's bytes and symbols, and programs. Raises ConfigError if they overlap."""
        self._data, self._symbols = data, symbols
        self._programs = sorted(programs, key=lambda one: one.start)
        for first, second in zip(self._programs, self._programs[1:], strict=False):
            if second.start < first.end:
                raise ConfigError(
                    f"--program: {first.name} and {second.name} are at the same addresses, so "
                    "which of them ran cannot be told; give one of them"
                )
        self._end = symbols.get(_TEXT_END) or symbols.text + len(data)

    @functools.cache  # noqa: B019 - as long as the profile
    def kernel(self, address: int) -> str:
        """Return the name of a function of the kernel."""
        if self._symbols.text <= address < self._symbols.text + len(self._data):
            found = self._symbols.at(address)
            if found is not None:
                return found[0]
        return MODULE

    @functools.cache  # noqa: B019
    def user(self, address: int) -> str:
        """Return the name of a function of a program."""
        for one in self._programs:
            name = one.at(address)
            if name is not None:
                return name
        return USER

    @functools.cache  # noqa: B019
    def has_frame(self, address: int) -> bool:
        """Tell whether a function of the kernel has its frame record made, at this instruction.

        If not, its caller is in X30, and not in a frame record.
        """
        found = self._symbols.at(address)
        if found is None or found[1] > _LONGEST_FUNCTION:
            return True
        return _framed(code_of(self._data, self._symbols, range(address - found[1], address)))


def keeps_frames(data: bytes, symbols: Symbols) -> bool:
    """Tell whether the functions of a kernel make frame records (CONFIG_FRAME_POINTER)."""
    functions = [s.address for s in symbols.all if s.kind == "T" and s.name.startswith("vfs_")]
    having = 0
    for start in functions:
        code = code_of(data, symbols, range(start, start + 64))
        having += any(_is(instruction, _POINTS) for instruction in code)
    return having >= _FEWEST_WITH_FRAMES * len(functions)


def _is(instruction: int, *kinds: tuple[int, int]) -> bool:
    return any(instruction & mask == value for mask, value in kinds)


def _framed(code: Sequence[int]) -> bool:
    """Tell whether a frame record is made after these instructions, the first of a function.

    What stands behind a return belongs to a part of the function that had the frame.
    """
    framed = ever = saved = False
    for instruction in code:
        if _is(instruction, *_SAVES):
            saved = True
        elif saved and _is(instruction, _POINTS):
            framed = ever = True
        elif _is(instruction, *_RESTORES):
            framed = False
        elif _is(instruction, *_RETURNS):
            framed = ever
    return framed
