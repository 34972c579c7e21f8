# SPDX-License-Identifier: GPL-2.0-or-later
"""abi.py: the numbers have the shape that the calling convention gives them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock import abi

FAST, SMC64 = 1 << 31, 1 << 30


@pytest.mark.parametrize(
    ("function", "number"), [(abi.PV_LOCK_FEATURES, 0x20), (abi.PV_LOCK_PREEMPTED, 0x21)]
)
def test_pv_lock_ids_decode(function: int, number: int) -> None:
    assert function == FAST | SMC64 | 6 << 24 | number


@pytest.mark.parametrize(
    ("function", "number"), [(abi.PV_TIME_FEATURES, 0x20), (abi.PV_TIME_ST, 0x21)]
)
def test_pv_time_ids_decode(function: int, number: int) -> None:
    assert function == FAST | SMC64 | 5 << 24 | number


def test_psci_twins_differ_in_the_convention_bit() -> None:
    assert abi.PSCI_CPU_ON == abi.PSCI_CPU_ON_SMC32 | SMC64
    assert abi.PSCI_AFFINITY_INFO == abi.PSCI_AFFINITY_INFO_SMC32 | SMC64


def test_structure_is_a_power_of_two_and_holds_its_fields() -> None:
    assert abi.STRUCTURE_SIZE == abi.STRUCTURE_STRIDE == abi.STRUCTURE_ALIGNMENT == 64
    assert abi.STOLEN_TIME_OFFSET % 8 == abi.PREEMPTED_OFFSET % 8 == 0


def test_policies() -> None:
    assert [str(policy) for policy in abi.Policy] == ["scheduled-out", "preempted"]


@pytest.mark.parametrize(
    ("vcpu", "expected"),
    [(0, 0), (15, 0xF), (16, 0x100), (17, 0x101), (4095, 0xFF0F), (4096, 0x1_0000)],
)
def test_affinity(vcpu: int, expected: int) -> None:
    assert abi.affinity(vcpu) == expected
    assert abi.mpidr_el1(vcpu) == 0x8000_0000 | expected


@given(st.integers(0, abi.VCPU_LIMIT - 1))
def test_affinity_can_be_undone(vcpu: int) -> None:
    value = abi.affinity(vcpu)
    aff0, aff1, aff2 = value & 0xFF, value >> 8 & 0xFF, value >> 16
    assert aff0 < 16 and aff2 < 256
    assert aff0 + 16 * aff1 + 4096 * aff2 == vcpu


@pytest.mark.parametrize("vcpu", [-1, abi.VCPU_LIMIT])
def test_affinity_out_of_range(vcpu: int) -> None:
    with pytest.raises(ValueError, match=str(vcpu)):
        abi.affinity(vcpu)


def test_uid_words() -> None:
    words = abi.uid_words()
    assert struct.pack("<4I", *words) == abi.HYPERVISOR_UID.bytes
    # The first word must not look like NOT_SUPPORTED.
    assert words[0] != 2**32 - 1
