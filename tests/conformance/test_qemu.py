# SPDX-License-Identifier: GPL-2.0-or-later
"""The conformance guest under QEMU, a hypervisor that is not ours and has no PV-lock."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pvlock.conformance.cases import binary, guest_cases
from pvlock.conformance.tap import Log, parse

QEMU = shutil.which("qemu-system-aarch64")
SECONDS = 60
# The cases that can be judged without PV-lock and without SMCCC 1.1.
JUDGED = ["discovery-order", "conduit", "no-node", "affinity"]

pytestmark = pytest.mark.skipif(
    QEMU is None, reason="no qemu-system-aarch64: apt-get install qemu-system-arm"
)


def run(folder: Path, kind: str, machine: str, cpus: int, append: str = "") -> str:
    """Return the console of a run that must end by itself."""
    kernel = folder / f"guest.{kind}"
    kernel.write_bytes(binary(kind))
    command = [
        QEMU or "", "-M", f"virt,{machine}", "-cpu", "cortex-a72", "-smp", str(cpus), "-m", "128M",
        "-nographic", "-nic", "none", "-no-reboot", "-kernel", str(kernel),
    ]  # fmt: skip
    if append:
        command += ["-append", append]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8", "replace")


def judged(log: Log) -> list[str]:
    return [outcome.case.name for outcome in log.outcomes if outcome.verdict != "skipped"]


@pytest.mark.parametrize("kind", ["Image", "elf"])
@pytest.mark.parametrize("gic", [2, 3])
@pytest.mark.parametrize("cpus", [1, 4])
def test_reports_the_interface_absent(tmp_path: Path, kind: str, gic: int, cpus: int) -> None:
    log = parse(run(tmp_path, kind, f"gic-version={gic}", cpus))
    assert log.interface == "absent"
    assert log.facts["machine"] == f"{cpus} VCPUs, GICv{gic}, PL011"
    assert log.facts["psci"].endswith("conduit hvc, entered at EL1")
    assert log.facts["wake"] == ("an SGI woke VCPU 1 from WFI" if cpus > 1 else "not tried")
    assert [outcome.case for outcome in log.outcomes] == list(guest_cases())
    assert judged(log) == JUDGED
    assert not [outcome for outcome in log.outcomes if outcome.verdict == "failed"]
    by_name = {outcome.case.name: outcome for outcome in log.outcomes}
    assert by_name["affinity"].evidence["vcpus"] == cpus
    assert by_name["own-flag"].reason == "interface absent"


@pytest.mark.parametrize("gic", [2, 3])
def test_conduit_smc_and_el2(tmp_path: Path, gic: int) -> None:
    """With virtualization=on QEMU starts the guest at EL2 and answers PSCI as SMC."""
    log = parse(run(tmp_path, "Image", f"virtualization=on,gic-version={gic}", 4))
    assert log.facts["psci"].endswith("conduit smc, entered at EL2")
    assert log.facts["wake"] == "an SGI woke VCPU 1 from WFI"
    assert judged(log) == JUDGED


def test_many_cpus(tmp_path: Path) -> None:
    """There is more than one group of 16 VCPUs, so affinities are not just VCPU numbers."""
    log = parse(run(tmp_path, "Image", "gic-version=3", 20, "cases=affinity"))
    (outcome,) = log.outcomes
    assert (outcome.verdict, outcome.evidence["vcpus"]) == ("ok", 20)


def test_boot_arguments_arrive(tmp_path: Path) -> None:
    log = parse(run(tmp_path, "Image", "gic-version=3", 1, "quiet cases=4.1,8.* profile=document"))
    assert [outcome.case.name for outcome in log.outcomes] == ["discovery-order", "in-memory"]


def test_log_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    text = run(tmp_path, "Image", "gic-version=3", 4)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    command = [sys.executable, "-m", "pvlock", "check", "--parse", str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def check(*more: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, timeout=SECONDS, env=environment,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    status, said = check()
    assert status == 3
    assert "conforms" not in said
    assert "PV-lock is not offered" in said
    assert check("--profile", "pvlock")[0] == 3
    assert check("--absent-ok")[0] == 0
    status, said = check("--present")
    assert (status, "interface absent" in said) == (1, True)
    path.write_text(text[: len(text) // 2])
    status, said = check()
    assert status == 1
    assert ": line " in said or "ends where" in said
