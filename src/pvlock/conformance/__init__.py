# SPDX-License-Identifier: GPL-2.0-or-later
"""Conformance: does a hypervisor keep what SPECIFICATION.md says?

`run` judges a machine that Python can make. `tap.parse` reads what the guest printed under another
hypervisor. `userspace.check` checks the VCPU attribute of any VM object.
"""

from pvlock.conformance.outcome import Outcome, Verdict
from pvlock.conformance.runner import run

__all__ = ["Outcome", "Verdict", "run"]
