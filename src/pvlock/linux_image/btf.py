# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the members of a kernel's structures are: BTF (CONFIG_DEBUG_INFO_BTF), out of its Image.

The format is that of the kernel's Documentation/bpf/btf.rst: a header, the types, their names.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pvlock.errors import MissingTypes

_HEADER = struct.Struct("<HBBIIIII")
_MAGIC = struct.pack("<HB", 0xEB9F, 1)
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_ARRAY = struct.Struct("<III")
_INT, _PTR, _ARRAY_KIND, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG, _FLOAT, _ENUM64 = 8, 9, 10, 11, 18, 16, 19
_TRANSPARENT = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG}
# What follows a type: so many bytes, and so many for each of its elements.
_TAIL = {
    _INT: (4, 0), _PTR: (0, 0), _ARRAY_KIND: (12, 0), _STRUCT: (0, 12), _UNION: (0, 12),
    _ENUM: (0, 8), 7: (0, 0), _TYPEDEF: (0, 0), _VOLATILE: (0, 0), _CONST: (0, 0),
    _RESTRICT: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), _FLOAT: (0, 0),
    17: (4, 0), _TYPE_TAG: (0, 0), _ENUM64: (0, 12),
}  # fmt: skip
_POINTER_SIZE = 8
_DEEPEST = 32


class Field(NamedTuple):
    """A member: `offset` and `size` in bytes from where the structure begins."""

    offset: int
    size: int


class _Type(NamedTuple):
    kind: int
    flag: bool
    elements: int
    size_or_type: int
    tail: int
    """Where in the data what follows the type is."""


class Btf:
    """The types of one kernel."""

    def __init__(self, data: bytes, name: str) -> None:
        """Find the BTF in the Image `data`; `name` is for messages. Raises MissingTypes."""
        self._name = name
        blobs = [data[at : at + size] for at, size in _blobs(data)]
        # Programs within the kernel may bring their own types; the kernel's are the most.
        for self._data in sorted(blobs, key=len, reverse=True):
            try:
                self._read()
            except (struct.error, KeyError):
                continue
            return
        raise MissingTypes(
            f"{name}: has no BTF (CONFIG_DEBUG_INFO_BTF), so where the members of its structures "
            "are is not known"
        )

    def field(self, structure: str, path: str) -> Field:
        """Return where a member is; `path` goes on with dots into structures within.

        A member of an unnamed structure or union is found as C finds it. Raises MissingTypes.
        """
        number = self._structs.get(structure)
        if number is None:
            raise MissingTypes(f"{self._name}: its BTF has no struct {structure}")
        offset, size = 0, 0
        for part in path.split("."):
            found = self._member(self._plain(number), part, set())
            if found is None:
                raise MissingTypes(f"{self._name}: its BTF has no member {path} of {structure}")
            bits, number = found
            offset += bits
            size = self._size(number, 0)
        if offset % 8:
            raise MissingTypes(f"{self._name}: {path} of {structure} is a bit field")
        return Field(offset // 8, size)

    def has(self, structure: str, path: str) -> bool:
        """Tell whether there is such a member."""
        try:
            self.field(structure, path)
        except MissingTypes:
            return False
        return True

    def size(self, structure: str) -> int:
        """Return the size of a structure in bytes. Raises MissingTypes."""
        number = self._structs.get(structure)
        if number is None:
            raise MissingTypes(f"{self._name}: its BTF has no struct {structure}")
        return self._size(number, 0)

    def _read(self) -> None:
        _, _, _, header, type_at, types, string_at, strings = _HEADER.unpack_from(self._data)
        self._strings = self._data[header + string_at : header + string_at + strings]
        at, end = header + type_at, header + type_at + types
        self._types: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]
        self._structs: dict[str, int] = {}
        unpack = _TYPE.unpack_from
        while at < end:
            name, info, size = unpack(self._data, at)
            at += _TYPE.size
            kind, elements = info >> 24 & 0x1F, info & 0xFFFF
            self._types.append((kind | (info >> 31) << 5, elements, size, at))
            if kind == _STRUCT and name:
                self._structs.setdefault(self._string(name), len(self._types) - 1)
            fixed, each = _TAIL[kind]
            at += fixed + each * elements
        if at != end or not self._structs:
            raise KeyError

    def _string(self, at: int) -> str:
        return self._strings[at : self._strings.find(b"\0", at)].decode("ascii", "replace")

    def _type(self, number: int) -> _Type:
        if number >= len(self._types):
            raise MissingTypes(f"{self._name}: its BTF names a type that it does not have")
        kind, elements, size, tail = self._types[number]
        return _Type(kind & 0x1F, bool(kind >> 5), elements, size, tail)

    def _plain(self, number: int) -> _Type:
        """Return a type without typedefs and qualifiers."""
        for _ in range(_DEEPEST):
            found = self._type(number)
            if found.kind not in _TRANSPARENT:
                return found
            number = found.size_or_type
        raise MissingTypes(f"{self._name}: its BTF has a type that is made of itself")

    def _member(self, struct_: _Type, name: str, seen: set[int]) -> tuple[int, int] | None:
        """Find a member: its offset in bits, and the number of its type."""
        if struct_.kind not in (_STRUCT, _UNION) or struct_.tail in seen:
            return None
        seen.add(struct_.tail)
        for index in range(struct_.elements):
            at, number, offset = _MEMBER.unpack_from(
                self._data, struct_.tail + index * _MEMBER.size
            )
            if struct_.flag:
                offset &= 0xFFFFFF  # the rest is the width of a bit field
            if at:
                if self._string(at) == name:
                    return offset, number
            else:
                found = self._member(self._plain(number), name, seen)
                if found is not None:
                    return offset + found[0], found[1]
        return None

    def _size(self, number: int, depth: int) -> int:
        found = self._plain(number)
        if found.kind == _PTR:
            return _POINTER_SIZE
        if found.kind == _ARRAY_KIND and depth < _DEEPEST:
            element, _, count = _ARRAY.unpack_from(self._data, found.tail)
            return int(count) * self._size(element, depth + 1)
        if found.kind in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT):
            return found.size_or_type
        return 0


def _blobs(data: bytes) -> Iterator[tuple[int, int]]:
    """Find what can be BTF: where it is, and its size in bytes."""
    for match in re.finditer(re.escape(_MAGIC), data):
        at = match.start()
        if at + _HEADER.size > len(data):
            return
        _, _, _, header, type_at, types, string_at, strings = _HEADER.unpack_from(data, at)
        size = header + max(type_at + types, string_at + strings)
        if header >= _HEADER.size and types and strings and at + size <= len(data):
            yield at, size
