# SPDX-License-Identifier: GPL-2.0-or-later
"""Which cells a sweep has: the product of its axes, from a TOML file and the command line.

A cell is a workload.Settings. Whatever is wrong with a grid is a ConfigError of one line.
"""

import enum
import itertools
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvlock import workload
from pvlock.errors import ConfigError
from pvlock.host import Host, Knob, knobs
from pvlock.workload import Settings

MAX_CELLS = 100_000
MAX_SEEDS = 10_000
_LONGEST_FILE = 16 << 10
"""Bytes. tomllib's time can grow with the square of a file's length: for this length, to 1 s."""


@dataclass(frozen=True)
class Axis:
    """A key of a grid: the field of Settings that it sets, and how a value is checked.

    `parse` takes a value as TOML has it, or raises ValueError, whose text says what is wanted. In
    files of results the field is called `column`, and `cell` turns a value into what they say.
    """

    name: str
    field: str
    parse: Callable[[object], Any]
    default: str
    help: str
    column: str
    cell: Callable[[Any], Any]


def axes_of(settings: type[Host]) -> tuple[Axis, ...]:
    """Return an axis for each knob of `settings` but the seed.

    >>> [axis.name for axis in axes_of(Host)][:3]
    ['vcpus', 'pcpus', 'slice']
    """
    found = [
        _axis_of(name, knob, getattr(settings, name))
        for name, knob in knobs(settings).items()
        if name != "seed"
    ]
    return tuple(sorted(found, key=lambda axis: (*_FIRST, axis.name).index(axis.name)))


def _axis_of(name: str, knob: Knob, default: Any) -> Axis:
    text = f"{knob.help} One of: {', '.join(knob.words)}." if knob.words else knob.help
    in_words = isinstance(default, bool)  # files say trap or notrap, not true or false
    return Axis(
        knob.option, name, knob.parse, _DEFAULTS.get(name) or knob.text(default), text,
        column=knob.option if in_words else name,
        cell=knob.text if in_words else _plain,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, enum.StrEnum) else value


def _guest(value: object) -> str:
    names = workload.names()
    if value not in names:
        raise ValueError(f"not one of: {', '.join(names)}")
    return str(value)


_FIRST = ("vcpus", "pcpus", "slice", "cs", "think", "policy", "wfe", "duration", "quantum")
"""The order in which files of results have always had the axes; axes not named here come after."""
_DEFAULTS = {"duration_ns": "30ms"}
"""Defaults that differ from those of a single run, since a sweep has many runs."""

AXES = (
    Axis("guest", "guest", _guest, Settings.guest, "Bundled workloads.", "guest", str),
    *axes_of(Settings),
)
_MOST_SEEDS = Knob("seeds", "How many seeds: 1 to N.", 1, MAX_SEEDS)
SEEDS = Axis("seeds", "seed", _MOST_SEEDS.parse, "5", _MOST_SEEDS.help, "seed", int)
_BY_NAME = {axis.name: axis for axis in (*AXES, SEEDS)}

Values = Mapping[str, object]
"""The values of axes by name, as TOML has them: a single value or a list."""


def cells(file: Path | None, options: Mapping[str, Sequence[str]]) -> list[Settings]:
    """Return the cells of a grid file (if any) in its order, each once; `options` override it.

    `options` has, by the name of the axis, the texts of the command line: an option can be given
    several times, and each text can be a list with commas. Raises ConfigError when the file or an
    option makes no sense, or there are too many cells.

    >>> [(cell.vcpus, cell.cs_ns) for cell in cells(None, {"vcpus": ["4,8"], "seeds": ["1"]})]
    [(4, 2000), (8, 2000)]
    """
    given = {name: _from_texts(texts) for name, texts in options.items() if texts}
    grids = [{**grid, **given} for grid in (_read(file) if file else [{}])]
    where = f"{file}: " if file else ""
    total, products = 0, []
    for grid in grids:
        axes = [_values(axis, grid, where if axis.name not in given else "--") for axis in AXES]
        seeds = _values(SEEDS, grid, where if "seeds" not in given else "--")
        if len(seeds) != 1:
            raise ConfigError(f"{where}seeds: give one number, how many")
        total += math.prod(map(len, axes)) * seeds[0]
        products.append((axes, seeds[0]))
        if total > MAX_CELLS:
            raise ConfigError(f"{where}a grid of {total} cells or more; {MAX_CELLS} is the limit")
    names = [axis.field for axis in AXES]
    found = (
        Settings(**dict(zip(names, values, strict=True)), seed=seed)
        for axes, seeds in products
        for values in itertools.product(*axes)
        for seed in range(1, seeds + 1)
    )
    return list(dict.fromkeys(found))


def _from_texts(texts: Sequence[str]) -> list[object]:
    """Split lists with commas, and make numbers of the words that look like numbers."""
    words = [word.strip() for text in texts for word in text.split(",")]
    return [int(word) if re.fullmatch(r"\d{1,9}", word, re.ASCII) else word for word in words]


def _values(axis: Axis, grid: Values, where: str) -> list[Any]:
    given = grid.get(axis.name, _from_texts([axis.default]))
    values = given if isinstance(given, list) else [given]
    if not values:
        raise ConfigError(f"{where}{axis.name}: an empty list, so the grid is empty")
    parsed = []
    for value in values:
        try:
            parsed.append(axis.parse(value))
        except ValueError as error:
            raise ConfigError(f"{where}{axis.name}: {_shown(value)} is {error}") from None
    return list(dict.fromkeys(parsed))


def _read(file: Path) -> list[Values]:
    """Return the grids of a TOML file: its [[grid]] tables, each with the keys above them."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_LONGEST_FILE + 1)
        if len(content) > _LONGEST_FILE:
            raise ConfigError(f"{file}: longer than {_LONGEST_FILE >> 10} KiB, which no grid needs")
        document = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{file}: not a TOML file: {error}") from error
    except RecursionError:
        raise ConfigError(f"{file}: lists or tables too deep in one another") from None
    tables = document.pop("grid", [{}])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{file}: grid: write [[grid]] tables")
    if not tables:
        raise ConfigError(f"{file}: no [[grid]] table in the list, so the grid is empty")
    unknown = [key for table in (document, *tables) for key in table if key not in _BY_NAME]
    if unknown:
        known = ", ".join(_BY_NAME)
        raise ConfigError(f"{file}: unknown key {_shown(unknown[0])}; there are: {known}, [[grid]]")
    return [{**document, **table} for table in tables]


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep for Python to print, or too long a number
        return "what is there"
    return text if len(text) <= 60 else text[:60] + "…"
