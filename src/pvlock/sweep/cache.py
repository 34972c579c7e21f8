# SPDX-License-Identifier: GPL-2.0-or-later
"""Results on disk: a small file for each, named by a hash of all that decides the result.

So no run is done twice, a sweep that was killed goes on where it was, and a result that other code
made is never found.
"""

import hashlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pvlock.errors import ConfigError
from pvlock.files import replacing
from pvlock.sweep import fingerprint
from pvlock.sweep.run import Measurement, Run


def default_folder() -> Path:
    """Return pvlock/sweep in the user's cache directory (XDG_CACHE_HOME)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "pvlock" / "sweep"


class Cache:
    """A folder of results. Failures are not kept: the same run may go well next time."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make it. Raises ConfigError if it cannot be made."""
        self.folder = folder
        self._code: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cache {folder}: {error.strerror}") from error

    def code(self, guest: str) -> str:
        """Return the fingerprint of the code that runs `guest`, as of the first call."""
        if guest not in self._code:
            self._code[guest] = fingerprint.of_code(guest)
        return self._code[guest]

    def key(self, run: Run) -> str:
        """Return the name under which the result of `run` is kept: 64 hexadecimal digits."""
        return hashlib.sha256(self._identity(run).encode()).hexdigest()

    def path(self, run: Run) -> Path:
        """Return the file in which the result of `run` is kept."""
        key = self.key(run)
        return self.folder / key[:2] / f"{key}.json"

    def get(self, run: Run) -> Measurement | None:
        """Return the result of `run`; None if there is none, or its file is not whole."""
        try:
            return _measurement(json.loads(self.path(run).read_bytes())["result"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, run: Run, result: Measurement) -> None:
        """Keep a result, whole or not at all. Raises ConfigError if it cannot be written."""
        path = self.path(run)
        entry = {"run": json.loads(self._identity(run)), "result": asdict(result)}
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cache {self.folder}: {error.strerror}") from error
        with replacing(path) as file:
            file.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")

    def _identity(self, run: Run) -> str:
        facts = {**asdict(run), "code": self.code(run.settings.guest)}
        return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def _measurement(raw: dict[str, Any]) -> Measurement:
    """Return `raw` as a Measurement. Raises ValueError, KeyError or TypeError if it is not one."""
    for field in fields(Measurement):
        if type(raw[field.name]) is not field.type:
            raise ValueError(field.name)
    return Measurement(**raw)
