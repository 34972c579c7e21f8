# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs of an x86 host with KVM, with a VMM of our own (vmm.py): what the kernel says they are."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pvlock.abi import Policy
from pvlock.errors import WatchError
from pvlock.top import names, proc, usage
from pvlock.top.flags import Compared
from pvlock.top.session import Choice, Session
from pvlock.top.slots import Feature
from pvlock.top.threads import Snapshot
from pvlock.top.usage import Names, VmUsage
from pvlock.top.watch import Watcher

VMM = Path(__file__).with_name("vmm.py")
PATIENCE_S = 60
"""How long an event may take on a busy host."""


@contextlib.contextmanager
def vm(spin: int, halt: int, cpu: int, *flags: str) -> Iterator[int]:
    """Run a VM of `spin` VCPUs that never stop and `halt` that halt; give its process."""
    with subprocess.Popen(
        [sys.executable, str(VMM), str(spin), str(halt), str(cpu), *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"running\n"
            yield process.pid
        finally:
            process.kill()


def attempts() -> Iterator[None]:
    """Go on until the caller has seen what it waits for, and fail when that takes too long."""
    until = time.monotonic() + PATIENCE_S
    while True:
        yield
        assert time.monotonic() < until, "what the test waits for did not happen"


def by_pid(before: Snapshot, after: Snapshot) -> dict[int, VmUsage]:
    return {each.tgid: each for each in usage.between(before, after)}


def all_of(watcher: Watcher, pid: int, vcpus: int) -> Snapshot:
    """Return the first snapshot that has all VCPUs of a process."""
    for _ in attempts():
        found = watcher.snapshot()
        if sum(each.tgid == pid for each in found.threads.values()) == vcpus:
            break
        time.sleep(0.05)
    return found


def is_asleep(pid: int, name: str) -> bool:
    """Tell whether the thread of this name sleeps; a VCPU that is to halt first gets there."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        head, _, rest = stat.read_text().rpartition(")")
        if head.endswith(f"({name}"):
            return rest.split()[0] == "S"
    return False


def displacers(before: Snapshot, after: Snapshot, known: Names) -> dict[str, dict[str, int]]:
    """Return who displaced VMs and VCPUs, and for how long, by their names."""
    found = {}
    for each in usage.between(before, after):
        name = known.vm(each.tgid)
        found[name] = dict(known.displaced_by(each) or ())
        for thread in each.threads:
            found[f"{name}/{thread.thread.vcpu}"] = dict(known.displaced_by(thread) or ())
    return found


def test_two_vms_on_one_cpu(watcher: Watcher, cpu: int) -> None:
    """Each is found, with its VCPUs' numbers, by nothing but what the kernel keeps."""
    with vm(2, 1, cpu) as one, vm(1, 0, cpu) as other:
        all_of(watcher, other, 1)
        all_of(watcher, one, 3)
        for _ in attempts():
            if is_asleep(one, "guest 2"):
                break
            time.sleep(0.01)
        before = watcher.snapshot()
        assert watcher.features & Feature.NOTIFIERS and watcher.features & Feature.VCPUS
        known = Names(names.vm_name, proc.name)
        known.learn(before)
        first_vm, second_vm = known.vm(one), known.vm(other)
        # Each has the other in the way, and the first one also itself.
        wanted = {
            first_vm: {second_vm, usage.ITSELF},
            second_vm: {first_vm},
            f"{first_vm}/0": {f"{first_vm}/1", f"{second_vm}/0"},
        }
        for _ in attempts():
            time.sleep(1)
            after = watcher.snapshot()
            displaced = displacers(before, after, known)
            if all(displaced[of].get(by, 0) > 0 for of, all_by in wanted.items() for by in all_by):
                break
        assert usage.ITSELF not in displaced[second_vm]
        assert f"{first_vm}/0" not in displaced[f"{first_vm}/0"]
        found = by_pid(before, after)
        first, second = found[one], found[other]
        assert [each.thread.vcpu for each in first.threads] == [0, 1, 2]
        assert [each.thread.name for each in first.threads] == ["guest 0", "guest 1", "guest 2"]
        assert [each.thread.vcpu for each in second.threads] == [0]
        for each in (*first.threads, *second.threads):
            total = each.running + each.ready + each.blocked + (each.throttled or 0)
            assert total == pytest.approx(each.span, rel=0.01)
        for spinning in (*first.threads[:2], *second.threads):
            assert spinning.blocked < 0.01 * spinning.span
        assert first.threads[2].blocked > 0.99 * first.threads[2].span


def test_vms_come_and_go(may_watch: None, cpu: int) -> None:
    with Session(Choice()) as session:
        session.start()
        for _ in range(2):
            with vm(1, 0, cpu) as pid:
                for _ in attempts():
                    found = [each for each in session.interval(0.5).vms if each.tgid == pid]
                    if found and found[0].running > 0:
                        break
                assert len(found) == 1 and found[0].is_vm
            # What it did until it ended, and then no more of it.
            session.cut()
            assert pid not in {each.tgid for each in session.cut().vms}


def test_only_the_vm_that_is_asked_for(may_watch: None, cpu: int) -> None:
    with vm(1, 0, cpu) as one, vm(1, 0, cpu) as other, Session(Choice(pids=[one])) as session:
        for _ in attempts():
            # Until its VCPU has been inside KVM, it is a process like any other.
            with contextlib.suppress(WatchError):
                session.start()
                break
            time.sleep(0.05)
        for _ in attempts():
            interval = session.interval(0.5)
            assert [each.tgid for each in interval.vms] == [one]
            # It is not shown, but it is known: the one that is shown waits for it.
            by = dict(session.names.displaced_by(interval.vms[0]) or ())
            if session.names.vm(other) in by:
                break


def test_vcpus_by_their_threads_names(may_watch: None, cpu: int) -> None:
    """A VCPU that is asked for by the name of its thread is the VCPU that it is."""
    command = [sys.executable, "-m", "pvlock", "top", "--threads", "guest *", "--once", "--json"]
    with vm(1, 0, cpu) as pid:
        for _ in attempts():
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            record = json.loads(done.stdout)
            (found,) = (each for each in record["vms"] if each["pid"] == pid)
            numbers = [each["vcpu"] for each in found["threads"]]
            if numbers != [None]:  # not yet inside KVM
                break
    assert numbers == [0]


def flags_of(session: Session, pid: int) -> list[Compared]:
    """Return what was compared of the three VCPUs, when those that run have been seen both ways."""
    flags = [Compared(Policy.SCHEDULED_OUT) for _ in range(3)]
    for _ in attempts():
        interval = session.interval(1)
        (found,) = (each for each in interval.vms if each.tgid == pid)
        for total, thread in zip(flags, found.threads, strict=True):
            new = interval.flags.get(thread.thread.key.tid)
            if new is None:
                continue
            for what in ("looks", "flag", "truth", "differ"):
                setattr(total, what, getattr(total, what) + getattr(new, what))
            total.policy = new.policy
        if all(0 < each.truth < each.looks for each in flags[:2]) and flags[2].looks > 9:
            break
    return flags


@pytest.mark.parametrize("policy", list(Policy))
def test_flags_beside_the_truth(may_watch: None, cpu: int, policy: Policy) -> None:
    """Two VCPUs take turns, and one halts: what they publish is what they do."""
    with vm(2, 1, cpu, policy) as pid, Session(Choice()) as session:
        flags = flags_of(session, pid)
    assert all(each.policy is policy and each.differ == 0 for each in flags)
    assert all(each.flag == each.truth for each in flags)
    assert flags[2].flag == (flags[2].looks if policy is Policy.SCHEDULED_OUT else 0)


def test_flags_that_are_wrong(may_watch: None, cpu: int) -> None:
    """One VM lies of a VCPU that halts; another publishes nothing."""
    command = [sys.executable, "-m", "pvlock", "top", "--vcpus", "--once", "--interval", "2s"]
    with vm(2, 1, cpu, Policy.SCHEDULED_OUT, "lie") as pid, vm(1, 0, cpu) as other:
        with Session(Choice()) as session:
            flags = flags_of(session, pid)
            interval = session.interval(0.5)
            (silent,) = (each for each in interval.vms if each.tgid == other)
            assert silent.threads[0].thread.key.tid not in interval.flags
        assert [each.differ for each in flags] == [0, 0, flags[2].looks]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = shown.splitlines()
    assert "flags WRONG in" in lines[0] and "flag/is" in lines[1]
    (halted,) = (words for line in lines if (words := line.split())[:2] == ["VCPU", "2"])
    assert halted[9] == "0/100"


def test_512_vcpus(watcher: Watcher, cpu: int) -> None:
    with vm(2, 510, cpu) as pid:
        before = all_of(watcher, pid, 512)
        assert before.unplaced == 0
        time.sleep(1)
        found = by_pid(before, watcher.snapshot())[pid]
        assert [each.thread.vcpu for each in found.threads] == list(range(512))
        parts = found.running + found.ready + found.blocked + (found.throttled or 0)
        assert parts == pytest.approx(found.span, rel=0.01)


def test_exported(may_watch: None, cpu: int) -> None:
    """Counters that grow, whose states add up to the time of all VCPUs."""

    def scrape(url: str) -> dict[str, float]:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
            text = page.read().decode()
        return {
            sample.labels.get("state", sample.name): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in ("pvlock_vm_cpu_seconds_total", "pvlock_vm_vcpus")
            and sample.labels["pid"] == str(pid)
        }

    command = [sys.executable, "-m", "pvlock", "export", "--listen", "127.0.0.1:0"]
    with (
        vm(2, 1, cpu) as pid,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[1]
            for _ in attempts():
                begin = time.monotonic()
                first = scrape(url)
                begun = time.monotonic()
                if first.get("pvlock_vm_vcpus") == 3:
                    break
                time.sleep(0.1)
            time.sleep(2)
            end = time.monotonic()
            second = scrape(url)
            ended = time.monotonic()
        finally:
            process.terminate()
    grown = {state: second[state] - first[state] for state in first if state != "pvlock_vm_vcpus"}
    # Each scrape is of a moment in it.
    least, most = end - begun, ended - begin
    assert 3 * least * 0.99 < sum(grown.values()) < 3 * most * 1.01
    assert least * 0.99 < grown["blocked"] < most * 1.01
    assert grown["running"] > 0 and grown["ready"] > 0
