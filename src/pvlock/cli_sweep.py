# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock sweep`: the part of the command line that runs grids."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pvlock.sweep.executors import Executor
    from pvlock.sweep.plan import Plan
    from pvlock.sweep.results import CellResult
    from pvlock.sweep.run import Outcome, Run

_INTERRUPTED = 130
_LINE_SECONDS = 5.0
_FILE = click.Path(path_type=Path)

# What the options say is checked by sweep/grid.py, together with the file.
_AXES = (
    ("guest", "Bundled workloads.", "mutex"),
    ("vcpus", "VCPUs of the guest.", "8"),
    ("pcpus", "CPUs that they share.", "4"),
    ("slice", "Time slice of the host's scheduler.", "3ms"),
    ("cs", "Time in the critical section.", "2us"),
    ("think", "Mean time between two.", "8us"),
    ("policy", "When a VCPU counts as preempted: scheduled-out, preempted.", "scheduled-out"),
    ("wfe", "Does a waiting WFE give its CPU away: trap, notrap.", "trap"),
    ("duration", "Guest time of a run.", "30ms"),
    ("quantum", "How finely the emulated CPUs are interleaved.", "1us"),
    ("exit-cost", "What leaving the guest costs it.", "1us"),
    ("switch-cost", "What putting another VCPU on a CPU costs.", "3us"),
    ("seeds", "How many seeds: 1 to N.", "5"),
)


