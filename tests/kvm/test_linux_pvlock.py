# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux with PV-lock on KVM: on a host whose kernel knows nothing of it, by the device tree."""

import re
from pathlib import Path

import pytest

from kvm.conftest import FILES
from pvlock import Machine, SystemEvent, image
from pvlock.abi import Policy
from pvlock.loads import run
from pvlock.loads.run import Files, Settings

VCPUS, PCPUS = 4, 2
LIMIT_NS = 300_000_000_000
FLAG = re.compile(r"^init: (\w+) (\d+) 0x(\w+) (\d) \d+ \d+$", re.M)


@pytest.fixture
def files(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """The kernel that `pvlock kernel build guest` makes, and an initrd with kernel/init.c."""
    if FILES is not None:
        return Path(FILES) / "pvlock.Image", Path(FILES) / "pvlock.initrd"
    return request.getfixturevalue("pvlock_kernel"), request.getfixturevalue("init")


def test_linux_reads_what_is_published(files: tuple[Path, Path]) -> None:
    kernel, init = files
    with Machine(
        VCPUS, PCPUS, engine="kvm", policy=Policy.PREEMPTED, ram_size=256 << 20,
        bootargs="console=ttyAMA0 samples=60 hotplug=1",
    ) as machine:  # fmt: skip
        machine.load(kernel, init.read_bytes())
        assert machine.run(LIMIT_NS) is SystemEvent.OFF
        text = machine.console.text.replace("\r", "")
    assert "init: done\n" in text, text
    (line,) = re.findall(r"^\[ *\d+\.\d+\] (pvlock: .*)$", text, re.M)
    assert line == "pvlock: present, found by the device tree"
    found = FLAG.findall(text)
    seen = [(cpu, flag) for name, cpu, _address, flag in found if name == "sample"]
    # All four are busy, and two can run: each is seen on a CPU and off it.
    for cpu in range(VCPUS):
        assert {flag for who, flag in seen if who == str(cpu)} == {"0", "1"}
    # The flag of a CPU that is off can be read, and it comes back to the same one.
    addresses = {
        name: {cpu: address for what, cpu, address, _flag in found if what == name}
        for name in ("flag", "off", "again")
    }
    assert addresses["flag"] == addresses["off"] == addresses["again"]
    assert len(addresses["flag"]) == VCPUS


def test_loads_run(files: tuple[Path, Path]) -> None:
    data = files[0].read_bytes()
    settings = Settings(
        ("create", "mmap", "pipe"), engine="kvm", vcpus=VCPUS, pcpus=PCPUS,
        duration_ns=200_000_000,
    )  # fmt: skip
    result = run.run("with", settings, Files(image.parse(data, "Image"), data, None))
    assert result is not None
    assert list(result.loads) == list(settings.loads)
    assert all(sum(counted.operations) for counted in result.loads.values())
