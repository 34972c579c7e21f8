# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines on which the guest runs, where Python can make them, and which cases run on which.

There are up to six: one as it should be, one with no structure placed, one with PV-lock off, one
with a known schedule, one whose VCPUs switch all the time, and one with many VCPUs.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from pvlock.abi import Policy
from pvlock.conformance import audit, schedule, userspace
from pvlock.conformance.cases import Case

_OBSERVE_MS = 20
"""How long the guest watches flags on the emulator."""
_OBSERVE_REAL_MS = 500
"""How long the guest watches flags on a real host, whose scheduler may take its time."""
_ALWAYS = frozenset({"SMCCC", "TIME", "LSE", "GIC"})
"""What a machine has whether PV-lock is on or off."""
_FOUND_OUT = frozenset({"OVERCOMMIT", "STALE", "LSE", "BLOCKS", "PARALLEL", "YIELDS", "BRISK"})
"""Needs of which only the run of a case tells whether the machine meets them. A case may be skipped
for one that the machine does not claim to meet."""
_BRISK_NS = 20_000
"""The slices where VCPUs switch all the time."""
_SETTLE = "settle=100000"
"""On a simulated host a flag that will change does so at once."""
_BRISK = f"still={_BRISK_NS // 2} strict=1 {_SETTLE}"
SWITCHING = 7, 3
"""VCPUs and CPUs of a machine on which every way to lose a CPU and to get one is frequent."""
MANY = 66, 3
"""VCPUs with four values of Aff1, whose structures take more than a page; and their CPUs."""
OF_EACH_VCPU = frozenset({
    "address", "aligned", "stable", "distinct", "layout", "zero-after-call", "zeroed-by-call",
    "off-and-on", "called-again", "in-memory", "node", "region-pages", "affinity",
    "never-started", "off-vcpu", "first-instruction",
})  # fmt: skip
"""The cases that look at the structure of each VCPU once."""
_DRIVES_LIVES = "return-reads-0"
"""A case that makes VCPUs switch, for an audit."""


@dataclass(frozen=True)
class Plan:
    """One machine: its name, what its cases may need, and the options that make it."""

    name: str
    claims: frozenset[str]
    options: dict[str, Any]
    bootargs: str = ""
    needed: frozenset[str] = frozenset()
    """If not empty, only cases that need one of these run."""
    excluded: frozenset[str] = frozenset()
    """Cases that need one of these do not run."""
    again: frozenset[str] = frozenset()
    """The names of cases that run here too, although they have run elsewhere."""
    size: tuple[int, int] | None = None
    """How many VCPUs and CPUs, if not as many as was asked for."""
    drives: str = ""
    """A case that runs, if the switches are to be judged."""


def plans(
    policy: Policy, vcpus: int, pcpus: int, scripted: bool, without: frozenset[str]
) -> Iterable[Plan]:
    """Yield the machines; the arguments are those of runner.run()."""
    common = _ALWAYS | ({"SMP"} if vcpus > 1 else set())
    present = common | {"PVLOCK", "NODE", "STALE", "BLOCKS"}
    present |= {"LETTER"} if policy is Policy.SCHEDULED_OUT else {"SPARING"}
    present |= {"OVERCOMMIT"} if vcpus > pcpus else set()
    present |= {"PARALLEL"} if pcpus > 1 else set()
    observe = _OBSERVE_MS if scripted else _OBSERVE_REAL_MS
    arguments = f"observe={observe} live={observe} strict={int(scripted)}"
    arguments += f" {_SETTLE}" if scripted else ""
    brisk = scripted and vcpus > 1
    yield Plan(
        str(policy), present - without, {"policy": policy}, arguments,
        excluded=frozenset({"BRISK"} if brisk else ()),
    )  # fmt: skip
    yield Plan(
        "no structure placed",
        common - without | {"UNSET", "NODE"},
        {"policy": policy, "place": False},
        _SETTLE if scripted else "",
        needed=frozenset({"UNSET"}),
    )
    # On a real host the kernel has PV time, and we cannot switch it off.
    no_time = {"NO_TIME"} if scripted else set()
    yield Plan(
        "PV-lock and PV time off" if scripted else "PV-lock off",
        (common - without - ({"TIME"} if scripted else set())) | {"ABSENT"} | no_time,
        {"policy": policy, "pvlock": False},
        f"probe=1 {_SETTLE}" if scripted else "probe=1",
        needed=frozenset({"ABSENT"} | no_time),
    )
    if scripted and vcpus > 1:
        yield Plan(
            f"{policy}, scripted",
            present - without | {"WATCH"},
            {"policy": policy, "script": schedule.script()},
            f"watch={schedule.WATCH_NS} {_SETTLE}",
            needed=frozenset({"WATCH"}),
        )
    if brisk:
        claims = (present - without) | {"BRISK", "YIELDS", "OVERCOMMIT", "PARALLEL"}
        options = {"policy": policy, "slice_ns": _BRISK_NS}
        yield Plan(
            f"{policy}, brisk", claims, options, f"live=8 {_BRISK}",
            needed=frozenset({"BRISK"}), size=SWITCHING, drives=_DRIVES_LIVES,
        )  # fmt: skip
        yield Plan(
            f"{policy}, {MANY[0]} VCPUs", claims, options, f"live=3 {_BRISK}",
            needed=frozenset({"BRISK"}), again=OF_EACH_VCPU | {_DRIVES_LIVES}, size=MANY,
            drives=_DRIVES_LIVES,
        )  # fmt: skip


def belongs(case: Case, plan: Plan, found: Collection[str]) -> bool:
    """Tell whether `case` runs on the machine; `found` are the names of those that have run."""
    if case in (*userspace.cases(), *audit.CASES) or not case.needs - _FOUND_OUT <= plan.claims:
        return False
    if case.name in plan.again:
        return True
    if case.name in found or case.needs & plan.excluded:
        return False
    return not plan.needed or bool(case.needs & plan.needed)
