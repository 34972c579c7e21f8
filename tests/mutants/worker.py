# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator's worker process with a mutant in it: python -m mutants.worker SOCKET-FD."""

import os

from mutants import catalogue
from pvlock.engines.emulator import worker

if __name__ == "__main__":
    catalogue.load()
    catalogue.MUTANTS[os.environ[catalogue.VARIABLE]].change(setattr)
    worker.main()
