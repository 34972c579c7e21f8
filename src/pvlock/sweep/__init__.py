# SPDX-License-Identifier: GPL-2.0-or-later
"""Sweeps: a grid of workloads, run once each on all cores, and what it shows.

grid.py says which cells there are, run.py which runs they need, cache.py which of these are known,
executors.py where the others run; results.py, files.py and figures.py say what came out.
"""
