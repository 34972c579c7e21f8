# SPDX-License-Identifier: GPL-2.0-or-later
"""The VCPU attribute KVM_ARM_VCPU_PVLOCK_IPA: every way to be refused, then the way that works."""

import errno

from pvlock import Machine, abi
from pvlock.attribute import DeviceAttr
from pvlock.errors import MemoryAccessError
from pvlock.memory_map import PVLOCK_BASE

POINTER = 0x1000


class OneWord:
    """User memory that holds one 64-bit value, at POINTER."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def read_u64(self, addr: int) -> int:
        if addr != POINTER:
            raise MemoryAccessError(addr, 8, "user memory")
        return self.value

    def write_u64(self, addr: int, value: int) -> None:
        self.read_u64(addr)
        self.value = value


def name(result: int) -> str:
    return "0" if result == 0 else "-" + errno.errorcode[-result]


IPA = DeviceAttr(abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA, POINTER)
OTHER = DeviceAttr(abi.KVM_ARM_VCPU_PVLOCK_CTRL, 1, POINTER)
NOWHERE = DeviceAttr(abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA, 0)

# place=False: no VCPU has a structure until user space sets its address.
with Machine(vcpus=2, place=False) as machine:
    vcpu, other = machine.vcpus
    read = OneWord()
    print("has:", name(vcpu.has_attr(IPA)), " has, another attribute:", name(vcpu.has_attr(OTHER)))
    print("get, unset:", name(vcpu.get_attr(IPA, read)), hex(read.value))
    for what, who, attribute, address in (
        ("another attribute", vcpu, OTHER, PVLOCK_BASE),
        ("unreadable pointer", vcpu, NOWHERE, PVLOCK_BASE),
        ("not 64-byte aligned", vcpu, IPA, PVLOCK_BASE + 8),
        ("outside guest memory", vcpu, IPA, 0),
        ("good", vcpu, IPA, PVLOCK_BASE),
        ("set already", vcpu, IPA, PVLOCK_BASE + 64),
        ("another VCPU's", other, IPA, PVLOCK_BASE),
    ):
        print(f"set, {what}: {name(who.set_attr(attribute, OneWord(address)))}")
    print("get:", name(vcpu.get_attr(IPA, read)), hex(read.value))
    print("preempted, VCPU 0 not started yet:", vcpu.preempted)
