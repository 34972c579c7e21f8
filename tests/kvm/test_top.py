# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock top` on an arm64 host: two VMs that share a CPU, and what the kernel counts itself."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pvlock.top import names, proc, usage
from pvlock.top.threads import Snapshot
from pvlock.top.usage import Names, ThreadUsage
from pvlock.top.watch import Watcher

VCPUS, OTHER_VCPUS = 3, 2
WATCHED_SECONDS = 8
SETTLED_SECONDS = 120
OPEN_NS = 50_000_000
FOREVER_NS = 600 * 10**9
MACHINE = """if True:
    from pvlock import Machine
    from pvlock.workload import image_of

    with Machine({vcpus}, 1, engine="kvm", bootargs="duration={ns}") as machine:
        machine.load(image_of("{guest}"))
        machine.run({ns})
"""


@contextmanager
def vm(script: Callable[..., subprocess.Popen[str]], vcpus: int, guest: str) -> Iterator[int]:
    """Run a machine on one CPU, the same for all; give its process, and end it."""
    with script(MACHINE.format(vcpus=vcpus, guest=guest, ns=FOREVER_NS)) as process:
        try:
            yield process.pid
        finally:
            process.kill()


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
    with (
        Watcher() as watcher,
        vm(script, VCPUS, "mutex") as one,
        vm(script, OTHER_VCPUS, "idle") as other,
    ):
        first = with_vcpus(watcher, {one: VCPUS, other: OTHER_VCPUS})
        seen = usage.between(Snapshot(first.at, {}), first)
        mine = next(each for each in seen if each.tgid == one).threads
        # The kernel's count cannot be read at once with ours: so once before, and once after.
        counted = [waited(mine)]
        before = watcher.snapshot()
        counted.append(waited(mine))
        time.sleep(WATCHED_SECONDS)
        counted.append(waited(mine))
        after = watcher.snapshot()
        counted.append(waited(mine))
        known = Names(names.vm_name, proc.name)
        known.learn(after)
        vms = {each.tgid: each for each in usage.between(before, after)}
    found, theirs = vms[one], vms[other]
    assert [each.thread.vcpu for each in found.threads] == list(range(VCPUS))
    assert [each.thread.vcpu for each in theirs.threads] == [0, 1]
    for each in (*found.threads, *theirs.threads):
        total = each.running + each.ready + each.blocked + (each.throttled or 0)
        assert total == pytest.approx(each.span, rel=0.01)
    for each, (outer, begin, end, last) in zip(
        found.threads, zip(*counted, strict=True), strict=True
    ):
        # It counts a wait when that has ended.
        assert (end - begin) * 0.99 - OPEN_NS < each.ready < (last - outer) * 1.01 + OPEN_NS
    by = dict(known.displaced_by(found) or ())
    assert by[known.vm(other)] > 0 and by[usage.ITSELF] > 0
    assert dict(known.displaced_by(theirs) or ())[known.vm(one)] > 0
    # In the lab none is counted, as its QEMU passes over WFE: it is known, and that is all.
    assert found.exits is not None and found.vain is not None
    print(
        f"running {found.running / found.span:.1%}, ready {found.ready / found.span:.1%},"
        f" blocked {found.blocked / found.span:.1%}; WFE exits {found.exits}, in vain {found.vain},"
        f" directed yields {found.yields}; by {by}; {sys.version.split()[0]}"
    )
