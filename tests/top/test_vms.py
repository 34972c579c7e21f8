# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs of an x86 host with KVM, with a VMM of our own (vmm.py): what the kernel says they are."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pvlock.top import names, proc, usage
from pvlock.top.session import Choice, Session
from pvlock.top.slots import Feature
from pvlock.top.threads import Snapshot
from pvlock.top.usage import Names, VmUsage
from pvlock.top.watch import Watcher

VMM = Path(__file__).with_name("vmm.py")


@contextmanager
def vm(spin: int, halt: int, cpu: int) -> Iterator[int]:
    """Run a VM of `spin` VCPUs that never stop and `halt` that halt; give its process."""
    with subprocess.Popen(
        [sys.executable, str(VMM), str(spin), str(halt), str(cpu)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"running\n"
            yield process.pid
        finally:
            process.kill()


def by_pid(before: Snapshot, after: Snapshot) -> dict[int, VmUsage]:
    return {each.tgid: each for each in usage.between(before, after)}


def all_of(watcher: Watcher, pid: int, vcpus: int) -> Snapshot:
    """Return the first snapshot that has all VCPUs of a process."""
    deadline = time.monotonic() + 30
    while True:
        found = watcher.snapshot()
        if sum(each.tgid == pid for each in found.threads.values()) == vcpus:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_vms_on_one_cpu(watcher: Watcher, cpu: int) -> None:
    """Each is found, with its VCPUs' numbers, by nothing but what the kernel keeps."""
    with vm(2, 1, cpu) as one, vm(1, 0, cpu) as other:
        all_of(watcher, other, 1)
        before = all_of(watcher, one, 3)
        assert watcher.features & Feature.NOTIFIERS and watcher.features & Feature.VCPUS
        time.sleep(2)
        after = watcher.snapshot()
        known = Names(names.vm_name, proc.name)
        known.learn(after)
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
        # Each has the other in the way, and the first one also itself.
        by = dict(known.displaced_by(second) or ())
        assert by[known.vm(one)] > 0 and usage.ITSELF not in by
        by = dict(known.displaced_by(first) or ())
        assert by[known.vm(other)] > 0 and by[usage.ITSELF] > 0
        by = dict(known.displaced_by(first.threads[0]) or ())
        assert f"{known.vm(one)}/1" in by and f"{known.vm(other)}/0" in by
        assert f"{known.vm(one)}/0" not in by


def test_vms_come_and_go(may_watch: None, cpu: int) -> None:
    with Session(Choice()) as session:
        session.start()
        for _ in range(2):
            with vm(1, 0, cpu) as pid:
                found = [each for each in session.interval(1).vms if each.tgid == pid]
                assert len(found) == 1 and found[0].running > 0 and found[0].is_vm
            # What it did until it ended, and then no more of it.
            session.cut()
            assert pid not in {each.tgid for each in session.cut().vms}


def test_only_the_vm_that_is_asked_for(may_watch: None, cpu: int) -> None:
    with vm(1, 0, cpu) as one, vm(1, 0, cpu) as other:
        time.sleep(0.2)
        with Session(Choice(pids=[one])) as session:
            interval = session.interval(1)
            assert [each.tgid for each in interval.vms] == [one]
            # It is not shown, but it is known: the one that is shown waits for it.
            by = dict(session.names.displaced_by(interval.vms[0]) or ())
            assert session.names.vm(other) in by


def test_vcpus_by_their_threads_names(may_watch: None, cpu: int) -> None:
    """A VCPU that is asked for by the name of its thread is the VCPU that it is."""
    command = [sys.executable, "-m", "pvlock", "top", "--threads", "guest *", "--once", "--json"]
    with vm(1, 0, cpu) as pid:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    (found,) = (each for each in record["vms"] if each["pid"] == pid)
    assert [each["vcpu"] for each in found["threads"]] == [0]


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
        with urllib.request.urlopen(url, timeout=30) as page:
            text = page.read().decode()
        return {
            sample.labels["state"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "pvlock_vm_cpu_seconds_total" and sample.labels["pid"] == str(pid)
        }

    command = [sys.executable, "-m", "pvlock", "export", "--listen", "127.0.0.1:0"]
    with vm(2, 1, cpu) as pid:
        time.sleep(0.2)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                url = process.stdout.readline().split()[1]
                scrape(url)
                begin = time.monotonic()
                first = scrape(url)
                time.sleep(2)
                second = scrape(url)
                seconds = time.monotonic() - begin
            finally:
                process.terminate()
    grown = {state: second[state] - first[state] for state in second}
    assert sum(grown.values()) == pytest.approx(3 * seconds, rel=0.2)
    assert grown["blocked"] == pytest.approx(seconds, rel=0.2)
    assert grown["running"] > 0 and grown["ready"] > 0
