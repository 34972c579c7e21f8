# SPDX-License-Identifier: GPL-2.0-or-later
"""The VCPU attribute KVM_ARM_VCPU_PVLOCK_IPA: user space sets the address of a structure.

The three functions answer as the KVM_HAS_DEVICE_ATTR, KVM_SET_DEVICE_ATTR and
KVM_GET_DEVICE_ATTR ioctls of a VCPU would: 0 or a negative errno, and never an exception
(SPECIFICATION.md, section 5).
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

    `flags` is kept for its place in the structure; like KVM's VCPU attributes, nothing reads it.
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

    In this order (clauses 5.3 to 5.8): -ENXIO unknown attribute; -EFAULT unreadable pointer;
    -EINVAL not 64-byte aligned; -EEXIST already set, or another VCPU's; -EINVAL not wholly inside
    a memory slot. A refusal changes nothing.
    """
    if error := has_attr(region, attribute):
        return error
    try:
        ipa = user.read_u64(attribute.addr)
    except MemoryAccessError:
        return -errno.EFAULT
    return region.set_address(vcpu, ipa)


def get_attr(region: PvLockRegion, vcpu: int, attribute: DeviceAttr, user: UserMemory) -> int:
    """Store the address of `vcpu`, all ones when unset, at `attribute.addr` (clause 5.9).

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
