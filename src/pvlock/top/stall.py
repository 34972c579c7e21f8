# SPDX-License-Identifier: GPL-2.0-or-later
"""Was a stall of a guest its host's doing? A verdict with its evidence, and what would help."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pvlock.engines.kvm import probe
from pvlock.engines.kvm.probe import State
from pvlock.errors import WatchError
from pvlock.top import cgroup, proc
from pvlock.top.session import Interval, Session
from pvlock.top.usage import ThreadUsage, VmUsage

MUCH, LITTLE = 0.10, 0.01
"""Of the time that a VCPU could have run: so much of it lost is a yes, less than that a no."""
LONG_NS, SHORT_NS = 100_000_000, 10_000_000
"""The same for its longest gap."""
_PUBLISHER, _STOLEN = "publisher of `preempted`", "stolen time"
_SHOWN = 3


@dataclass(frozen=True)
class Answer:
    """Yes, no, or cannot tell, and why."""

    state: State
    because: str


@dataclass(frozen=True)
class Verdict:
    """What was asked, what was seen, and what it would take, by the name of each remedy."""

    vm: str
    seconds: float
    starved: Answer
    throttled: Answer
    itself: Answer
    evidence: list[str]
    remedies: dict[str, str]

    @property
    def sentence(self) -> str:
        """The answer in a line."""
        culprits = [
            words
            for answer, words in (
                (self.starved, "its host had no CPU for it"),
                (self.throttled, "its cgroup's quota kept it from running"),
                (self.itself, "it was the guest itself"),
            )
            if answer.state is State.YES
        ]
        what = " and ".join(culprits) or "cannot tell whether its host or the guest itself did it"
        return f"{self.vm}, {self.seconds:.1f} s: {what}."


def judge(interval: Interval, session: Session, pid: int) -> Verdict:
    """Judge what was seen of one VMM. Raises WatchError where it had no VCPU."""
    vms = [vm for vm in interval.vms if vm.tgid == pid]
    threads = [each for vm in vms for each in vm.threads]
    if not threads:
        raise WatchError(f"process {pid} ended before anything was seen of its VCPUs")
    waited, quota = _starved(threads), _throttled(threads)
    group = cgroup.of(pid)
    return Verdict(
        vm=session.names.vm(pid),
        seconds=max(each.span for each in threads) / 1e9,
        starved=waited,
        throttled=quota,
        itself=_itself(threads, waited, quota),
        evidence=_evidence(vms, threads, session, group),
        remedies=_remedies(vms, threads, session, group, waited, quota),
    )


def _wanted(each: ThreadUsage) -> int:
    return each.running + each.waited


def _share(ns: int | None, each: ThreadUsage) -> float:
    wanted = _wanted(each)
    return (ns or 0) / wanted if wanted else 0.0


def _who(each: ThreadUsage) -> str:
    return f"VCPU {each.thread.vcpu}" if each.thread.vcpu is not None else each.thread.name


def _starved(threads: Sequence[ThreadUsage]) -> Answer:
    """Ask whether a VCPU that could run had no CPU, by the one that lost the largest share."""
    worst = max(threads, key=lambda each: _share(each.ready, each))
    share = _share(worst.ready, worst)
    because = f"{_who(worst)} had no CPU for {share:.1%} of the time that it could have run"
    gaps = [each for each in threads if each.longest is not None]
    longest = max(gaps, key=lambda each: each.longest or 0, default=None)
    ns = 0 if longest is None or longest.throttled else longest.longest or 0
    if longest is not None and ns > SHORT_NS:
        because += f"; the longest gap was {ns / 1e6:.0f} ms ({_who(longest)})"
    if share >= MUCH or ns >= LONG_NS:
        return Answer(State.YES, because)
    if share < LITTLE and ns < SHORT_NS:
        return Answer(State.NO, because)
    return Answer(State.UNKNOWN, f"{because}: too much to rule it out, too little for a stall")


def _throttled(threads: Sequence[ThreadUsage]) -> Answer:
    known = [each for each in threads if each.throttled is not None]
    if not known:
        return Answer(State.UNKNOWN, "throttled time cannot be read here")
    worst = max(known, key=lambda each: _share(each.throttled, each))
    share = _share(worst.throttled, worst)
    because = f"{_who(worst)} was kept from running by a quota for {share:.1%} of that time"
    if share >= MUCH:
        return Answer(State.YES, because)
    if share < LITTLE:
        return Answer(State.NO, because)
    return Answer(State.UNKNOWN, f"{because}: too much to rule it out, too little for a stall")


def _itself(threads: Sequence[ThreadUsage], starved: Answer, throttled: Answer) -> Answer:
    states = {starved.state, throttled.state}
    running = sum(each.running for each in threads) / max(1, sum(each.span for each in threads))
    if State.YES in states:
        return Answer(State.NO, "its host did it, or enough of it")
    if states == {State.NO}:
        because = "whenever a VCPU could run, it had a CPU"
        return Answer(State.YES, f"{because}; VCPUs ran for {running:.1%} of the time")
    return Answer(State.UNKNOWN, "the host is not ruled out")


def _evidence(
    vms: Sequence[VmUsage],
    threads: Sequence[ThreadUsage],
    session: Session,
    group: cgroup.Cgroup | None,
) -> list[str]:
    found = []
    for each in sorted(threads, key=lambda each: -each.waited)[:_SHOWN]:
        throttled = "–" if each.throttled is None else f"{each.throttled / 1e6:,.0f} ms"
        found.append(
            f"{_who(each)}: running {each.running / 1e6:,.0f} ms, ready {each.ready / 1e6:,.0f} ms,"
            f" throttled {throttled}, blocked {each.blocked / 1e6:,.0f} ms,"
            f" preempted {each.preemptions:,} times"
        )
    for vm in vms:
        by = session.names.displaced_by(vm)
        for name, ns in (by or [])[:_SHOWN]:
            if ns > LITTLE * vm.waited:
                found.append(f"while its VCPUs waited, {name} had the CPU for {ns / 1e6:,.0f} ms")
    if group is not None and group.quota is not None:
        found.append(
            f"the cgroup {group.path} may use {group.quota:g} CPUs; it has been throttled"
            f" {group.throttled:,} times since it was made"
        )
    return found


def _remedies(
    vms: Sequence[VmUsage],
    threads: Sequence[ThreadUsage],
    session: Session,
    group: cgroup.Cgroup | None,
    starved: Answer,
    throttled: Answer,
) -> dict[str, str]:
    """Say what it would take, and of what does not depend on the verdict, whether it can be had."""
    found = {}
    if starved.state is not State.NO:
        found["pinning"] = _pinning(vms, threads, session)
    if throttled.state is not State.NO and group is not None and group.quota is not None:
        found["quota"] = (
            f"raise that of {group.path}: {group.quota:g} CPUs for {len(threads)} VCPUs"
        )
    if State.YES in (starved.state, throttled.state):
        answers = {each.what: each for each in probe.findings()}
        found["PV-lock"] = _pv_lock(answers[_PUBLISHER])
        found["PV time"] = _pv_time(answers[_STOLEN])
    if not found:
        found["none here"] = "look inside the guest"
    return found


def _pinning(vms: Sequence[VmUsage], threads: Sequence[ThreadUsage], session: Session) -> str:
    allowed: set[str] = set()
    for each in threads:
        status = proc.status(each.thread.tgid, each.thread.key.tid)
        if cpus := status.get("Cpus_allowed_list"):
            allowed.add(cpus)
    where = f"its {len(threads)} VCPUs may use the CPUs {', '.join(sorted(allowed))}; "
    by = [name for vm in vms for name, _ in session.names.displaced_by(vm) or ()]
    away = f"give them CPUs away from {by[0]}" if by else "give them CPUs of their own"
    return (where if allowed else "") + away


def _pv_lock(publisher: probe.Finding) -> str:
    helps = "waiters for the locks of a preempted VCPU stop spinning, which loses less and not none"
    if platform.machine() != "aarch64":
        return f"{helps}; it is for arm64 guests, and x86 has an interface of its own"
    if publisher.state is State.YES:
        return f"{helps}; this host can publish `preempted`, if the VMM does"
    return f"{helps}; this host cannot publish `preempted`: {publisher.because}"


def _pv_time(stolen: probe.Finding) -> str:
    helps = "the guest knows what was stolen, and its watchdogs do not bark"
    if platform.machine() != "aarch64":
        return f"{helps}; on x86 a Linux guest sees it as steal in /proc/stat"
    if stolen.state is State.YES:
        return f"{helps}; this host's KVM keeps it, if the VMM asks for it"
    return f"{helps}; {stolen.because}"


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """Return all of it."""
    answers = {name: getattr(verdict, name) for name in ("starved", "throttled", "itself")}
    return {
        "vm": verdict.vm,
        "seconds": verdict.seconds,
        "verdict": verdict.sentence,
        **{name: {"answer": a.state, "because": a.because} for name, a in answers.items()},
        "evidence": verdict.evidence,
        "remedies": verdict.remedies,
    }
