# SPDX-License-Identifier: GPL-2.0-or-later
"""python -m pvlock: the command line."""

from pvlock.cli import main

main()
