# SPDX-License-Identifier: GPL-2.0-or-later
"""What people read: on terminals of any width, in pipes, and in encodings that lack characters."""

import codecs
import re
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 100
"""How wide is what nobody's terminal shows."""
_ERRORS = "pvlock"
_INSTEAD = {"µ": "u", "×": "x", "—": "-", "–": "-", "…": "...", "·": "*", "→": "->", "≥": ">="}
_BLANKS = re.compile(r" +$", re.MULTILINE)


def let_anything_be_printed(*streams: TextIO) -> None:
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


def console(stream: TextIO) -> "Console":
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

    return Pipe(file=stream, width=PIPE_COLUMNS, **plain)
