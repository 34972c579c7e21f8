# SPDX-License-Identifier: GPL-2.0-or-later
"""What people read: on terminals of any width, in pipes, and in encodings that lack characters."""

import codecs
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

PIPE_COLUMNS = 100
"""How wide is what nobody's terminal shows."""
_GAP = 2
"""What Rich leaves between two columns."""
_NARROWEST = 24
"""What a column of prose needs to be read."""
_ERRORS = "pvlock"
_INSTEAD = {"µ": "u", "×": "x", "—": "-", "–": "-", "…": "...", "·": "*", "→": "->", "≥": ">="}
_BLANKS = re.compile(r" +$", re.MULTILINE)


def let_anything_be_printed(*streams: IO[str]) -> None:
    """Let `streams` print another character where their encoding lacks one: us for µs.

    A result that took an hour must not be lost to a locale.
    """
    codecs.register_error(_ERRORS, _replacement)
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_ERRORS)


def _replacement(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_similar(c) for c in error.object[error.start : error.end]), error.end


def _similar(character: str) -> str:
    if character in _INSTEAD:
        return _INSTEAD[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return plain or "?"


def console(stream: IO[str], pipe_columns: int = PIPE_COLUMNS) -> "Console":
    """Return a Console on `stream`: as wide as its terminal, and without trailing blanks in pipes.

    It prints text as it is: no markup, no colours for numbers.
    """
    from rich.console import Console

    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    if stream.isatty():
        return Console(file=stream, **plain)

    class Pipe(Console):
        """A console whose tables end where their text ends."""

        def print(self, *objects: Any, **options: Any) -> None:
            """Print as a Console does, without what only fills lines up."""
            with self.capture() as captured:
                super().print(*objects, **options)
            stream.write(_BLANKS.sub("", captured.get()))
            stream.flush()

    return Pipe(file=stream, width=pipe_columns, **plain)


def paragraph(text: str, stream: IO[str], indent: int = 0) -> None:
    """Print a text, broken between words where a terminal would break it within one.

    Its lines but the first are indented.
    """
    if stream.isatty():
        columns = console(stream).width
        further = " " * min(indent, columns // 2)
        text = textwrap.fill(
            text, columns, subsequent_indent=further, break_on_hyphens=False,
            replace_whitespace=False, drop_whitespace=True,
        )  # fmt: skip
    print(text, file=stream, flush=True)


def show(shown: "Console", table: "Table", keys: int = 1) -> None:
    """Print a table that fits: columns for which there is no room follow below.

    The first `keys` columns say what a row is about. They are repeated, and never broken into
    lines; nor is any other column that is not to be wrapped.
    """
    for number, part in enumerate(_parts(shown, table, keys)):
        if number:
            shown.print()
        shown.print(part)


def _parts(shown: "Console", table: "Table", keys: int) -> "Iterator[Table]":
    """Yield tables that are no wider than the screen, all with the same rows."""
    widths = [_width(shown, column, number < keys) for number, column in enumerate(table.columns)]
    room = shown.width
    left = sum(widths[:keys]) + _GAP * (keys - 1)
    chosen: list[int] = []
    used = left
    for number in range(keys, len(widths)):
        if chosen and used + _GAP + widths[number] > room:
            yield _part(shown, table, keys, chosen)
            chosen, used = [], left
        chosen.append(number)
        used += _GAP + widths[number]
    yield _part(shown, table, keys, chosen)


def _width(shown: "Console", column: "Column", is_key: bool) -> int:
    """Return the room that a column needs."""
    sizes = [shown.measure(cell) for cell in (column.header, *column.cells)]
    most = max((size.maximum for size in sizes), default=0)
    if is_key or column.no_wrap:
        return most
    return min(most, max(_NARROWEST, *(size.minimum for size in sizes)))


def _part(shown: "Console", table: "Table", keys: int, chosen: list[int]) -> "Table":
    from rich.table import Table

    part = Table(box=None, pad_edge=False, show_header=table.show_header, collapse_padding=False)
    numbers = [*range(keys), *chosen]
    for number in numbers:
        column = table.columns[number]
        part.add_column(
            column.header, justify=column.justify, overflow=column.overflow,
            no_wrap=number < keys or column.no_wrap,
        )  # fmt: skip
    columns = [[*table.columns[number].cells] for number in numbers]
    for row in zip(*columns, strict=True):
        part.add_row(*row)
    return part
