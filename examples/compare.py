# SPDX-License-Identifier: GPL-2.0-or-later
"""What PV-lock buys the bundled mutex, with and without a WFE that traps, in one sentence each."""

from pvlock import report, workload

for trap_wfe in (True, False):
    settings = workload.Settings(duration_ns=20_000_000, trap_wfe=trap_wfe)
    comparison = workload.compare(settings)
    print("WFE traps and yields:" if trap_wfe else "WFE does not trap:")
    print(" ", report.sentence(comparison))
