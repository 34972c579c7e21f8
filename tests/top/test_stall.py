# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock top --explain-stall`: was it the host, its quota, or who stalled itself?"""

import json
import os

import pytest

from pvlock.top import cgroup
from pvlock.top.slots import Feature
from pvlock.top.watch import Watcher
from top.test_threads import quota
from top.test_top_cli import give_up_rights, refused, run
from top.workers import Worker, workers


def verdict(pid: int, seconds: float = 3) -> dict[str, object]:
    done = run("--explain-stall", str(pid), "--threads", "*", "--seconds", str(seconds), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def answers(found: dict[str, object]) -> tuple[str, ...]:
    return tuple(found[name]["answer"] for name in ("starved", "throttled", "itself"))  # type: ignore[index]


def test_starved_by_others(may_watch: None, cpu: int) -> None:
    """It names who had the CPU, and the CPUs that it may use."""
    with workers(3, "rival", cpu) as rivals:
        for each in rivals:
            each.do("spin 120")
        found = verdict(rivals[0].pid)
    assert answers(found)[0] == "yes" and answers(found)[2] == "no"
    assert "its host had no CPU for it" in str(found["verdict"])
    evidence = " ".join(found["evidence"])  # type: ignore[arg-type]
    assert "rival1 had the CPU" in evidence and "rival2 had the CPU" in evidence
    remedies: dict[str, str] = found["remedies"]  # type: ignore[assignment]
    assert f"may use the CPUs {cpu};" in remedies["pinning"]
    assert "PV-lock" in remedies and "PV time" in remedies


def test_throttled_by_its_quota(watcher: Watcher, cpu: int) -> None:
    watcher.look()
    if not watcher.features & Feature.THROTTLED:
        pytest.skip("this kernel does not count for how long a queue is throttled (6.6 does)")
    watcher.close()
    with quota(0.1) as group, Worker("poor", cpu, "fair") as poor:
        (group / "cgroup.procs").write_text(str(poor.pid))
        limit = cgroup.of(poor.pid)
        assert limit is not None and limit.quota == 0.1 and limit.path == f"/{group.name}"
        poor.do("spin 120")
        found = verdict(poor.pid)
        poor.end()
    assert answers(found)[1:] == ("yes", "no")
    assert "its cgroup's quota kept it from running" in str(found["verdict"])
    remedies: dict[str, str] = found["remedies"]  # type: ignore[assignment]
    assert remedies["quota"] == f"raise that of /{group.name}: 0.1 CPUs for 1 VCPUs"


def test_it_was_itself(may_watch: None, cpu: int) -> None:
    with Worker("idler", cpu) as idler:
        idler.do("spin 0.3")
        found = verdict(idler.pid, 1)
    assert answers(found) == ("no", "no", "yes")
    assert "it was the guest itself" in str(found["verdict"])
    assert found["remedies"] == {"none here": "look inside the guest"}


def test_without_rights_it_does_not_say_more_than_it_knows(cpu: int) -> None:
    with Worker("idler", cpu) as idler:
        arguments = ("--explain-stall", str(idler.pid), "--threads", "*", "--seconds", "1")
        done = run(*arguments, before=give_up_rights)
    assert done.returncode == 0
    assert "cannot tell whether its host or the guest itself did it" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows if row[:1] == ["starved?"]] == [["starved?", "no"]]
    assert [row[:3] for row in rows if row[:1] == ["throttled?"]] == [
        ["throttled?", "cannot", "tell"]
    ]


def test_wrong_input() -> None:
    own = str(os.getpid())
    assert "is no VMM that runs VCPUs" in refused("--explain-stall", own)
    assert "does not go with" in refused("--explain-stall", own, "--pid", own)
