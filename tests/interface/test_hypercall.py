# SPDX-License-Identifier: GPL-2.0-or-later
"""hypercall.py: every call, every refusal, and whatever registers a guest comes up with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock import abi
from pvlock.hypercall import Hypercalls
from pvlock.memory import GuestMemory, MemorySlot
from pvlock.region import PvLockRegion, StolenTimeRegion

BASE, SIZE = 0x8000_0000, 0x1000
STOLEN = BASE + 0x800
REFUSED = 0xFFFF_FFFF_FFFF_FFFF
TWINS = [0x8600_0020, 0x8600_0021]
KNOWN = [
    abi.PV_LOCK_FEATURES,
    abi.PV_LOCK_PREEMPTED,
    abi.PV_TIME_FEATURES,
    abi.PV_TIME_ST,
    abi.SMCCC_VERSION,
    abi.SMCCC_ARCH_FEATURES,
    abi.VENDOR_HYP_CALL_UID,
]

u64 = st.integers(0, 2**64 - 1)
functions = st.sampled_from([*KNOWN, *TWINS]) | st.integers(0, 2**32 - 1)


def make_calls(enabled: bool = True, stolen: bool = True) -> Hypercalls:
    """Return the calls of a VM whose VCPUs 0 and 1 have structures, and whose VCPU 2 has none."""
    memory = GuestMemory()
    memory.add(MemorySlot(BASE, SIZE, "region", memoryview(bytearray(SIZE)), readonly=True))
    memory.write(BASE, b"\xa5" * SIZE, "test")
    pvlock, time = PvLockRegion(memory, enabled), StolenTimeRegion(memory)
    for vcpu in (0, 1):
        assert pvlock.set_address(vcpu, BASE + 64 * vcpu) == 0
        assert time.set_address(vcpu, STOLEN + 64 * vcpu) == 0
    return Hypercalls(pvlock, time if stolen else None)


@pytest.fixture
def calls() -> Hypercalls:
    return make_calls()


def x0(calls: Hypercalls, function: int, argument: int = 0, vcpu: int = 0) -> int:
    return calls.call(vcpu, (function, argument, 0, 0))[0]


def contents(calls: Hypercalls) -> bytes:
    return calls.pvlock.memory.read(BASE, SIZE, "test")


def test_smccc_version(calls: Hypercalls) -> None:
    assert x0(calls, abi.SMCCC_VERSION) == 0x1_0001


@pytest.mark.parametrize("vcpu", [0, 2])
def test_arch_features(calls: Hypercalls, vcpu: int) -> None:
    implemented = [
        abi.PV_LOCK_FEATURES,
        abi.PV_TIME_FEATURES,
        abi.SMCCC_VERSION,
        abi.SMCCC_ARCH_FEATURES,
    ]
    for function in implemented:
        assert x0(calls, abi.SMCCC_ARCH_FEATURES, function, vcpu) == 0
    for function in [*TWINS, abi.PV_LOCK_PREEMPTED, abi.PV_TIME_ST, abi.PSCI_VERSION, 0x8000_8000]:
        assert x0(calls, abi.SMCCC_ARCH_FEATURES, function, vcpu) == REFUSED


def test_pv_lock_features(calls: Hypercalls) -> None:
    for asked in (abi.PV_LOCK_PREEMPTED, abi.PV_LOCK_FEATURES):
        assert x0(calls, abi.PV_LOCK_FEATURES, asked) == 0
        assert x0(calls, abi.PV_LOCK_FEATURES, asked, vcpu=2) == REFUSED
    for asked in (0, *TWINS, abi.PV_TIME_ST, abi.SMCCC_VERSION, 0xC600_0022):
        assert x0(calls, abi.PV_LOCK_FEATURES, asked) == REFUSED


def test_pv_lock_preempted(calls: Hypercalls) -> None:
    before = contents(calls)
    for _ in range(2):
        assert x0(calls, abi.PV_LOCK_PREEMPTED, vcpu=1) == BASE + 64
        assert contents(calls) == before[:64] + bytes(64) + before[128:]
        calls.pvlock.memory.write_u64(BASE + 64, 1, "test")
    after = contents(calls)
    assert x0(calls, abi.PV_LOCK_PREEMPTED, vcpu=2) == REFUSED
    assert contents(calls) == after


def test_each_vcpu_has_its_own(calls: Hypercalls) -> None:
    assert [x0(calls, abi.PV_LOCK_PREEMPTED, vcpu=vcpu) for vcpu in (0, 1)] == [BASE, BASE + 64]


@pytest.mark.parametrize("function", TWINS)
@pytest.mark.parametrize("argument", [0, *TWINS, abi.PV_LOCK_PREEMPTED])
def test_smc32_twins_are_refused(calls: Hypercalls, function: int, argument: int) -> None:
    before = contents(calls)
    assert x0(calls, function, argument) == REFUSED
    assert contents(calls) == before


@pytest.mark.parametrize("function", [0, 1, 0xC600_0022, 0x4600_0020, 0xC600_0000, 0xFFFF_FFFF])
def test_unknown_ids(calls: Hypercalls, function: int) -> None:
    assert x0(calls, function, abi.PV_LOCK_PREEMPTED) == REFUSED


def test_uid(calls: Hypercalls) -> None:
    words = calls.call(0, (abi.VENDOR_HYP_CALL_UID, 1, 2, 3))
    assert b"".join(word.to_bytes(4, "little") for word in words) == abi.HYPERVISOR_UID.bytes


def test_off() -> None:
    calls = make_calls(enabled=False)
    before = contents(calls)
    assert x0(calls, abi.PV_LOCK_FEATURES, abi.PV_LOCK_PREEMPTED) == REFUSED
    assert x0(calls, abi.PV_LOCK_FEATURES, abi.PV_LOCK_FEATURES) == REFUSED
    assert x0(calls, abi.PV_LOCK_PREEMPTED) == REFUSED
    assert x0(calls, abi.SMCCC_ARCH_FEATURES, abi.PV_LOCK_FEATURES) == REFUSED
    assert x0(calls, abi.SMCCC_ARCH_FEATURES, abi.PV_TIME_FEATURES) == 0
    assert x0(calls, abi.SMCCC_VERSION) == 0x1_0001
    assert x0(calls, abi.VENDOR_HYP_CALL_UID) == abi.uid_words()[0]
    assert contents(calls) == before


def test_pv_time(calls: Hypercalls) -> None:
    for asked in (abi.PV_TIME_FEATURES, abi.PV_TIME_ST):
        assert x0(calls, abi.PV_TIME_FEATURES, asked) == 0
        assert x0(calls, abi.PV_TIME_FEATURES, asked, vcpu=2) == REFUSED
    assert x0(calls, abi.PV_TIME_FEATURES, abi.PV_LOCK_PREEMPTED) == REFUSED
    before = contents(calls)
    assert x0(calls, abi.PV_TIME_ST, vcpu=1) == STOLEN + 64
    start = STOLEN + 64 - BASE
    assert contents(calls) == before[:start] + bytes(64) + before[start + 64 :]
    assert x0(calls, abi.PV_TIME_ST, vcpu=2) == REFUSED


def test_pv_time_off() -> None:
    calls = make_calls(stolen=False)
    assert x0(calls, abi.PV_TIME_FEATURES, abi.PV_TIME_ST) == REFUSED
    assert x0(calls, abi.PV_TIME_ST) == REFUSED
    assert x0(calls, abi.SMCCC_ARCH_FEATURES, abi.PV_TIME_FEATURES) == REFUSED
    assert x0(calls, abi.PV_LOCK_PREEMPTED) == BASE


@given(functions, functions, u64, u64)
def test_upper_halves_are_ignored(function: int, argument: int, high0: int, high1: int) -> None:
    noise0, noise1 = high0 >> 32 << 32, high1 >> 32 << 32
    plain = make_calls().call(0, (function, argument, 0, 0))
    noisy = make_calls().call(0, (noise0 | function, noise1 | argument, 0, 0))
    assert noisy[0] == plain[0]


@given(st.integers(0, 2), st.tuples(u64 | functions, u64 | functions, u64, u64), st.booleans())
def test_any_registers(vcpu: int, registers: tuple[int, int, int, int], enabled: bool) -> None:
    calls = make_calls(enabled)
    result = calls.call(vcpu, registers)
    if registers[0] & 0xFFFF_FFFF == abi.VENDOR_HYP_CALL_UID:
        assert result == abi.uid_words()
        return
    documented = {REFUSED, 0, 0x1_0001, BASE + 64 * vcpu, STOLEN + 64 * vcpu}
    assert result[0] in documented
    assert result[1:] == registers[1:]
