# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock doctor` on a host that has everything, and in a process that may not use all of it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from pvlock import cli, engines
from pvlock.engines.kvm import ioctl, probe
from pvlock.engines.kvm.probe import State

NOBODY = 65534


def pvlock(*arguments: str, **who: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pvlock", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd="/", **who
    )


@pytest.fixture(autouse=True)
def _ask_again() -> None:
    probe.require.cache_clear()


def test_everything_is_there(nothing_left: None) -> None:
    found = probe.findings()
    assert {
        finding.what: finding.because for finding in found if finding.state is State.UNKNOWN
    } == {}
    assert {finding.what: finding.because for finding in found if finding.state is State.NO} in (
        {},
        {"SMCCC_ARCH_FEATURES": "the kernel answers it itself, and knows no PV-lock"},
    )
    assert probe.usable()
    assert engines.choose("auto") == engines.choose("kvm") == "kvm"


def test_doctor_takes_kvm() -> None:
    done = CliRunner().invoke(cli.cli, ["doctor", "--json", "-"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["engine"], facts["because"]) == ("kvm", "this host has all that it needs")


@pytest.mark.parametrize("engine", ["auto", "kvm"])
def test_options_of_an_emulated_host_are_refused(engine: str) -> None:
    done = CliRunner().invoke(cli.cli, ["run", "--engine", engine, "--slice", "1ms"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--slice: the kvm engine runs on a real host, which has its own" in done.stderr


def test_a_user_who_may_not_open_the_device() -> None:
    if os.stat(ioctl.PATH).st_mode & 0o006:  # noqa: PTH116
        pytest.skip(f"everybody may open {ioctl.PATH} on this host")
    done = pvlock("run", "--engine", "kvm", user=NOBODY, group=NOBODY, extra_groups=[])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"pvlock: engine kvm: {ioctl.PATH}: Permission denied; run as root or join the group kvm; "
        "pvlock doctor tells more\n"
    )


def test_a_user_who_may_not_use_bpf() -> None:
    device = os.open(ioctl.PATH, os.O_RDWR)
    before = os.fstat(device)
    try:
        os.fchmod(device, 0o666)
        done = pvlock("doctor", "--json", "-", user=NOBODY, group=NOBODY, extra_groups=[])
    finally:
        os.fchmod(device, before.st_mode & 0o777)
        os.close(device)
    facts = json.loads(done.stdout)
    assert facts["because"].startswith("kvm: this process may not load BPF programs")
    answers = {each["what"]: each for each in facts["kvm"]}
    assert answers["SMCCC filter"]["state"] == "yes"
    assert answers["BPF programs of type syscall"]["state"] == "cannot tell"
    assert answers["publisher of `preempted`"]["state"] == "no"
    assert "CAP_BPF and CAP_PERFMON" in answers["publisher of `preempted`"]["remedy"]
