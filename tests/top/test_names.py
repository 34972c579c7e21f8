# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMs are called, and which threads are VCPUs, by the habits of their VMMs."""

import os
import sys

import pytest

from pvlock.top import names, proc

QEMU = "/usr/bin/qemu-system-x86_64"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ([QEMU, "-name", "guest=web-3,debug-threads=on", "-m", "512"], "web-3"),
        ([QEMU, "-name", "debug-threads=on,guest=web-3"], "web-3"),
        ([QEMU, "-m", "1G", "-name", "web-3"], "web-3"),
        ([QEMU, "-name", "web-3,process=x"], "web-3"),
        (["/usr/libexec/qemu-kvm", "-name", "guest=default_vmi,debug-threads=on"], "default_vmi"),
        ([QEMU, "-name", "guest=a,,b,debug-threads=on"], "a,b"),
        (["/usr/bin/firecracker", "--id", "b1946ac9", "--api-sock", "/a.sock"], "b1946ac9"),
        (["firecracker", "--id=b1946ac9"], "b1946ac9"),
        (["cloud-hypervisor", "--api-socket", "/run/ch/web-3.sock", "--cpus", "boot=4"], "web-3"),
        (["/usr/bin/crosvm", "run", "--name", "arcvm", "vmlinux"], "arcvm"),
        (["lkvm", "run", "--name", "guest-7"], "guest-7"),
        (
            ["/usr/bin/python3", "/usr/bin/pvlock", "run", "mutex", "--engine", "kvm"],
            "pvlock-mutex",
        ),
        (["/usr/bin/python3", "-m", "pvlock", "run", "--engine", "kvm"], "pvlock-mutex"),
        (["python3", "/x/bin/pvlock", "run", "/guest/Image", "--vcpus", "4"], "pvlock-Image"),
    ],
)
def test_a_vm_is_called_as_its_vmm_was_told(command: list[str], name: str) -> None:
    assert names.vm_name(1, command) == name


@pytest.mark.parametrize(
    "command",
    [
        [QEMU],
        [QEMU, "-name"],
        [QEMU, "-name", "debug-threads=on"],
        ["firecracker"],
        ["python3"],
        [],
    ],
)
def test_a_vm_without_a_name_is_called_after_its_process(command: list[str]) -> None:
    pid = os.getpid()
    assert names.vm_name(pid, command) == f"{proc.name(pid)}:{pid}"


@pytest.mark.parametrize(
    ("thread", "number"),
    [
        ("CPU 0/KVM", 0),
        ("CPU 15/KVM", 15),
        ("fc_vcpu 3", 3),
        ("vcpu7", 7),
        ("crosvm_vcpu2", 2),
        ("kvm-vcpu-1", 1),
        ("CPU 0/TCG", None),
        ("vcpu", None),
        ("IO iothread1", None),
        ("qemu-system-x86", None),
    ],
)
def test_threads_of_vcpus(thread: str, number: int | None) -> None:
    assert names.vcpu_number(thread) == number


def test_what_has_ended_is_not_there() -> None:
    missing = 2**22 + 1  # more than the kernel gives out
    assert not proc.exists(missing) and proc.exists(os.getpid())
    assert proc.command(missing) == [] and proc.name(missing) == ""
    assert proc.threads(missing) == [] and proc.cgroups(missing) == []
    assert proc.schedstat(missing, missing) is None and proc.status(missing) == {}
    assert proc.command(os.getpid())[0] == sys.orig_argv[0]
