# SPDX-License-Identifier: GPL-2.0-or-later
"""Folded stacks: a line for each call stack, outermost function first, and its number of points.

flamegraph.pl, inferno, speedscope and Perfetto read them.
"""

from collections import Counter

from pvlock.profile.profile import Profile


def folded(profile: Profile) -> str:
    """Return the lines; functions of the kernel end in `_[k]`, as perf's scripts mark them."""
    counted: Counter[str] = Counter()
    for number, points in profile.counts().items():
        names = [f.name + "_[k]" * f.kernel for f in reversed(profile.stacks[number])]
        counted[";".join(name.replace(";", ":") for name in names)] += points
    return "".join(f"{line} {points}\n" for line, points in sorted(counted.items()))
