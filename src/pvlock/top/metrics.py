# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMs did since the exporter began, as metrics for Prometheus; needs prometheus_client."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pvlock.top.session import Interval, Session
from pvlock.top.threads import CLASSES, upper_bound
from pvlock.top.usage import ITSELF, ThreadUsage, Usage, VmUsage

STATES = ("running", "ready", "throttled", "blocked")
BOUNDS = tuple(1 << bits for bits in range(14, 36, 2))
"""Buckets of gaps, in ns: 16 µs to 17 s."""
HOST = "host"
"""Displacers that are no VM: processes and kernel threads, together, so that labels are few."""
_KEPT_SECONDS = 300
"""For so long the metrics of a VM that has ended are still there."""

Labels = tuple[str, ...]


@dataclass
class _Total:
    """Sums of one VM, or of one VCPU; times in ns."""

    seen: float = 0.0
    times: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    displaced: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    gaps: list[int] = field(default_factory=lambda: [0] * CLASSES)
    has_gaps: bool = False
    waited: int = 0
    vcpus: int = 0


class Totals(Collector):
    """Adds up intervals, and gives the sums to whoever asks, up to that moment."""

    def __init__(self, session: Session, by_vcpu: bool = False) -> None:
        """`by_vcpu`: have labels for VCPUs too, which can be very many."""
        self._session, self._by_vcpu = session, by_vcpu
        self._lock = threading.Lock()
        self._totals: dict[Labels, _Total] = {}
        self._unplaced = 0

    def add(self) -> None:
        """Take in what was done since the last time. Raises WatchError."""
        with self._lock:
            self._add(self._session.cut())

    def collect(self) -> Iterator[Metric]:
        """Return the metrics. Raises WatchError."""
        with self._lock:
            self._add(self._session.cut())
            yield from self._metrics()

    def _add(self, interval: Interval) -> None:
        now = time.monotonic()
        self._unplaced = interval.unplaced
        for vm in interval.vms:
            if not vm.is_vm:
                continue
            labels = (self._session.names.vm(vm.tgid), str(vm.tgid))
            parts: list[tuple[Labels, Usage]] = [(labels, vm)]
            if self._by_vcpu:
                parts = [((*labels, str(each.thread.vcpu)), each) for each in vm.threads]
            for key, usage in parts:
                total = self._totals.setdefault(key, _Total())
                total.seen = now
                total.vcpus = len(vm.threads)
                self._sum(total, usage, vm)
        self._totals = {
            key: total for key, total in self._totals.items() if now - total.seen < _KEPT_SECONDS
        }

    def _sum(self, total: _Total, usage: Usage, vm: VmUsage) -> None:
        for state in STATES:
            if (ns := getattr(usage, state)) is not None:
                total.times[state] += ns
        for name in ("preemptions", "migrations", "exits", "yields"):
            if (count := getattr(usage, name)) is not None:
                total.counts[name] += count
        total.waited += usage.waited
        if usage.gaps is not None:
            total.has_gaps = True
            total.gaps = [old + new for old, new in zip(total.gaps, usage.gaps, strict=True)]
        for who, ns in (usage.displaced or {}).items():
            total.displaced[self._by(who.pid, who.is_thread, vm, usage)] += ns

    def _by(self, pid: int, is_thread: bool, vm: VmUsage, usage: Usage) -> str:
        owner = self._session.names.vm_of(pid, is_thread)
        if owner is None:
            return HOST
        own = owner == vm.tgid and is_thread and not isinstance(usage, ThreadUsage)
        return ITSELF if own else self._session.names.vm(owner)

    def _metrics(self) -> Iterator[Metric]:
        labels = ["vm", "pid", *(["vcpu"] if self._by_vcpu else [])]
        cpu = CounterMetricFamily(
            "pvlock_vm_cpu_seconds",
            "Time of a VM's VCPUs: running, ready (could run, had no CPU), throttled by the quota"
            " of its cgroup, or blocked. The four add up to the time that they have been seen.",
            labels=[*labels, "state"],
        )
        displaced = CounterMetricFamily(
            "pvlock_vm_displaced_seconds",
            "Time that VCPUs waited while this VM, or another, or the host had the CPU.",
            labels=[*labels, "by"],
        )
        gaps = HistogramMetricFamily(
            "pvlock_vm_gap_seconds",
            "Gaps: from when a VCPU could run to when it ran.",
            labels=labels,
        )
        counters = {
            "preemptions": CounterMetricFamily(
                "pvlock_vm_preemptions",
                "How often a VCPU lost its CPU while it could have gone on.",
                labels=labels,
            ),
            "migrations": CounterMetricFamily(
                "pvlock_vm_migrations",
                "How often a VCPU came back on another CPU than it had left.",
                labels=labels,
            ),
            "exits": CounterMetricFamily(
                "pvlock_vm_wait_exits",
                "WFE exits (arm64), or directed yields tried after PLE exits (x86).",
                labels=labels,
            ),
            "yields": CounterMetricFamily(
                "pvlock_vm_directed_yields",
                "Directed yields that gave a VCPU a CPU.",
                labels=labels,
            ),
        }
        vcpus = GaugeMetricFamily("pvlock_vm_vcpus", "VCPUs that are seen.", labels=labels[:2])
        for key, total in self._totals.items():
            vcpus.add_metric(key[:2], total.vcpus)
            for state, ns in total.times.items():
                cpu.add_metric((*key, state), ns / 1e9)
            for who, ns in total.displaced.items():
                displaced.add_metric((*key, who), ns / 1e9)
            for name, count in total.counts.items():
                counters[name].add_metric(key, count)
            if total.has_gaps:
                gaps.add_metric(key, _buckets(total.gaps), total.waited / 1e9)
        yield cpu
        yield displaced
        yield gaps
        yield from counters.values()
        if not self._by_vcpu:
            yield vcpus
        source = GaugeMetricFamily(
            "pvlock_source_info",
            "Where the figures come from: bpf or schedstat.",
            labels=["source"],
        )
        source.add_metric([self._session.source], 1)
        yield source
        yield GaugeMetricFamily(
            "pvlock_unplaced_threads", "VCPUs that are too many to be watched.", self._unplaced
        )


def _buckets(gaps: list[int]) -> list[tuple[str, float]]:
    """Return how many gaps were no longer than each bound, in seconds."""
    found = []
    for bound in BOUNDS:
        count = sum(n for number, n in enumerate(gaps) if upper_bound(number) <= bound)
        found.append((repr(bound / 1e9), float(count)))
    return [*found, ("+Inf", float(sum(gaps)))]
