# SPDX-License-Identifier: GPL-2.0-or-later
"""System.map, the symbols that a kernel's build writes beside it, compared with the Image."""

import re
import struct

from pvlock.errors import MissingSymbols, OtherKernel
from pvlock.linux_image import kallsyms
from pvlock.linux_image.symbols import Symbol, Symbols

_LINE = re.compile(rb"([0-9a-f]{16}) ([A-Za-z]) (\S+)\n?")
_BANNER = b"Linux version "
_SIZE_AT = 16
_HEADER = 64
_EXAMINED = 4096


def read(text: bytes, name: str, data: bytes, image_name: str) -> Symbols:
    """Return the symbols of a System.map that belongs to the Image `data`.

    Raises MissingSymbols if the text is none, OtherKernel if it is that of another kernel.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise MissingSymbols(f"{name}: line {number} is not one of a System.map")
        found.append(
            Symbol(int(match[1], 16), match[2].decode(), match[3].decode("ascii", "replace"))
        )
    by_name = {symbol.name: symbol.address for symbol in found}
    if "_text" not in by_name or "_end" not in by_name:
        raise MissingSymbols(f"{name}: has no symbols _text and _end, so it is not of a kernel")
    symbols = Symbols(by_name["_text"], found)
    _compare(symbols, name, data, image_name)
    return symbols


def _compare(symbols: Symbols, name: str, data: bytes, image_name: str) -> None:
    """Raise OtherKernel where the map contradicts the Image."""
    text = symbols.text
    if len(data) < _HEADER:
        raise MissingSymbols(f"{image_name}: is too short for a Linux Image")
    (size,) = struct.unpack_from("<Q", data, _SIZE_AT)
    if symbols["_end"] - text != size:
        raise OtherKernel(
            f"{name}: is of another kernel than {image_name}: its kernel has "
            f"{symbols['_end'] - text:#x} bytes, the Image {size:#x}"
        )
    banner = symbols.get("linux_banner")
    if banner is not None:
        at = banner - text
        if data[at : at + len(_BANNER)] != _BANNER:
            raise OtherKernel(
                f"{name}: is of another kernel than {image_name}: "
                "the kernel's version is not where it says"
            )
    try:
        own = kallsyms.read(data, image_name)
    except MissingSymbols:
        return
    for address, _, symbol in own.all[:: max(len(own) // _EXAMINED, 1)]:
        where = symbols.addresses(symbol)
        if where and address not in where:
            raise OtherKernel(
                f"{name}: is of another kernel than {image_name}: {symbol} is at {where[0]:#x} "
                f"there, at {address:#x} in the Image"
            )
