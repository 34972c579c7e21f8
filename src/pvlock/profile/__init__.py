# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles of a Linux guest on the emulator: who uses the CPUs, and who spins for whom.

>>> from pathlib import Path
>>> from pvlock.machine import Machine
>>> def profiled(kernel: Path) -> Shares:
...     profiler = Profiler.open(kernel)
...     with Machine(vcpus=4, pcpus=2, engine="emulator", profile=profiler) as machine:
...         machine.load(kernel)
...         machine.run(until_ns=50_000_000)
...         return machine.profile().shares()
"""

from pvlock.profile.profile import Profile
from pvlock.profile.profiler import DEFAULT_PERIOD_NS, Profiler
from pvlock.profile.shares import Shares

__all__ = ("DEFAULT_PERIOD_NS", "Profile", "Profiler", "Shares")
