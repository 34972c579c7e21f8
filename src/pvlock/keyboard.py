# SPDX-License-Identifier: GPL-2.0-or-later
r"""Typed input that is part of a run: a script waits for words on the console, then types.

A script has a command on each line; `#` begins a comment:

    wait "~ # "                  # until the guest has printed this, at most 60 s of its time
    type "sleep 90; echo ok\n"
    wait "\nok" within 120s      # or at most this long

Each `wait` looks at what was printed since the words that the one before it found. In quotes, \n,
\r, \t, \e (escape), \xHH, \" and \\ stand for what they stand for in C and in a shell.
"""

import re
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from pvlock.duration import HOUR_NS, nanoseconds
from pvlock.errors import ConfigError, InputError

PATIENCE_NS = 60 * 10**9
"""How long a `wait` waits if it does not say."""
_MOST_BYTES = 1 << 20
_LAST_LINES = 12
_LONGEST_LINE = 1024
_UNREAD_MOST = 1 << 20

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_COMMAND = re.compile(
    rf"\s*(?:(?P<verb>wait|type)\s+(?P<text>{_QUOTED})"
    r"(?:\s+within\s+(?P<within>[^\s#]+))?)?\s*(?:#.*)?",
)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"e": b"\x1b", b'"': b'"', b"\\": b"\\"}


@dataclass(frozen=True)
class Command:
    """A line of a script: `text` to type, or to wait for if `within_ns` is not None."""

    line: int
    source: str
    text: bytes
    within_ns: int | None


@dataclass(frozen=True)
class Script:
    """What is typed at a guest; `name` is for messages."""

    name: str
    commands: tuple[Command, ...]


def read(path: str | Path) -> Script:
    """Read the script in the file `path`. Raises ConfigError, with the line that is wrong."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: a script of more than {_MOST_BYTES >> 20} MiB")
    try:
        return parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, from byte {error.start} on") from error


def parse(text: str, name: str) -> Script:
    """Read the script `text`. Raises ConfigError, with the line that is wrong."""
    commands = []
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{name}:{number}"
        match = _COMMAND.fullmatch(line)
        if match is None or (match["verb"] == "type" and match["within"]):
            raise ConfigError(f'{where}: is neither wait "TEXT" [within TIME] nor type "TEXT"')
        if match["verb"]:
            said = _unquoted(match["text"], where)
            within = _within(match["within"], where) if match["verb"] == "wait" else None
            commands.append(Command(number, match["text"], said, within))
    return Script(name, tuple(commands))


def _unquoted(quoted: str, where: str) -> bytes:
    def character(match: re.Match[bytes]) -> bytes:
        word = match[1]
        if len(word) == 3:
            return bytes([int(word[1:], 16)])
        if word not in _ESCAPES:
            known = r"\n \r \t \e \xHH \" \\"
            raise ConfigError(f"{where}: {quoted} has a backslash that is none of {known}")
        return _ESCAPES[word]

    text = _ESCAPE.sub(character, quoted[1:-1].encode())
    if not text:
        raise ConfigError(f"{where}: the text is empty")
    return text


def _within(text: str | None, where: str) -> int:
    if text is None:
        return PATIENCE_NS
    try:
        within_ns = nanoseconds(text)
    except ValueError as error:
        raise ConfigError(f"{where}: within {text}: is {error}") from error
    if not 0 < within_ns <= HOUR_NS:
        raise ConfigError(f"{where}: within {text}: is not more than 0 and at most an hour")
    return within_ns


class Keyboard:
    """Plays a script: it is told what the guest prints, and says what to type.

    Times are ns of guest time, from when the run began. Where each call has the same times and
    bytes, so have the answers. Calls may come from any thread.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._next = 0
        self._since: int | None = None
        self._unmatched = bytearray()
        self._line = bytearray()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._lock = threading.Lock()

    def saw(self, data: bytes) -> None:
        """Take what the guest printed."""
        with self._lock:
            self._remember(data)
            if self._current is not None:
                self._unmatched += data
                del self._unmatched[:-_UNREAD_MOST]

    def due(self, now_ns: int) -> bytes:
        """Return what to type now. Raises InputError when awaited words have not come in time."""
        typed = bytearray()
        with self._lock:
            self._wait()
            while (command := self._current) is not None and command.within_ns is None:
                typed += command.text
                self._step()
                self._wait()
            if command is None:
                return bytes(typed)
            assert command.within_ns is not None
            if self._since is None:
                self._since = now_ns
            if now_ns >= self._since + command.within_ns:
                took = f"within {command.within_ns / 1e9:g} s"
                raise self._error(f"the guest did not print {command.source} {took}")
        return bytes(typed)

    @property
    def deadline_ns(self) -> int | None:
        """When due() must be called at the latest; None: nothing is waited for."""
        command = self._current
        if command is None or command.within_ns is None or self._since is None:
            return None
        return self._since + command.within_ns

    def finish(self, how: str) -> None:
        """Raise InputError unless the script has come to its end; `how` says how the run ended."""
        with self._lock:
            self._wait()
            command = self._current
            if command is not None:
                verb = "typed" if command.within_ns is None else "printed"
                raise self._error(f"{how} before {command.source} was {verb}")

    @property
    def _current(self) -> Command | None:
        commands = self._script.commands
        return commands[self._next] if self._next < len(commands) else None

    def _step(self) -> None:
        self._next += 1
        self._since = None

    def _wait(self) -> None:
        """Go past every wait whose words have come."""
        while (command := self._current) is not None and command.within_ns is not None:
            at = self._unmatched.find(command.text)
            if at < 0:
                # What cannot be a part of the words any more is not looked at again.
                del self._unmatched[: -len(command.text)]
                return
            del self._unmatched[: at + len(command.text)]
            self._step()

    def _remember(self, data: bytes) -> None:
        self._line += data
        *lines, self._line = self._line.split(b"\n")
        self._lines.extend(_shown(line) for line in lines)
        del self._line[_LONGEST_LINE:]

    def _error(self, what: str) -> InputError:
        command = self._current
        assert command is not None
        lines = [*self._lines, *([_shown(self._line)] if self._line else [])]
        return InputError(
            f"{self._script.name}:{command.line}: {what}", tuple(lines[-_LAST_LINES:])
        )


def _shown(line: bytes | bytearray) -> str:
    text = bytes(line[:_LONGEST_LINE]).decode("utf-8", "replace").rstrip()
    return "".join(character if character.isprintable() else "?" for character in text)
