# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands on a terminal of a given width, and what its user then sees."""

import fcntl
import os
import pty
import re
import struct
import termios
from pathlib import Path

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")
_ERASE = "\x1b[2K"
ROWS = 50


def on_terminal(
    command: list[str], columns: int, cwd: Path, environment: dict[str, str], term: str = "xterm"
) -> tuple[int, list[str]]:
    """Run `command` on a terminal; return its status, and the lines that are left at its end."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        kept = {name: value for name, value in environment.items() if name != "COLUMNS"}
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        os.execvpe(command[0], command, kept | {"TERM": term})
    written = bytearray()
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # the other end has closed
            break
        if not data:
            break
        written += data
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # A line that was erased, as a bar of progress is, is not left.
    lines = (line.rpartition(_ERASE)[2] for line in written.decode("utf-8").splitlines())
    return status, [_CONTROL.sub("", line) for line in lines]
