# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the VCPU attribute, which user space sets."""

import errno
from collections.abc import Callable

from mutants.catalogue import Patch, mutant
from pvlock import abi, attribute
from pvlock.attribute import DeviceAttr, UserMemory
from pvlock.machine import Machine, Vcpu
from pvlock.region import PvLockRegion

Check = Callable[[PvLockRegion, int, int], int]


def unaligned(_region: PvLockRegion, _vcpu: int, ipa: int) -> int:
    return -errno.EINVAL if ipa % abi.STRUCTURE_ALIGNMENT else 0


def already_set(region: PvLockRegion, vcpu: int, _ipa: int) -> int:
    return -errno.EEXIST if vcpu in region.addresses else 0


def anothers(region: PvLockRegion, vcpu: int, ipa: int) -> int:
    others = (address for number, address in region.addresses.items() if number != vcpu)
    return -errno.EEXIST if ipa in others else 0


def outside(region: PvLockRegion, _vcpu: int, ipa: int) -> int:
    return 0 if region.memory.contains(ipa, abi.STRUCTURE_SIZE) else -errno.EINVAL


def set_checks(patch: Patch, *checks: Check) -> None:
    """Check these, in this order."""

    def set_address(self: PvLockRegion, vcpu: int, ipa: int) -> int:
        for check in checks:
            if error := check(self, vcpu, ipa):
                return error
        self.addresses[vcpu] = ipa
        return 0

    patch(PvLockRegion, "set_address", set_address)


@mutant("5.10", "set looks for EEXIST before it looks at the alignment", "attr-order")
def exists_before_alignment(patch: Patch) -> None:
    set_checks(patch, already_set, anothers, unaligned, outside)


@mutant("5.10", "set looks at the memory slots before it looks for EEXIST", "attr-order")
def slot_before_exists(patch: Patch) -> None:
    set_checks(patch, unaligned, outside, already_set, anothers)


@mutant("5.5", "set accepts an address that is not aligned to 64 bytes", "attr-misaligned")
def unaligned_accepted(patch: Patch) -> None:
    set_checks(patch, already_set, anothers, outside)


@mutant("5.6", "a second set changes the address", "attr-twice")
def second_set(patch: Patch) -> None:
    set_checks(patch, unaligned, anothers, outside)


@mutant("5.8", "set gives two VCPUs the same address", "attr-shared")
def anothers_address(patch: Patch) -> None:
    set_checks(patch, unaligned, already_set, outside)


@mutant("5.10", "a refused set has set the address all the same", "attr-refusal")
def refused_but_set(patch: Patch) -> None:
    set_address = PvLockRegion.set_address

    def changed(self: PvLockRegion, vcpu: int, ipa: int) -> int:
        error = set_address(self, vcpu, ipa)
        if error == -errno.EINVAL and vcpu not in self.addresses:
            self.addresses[vcpu] = ipa
        return error

    patch(PvLockRegion, "set_address", changed)


@mutant("5.7", "set accepts an address that is in no memory slot", "attr-outside")
def outside_memory(patch: Patch) -> None:
    publish = Machine.publish

    def changed(self: Machine, vcpu: int) -> None:
        if not outside(self.pvlock, vcpu, self.pvlock.addresses[vcpu]):
            publish(self, vcpu)

    patch(Machine, "publish", changed)
    set_checks(patch, unaligned, already_set, anothers)


@mutant("5.9", "get reads 0 when no address is set", "attr-unset")
def get_0_when_unset(patch: Patch) -> None:
    get_attr = attribute.get_attr

    def changed(region: PvLockRegion, vcpu: int, attr: DeviceAttr, user: UserMemory) -> int:
        error = get_attr(region, vcpu, attr, user)
        if not error and region.ipa(vcpu) is None:
            user.write_u64(attr.addr, 0)
        return error

    patch(attribute, "get_attr", changed)


@mutant("5.9", "get reads the address of VCPU 0 on every VCPU", "attr-set-get")
def get_of_vcpu_0(patch: Patch) -> None:
    get_attr = attribute.get_attr

    def changed(region: PvLockRegion, _vcpu: int, attr: DeviceAttr, user: UserMemory) -> int:
        return get_attr(region, 0, attr, user)

    patch(attribute, "get_attr", changed)


@mutant("5.3", "the attribute is there although PV-lock is off", "attr-off")
def attribute_although_off(patch: Patch) -> None:
    def changed(_region: PvLockRegion, attr: DeviceAttr) -> int:
        known = (abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA)
        return 0 if (attr.group, attr.attr) == known else -errno.ENXIO

    patch(attribute, "has_attr", changed)


@mutant("5.3", "an unknown attribute is EINVAL", "attr-unknown")
def unknown_is_einval(patch: Patch) -> None:
    has_attr = attribute.has_attr
    patch(attribute, "has_attr", lambda r, a: -errno.EINVAL if has_attr(r, a) else 0)


@mutant("5.2", "every attribute of the group is known", "attr-has")
def whole_group_known(patch: Patch) -> None:
    has_attr = attribute.has_attr

    def changed(region: PvLockRegion, attr: DeviceAttr) -> int:
        return has_attr(region, DeviceAttr(attr.group, abi.KVM_ARM_VCPU_PVLOCK_IPA))

    patch(attribute, "has_attr", changed)


@mutant("5.4", "a pointer that cannot be read is EINVAL", "attr-fault")
def bad_pointer_is_einval(patch: Patch) -> None:
    set_attr = attribute.set_attr

    def changed(region: PvLockRegion, vcpu: int, attr: DeviceAttr, user: UserMemory) -> int:
        error = set_attr(region, vcpu, attr, user)
        return -errno.EINVAL if error == -errno.EFAULT else error

    patch(attribute, "set_attr", changed)


@mutant("5.4", "get does not say that a pointer cannot be written", "attr-fault")
def get_ignores_a_bad_pointer(patch: Patch) -> None:
    get_attr = attribute.get_attr

    def changed(region: PvLockRegion, vcpu: int, attr: DeviceAttr, user: UserMemory) -> int:
        error = get_attr(region, vcpu, attr, user)
        return 0 if error == -errno.EFAULT else error

    patch(attribute, "get_attr", changed)


@mutant("5.7", "set accepts an address at the very end of a slot", "attr-slot-end")
def end_of_slot(patch: Patch) -> None:
    def beyond_the_end(region: PvLockRegion, _vcpu: int, ipa: int) -> int:
        inside = region.memory.contains(ipa, 1) or region.memory.contains(ipa - 1, 1)
        return 0 if inside else -errno.EINVAL

    publish = Machine.publish

    def changed(self: Machine, vcpu: int) -> None:
        if not outside(self.pvlock, vcpu, self.pvlock.addresses[vcpu]):
            publish(self, vcpu)

    patch(Machine, "publish", changed)
    set_checks(patch, unaligned, already_set, anothers, beyond_the_end)


@mutant("9.1", "a VCPU that is started has no address any more", "attr-reset")
def address_lost_at_start(patch: Patch) -> None:
    start = Vcpu.start

    def changed(self: Vcpu, entry: int, x0: int = 0) -> None:
        self._machine.pvlock.addresses.pop(self.index, None)
        start(self, entry, x0)

    patch(Vcpu, "start", changed)


@mutant("9.2", "set of all ones removes the address", "attr-stays")
def all_ones_removes(patch: Patch) -> None:
    set_attr = attribute.set_attr

    def changed(region: PvLockRegion, vcpu: int, attr: DeviceAttr, user: UserMemory) -> int:
        if not attribute.has_attr(region, attr) and user.read_u64(attr.addr) == abi.UNSET:
            region.addresses.pop(vcpu, None)
            return -errno.EINVAL
        return set_attr(region, vcpu, attr, user)

    patch(attribute, "set_attr", changed)
