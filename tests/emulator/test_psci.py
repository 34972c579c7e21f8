# SPDX-License-Identifier: GPL-2.0-or-later
"""The PSCI state machine: every call, every return code it can give (DEN 0022)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock import abi
from pvlock.engines.emulator.psci import (
    PSCI_MIGRATE_INFO_TYPE,
    PowerOff,
    PowerOn,
    Psci,
    PsciResult,
    SystemOff,
    SystemReset,
    handles,
)

AFFINITIES = [0x0, 0x1, 0x100]
PSCI_CPU_SUSPEND = 0xC400_0001


def x0(value: int) -> int:
    return value % 2**64


def call(psci: Psci, function_id: int, *args: int, vcpu: int = 0) -> PsciResult:
    x1, x2, x3 = (*args, 0, 0, 0)[:3]
    return psci.call(vcpu, function_id, (x1, x2, x3))


def on(psci: Psci) -> list[int]:
    """Ask which VCPUs are on, as a guest does."""
    answers = [call(psci, abi.PSCI_AFFINITY_INFO, affinity).value for affinity in AFFINITIES]
    assert set(answers) <= {abi.AFFINITY_ON, abi.AFFINITY_OFF}
    return [vcpu for vcpu, answer in enumerate(answers) if answer == abi.AFFINITY_ON]


@pytest.fixture
def psci() -> Psci:
    return Psci(AFFINITIES)


def test_only_vcpu_0_starts_on(psci: Psci) -> None:
    assert on(psci) == [0]


def test_version(psci: Psci) -> None:
    assert call(psci, abi.PSCI_VERSION) == PsciResult(0x1_0000)


@pytest.mark.parametrize("function_id", [abi.PSCI_CPU_ON, abi.PSCI_CPU_ON_SMC32])
def test_cpu_on_starts_the_named_vcpu(psci: Psci, function_id: int) -> None:
    assert call(psci, function_id, 0x100, 0x4008_0000, 7) == PsciResult(
        abi.PSCI_SUCCESS, PowerOn(2, 0x4008_0000, 7)
    )
    assert on(psci) == [0, 2]


def test_cpu_on_twice_is_already_on(psci: Psci) -> None:
    call(psci, abi.PSCI_CPU_ON, 1, 0x4000_0000, 0)
    again = call(psci, abi.PSCI_CPU_ON, 1, 0x4000_0000, 0)
    assert again == PsciResult(x0(abi.PSCI_ALREADY_ON))


def test_cpu_on_of_the_caller_is_already_on(psci: Psci) -> None:
    assert call(psci, abi.PSCI_CPU_ON, 0) == PsciResult(x0(abi.PSCI_ALREADY_ON))


@pytest.mark.parametrize("mpidr", [2, 0x101, 1 << 32 | 1, 0x8000_0001, 2**64 - 1])
def test_cpu_on_of_an_unknown_affinity(psci: Psci, mpidr: int) -> None:
    assert call(psci, abi.PSCI_CPU_ON, mpidr) == PsciResult(x0(abi.PSCI_INVALID_PARAMETERS))


def test_32_bit_calls_read_w_registers(psci: Psci) -> None:
    high = 0xDEAD << 32
    started = call(psci, abi.PSCI_CPU_ON_SMC32, high | 1, high | 0x4000_0000, high | 3)
    assert started.action == PowerOn(1, 0x4000_0000, 3)
    info = call(psci, abi.PSCI_AFFINITY_INFO_SMC32, high | 1, high)
    assert info == PsciResult(abi.AFFINITY_ON)


def test_64_bit_cpu_on_keeps_64_bits(psci: Psci) -> None:
    started = call(psci, abi.PSCI_CPU_ON, 1, 1 << 40, 2**64 - 1)
    assert started.action == PowerOn(1, 1 << 40, 2**64 - 1)


def test_cpu_off_does_not_return_and_allows_cpu_on_again(psci: Psci) -> None:
    call(psci, abi.PSCI_CPU_ON, 1)
    assert call(psci, abi.PSCI_CPU_OFF, vcpu=1) == PsciResult(None, PowerOff(1))
    assert call(psci, abi.PSCI_AFFINITY_INFO, 1) == PsciResult(abi.AFFINITY_OFF)
    assert call(psci, abi.PSCI_CPU_ON, 1, 8).action == PowerOn(1, 8, 0)


def test_affinity_info(psci: Psci) -> None:
    assert call(psci, abi.PSCI_AFFINITY_INFO, 0) == PsciResult(abi.AFFINITY_ON)
    assert call(psci, abi.PSCI_AFFINITY_INFO, 1) == PsciResult(abi.AFFINITY_OFF)


def test_affinity_info_of_a_cluster_is_on_while_any_vcpu_is() -> None:
    psci = Psci([0, 1, 0x100, 0x101, 0x10000])
    for level, mpidr, info in (
        *((1, 0, abi.AFFINITY_ON), (1, 1, abi.AFFINITY_ON), (1, 0x101, abi.AFFINITY_OFF)),
        *((2, 0x155, abi.AFFINITY_ON), (2, 0x10000, abi.AFFINITY_OFF), (3, 7, abi.AFFINITY_ON)),
    ):
        assert call(psci, abi.PSCI_AFFINITY_INFO, mpidr, level) == PsciResult(info)
    psci.turn_on(3)
    assert call(psci, abi.PSCI_AFFINITY_INFO, 0x100, 1) == PsciResult(abi.AFFINITY_ON)


@pytest.mark.parametrize(("mpidr", "level"), [(2, 0), (0, 4), (0, 1 << 63), (0x77_0000, 1)])
def test_affinity_info_refuses(psci: Psci, mpidr: int, level: int) -> None:
    refused = call(psci, abi.PSCI_AFFINITY_INFO, mpidr, level)
    assert refused == PsciResult(x0(abi.PSCI_INVALID_PARAMETERS))


def test_migrate_info_type_needs_no_migration(psci: Psci) -> None:
    assert call(psci, PSCI_MIGRATE_INFO_TYPE) == PsciResult(2)


def test_system_off_and_reset_do_not_return(psci: Psci) -> None:
    assert call(psci, abi.PSCI_SYSTEM_OFF) == PsciResult(None, SystemOff())
    assert call(psci, abi.PSCI_SYSTEM_RESET) == PsciResult(None, SystemReset())


@pytest.mark.parametrize(
    ("function_id", "expected"),
    [
        (abi.SMCCC_VERSION, abi.PSCI_SUCCESS),
        (abi.PSCI_VERSION, abi.PSCI_SUCCESS),
        (abi.PSCI_CPU_OFF, abi.PSCI_SUCCESS),
        (abi.PSCI_CPU_ON, abi.PSCI_SUCCESS),
        (abi.PSCI_CPU_ON_SMC32, abi.PSCI_SUCCESS),
        (abi.PSCI_AFFINITY_INFO, abi.PSCI_SUCCESS),
        (abi.PSCI_SYSTEM_OFF, abi.PSCI_SUCCESS),
        (abi.PSCI_SYSTEM_RESET, abi.PSCI_SUCCESS),
        (abi.PSCI_FEATURES, abi.PSCI_SUCCESS),
        (PSCI_MIGRATE_INFO_TYPE, abi.PSCI_SUCCESS),
        (PSCI_CPU_SUSPEND, abi.PSCI_NOT_SUPPORTED),
        (0xC400_0008, abi.PSCI_NOT_SUPPORTED),
        (0, abi.PSCI_NOT_SUPPORTED),
    ],
)
def test_features(psci: Psci, function_id: int, expected: int) -> None:
    assert call(psci, abi.PSCI_FEATURES, function_id) == PsciResult(x0(expected))


@pytest.mark.parametrize("function_id", [PSCI_CPU_SUSPEND, 0x8400_001F, 0xC400_0000])
def test_unknown_functions_in_range_are_not_supported(psci: Psci, function_id: int) -> None:
    assert handles(function_id)
    assert call(psci, function_id) == PsciResult(x0(abi.PSCI_NOT_SUPPORTED))


@pytest.mark.parametrize(
    ("function_id", "handled"),
    [
        (0x8400_0000, True),
        (0x8400_001F, True),
        (0xC400_0000, True),
        (0xC400_001F, True),
        (0x8400_0020, False),
        (0xC400_0020, False),
        (0x83FF_FFFF, False),
        (0x8000_0000, False),
        (0xC600_0020, False),
        (0x0400_0000, False),
    ],
)
def test_handles_the_two_ranges(function_id: int, handled: bool) -> None:
    assert handles(function_id) is handled


REGISTER = st.sampled_from([*AFFINITIES, 2, 2**31, 2**64 - 1]) | st.integers(0, 2**64 - 1)
FUNCTION = st.integers(0x8400_0000, 0x8400_001F) | st.integers(0xC400_0000, 0xC400_001F)


@given(st.lists(st.tuples(FUNCTION, REGISTER, REGISTER, REGISTER), max_size=30))
def test_any_calls_keep_state_and_actions_in_step(
    calls: list[tuple[int, int, int, int]],
) -> None:
    psci = Psci(AFFINITIES)
    expected = {0}
    for n, (function_id, *args) in enumerate(calls):
        caller = sorted(expected)[n % len(expected)]
        result = call(psci, function_id, *args, vcpu=caller)
        assert result.value is None or 0 <= result.value < 2**64
        match result.action:
            case PowerOn(vcpu=vcpu):
                assert vcpu not in expected
                expected.add(vcpu)
            case PowerOff(vcpu=vcpu):
                assert vcpu == caller
                expected.remove(vcpu)
        assert on(psci) == sorted(expected)
        if not expected:
            break
