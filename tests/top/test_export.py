# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock export`: what it serves of VMs, made up here; tests/top/test_vms.py has real ones."""

import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pvlock.top import usage
from pvlock.top.metrics import HOST, Totals
from pvlock.top.session import Interval, Session
from pvlock.top.threads import CLASSES, Displacer, Key, Snapshot, Thread
from pvlock.top.usage import Names

COMMAND = [sys.executable, "-m", "pvlock", "export"]
DOCS = Path(__file__).resolve().parents[2] / "docs"
SECOND = 10**9
CC, KSOFTIRQD = 900, 901


def thread(tid: int, tgid: int, vcpu: int, seconds: int, by: dict[Displacer, int]) -> Thread:
    """A VCPU after so many seconds: half of them running, a quarter ready, the rest throttled."""
    gaps = [0] * CLASSES
    gaps[30], gaps[40] = 3 * seconds, seconds
    return Thread(
        key=Key(tid, 0),
        tgid=tgid,
        name=f"CPU {vcpu}/KVM",
        vm=tgid,
        vcpu=vcpu,
        at=seconds * SECOND,
        alive=True,
        running=seconds * SECOND // 2,
        ready=seconds * SECOND // 2,
        blocked=0,
        preemptions=4 * seconds,
        throttled=seconds * SECOND // 4,
        waits=4 * seconds,
        migrations=seconds,
        gaps=tuple(gaps),
        longest=SECOND // 100,
        displaced=by,
    )


def snapshot(seconds: int) -> Snapshot:
    """Two VMs: web has VCPUs 10 and 11, batch has 20; what waits is charged anew each second."""
    part = SECOND // 8
    web = {Displacer(20, True): part, Displacer(CC, False): part}
    itself = {Displacer(10, True): part, Displacer(KSOFTIRQD, False): part}
    threads = [
        thread(10, 1, 0, seconds, web),
        thread(11, 1, 1, seconds, itself),
        thread(20, 2, 0, seconds, {Displacer(10, True): part, Displacer(1, False): part}),
    ]
    return Snapshot(seconds * SECOND, {each.key: each for each in threads})


class MadeUp:
    """A session whose VMs do the same in every second."""

    source = "bpf"

    def __init__(self) -> None:
        self.names = Names({1: "web", 2: "batch"}.__getitem__, lambda pid: f"process{pid}")
        self._seconds = 0

    def cut(self) -> Interval:
        before, after = snapshot(self._seconds), snapshot(self._seconds + 1)
        self._seconds += 1
        self.names.learn(after)
        return Interval(0, SECOND, usage.between(before, after))


def samples(totals: Totals) -> dict[tuple[str, str, str], float]:
    """Return the metrics by name, VM, and what else they are of."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(totals)
    text = generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    found = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        assert family.documentation
        for each in family.samples:
            more = ("state", "by", "vcpu", "le", "source")
            rest = ",".join(each.labels[name] for name in more if name in each.labels)
            found[each.name, each.labels.get("vm", ""), rest] = each.value
    return found


def test_sums_by_vm() -> None:
    totals = Totals(cast(Session, MadeUp()))
    totals.add()
    found = samples(totals)
    for state, each in (("running", 0.5), ("ready", 0.25), ("throttled", 0.25), ("blocked", 0)):
        # Two seconds, as to ask is to add too; and two VCPUs.
        assert found["pvlock_vm_cpu_seconds_total", "web", state] == pytest.approx(4 * each)
        assert found["pvlock_vm_cpu_seconds_total", "batch", state] == pytest.approx(2 * each)
    assert found["pvlock_vm_displaced_seconds_total", "web", "batch"] == 0.25
    assert found["pvlock_vm_displaced_seconds_total", "web", "itself"] == 0.25
    # A compiler and a kernel thread are one: each process a label of its own would be too many.
    assert found["pvlock_vm_displaced_seconds_total", "web", HOST] == 0.5
    # web's VCPU, and web's VMM.
    assert found["pvlock_vm_displaced_seconds_total", "batch", "web"] == 0.5
    assert found["pvlock_vm_preemptions_total", "web", ""] == 16
    assert found["pvlock_vm_migrations_total", "batch", ""] == 2
    assert found["pvlock_vm_gap_seconds_count", "batch", ""] == 8
    buckets = {
        key[2]: n
        for key, n in found.items()
        if key[:2] == ("pvlock_vm_gap_seconds_bucket", "batch")
    }
    values = [buckets[bound] for bound in sorted(buckets, key=float)]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 8 and 6 in values
    assert found["pvlock_vm_vcpus", "web", ""] == 2
    assert found["pvlock_source_info", "", "bpf"] == 1
    # What cannot be told is not there, rather than 0.
    assert not any(name == "pvlock_vm_directed_yields_total" for name, *_ in found)
    assert samples(totals)["pvlock_vm_preemptions_total", "web", ""] == 24


def test_sums_by_vcpu() -> None:
    found = samples(Totals(cast(Session, MadeUp()), by_vcpu=True))
    assert found["pvlock_vm_cpu_seconds_total", "web", "running,1"] == 0.5
    assert found["pvlock_vm_displaced_seconds_total", "web", "web,1"] == 0.125
    assert found["pvlock_vm_preemptions_total", "web", "0"] == 4


def test_documents_name_metrics_that_there_are() -> None:
    """The dashboard, the alert and the table."""
    served = {name for name, *_ in samples(Totals(cast(Session, MadeUp())))}
    # Not made up above, as not every host has them.
    served |= {"pvlock_vm_wait_exits_total", "pvlock_vm_directed_yields_total"}
    dashboard = (DOCS / "grafana-vms.json").read_text()
    assert len(json.loads(dashboard)["panels"]) == 6
    named = set(re.findall(r"pvlock_[a-z_]+", dashboard))
    named |= set(
        re.findall(r"pvlock_(?:vm|source|unplaced)_[a-z_]+", (DOCS / "top.md").read_text())
    )
    named -= {"pvlock_vm_gap_seconds"}  # a histogram, of three
    assert len(named) > 5 and named <= served


def test_serves_on_loopback_only_and_ends() -> None:
    with subprocess.Popen(
        [*COMMAND, "--listen", ":0", "--no-bpf"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[1]
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url, timeout=30) as page:
                text = page.read().decode()
            assert 'pvlock_source_info{source="schedstat"} 1.0' in text
        finally:
            process.terminate()
        assert process.wait(timeout=30) == 128 + 15


def test_wrong_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            f"127.0.0.1:{port}": "Address already in use",
            "nonsense": "not an address and a port",
            "127.0.0.1:70000": "not an address and a port",
            "192.0.2.1:0": "Cannot assign requested address",
        }
        for address, words in cases.items():
            done = subprocess.run(
                [*COMMAND, "--listen", address, "--no-bpf"],
                capture_output=True,
                text=True,
                check=False,
            )
            lines = [line for line in done.stderr.splitlines() if "from /proc only" not in line]
            assert done.returncode != 0 and len(lines) == 1, done.stderr
            assert lines[0].startswith(f"pvlock: --listen {address}: ") and words in lines[0]
