# SPDX-License-Identifier: GPL-2.0-or-later
"""What threads did between two snapshots, and what VMs did: the sums of their VCPUs. Times: ns."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pvlock.top.threads import IDLE, Displacer, Snapshot, Thread, percentile

ITSELF = "itself"


@dataclass
class Usage:
    """What one thread, or all of a VM, did in an interval; None is what cannot be told.

    `ready` has no throttled time in it, unless `throttled` is None.
    """

    span: int = 0
    """The time that all else is a part of: of a VM, that of all its VCPUs together."""
    running: int = 0
    ready: int = 0
    blocked: int = 0
    throttled: int | None = None
    preemptions: int = 0
    waits: int | None = None
    migrations: int | None = None
    exits: int | None = None
    vain: int | None = None
    yields: int | None = None
    longest: int | None = None
    gaps: tuple[int, ...] | None = None
    displaced: dict[Displacer, int] | None = None

    @property
    def p99(self) -> int | None:
        """The ns that 99 % of the gaps that ended were no longer than, to 25 %."""
        found = None if self.gaps is None else percentile(self.gaps, 0.99)
        return found if found is None or self.longest is None else min(found, self.longest)

    @property
    def waited(self) -> int:
        """Ready and throttled together."""
        return self.ready + (self.throttled or 0)


@dataclass
class ThreadUsage(Usage):
    """What one thread did."""

    thread: Thread = field(kw_only=True)


@dataclass
class VmUsage(Usage):
    """What a VM did, or a process whose threads are watched."""

    tgid: int = 0
    is_vm: bool = True
    threads: list[ThreadUsage] = field(default_factory=list)


def between(before: Snapshot, after: Snapshot) -> list[VmUsage]:
    """Return what every VM did, the one that waited most first."""
    vms: dict[tuple[int, int], VmUsage] = {}
    for key, thread in after.threads.items():
        earlier = before.threads.get(key)
        if earlier is not None and not earlier.alive:
            continue
        usage = _difference(earlier, thread)
        vm = vms.setdefault(
            (thread.tgid, thread.vm), VmUsage(tgid=thread.tgid, is_vm=thread.vcpu is not None)
        )
        vm.threads.append(usage)
    for vm in vms.values():
        vm.threads.sort(key=lambda each: (each.thread.vcpu or 0, each.thread.key.tid))
        _add_up(vm)
    return sorted(vms.values(), key=lambda vm: -vm.waited)


def _difference(before: Thread | None, after: Thread) -> ThreadUsage:
    def less(now: int | None, then: int | None) -> int | None:
        return None if now is None else max(0, now - (then or 0))

    def minus(name: str) -> int | None:
        return less(getattr(after, name), getattr(before, name, None))

    start = after.key.began if before is None else before.at
    throttled, waited = minus("throttled"), minus("ready") or 0
    gaps = after.gaps
    if gaps is not None and before is not None and before.gaps is not None:
        gaps = tuple(now - then for now, then in zip(gaps, before.gaps, strict=True))
    if throttled is not None:
        throttled = min(throttled, waited)
    return ThreadUsage(
        thread=after,
        span=after.at - start,
        running=minus("running") or 0,
        ready=waited - (throttled or 0),
        blocked=minus("blocked") or 0,
        throttled=throttled,
        preemptions=minus("preemptions") or 0,
        waits=minus("waits"),
        migrations=minus("migrations"),
        exits=minus("exits"),
        vain=minus("vain"),
        yields=minus("yields"),
        longest=after.longest,
        gaps=gaps,
        displaced=None if after.displaced is None else dict(after.displaced),
    )


def _add_up(vm: VmUsage) -> None:
    for name in ("span", "running", "ready", "blocked", "preemptions"):
        setattr(vm, name, sum(getattr(each, name) for each in vm.threads))
    for name in ("throttled", "waits", "migrations", "exits", "vain", "yields"):
        setattr(vm, name, _total(getattr(each, name) for each in vm.threads))
    longest = [each.longest for each in vm.threads if each.longest is not None]
    vm.longest = max(longest) if longest else None
    gaps = [each.gaps for each in vm.threads if each.gaps is not None]
    vm.gaps = tuple(map(sum, zip(*gaps, strict=True))) if gaps else None
    charged = [each.displaced for each in vm.threads if each.displaced is not None]
    if charged:
        vm.displaced = defaultdict(int)
        for one in charged:
            for who, ns in one.items():
                vm.displaced[who] += ns


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


class Names:
    """Who a displacer is, in words. It remembers those who have ended since they were named."""

    def __init__(self, vm_name: Callable[[int], str], process_name: Callable[[int], str]) -> None:
        """`vm_name` and `process_name` name a process that has VCPUs, and one that has none."""
        self._vm_name, self._process_name = vm_name, process_name
        self._vms: dict[int, str] = {}
        self._others: dict[int, str] = {}
        self._threads: dict[int, Thread] = {}
        self._from_kernel: Mapping[Displacer, str] = {}

    def learn(self, snapshot: Snapshot) -> None:
        """Take in who is there."""
        self._from_kernel = snapshot.names
        threads = {thread.key.tid: thread for thread in snapshot.threads.values()}
        charged = {
            who.pid
            for thread in threads.values()
            for who in thread.displaced or ()
            if who.is_thread
        }
        old = {tid: thread for tid, thread in self._threads.items() if tid in charged}
        self._threads = old | threads
        tgids = {thread.tgid for thread in self._threads.values() if thread.vcpu is not None}
        self._vms = {tgid: self._vms.get(tgid) or self._vm_name(tgid) for tgid in tgids}
        others = {thread.tgid for thread in self._threads.values()} - tgids
        self._others = {tgid: self._others.get(tgid) or self.process(tgid) for tgid in others}

    def vm(self, tgid: int) -> str:
        """Name a VM, or a process whose threads are watched."""
        return self._vms.get(tgid) or self._others.get(tgid) or self.process(tgid)

    def process(self, tgid: int) -> str:
        """Name a process by its own name, or else by what the kernel called it."""
        if tgid == IDLE:
            return "idle CPU"
        known = self._process_name(tgid)
        return known or self._from_kernel.get(Displacer(tgid, is_thread=False)) or f"process {tgid}"

    def thread(self, thread: Thread) -> str:
        """Name a thread: web-3/2 is VCPU 2 of web-3."""
        if thread.vcpu is not None:
            return f"{self.vm(thread.tgid)}/{thread.vcpu}"
        return f"{thread.name}:{thread.key.tid}"

    def displacer(self, who: Displacer, by_thread: bool) -> tuple[str, int]:
        """Name whom a displacer belongs to, and its process: a VM whole or `by_thread`."""
        if not who.is_thread:
            if who.pid in self._vms:
                return f"{self._vms[who.pid]} (VMM)", who.pid
            return self.process(who.pid), who.pid
        thread = self._threads.get(who.pid)
        if thread is None:
            return self._from_kernel.get(who) or f"thread {who.pid}", 0
        whole = thread.vcpu is not None and not by_thread
        return (self.vm(thread.tgid) if whole else self.thread(thread)), thread.tgid

    def vm_of(self, pid: int, is_thread: bool) -> int | None:
        """Return the process of the VM that a displacer belongs to; None: it is no VM's."""
        if not is_thread:
            return pid if pid in self._vms else None
        thread = self._threads.get(pid)
        return thread.tgid if thread is not None and thread.vcpu is not None else None

    def displaced_by(self, usage: Usage) -> list[tuple[str, int]] | None:
        """Return who had the CPUs that this VM or thread waited for, and for how long.

        The longest first; None: it cannot be told.
        """
        if usage.displaced is None:
            return None
        by_thread = isinstance(usage, ThreadUsage)
        total: dict[str, int] = defaultdict(int)
        for who, ns in usage.displaced.items():
            name, tgid = self.displacer(who, by_thread)
            own = isinstance(usage, VmUsage) and usage.is_vm and tgid == usage.tgid
            total[ITSELF if own and who.is_thread else name] += ns
        return sorted(total.items(), key=lambda each: -each[1])


def only(vms: Sequence[VmUsage], tgids: set[int] | None) -> list[VmUsage]:
    """Return those of these processes; None: all."""
    return [vm for vm in vms if tgids is None or vm.tgid in tgids]


def of_threads(vm: VmUsage, threads: list[ThreadUsage]) -> VmUsage:
    """Return what these threads of it did together."""
    part = VmUsage(tgid=vm.tgid, is_vm=vm.is_vm, threads=threads)
    _add_up(part)
    return part
