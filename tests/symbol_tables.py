# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes what `pvlock.linux_image` reads: Images with kallsyms and BTF, of a few symbols."""

import struct
from collections.abc import Sequence
from typing import Final, Literal

from kernels import header

TEXT: Final = 0xFFFF_8000_8000_0000
Layout = Literal["6.1", "6.1 with sequence", "6.12"]
Symbols = Sequence[tuple[int, str, str]]


def symbols(number: int = 600) -> list[tuple[int, str, str]]:
    """So many symbols: offset from TEXT, kind, name."""
    made = [(0, "T", "_text"), (0x800, "T", "vectors")]
    made += [(0x1000 + 64 * i, "tT"[i & 1], f"function_{i}") for i in range(number - 3)]
    return [*made, (0x10_0000, "B", "_end")]


def _pad(data: bytearray, to: int = 8) -> None:
    data.extend(bytes(-len(data) % to))


def kallsyms(
    table: Symbols, layout: Layout, at: int, base: int, tokens: Sequence[str] = ("function_",)
) -> tuple[bytes, int]:
    """The tables, as they stand at the offset `at`; and where among them the relative base is."""
    out = bytearray()
    assert at % 8 == 0
    # As scripts/kallsyms.c: a token has the place of a character that no name uses.
    best = [chr(i) if chr(i).isalnum() or chr(i) in "_.$" else "" for i in range(256)]
    free = iter([i for i in range(1, 256) if not best[i]])
    numbers = {token: next(free) for token in tokens}
    for token, number in numbers.items():
        best[number] = token
    names, markers = bytearray(), []
    for index, (_, kind, name) in enumerate(table):
        if index % 256 == 0:
            markers.append(len(names))
        packed = bytearray(kind.encode())
        rest = name
        while rest:
            token = next((t for t in tokens if rest.startswith(t)), rest[0])
            packed.append(numbers.get(token, ord(rest[0])))
            rest = rest[len(token) :]
        size = len(packed)
        names += bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
        names += packed
    offsets = struct.pack(f"<{len(table)}I", *(offset for offset, _, _ in table))

    def place_offsets() -> int:
        out.extend(offsets)
        _pad(out)
        out.extend(struct.pack("<Q", base))
        return len(out) - 8

    where = place_offsets() if layout != "6.12" else 0
    out += struct.pack("<I", len(table))
    _pad(out)
    out += names
    _pad(out)
    out += struct.pack(f"<{len(markers)}I", *markers)
    _pad(out)
    if layout == "6.1 with sequence":
        out += b"".join(i.to_bytes(3, "big") for i in range(len(table)))
        _pad(out)
    starts, text = [], bytearray()
    for token in best:
        starts.append(len(text))
        text += token.encode("latin-1") + b"\0"
    out += text
    _pad(out)
    out += struct.pack("<256H", *starts)
    _pad(out)
    if layout == "6.12":
        where = place_offsets()
    return bytes(out), where


def image(
    table: Symbols, layout: Layout = "6.12", *, relocated: bool = False, extra: bytes = b""
) -> bytes:
    """An Image with these symbols; `relocated`: its addresses are in a table beside it."""
    at = 0x2000
    base = 0 if relocated else TEXT
    tables, where = kallsyms(table, layout, at, base)
    out = bytearray(header(image_size=0x10_0000))
    out.extend(bytes(at - len(out)))
    out += tables
    _pad(out)
    entries = [(TEXT + at + where, TEXT)] if relocated else []
    entries += [(TEXT + 0x100 + 8 * i, TEXT + 0x1000 + 64 * i) for i in range(40)]
    out += b"".join(struct.pack("<QQQ", place, 0x403, addend) for place, addend in entries)
    out += extra
    banner = b"Linux version 6.12.0-test"
    out[0x200 : 0x200 + len(banner)] = banner
    return bytes(out)


def system_map(table: Symbols) -> str:
    """What a kernel's build writes beside such an Image."""
    lines = [*table, (0x200, "D", "linux_banner")]
    return "".join(f"{TEXT + offset:016x} {kind} {name}\n" for offset, kind, name in sorted(lines))


class BtfWriter:
    """Writes BTF; each method returns the number of the type that it adds."""

    def __init__(self) -> None:
        self._strings, self._types, self._count = bytearray(b"\0"), bytearray(), 0

    def _name(self, text: str) -> int:
        if not text:
            return 0
        at = len(self._strings)
        self._strings += text.encode() + b"\0"
        return at

    def add(self, kind: int, name: str, size: int, tail: bytes = b"", elements: int = 0) -> int:
        """Add a type of that kind, with what follows it."""
        info = kind << 24 | elements
        self._types += struct.pack("<III", self._name(name), info, size) + tail
        self._count += 1
        return self._count

    def integer(self, name: str, size: int) -> int:
        return self.add(1, name, size, struct.pack("<I", size * 8))

    def pointer(self, to: int) -> int:
        return self.add(2, "", to)

    def array(self, of: int, length: int) -> int:
        return self.add(3, "", 0, struct.pack("<III", of, of, length))

    def struct(self, name: str, size: int, members: Sequence[tuple[str, int, int]]) -> int:
        """Add a structure; of each member the name, the type, the offset in bytes."""
        tail = b"".join(struct.pack("<III", self._name(n), t, 8 * o) for n, t, o in members)
        return self.add(4, name, size, tail, len(members))

    def bytes(self) -> bytes:
        """The whole: header, types, strings."""
        types, strings = len(self._types), len(self._strings)
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, types, types, strings)
        return head + bytes(self._types) + bytes(self._strings)
