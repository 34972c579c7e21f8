# SPDX-License-Identifier: GPL-2.0-or-later
"""An emulator whose worker process a guest can kill: python -m frail SOCKET-FD, or COMMAND.

Half-precision arithmetic is offered, and Unicorn aborts on some of its undefined encodings.
"""

import ctypes as c
import sys
from typing import Final

from pvlock.cli import main as command_line
from pvlock.engines.emulator import libunicorn, worker
from pvlock.engines.emulator.engine import EmulatorEngine

ABORTS_UNICORN: Final = 0x4ECF27D6
"""An undefined encoding on which Unicorn 2.1.4 ends its process, if half precision is offered."""

if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        c.c_bool.in_dll(libunicorn.libvcpu(), "half_precision").value = True
        worker.main()
    else:
        EmulatorEngine.worker = "frail"
        command_line()
