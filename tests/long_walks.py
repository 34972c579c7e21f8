# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator's worker process with QEMU's own table walks: python -m long_walks SOCKET-FD."""

import ctypes as c

from pvlock.engines.emulator import libunicorn
from pvlock.engines.emulator.worker import main

if __name__ == "__main__":
    c.c_bool.in_dll(libunicorn.libvcpu(), "short_walks").value = False
    main()
