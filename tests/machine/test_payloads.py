# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled locks: each excludes, none loses a waiter, and each is what its theory says."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pvlock import Policy, workload
from pvlock.workload import RUNS, Result, Settings

SHORT = Settings(duration_ns=5_000_000, slice_ns=500_000)
LOCKS = ("mutex", "rwsem", "qspinlock", "ticket")


def results(settings: Settings, names: tuple[str, ...] = RUNS) -> dict[str, Result]:
    def one(name: str) -> tuple[str, Result]:
        result = workload.run(name, settings)
        assert result is not None
        return name, result

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(one, names))


def test_every_payload_is_here() -> None:
    assert workload.names() == sorted([*LOCKS, "idle"])


@pytest.fixture(scope="module", params=LOCKS)
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Result]]:
    yield results(replace(SHORT, guest=request.param))


def test_all_vcpus_get_the_lock(runs: dict[str, Result]) -> None:
    """The guest itself checks that no two owners were in the critical section together."""
    for result in runs.values():
        assert all(vcpu.acquisitions > 0 for vcpu in result.report.vcpus)


def test_only_pvlock_makes_spinners_sleep(runs: dict[str, Result]) -> None:
    if all(vcpu.sleeps for vcpu in runs["baseline"].report.vcpus):
        return  # rwsem: its readers sleep in any case
    assert sum(vcpu.sleeps for vcpu in runs["without"].report.vcpus) == 0
    assert sum(vcpu.sleeps for vcpu in runs["with"].report.vcpus) > 0


def test_without_pvlock_the_guest_asks_for_nothing(runs: dict[str, Result]) -> None:
    assert not runs["without"].report.pvlock
    assert runs["with"].report.pvlock


@pytest.mark.parametrize("guest", LOCKS)
@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("trap_wfe", [True, False])
def test_no_lock_stalls(guest: str, policy: Policy, trap_wfe: bool) -> None:
    """Many VCPUs on one CPU, short slices: a lost wake-up would stall the guest."""
    settings = replace(
        SHORT, guest=guest, policy=policy, trap_wfe=trap_wfe, vcpus=17, pcpus=2,
        slice_ns=50_000, duration_ns=2_000_000, cs_ns=500, think_ns=1_000,
    )  # fmt: skip
    for result in results(settings, ("without", "with")).values():
        assert result.acquisitions > 0


@pytest.mark.parametrize("slice_ns", [500_000, 3_000_000])
def test_idle_costs_nothing(slice_ns: int) -> None:
    runs = results(replace(SHORT, guest="idle", slice_ns=slice_ns), ("without", "with"))
    ratio = runs["with"].throughput / runs["without"].throughput
    assert abs(ratio - 1) <= 0.001
