# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of symbols that a kernel carries within itself (CONFIG_KALLSYMS), out of its Image.

Nothing says where the table is. But its parts stand in a known order, and fit each other in so many
ways that no other bytes are taken for them. All begin at a multiple of 8:

- before Linux 6.5: offsets, relative base, count, names, markers, (since 6.2, and in 6.1 of some
  distributions: sequence of names), token table, token index;
- since then: count, names, markers, token table, token index, offsets, relative base, ...

A name is a length (in two bytes where the first is 0x80 or more) and as many indices of tokens.
Its first character is the kind. A marker says where every 256th name begins. An address is the
relative base and an offset of 32 bits.
"""

import itertools
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pvlock.errors import MissingSymbols
from pvlock.linux_image import relocation
from pvlock.linux_image.symbols import Symbol, Symbols

_TOKENS = 256
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
"""What the token table has from token "0" on: a character that names use stands for itself."""
_GROUP = 256
"""A marker stands for so many names."""
_LONGEST_TOKEN = 512
_MOST_SYMBOLS = 1 << 20
_SHORTEST, _LONGEST = 2, 512
"""A name with its length, in bytes: how many a group of names has at least and at most, each."""


_MOST_TRIED = 8
"""How many places that look right are tried: only bytes made to deceive have more than one."""


class _Names(NamedTuple):
    start: int
    names: list[bytes]


def read(data: bytes, name: str) -> Symbols:
    """Return the symbols of the Image `data`; `name` is for messages. Raises MissingSymbols."""
    for table, index, tokens in itertools.islice(_token_tables(data), _MOST_TRIED):
        for markers in itertools.islice(_markers(data, table), _MOST_TRIED):
            names = _names(data, markers, tokens)
            if names is not None:
                return _with_addresses(data, name, names, index)
    raise MissingSymbols(
        f"{name}: has no kallsyms that pvlock can read (CONFIG_KALLSYMS); give its System.map"
    )


def _aligned(offset: int, to: int = 8) -> int:
    return offset + to - 1 & -to


def _token_tables(data: bytes) -> Iterator[tuple[int, int, list[bytes]]]:
    """Find what can be the token table and its index: where they are, and the tokens."""
    first = ord("0")
    for match in re.finditer(re.escape(_DIGITS), data):
        at = end = match.start()
        offsets = []
        for _ in range(first, _TOKENS):
            offsets.append(end - at)
            end = data.find(b"\0", end, end + _LONGEST_TOKEN) + 1
            if not end:
                break
        else:
            index_at = _aligned(end)
            if index_at + 2 * _TOKENS > len(data):
                continue
            index = struct.unpack_from(f"<{_TOKENS}H", data, index_at)
            table = at - index[first]
            rest = [offset - index[first] for offset in index[first:]]
            if index[0] == 0 and table >= 0 and rest == offsets:
                tokens = [data[table + i : data.find(b"\0", table + i)] for i in index]
                yield table, index_at, tokens


def _markers(data: bytes, table: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Find what can be the markers before the token table: where, and their values.

    They end there, or where 3 bytes for each symbol end there. There are two at least, since no
    kernel has as few symbols as one marker stands for.
    """
    end = table & -4
    start = max(end - 3 * _MOST_SYMBOLS, 0) & -4
    words = struct.unpack_from(f"<{(end - start) // 4}I", data, start)
    low, high = _SHORTEST * _GROUP, _LONGEST * _GROUP
    last = len(words) - 1
    while last >= 0:
        first = last
        while first > 0 and low <= words[first] - words[first - 1] <= high:
            first -= 1
        count = last + 1 - first
        gap = table - (start + 4 * (last + 1))
        sequence = range(3 * _GROUP * (count - 1), 3 * _GROUP * count + 16)
        if first < last and words[first] == 0 and (gap < 16 or gap in sequence):
            yield start + 4 * first, words[first : last + 1]
        last = min(first, last - 1)


def _names(data: bytes, found: tuple[int, tuple[int, ...]], tokens: list[bytes]) -> _Names | None:
    """Find the names that end where the markers begin; None if these are no markers."""
    at, markers = found
    low = _GROUP * (len(markers) - 1)
    highest = at - markers[-1] - _SHORTEST
    lowest = max(highest - _LONGEST * _GROUP, 8)
    for start in range(highest & -8, lowest - 1, -8):
        (count,) = struct.unpack_from("<I", data, start - 8)
        if low < count <= low + _GROUP:
            names = _walk(data, start, at, count, markers, tokens)
            if names is not None:
                return _Names(start, names)
    return None


def _walk(
    data: bytes, at: int, end: int, count: int, markers: tuple[int, ...], tokens: list[bytes]
) -> list[bytes] | None:
    start, names = at, []
    for number in range(count):
        if at + 2 > end or (not number % _GROUP and at - start != markers[number // _GROUP]):
            return None
        length = data[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | data[at] << 7
            at += 1
        names.append(b"".join([tokens[index] for index in data[at : at + length]]))
        at += length
    return names if at <= end and _aligned(at) >= end & -8 else None


def _with_addresses(data: bytes, name: str, found: _Names, index: int) -> Symbols:
    count = len(found.names)
    size = _aligned(4 * count)
    late = _aligned(index + 2 * _TOKENS)
    early = found.start - 16 - size
    for offsets_at, base_at in ((late, late + size), (early, early + size)):
        if offsets_at < 0 or base_at + 8 > len(data):
            continue
        offsets = struct.unpack_from(f"<{count}I", data, offsets_at)
        if any(low > high for low, high in itertools.pairwise(offsets)):
            continue
        place = relocation.value(data, base_at)
        if place is None:
            continue
        base, text = place
        return Symbols(
            text,
            [
                Symbol(base + offset, chr(full[0]), full[1:].decode("ascii", "replace"))
                for offset, full in zip(offsets, found.names, strict=True)
                if full
            ],
        )
    raise MissingSymbols(
        f"{name}: its kallsyms has addresses in a form that pvlock does not know; "
        "give its System.map"
    )
