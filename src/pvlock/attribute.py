# SPDX-License-Identifier: GPL-2.0-or-later
"""The VCPU attribute KVM_ARM_VCPU_PVLOCK_IPA, by which user space sets a structure's address.

The three functions answer as the KVM_HAS_DEVICE_ATTR, KVM_SET_DEVICE_ATTR and
KVM_GET_DEVICE_ATTR ioctls of a VCPU would: 0 or a negative errno, and never an exception
(SPECIFICATION.md, section 5).

>>> from pvlock.memory import GuestMemory, anonymous_slot
>>> class OneWord:
...     word = 0x3000_0000
...     def read_u64(self, addr):
...         return self.word
...     def write_u64(self, addr, value):
...         self.word = value
>>> memory = GuestMemory()
>>> memory.add(anonymous_slot(0x3000_0000, 0x1000, "pvlock", readonly=True))
>>> region, user = PvLockRegion(memory), OneWord()
>>> known = DeviceAttr(abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA)
>>> set_attr(region, 0, known, user), set_attr(region, 0, known, user)  # the second is -EEXIST
(0, -17)
>>> get_attr(region, 1, known, user), user.word == abi.UNSET
(0, True)
>>> memory.close()
"""

import errno
from dataclasses import dataclass
from typing import Protocol

from pvlock import abi
from pvlock.errors import MemoryAccessError
from pvlock.region import PvLockRegion


@dataclass(frozen=True)
class DeviceAttr:
    """KVM's struct kvm_device_attr; `addr` is where, in user space, the 64-bit value is.

    `flags` is a member of that structure too. Nothing reads it, as in KVM's own VCPU attributes.
    """

    group: int
    attr: int
    addr: int = 0
    flags: int = 0


class UserMemory(Protocol):
    """User-space memory; both methods raise MemoryAccessError for a pointer that goes nowhere."""

    def read_u64(self, addr: int, /) -> int:
        """Return the 64-bit value at `addr`."""

    def write_u64(self, addr: int, value: int, /) -> None:
        """Store the 64-bit `value` at `addr`."""


def has_attr(region: PvLockRegion, attribute: DeviceAttr) -> int:
    """Return 0 for the one attribute there is, else -ENXIO (clauses 5.2 and 5.3)."""
    known = (abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA)
    if region.enabled and (attribute.group, attribute.attr) == known:
        return 0
    return -errno.ENXIO


def set_attr(region: PvLockRegion, vcpu: int, attribute: DeviceAttr, user: UserMemory) -> int:
    """Give `vcpu` the address that `attribute.addr` points to; return 0 or a negative errno.

    It checks in this order (clauses 5.3 to 5.8): -ENXIO for an unknown attribute, -EFAULT for a
    pointer that cannot be read, then the address as StructureRegion.set_address() does. A refusal
    changes nothing.
    """
    if error := has_attr(region, attribute):
        return error
    try:
        ipa = user.read_u64(attribute.addr)
    except MemoryAccessError:
        return -errno.EFAULT
    return region.set_address(vcpu, ipa)


def get_attr(region: PvLockRegion, vcpu: int, attribute: DeviceAttr, user: UserMemory) -> int:
    """Store the address of `vcpu`, all ones if it has none, at `attribute.addr` (clause 5.9).

    Returns 0, -ENXIO for an unknown attribute or -EFAULT for a pointer that cannot be written.
    """
    if error := has_attr(region, attribute):
        return error
    ipa = region.ipa(vcpu)
    try:
        user.write_u64(attribute.addr, abi.UNSET if ipa is None else ipa)
    except MemoryAccessError:
        return -errno.EFAULT
    return 0
