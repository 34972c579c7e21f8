# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Linux arm64 Image says of itself: its symbols (kallsyms), and its structures (BTF).

Nothing here is taken on trust: whatever the bytes are, the only exceptions are SymbolsError and
its kinds.
"""

from pathlib import Path

from pvlock import image
from pvlock.errors import ImageError, MissingSymbols
from pvlock.linux_image import kallsyms, system_map
from pvlock.linux_image.btf import Btf, Field
from pvlock.linux_image.symbols import Symbol, Symbols

__all__ = ("Btf", "Field", "Symbol", "Symbols", "kernel_bytes", "read_symbols")

_LARGEST_MAP = 64 << 20


def kernel_bytes(guest: image.Image) -> bytes:
    """Return the bytes of a Linux Image, unpacked, as they will be in memory.

    Raises MissingSymbols for any other guest, ImageError if the file cannot be read.
    """
    if guest.kind is not image.Kind.LINUX:
        raise MissingSymbols(
            f"{guest.name}: {guest.kind.value}, not a Linux Image, has no kallsyms"
        )
    try:
        return guest.segments[0].data[:]
    except OSError as error:
        raise ImageError(f"{guest.name}: {error.strerror}") from error


def read_symbols(data: bytes, name: str, map_file: str | Path | None = None) -> Symbols:
    """Return the symbols of the kernel with the bytes `data`; `name` is for messages.

    They come from its kallsyms or, where that is given, from `map_file`, a System.map. Raises
    MissingSymbols for a kernel without kallsyms, OtherKernel for the map of another kernel.
    """
    if map_file is None:
        return kallsyms.read(data, name)
    try:
        with Path(map_file).open("rb") as file:
            text = file.read(_LARGEST_MAP)
    except OSError as error:
        raise MissingSymbols(f"{map_file}: {error.strerror}") from error
    return system_map.read(text, str(map_file), data, name)
