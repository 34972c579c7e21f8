# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbols of one kernel: from names to addresses, and back."""

import bisect
from collections.abc import Iterable
from typing import NamedTuple


class Symbol(NamedTuple):
    """A symbol at a virtual address; `kind` is a letter as nm(1) prints it."""

    address: int
    kind: str
    name: str


class Symbols:
    """The symbols of a kernel that is linked at `text`, the address of its first byte.

    Addresses are those it is linked at. It also runs there, unless it moves itself (KASLR).

    >>> table = [Symbol(0x8000, "T", "vectors"), Symbol(0x8800, "t", "wait.isra.0"),
    ...          Symbol(0x8800, "T", "wait_global"), Symbol(0x8900, "T", "_etext")]
    >>> symbols = Symbols(0x8000, table)
    >>> hex(symbols["vectors"]), symbols.get("nothing")
    ('0x8000', None)
    >>> symbols.at(0x8810), symbols.at(0x7FFF)
    (('wait_global', 16), None)
    >>> symbols.functions("wait")
    [range(34816, 35072)]
    """

    def __init__(self, text: int, symbols: Iterable[Symbol]) -> None:
        """Take the symbols in any order."""
        self.text = text
        self.all = sorted(symbols, key=lambda symbol: symbol.address)
        self._by_name: dict[str, list[int]] = {}
        self._starts: list[int] = []
        self._names: list[str] = []
        for address, kind, name in self.all:
            self._by_name.setdefault(name, []).append(address)
            if self._starts and self._starts[-1] == address:
                # Of several names, that of all the kernel rather than that of one file.
                if kind.isupper() and not name.startswith(_ALIASES):
                    self._names[-1] = name
            else:
                self._starts.append(address)
                self._names.append(name)

    def __len__(self) -> int:
        """Return how many symbols there are."""
        return len(self.all)

    def __contains__(self, name: str) -> bool:
        """Tell whether there is a symbol of that name."""
        return name in self._by_name

    def __getitem__(self, name: str) -> int:
        """Return the (lowest) address of a name. Raises KeyError."""
        return self._by_name[name][0]

    def get(self, name: str) -> int | None:
        """Return the (lowest) address of a name; None if there is no such name."""
        return self._by_name.get(name, [None])[0]

    def addresses(self, name: str) -> list[int]:
        """Return all addresses of a name, lowest first: functions of one file share names."""
        return self._by_name.get(name, [])

    def at(self, address: int) -> tuple[str, int] | None:
        """Return the name of what is at an address, and how far from its beginning that is."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        return self._names[index], address - self._starts[index]

    def functions(self, stem: str) -> list[range]:
        """Return the addresses of each function of this name.

        What compilers make of a function goes by its name and a suffix: `.constprop.0`,
        `.isra.0`, `.part.0`, `.cold`. A function ends where the next symbol begins.
        """
        found = {
            address
            for name, addresses in self._by_name.items()
            if name == stem or name.startswith(stem + ".")
            for address in addresses
        }
        return [range(address, self._end(address)) for address in sorted(found)]

    def _end(self, address: int) -> int:
        index = bisect.bisect_right(self._starts, address)
        return self._starts[index] if index < len(self._starts) else address


_ALIASES = ("__pi_", "__irqentry_text", "__softirqentry_text", "__entry_text", "__noinstr_text",
            "__cpuidle_text", "__kprobes_text", "__sched_text", "__lock_text",
            "__hyp_", "__idmap_", "__exittext", "__init_begin", "__inittext")  # fmt: skip
"""Names of places that a function may share its address with."""
