# SPDX-License-Identifier: GPL-2.0-or-later
"""Sweeps: a grid of workloads, each run once, on all cores, and the results.

grid.py says which cells there are, run.py which runs they need, cache.py which of these are done,
and executors.py does the others. results.py, files.py and figures.py show the results.
"""
