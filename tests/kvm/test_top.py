# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock top` on an arm64 host: VMs that share a CPU, and what the kernel counts itself.

PVLOCK_TOP_SECONDS says for how long they are watched beside the kernel's own recorder.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ftrace
from kvm.test_linux import INITRD, KERNEL
from pvlock.abi import Policy
from pvlock.top import names, proc, usage
from pvlock.top.session import Choice, Session
from pvlock.top.threads import Snapshot
from pvlock.top.usage import Names, ThreadUsage, VmUsage
from pvlock.top.watch import Watcher
from pvlock.workload import image_of

VCPUS, OTHER_VCPUS = 3, 2
WATCHED_SECONDS = 4
COMPARED_SECONDS = float(os.environ.get("PVLOCK_TOP_SECONDS", "8"))
SETTLED_SECONDS = 120
QEMU = "qemu-system-aarch64"
SPINS = 'rdinit=/bin/busybox -- sh -c "while :; do :; done"'
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


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a VMM, and end it."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@contextmanager
def qemu() -> Iterator[subprocess.Popen[bytes]]:
    """Run Debian's kernel in QEMU with KVM, one VCPU busy."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"needs {QEMU}")
    if not KERNEL.exists():
        pytest.skip("set PVLOCK_LINUX to a folder with an arm64 Image and an initrd")
    with process(
        *(QEMU, "-name", "guest=web-3", "-M", "virt,gic-version=host", "-accel", "kvm"),
        *("-cpu", "host", "-smp", str(OTHER_VCPUS), "-m", "256"),
        *("-nodefaults", "-display", "none", "-serial", "stdio", "-kernel", str(KERNEL)),
        *("-initrd", str(INITRD), "-append", f"console=ttyAMA0 {SPINS}"),
    ) as started:
        assert started.stdout is not None
        said = b""
        # The last word of the kernel, when all CPUs are up.
        while b"Run /bin/busybox as init process" not in said:
            line = started.stdout.readline()
            assert line, said[-2000:]
            said += line
        yield started


def seen(session: Session, started: subprocess.Popen[bytes], vcpus: int) -> list[int]:
    """Return the threads of a VMM's VCPUs, when it has so many."""
    until = time.monotonic() + SETTLED_SECONDS
    while True:
        found = [vm for vm in session.interval(0.5).vms if vm.tgid == started.pid]
        if found and len(found[0].threads) == vcpus:
            return [each.thread.key.tid for each in found[0].threads]
        if started.poll() is not None:
            assert started.stdout is not None
            raise AssertionError(started.stdout.read())
        assert time.monotonic() < until, found


def test_qemu_and_a_vm_of_our_own(tmp_path: Path) -> None:
    """Debian in QEMU beside a mutex of ours, on one CPU: what top says, and what ftrace says."""
    cpu = min(os.sched_getaffinity(0))  # which ours takes
    image = tmp_path / "mutex.elf"
    image.write_bytes(image_of("mutex"))
    mutex = [
        *(sys.executable, "-m", "pvlock", "run", str(image), "--engine", "kvm"),
        *("--vcpus", str(VCPUS), "--pcpus", "1", "--duration", "3600s"),
        *("--append", f"duration={6 * FOREVER_NS}"),
    ]
    with Session(Choice()) as session, qemu() as one, process(*mutex) as other:
        session.start()
        tids = dict.fromkeys(seen(session, one, OTHER_VCPUS), one.pid)
        tids |= dict.fromkeys(seen(session, other, VCPUS), other.pid)
        for tid in tids:
            os.sched_setaffinity(tid, {cpu})
        with ftrace.recorded(tids) as kernel:
            session.cut()
            interval = session.interval(COMPARED_SECONDS)
        known = session.names
    vms = {vm.tgid: vm for vm in interval.vms}
    theirs, ours = one.pid, other.pid
    assert known.vm(theirs) == "web-3" and known.vm(ours) == "pvlock-mutex.elf"
    for pid, vcpus in ((theirs, OTHER_VCPUS), (ours, VCPUS)):
        assert [each.thread.vcpu for each in vms[pid].threads] == list(range(vcpus))
        as_the_kernel_recorded(vms[pid], kernel)
    displaced(vms[theirs], vms[ours], known, kernel)
    displaced(vms[ours], vms[theirs], known, kernel)
    # Ours publishes flags, and each is what it should be; QEMU publishes none.
    assert {tids[tid] for tid in interval.flags} == {ours}
    assert sum(each.looks for each in interval.flags.values()) > 10
    for compared in interval.flags.values():
        assert (compared.policy, compared.differ) == (Policy.SCHEDULED_OUT, 0)
    for vm in interval.vms:
        print(
            known.vm(vm.tgid),
            *(f"{what} {getattr(vm, what) / vm.span:.2%}" for what in ("running", "ready")),
            *(f"{name} {ns / vm.span:.2%}" for name, ns in known.displaced_by(vm) or ()),
        )


STATES = {ftrace.RUNNING: "running", ftrace.READY: "waited", ftrace.BLOCKED: "blocked"}


def as_the_kernel_recorded(vm: VmUsage, kernel: ftrace.Recorded) -> None:
    """Each VCPU within 1 % of its time, and the sums of all VCPUs within 1 % of themselves.

    Both are called at each switch, one after the other. On an emulated CPU, that can be long after.
    """
    total = dict.fromkeys(STATES, 0)
    for each in vm.threads:
        parts = each.running + each.ready + each.blocked + (each.throttled or 0)
        assert parts == pytest.approx(each.span, rel=0.01)
        assert each.span == pytest.approx(COMPARED_SECONDS * 1e9, rel=0.25)
        tid, end = each.thread.key.tid, each.thread.at
        times = {ftrace.BLOCKED: each.span}  # an idle VCPU, all the time
        if kernel.changes[tid]:
            times = kernel.times(tid, end - each.span, end)
        for state, name in STATES.items():
            total[state] += times.get(state, 0)
            near = 0.01 * each.span
            assert getattr(each, name) == pytest.approx(times.get(state, 0), abs=near), name
    for state, name in STATES.items():
        print(f"{name}: {getattr(vm, name) / 1e6:,.0f} ms, ftrace {total[state] / 1e6:,.0f} ms")
        near = 0.002 * vm.span
        assert getattr(vm, name) == pytest.approx(total[state], rel=0.01, abs=near), name


def displaced(vm: VmUsage, other: VmUsage, known: Names, kernel: ftrace.Recorded) -> None:
    """Each has the other in its way, for as long as the kernel recorded."""
    by = dict(known.displaced_by(vm) or ())[known.vm(other.tgid)]
    others = [each.thread.key.tid for each in other.threads if kernel.changes[each.thread.key.tid]]
    recorded = sum(
        kernel.waited_for(each.thread.key.tid, others, each.thread.at - each.span, each.thread.at)
        for each in vm.threads
        if kernel.changes[each.thread.key.tid]
    )
    # A wait that ends as an interval begins can be charged in the one before, or in this.
    edge = sum(each.longest or 0 for each in vm.threads)
    assert by == pytest.approx(recorded, rel=0.01, abs=edge) and by > edge
