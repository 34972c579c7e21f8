# SPDX-License-Identifier: GPL-2.0-or-later
"""UnixBench's index: each test beside one machine of 1995, and the geometric mean of that.

UnixBench's own index has Dhrystone and Whetstone too, which are arithmetic and no load here; over
the other tests it is what UnixBench calls a partial index.
"""

import statistics
from collections.abc import Mapping

from pvlock.loads.catalogue import BY_NAME, Test

_BASE = 10
"""What UnixBench calls the machine that it compares with."""


def of_test(test: Test, throughput: float) -> float:
    """Return the index of one test, from operations per second of its load.

    >>> of_test(Test("Execl Throughput", 43.0), 4300.0)
    1000.0
    """
    return throughput * test.scale / test.reference * _BASE


def of_loads(throughputs: Mapping[str, float]) -> float | None:
    """Return the index over those loads that stand for a test of UnixBench; None if none does."""
    scores = [
        of_test(test, throughput)
        for name, throughput in throughputs.items()
        if (test := BY_NAME[name].test) is not None
    ]
    if not scores:
        return None
    return statistics.geometric_mean(scores) if all(score > 0 for score in scores) else 0.0
