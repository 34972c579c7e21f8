# SPDX-License-Identifier: GPL-2.0-or-later
"""The unit of work of a sweep: one run of one machine, which several cells may share."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pvlock import workload
from pvlock.abi import Policy
from pvlock.errors import PvlockError
from pvlock.sweep import fingerprint
from pvlock.workload import Settings


@dataclass(frozen=True)
class Run:
    """A machine with `pvlock` or without, and the settings that matter to it."""

    pvlock: bool
    settings: Settings


@dataclass(frozen=True)
class Measurement:
    """What a sweep keeps of a finished run. `throughput` is acquisitions per second."""

    acquisitions: int
    throughput: float
    fairness: float
    spin_share: float
    wait_p50_ns: int
    wait_p99_ns: int
    wait_max_ns: int
    sleeps: int
    switches: int
    exits: int


@dataclass(frozen=True)
class Failure:
    """A run that has no result, and why, in one line."""

    reason: str


Outcome = Measurement | Failure


def runs_of(cell: Settings) -> dict[str, Run]:
    """Return the runs that a cell needs, by name (workload.RUNS).

    Equal machines are equal runs. So cells that differ only in how much they overcommit share a
    baseline: the run with PV-lock and as many VCPUs as CPUs. And runs without PV-lock are the same
    under either policy, since there are no structures to write. With PV-lock the policy matters
    even where nothing is overcommitted: a VCPU that sleeps counts as preempted under one policy
    only. All runs are on the emulator: a real host has slices and costs of its own, and no run on
    it can be repeated.
    """
    cell = replace(cell, engine="emulator")
    found = {}
    for name in workload.RUNS:
        vcpus, pvlock = workload.machine_of(name, cell)
        policy = cell.policy if pvlock else Policy.SCHEDULED_OUT
        found[name] = Run(pvlock, replace(cell, vcpus=vcpus, policy=policy))
    return found


def execute(
    run: Run, expected_code: str, cancelled: Callable[[], bool] = lambda: False
) -> Outcome | None:
    """Do a run here and now; return None when `cancelled`, and a Failure when it goes wrong.

    `expected_code` is the fingerprint that the sweep's own process found (fingerprint.of_code). A
    worker with other code must not answer, nor may code that has changed since the sweep began.
    """
    settings = run.settings
    try:
        if fingerprint.of_code(settings.guest) != expected_code:
            return Failure("pvlock has changed since the sweep began, or this worker has another")
        name = "with" if run.pvlock else "without"
        result = workload.run(name, settings, cancelled=cancelled)
    except (PvlockError, OSError, MemoryError) as error:
        return Failure(" ".join(f"{type(error).__name__}: {error}".split()))
    if result is None:
        return None
    return Measurement(
        acquisitions=result.acquisitions,
        throughput=result.throughput,
        fairness=result.fairness,
        spin_share=result.spin_share,
        wait_p50_ns=result.report.wait_percentile(50),
        wait_p99_ns=result.report.wait_percentile(99),
        wait_max_ns=result.longest_wait_ns,
        sleeps=sum(vcpu.sleeps for vcpu in result.report.vcpus),
        switches=result.usage.switches,
        exits=sum(result.usage.exits.values()),
    )
