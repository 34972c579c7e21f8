# SPDX-License-Identifier: GPL-2.0-or-later
"""Yield by hint: a waiter tells the hypervisor which VCPU it waits for. docs/models.md says why.

This is an experiment, and no part of PV-lock: SPECIFICATION.md does not have it. The call is a fast
SMC64 call of our own vendor range, above those that KVM has reserved. X1 is the affinity of the
awaited VCPU, as PSCI names it. SMCCC_ARCH_FEATURES says whether it is offered.
"""

YIELD_TO = 0xC600_0040
"""X1: whom to run. Returns 0, whether or not the host does so."""
INVALID_PARAMETER = -3
"""Returned if there is no such VCPU (DEN0028)."""

OFF, AFTER, INSTEAD = "off", "after", "instead"
