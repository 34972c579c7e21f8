# SPDX-License-Identifier: GPL-2.0-or-later
"""attribute.py: each errno by its exact value, and the order in which they are found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock import abi
from pvlock.attribute import DeviceAttr, get_attr, has_attr, set_attr
from pvlock.errors import MemoryAccessError
from pvlock.memory import GuestMemory, MemorySlot
from pvlock.region import PvLockRegion

# Linux's values, by hand: they are part of the interface.
ENXIO, EFAULT, EEXIST, EINVAL = -6, -14, -17, -22

BASE, SIZE = 0x8000_0000, 0x1000
POINTER, BAD_POINTER = 0x1000, 0xDEAD
GROUP, IPA = abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA
UNKNOWN = [(GROUP, IPA + 1), (GROUP + 1, IPA), (0, 0), (GROUP, -1), (2**32, 2**64)]


class User:
    """User-space memory of one word."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def read_u64(self, addr: int) -> int:
        self._check(addr)
        return self.value

    def write_u64(self, addr: int, value: int) -> None:
        self._check(addr)
        self.value = value

    def _check(self, addr: int) -> None:
        if addr != POINTER:
            raise MemoryAccessError(addr, 8, "user space")


def attr(pointer: int = POINTER) -> DeviceAttr:
    return DeviceAttr(GROUP, IPA, pointer)


def set_ipa(region: PvLockRegion, vcpu: int, ipa: int) -> int:
    return set_attr(region, vcpu, attr(), User(ipa))


def make_region(enabled: bool = True) -> PvLockRegion:
    memory = GuestMemory()
    memory.add(MemorySlot(BASE, SIZE, "region", memoryview(bytearray(SIZE)), readonly=True))
    return PvLockRegion(memory, enabled)


@pytest.fixture
def region() -> PvLockRegion:
    return make_region()


def test_has(region: PvLockRegion) -> None:
    assert has_attr(region, attr()) == 0
    assert has_attr(region, attr(BAD_POINTER)) == 0
    for group, number in UNKNOWN:
        assert has_attr(region, DeviceAttr(group, number)) == ENXIO


@pytest.mark.parametrize(("group", "number"), UNKNOWN)
def test_unknown_attribute(region: PvLockRegion, group: int, number: int) -> None:
    unknown = DeviceAttr(group, number, POINTER)
    user = User(BASE)
    assert set_attr(region, 0, unknown, user) == ENXIO
    assert get_attr(region, 0, unknown, user) == ENXIO
    assert user.value == BASE
    assert region.addresses == {}


def test_off_is_enxio() -> None:
    region = make_region(enabled=False)
    user = User(BASE)
    assert has_attr(region, attr()) == ENXIO
    assert set_attr(region, 0, attr(), user) == ENXIO
    assert get_attr(region, 0, attr(), user) == ENXIO
    assert user.value == BASE


def test_set_then_get(region: PvLockRegion) -> None:
    user = User(BASE + 64)
    assert set_attr(region, 1, attr(), user) == 0
    user.value = 0
    assert get_attr(region, 1, attr(), user) == 0
    assert user.value == BASE + 64


def test_get_unset(region: PvLockRegion) -> None:
    user = User()
    assert get_attr(region, 0, attr(), user) == 0
    assert user.value == 0xFFFF_FFFF_FFFF_FFFF == abi.UNSET


def test_bad_pointer(region: PvLockRegion) -> None:
    assert set_attr(region, 0, attr(BAD_POINTER), User(BASE)) == EFAULT
    assert get_attr(region, 0, attr(BAD_POINTER), User(BASE)) == EFAULT
    assert region.addresses == {}


@pytest.mark.parametrize("ipa", [BASE + 1, BASE + 8, BASE + 32, BASE + 63, abi.UNSET])
def test_set_refuses_misaligned(region: PvLockRegion, ipa: int) -> None:
    assert set_ipa(region, 0, ipa) == EINVAL


@pytest.mark.parametrize("again", [BASE, BASE + 64])
def test_set_twice(region: PvLockRegion, again: int) -> None:
    assert set_ipa(region, 0, BASE) == 0
    assert set_ipa(region, 0, again) == EEXIST
    assert region.ipa(0) == BASE


@pytest.mark.parametrize("ipa", [0, BASE - 64, BASE + SIZE, 2**63, 2**64 - 64])
def test_set_outside_memory(region: PvLockRegion, ipa: int) -> None:
    assert set_ipa(region, 0, ipa) == EINVAL


def test_set_at_both_ends_of_memory(region: PvLockRegion) -> None:
    assert set_ipa(region, 0, BASE) == 0
    assert set_ipa(region, 1, BASE + SIZE - 64) == 0


def test_two_vcpus_cannot_share(region: PvLockRegion) -> None:
    assert set_ipa(region, 0, BASE) == 0
    assert set_ipa(region, 1, BASE) == EEXIST
    assert set_ipa(region, 1, BASE + 64) == 0


def test_order_of_checks(region: PvLockRegion) -> None:
    misaligned_and_outside, outside = 1, 0
    assert set_ipa(region, 0, BASE) == 0
    # Every later check would fail as well.
    unknown = DeviceAttr(GROUP, IPA + 1, BAD_POINTER)
    assert set_attr(region, 0, unknown, User(misaligned_and_outside)) == ENXIO
    assert set_attr(region, 0, attr(BAD_POINTER), User(misaligned_and_outside)) == EFAULT
    assert set_ipa(region, 0, misaligned_and_outside) == EINVAL
    assert set_ipa(region, 0, outside) == EEXIST
    # Only the last one fails.
    assert set_ipa(region, 1, outside) == EINVAL


def test_refusal_changes_nothing(region: PvLockRegion) -> None:
    assert set_ipa(region, 0, BASE) == 0
    before = region.memory.read(BASE, SIZE, "test")
    for vcpu, ipa in [(0, BASE + 64), (1, BASE), (1, BASE + 8), (1, BASE + SIZE)]:
        assert set_ipa(region, vcpu, ipa) < 0
    assert region.addresses == {0: BASE}
    assert region.memory.read(BASE, SIZE, "test") == before


@given(st.integers(0, 2**64 - 1) | st.integers(-2, 130).map(lambda n: BASE + 32 * n))
def test_any_address_gives_a_documented_answer(ipa: int) -> None:
    region = make_region()
    valid = ipa % 64 == 0 and BASE <= ipa <= BASE + SIZE - 64
    assert set_ipa(region, 0, ipa) == (0 if valid else EINVAL)
    assert region.ipa(0) == (ipa if valid else None)
