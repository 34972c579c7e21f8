# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock top` on an arm64 host: two VMs that share a CPU, and what the kernel counts itself."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kvm.conftest import DEADLINE_NS
from pvlock import Machine, SystemEvent
from pvlock.top import names, proc, usage
from pvlock.top.slots import Feature
from pvlock.top.threads import Snapshot
from pvlock.top.usage import Names, ThreadUsage
from pvlock.top.watch import Watcher
from pvlock.workload import image_of

VCPUS = 3
GUEST_SECONDS, WATCHED_SECONDS = 20, 8
SETTLED_SECONDS = 60


@contextmanager
def running(machine: Machine) -> Iterator[None]:
    """Run a machine in a thread of its own, to its end."""
    events: list[object] = []
    thread = threading.Thread(target=lambda: events.append(machine.run(DEADLINE_NS)))
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert events == [SystemEvent.OFF], machine.console.text


def with_vcpus(watcher: Watcher, wanted: dict[int, int]) -> Snapshot:
    """Return the first snapshot that has so many VCPUs of these processes."""
    until = time.monotonic() + SETTLED_SECONDS
    while True:
        found = watcher.snapshot()
        count = dict.fromkeys(wanted, 0)
        for thread in found.threads.values():
            if thread.tgid in count:
                count[thread.tgid] += 1
        if count == wanted:
            return found
        assert time.monotonic() < until, count
        time.sleep(0.1)


def waited(found: list[ThreadUsage]) -> list[int]:
    counts = []
    for each in found:
        times = proc.schedstat(each.thread.tgid, each.thread.key.tid)
        assert times is not None
        counts.append(times[1])
    return counts


def test_two_vms_on_one_cpu(script: Callable[..., subprocess.Popen[str]]) -> None:
    text = f"""if True:
        from pvlock import Machine
        from pvlock.workload import image_of

        with Machine(2, 1, engine="kvm", bootargs="duration={GUEST_SECONDS * 10**9}") as machine:
            machine.load(image_of("idle"))
            print("loaded", flush=True)
            machine.run({DEADLINE_NS})
    """
    other = script(text)
    bootargs = f"duration={GUEST_SECONDS * 10**9}"
    with Watcher() as watcher, Machine(VCPUS, 1, engine="kvm", bootargs=bootargs) as machine:
        machine.load(image_of("mutex"))
        own = proc.status(threading.get_native_id())["Tgid"]
        with running(machine):
            before = with_vcpus(watcher, {int(own): VCPUS, other.pid: 2})
            first = usage.between(Snapshot(before.at, {}), before)
            mine = next(vm for vm in first if vm.tgid == int(own))
            delay = waited(mine.threads)
            time.sleep(WATCHED_SECONDS)
            after = watcher.snapshot()
            known = Names(names.vm_name, proc.name)
            known.learn(after)
            vms = {vm.tgid: vm for vm in usage.between(before, after)}
            delay = [now - then for now, then in zip(waited(mine.threads), delay, strict=True)]
        assert watcher.features & Feature.WFE_EXITS
    found, theirs = vms[int(own)], vms[other.pid]
    assert [each.thread.vcpu for each in found.threads] == list(range(VCPUS))
    assert [each.thread.vcpu for each in theirs.threads] == [0, 1]
    for each in (*found.threads, *theirs.threads):
        total = each.running + each.ready + each.blocked + (each.throttled or 0)
        assert total == pytest.approx(each.span, rel=0.01)
    for each, counted in zip(found.threads, delay, strict=True):
        assert each.ready == pytest.approx(counted, rel=0.01, abs=50_000_000)
    by = dict(known.displaced_by(found) or ())
    assert by[known.vm(other.pid)] > 0 and by[usage.ITSELF] > 0
    assert dict(known.displaced_by(theirs) or ())[known.vm(int(own))] > 0
    # In the lab none is counted, as its QEMU passes over WFE: it is known, and that is all.
    assert found.exits is not None and found.vain is not None
    print(
        f"running {found.running / found.span:.1%}, ready {found.ready / found.span:.1%},"
        f" blocked {found.blocked / found.span:.1%}; WFE exits {found.exits}, in vain {found.vain},"
        f" directed yields {found.yields}; by {by}; {sys.version.split()[0]}"
    )
