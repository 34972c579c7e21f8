# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's console for tests of the tutorial: what a person would type, and what comes back."""

import os
import re
import selectors
import subprocess
import time

from asm import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"
PROMPT = "~ # "
SECONDS = 300
CURSOR = "\x1b[6n"
"""What the shell asks its terminal: where is the cursor?"""


def block(marker: str) -> str:
    """Return the block of the tutorial that follows a comment."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", TUTORIAL.read_text(), re.S)
    assert found, f"no block {marker} in {TUTORIAL}"
    return found[1]


class Console:
    """Reads what a process prints, with a deadline."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self.text = ""
        self._at = 0

    def say(self, line: str) -> None:
        self._stdin.write(line.encode() + b"\n")

    def expect(self, words: str) -> str:
        """Wait for `words`; return what came before them since the last call."""
        deadline = time.monotonic() + SECONDS
        while (found := self.text.find(words, self._at)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"no {words!r}: ...{self.text[-2000:]}"
            if self._selector.select(left):
                data = os.read(self._stdout.fileno(), 65536)
                assert data, f"ended without {words!r}: ...{self.text[-2000:]}"
                text = data.decode("utf-8", "replace").replace("\r", "")
                self.text = (self.text + text).replace(CURSOR, "")
        before = self.text[self._at : found]
        self._at = found + len(words)
        return before

    def repeat(self, session: str) -> None:
        """Type each line of `session` that has a prompt; the lines that follow must come."""
        self.expect(PROMPT)
        for turn in session.split(PROMPT)[1:]:
            command, expected = turn.split("\n", 1)
            self.say(command)
            seen = self.expect(PROMPT)
            assert seen == f"{command}\n{expected}", self.text[-2000:]
