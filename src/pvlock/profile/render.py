# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile for people: what the CPUs' time went to, as a table, and in a sentence."""

from typing import TYPE_CHECKING

from pvlock.profile.shares import KINDS, SPINNING, Share, Shares

if TYPE_CHECKING:
    from rich.table import Table

_MOST_FUNCTIONS = 12
_AWAITED = ("one off\nits CPU", "one\nrunning", "a task\nasleep", "\nreaders", "not\nknown")
"""Titles of columns: for whom a waiter spins."""


def table(shares: Shares) -> "Table":
    """Return the table of the kinds of what CPUs do; those that took no time are left out."""
    from rich.table import Table  # large, and most runs need no table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("")
    shown.add_column("CPU time", justify="right")
    for title in _AWAITED:
        shown.add_column(title, justify="right")
    rows = [(kind, shares.kinds[kind]) for kind in KINDS if shares.kinds[kind].points]
    for kind, share in rows:
        cells = _awaited(share) if kind in SPINNING else ("",) * len(_AWAITED)
        shown.add_row(kind, f"{shares.of(kind):.1%}", *cells)
    return shown


def _awaited(share: Share) -> tuple[str, ...]:
    known = (share.off, share.running, share.sleeping, share.readers)
    return tuple(
        f"{points / share.points:.0%}" if points else "-"
        for points in (*known, share.points - sum(known))
    )


def functions(shares: Shares) -> "Table":
    """Return the table of the functions in which most of the time was spent."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("innermost function")
    shown.add_column("CPU time", justify="right")
    for name in list(shares.as_dict()["functions"])[:_MOST_FUNCTIONS]:
        shown.add_row(name, f"{shares.of_function(name):.1%}")
    return shown


def sentence(shares: Shares) -> str:
    """Say how much spinning there was, and how much of it was in vain."""
    spinning = shares.spinning
    if not shares.total or not spinning.points:
        return "Nobody was seen spinning for a lock."
    part = f"{spinning.points / shares.total:.1%} of the CPUs' time was spent spinning for locks"
    known = spinning.off + spinning.running + spinning.sleeping
    if not known:
        return f"{part}; whom for is not known."
    return f"{part}, {spinning.off / spinning.points:.0%} of that for a VCPU that was off its CPU."
