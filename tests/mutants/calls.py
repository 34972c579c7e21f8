# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the hypercalls and of discovery."""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mutants.catalogue import Patch, mutant
from pvlock import abi, fdt
from pvlock.engines.emulator import psci
from pvlock.engines.emulator.exits import Exits
from pvlock.engines.emulator.psci import PowerOff, Psci
from pvlock.engines.emulator.vcpu import EmulatedVcpu
from pvlock.hypercall import Hypercalls, Registers
from pvlock.memory_map import PVLOCK_BASE
from pvlock.region import PvLockRegion

FEATURES, PREEMPTED = abi.PV_LOCK_FEATURES, abi.PV_LOCK_PREEMPTED
U32, U64 = 2**32 - 1, 2**64 - 1
SMC64 = 1 << 30

result = Hypercalls._result
call = Hypercalls.call


def answers(patch: Patch, answer: Callable[[Hypercalls, int, int, int], int | None]) -> None:
    """Let `answer(calls, vcpu, function, argument)` decide, and where it returns None, nothing."""

    def changed(self: Hypercalls, vcpu: int, function: int, argument: int) -> int:
        wrong = answer(self, vcpu, function, argument)
        return result(self, vcpu, function, argument) if wrong is None else wrong

    patch(Hypercalls, "_result", changed)


def registers(
    patch: Patch, change: Callable[[Hypercalls, int, Sequence[int], Registers], Registers]
) -> None:
    """Let `change(calls, vcpu, before, after)` return what the guest gets."""

    def changed(self: Hypercalls, vcpu: int, before: Sequence[int]) -> Registers:
        return change(self, vcpu, before, call(self, vcpu, before))

    patch(Hypercalls, "call", changed)


@mutant("3.5", "ARCH_FEATURES does not know PV_LOCK_FEATURES", "arch-features", "discovery-order")
def arch_features_missing(patch: Patch) -> None:
    def answer(_: Hypercalls, _vcpu: int, function: int, argument: int) -> int | None:
        asked = (function, argument) == (abi.SMCCC_ARCH_FEATURES, FEATURES)
        return abi.NOT_SUPPORTED if asked else None

    answers(patch, answer)


@mutant(
    "3.5",
    "ARCH_FEATURES(PV_LOCK_FEATURES) is NOT_SUPPORTED while the VCPU has no address",
    "arch-features-unset",
)
def arch_features_wait_for_an_address(patch: Patch) -> None:
    def answer(calls: Hypercalls, vcpu: int, function: int, argument: int) -> int | None:
        asked = (function, argument) == (abi.SMCCC_ARCH_FEATURES, FEATURES)
        return abi.NOT_SUPPORTED if asked and calls.pvlock.ipa(vcpu) is None else None

    answers(patch, answer)


@mutant("3.6", "ARCH_FEATURES says SUCCESS for every ID", "arch-features-others")
def arch_features_for_everything(patch: Patch) -> None:
    answers(patch, lambda _c, _v, f, _a: 0 if f == abi.SMCCC_ARCH_FEATURES else None)


@mutant("3.4", "SMCCC_VERSION is 1.0, which has no ARCH_FEATURES", "smccc-version")
def smccc_1_0(patch: Patch) -> None:
    answers(patch, lambda _c, _v, f, _a: 0x10000 if f == abi.SMCCC_VERSION else None)


@mutant("3.7", "PV_LOCK_FEATURES says SUCCESS for every ID", "features-others")
def features_for_everything(patch: Patch) -> None:
    answers(patch, lambda _c, _v, f, _a: 0 if f == FEATURES else None)


@mutant("3.7", "PV_LOCK_FEATURES does not know itself", "features-itself")
def features_without_itself(patch: Patch) -> None:
    answers(patch, lambda _c, _v, f, a: -1 if f == a == FEATURES else None)


@mutant("3.7", "PV_LOCK_FEATURES says SUCCESS although the VCPU has no address", "features-unset")
def features_without_an_address(patch: Patch) -> None:
    answers(patch, lambda _c, _v, f, a: 0 if (f, a) == (FEATURES, PREEMPTED) else None)


@mutant("3.8", "PV_LOCK_PREEMPTED returns 0 when the VCPU has no address", "preempted-unset")
def preempted_0_without_an_address(patch: Patch) -> None:
    answers(
        patch, lambda c, v, f, _a: 0 if f == PREEMPTED and c.pvlock.ipa(v) is None else None
    )  # fmt: skip


@mutant("3.2", "the function ID is compared in 64 bits", "upper-halves", "upper-halves-smccc")
def function_id_in_64_bits(patch: Patch) -> None:
    def change(_: Hypercalls, _vcpu: int, before: Sequence[int], after: Registers) -> Registers:
        return after if before[0] <= U32 else (U64, *after[1:])

    registers(patch, change)


@mutant("3.2", "PV_call_id is compared in 64 bits", "upper-halves")
def call_id_in_64_bits(patch: Patch) -> None:
    def change(_: Hypercalls, _vcpu: int, before: Sequence[int], after: Registers) -> Registers:
        wrong = before[0] & U32 == FEATURES and before[1] > U32
        return (U64, *after[1:]) if wrong else after

    registers(patch, change)


@mutant("3.9", "the SMC32 twins of both calls are accepted", "smc32-twins")
def smc32_twins(patch: Patch) -> None:
    twins = (FEATURES & ~SMC64, PREEMPTED & ~SMC64)

    def answer(calls: Hypercalls, vcpu: int, function: int, argument: int) -> int | None:
        return result(calls, vcpu, function | SMC64, argument) if function in twins else None

    answers(patch, answer)


@mutant("3.9", "NOT_SUPPORTED is a 32-bit -1", "features-others", "unknown-ids")
def minus_one_in_32_bits(patch: Patch) -> None:
    def change(_: Hypercalls, _vcpu: int, _before: Sequence[int], after: Registers) -> Registers:
        return (U32, *after[1:]) if after[0] == U64 else after

    registers(patch, change)


@mutant("3.9", "an unknown ID is SUCCESS", "unknown-ids")
def unknown_ids_succeed(patch: Patch) -> None:
    known = {
        *(FEATURES, PREEMPTED, abi.PV_TIME_FEATURES, abi.PV_TIME_ST),
        *(abi.SMCCC_VERSION, abi.SMCCC_ARCH_FEATURES),
    }
    answers(patch, lambda _c, _v, f, _a: None if f in known else 0)


@mutant("3.10", "the UID's words are big-endian", "uid")
def uid_big_endian(patch: Patch) -> None:
    def change(_: Hypercalls, _vcpu: int, before: Sequence[int], after: Registers) -> Registers:
        if before[0] & U32 != abi.VENDOR_HYP_CALL_UID:
            return after
        a, b, c, d = (int.from_bytes(word.to_bytes(4, "little"), "big") for word in after)
        return a, b, c, d

    registers(patch, change)


@mutant("3.11", "PV_LOCK_PREEMPTED answers although PV-lock is off", "off-calls")
def on_although_off(patch: Patch) -> None:
    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        wrong = function == PREEMPTED and not calls.pvlock.enabled
        return PVLOCK_BASE + 64 * vcpu if wrong else None

    answers(patch, answer)


@mutant("3.3", "X9 does not survive the PV-lock calls", "registers", in_worker=True)
def x9_lost(patch: Patch) -> None:
    hypercall_ = Exits._hypercall

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        ours = vcpu.x(0) & U32 in (FEATURES, PREEMPTED)
        hypercall_(self, cpu, vcpu)
        if ours:
            vcpu.set_x(9, 0)

    patch_answer(patch, changed)


@mutant("3.3", "X17 does not survive SMCCC's own calls", "registers-smccc", in_worker=True)
def x17_lost(patch: Patch) -> None:
    hypercall_ = Exits._hypercall

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        ours = vcpu.x(0) & U32 in (abi.SMCCC_VERSION, abi.SMCCC_ARCH_FEATURES)
        hypercall_(self, cpu, vcpu)
        if ours:
            vcpu.set_x(17, vcpu.x(17) ^ 1)

    patch_answer(patch, changed)


def patch_answer(patch: Patch, changed: Callable[[Exits, int, EmulatedVcpu], None]) -> None:
    """Replace what answers an HVC; the table that finds it holds the function itself."""
    from pvlock.engines.emulator import exits
    from pvlock.engines.emulator.vcpu import Exit

    patch(exits, "_ANSWERS", {**exits._ANSWERS, Exit.HVC: changed})


# ---- whose structure, and what is in it ----


@mutant("3.8", "PV_LOCK_PREEMPTED returns the address of the next VCPU's structure", "layout")
def next_vcpus_address(patch: Patch) -> None:
    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        addresses = calls.pvlock.addresses
        if function != PREEMPTED or vcpu not in addresses:
            return None
        result(calls, vcpu, PREEMPTED, 0)
        return addresses[(vcpu + 1) % len(addresses)]

    answers(patch, answer)


@mutant("2.1", "two VCPUs share a structure", "distinct")
def shared_structure(patch: Patch) -> None:
    ipa = PvLockRegion.ipa
    patch(PvLockRegion, "ipa", lambda self, vcpu: ipa(self, vcpu & ~1))


@mutant("4.5", "every second PV_LOCK_PREEMPTED returns another address", "stable")
def address_moves(patch: Patch) -> None:
    calls_of: dict[int, int] = {}

    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        if function != PREEMPTED or (ipa := calls.pvlock.ipa(vcpu)) is None:
            return None
        calls_of[vcpu] = calls_of.get(vcpu, 0) + 1
        result(calls, vcpu, PREEMPTED, 0)
        return ipa if calls_of[vcpu] % 2 else ipa + 1024

    answers(patch, answer)


@mutant(
    "3.8",
    "PV_LOCK_PREEMPTED does not zero the structure",
    "zeroed-by-call",
    "zero-after-call",
)
def not_zeroed(patch: Patch) -> None:
    answers(patch, lambda c, v, f, _a: c.pvlock.ipa(v) if f == PREEMPTED else None)


@mutant("3.8", "PV_LOCK_PREEMPTED zeroes the flag, not the padding", "zeroed-by-call", "padding")
def padding_not_zeroed(patch: Patch) -> None:
    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        ipa = calls.pvlock.ipa(vcpu)
        if function == PREEMPTED and ipa is not None:
            calls.pvlock.memory.write_u64(ipa, 0, "mutant")
            return ipa
        return None

    answers(patch, answer)


@mutant("2.3", "structures are aligned to 8 bytes, not to 64", "aligned")
def misaligned_structures(patch: Patch) -> None:
    def set_address(self: PvLockRegion, vcpu: int, ipa: int) -> int:
        self.addresses[vcpu] = ipa + 8
        return 0

    patch(PvLockRegion, "set_address", set_address)


@mutant("2.5", "structures are 128 bytes apart", "layout")
def structures_far_apart(patch: Patch) -> None:
    def set_address(self: PvLockRegion, vcpu: int, ipa: int) -> int:
        self.addresses[vcpu] = ipa + 64 * min(vcpu, 60)  # those of 66 VCPUs stay in the slot
        return 0

    patch(PvLockRegion, "set_address", set_address)


@mutant(
    "8.2",
    "the device tree says nothing of PV-lock",
    "node",
    "in-memory",
    "second-way-in",
    "region-pages",
)
def no_node(patch: Patch) -> None:
    build = fdt.build
    patch(fdt, "build", lambda board: build(replace(board, pvlock_base=None)))


@mutant("8.3", "the device tree has the node although PV-lock is off", "no-node")
def node_although_off(patch: Patch) -> None:
    build = fdt.build
    patch(
        fdt,
        "build",
        lambda board: build(replace(board, pvlock_base=PVLOCK_BASE, pvlock_size=mmap.PAGESIZE)),
    )


@mutant("3.8", "PV_LOCK_PREEMPTED returns an address that is in no memory", "address")
def address_in_nothing(patch: Patch) -> None:
    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        ipa = calls.pvlock.ipa(vcpu)
        return ipa + (1 << 35) if function == PREEMPTED and ipa is not None else None

    answers(patch, answer)


@mutant("3.6", "ARCH_FEATURES does not know itself", "arch-features-itself")
def arch_features_without_itself(patch: Patch) -> None:
    asked = abi.SMCCC_ARCH_FEATURES
    answers(patch, lambda _c, _v, f, a: -1 if f == a == asked else None)


@mutant("3.7", "PV_LOCK_FEATURES does not know PV_LOCK_PREEMPTED", "features-preempted")
def features_without_preempted(patch: Patch) -> None:
    answers(patch, lambda _c, _v, f, a: -1 if (f, a) == (FEATURES, PREEMPTED) else None)


@mutant("3.10", "the UID is another one at each call", "uid-call")
def uid_changes(patch: Patch) -> None:
    made: list[int] = []

    def change(_: Hypercalls, _vcpu: int, before: Sequence[int], after: Registers) -> Registers:
        if before[0] & U32 != abi.VENDOR_HYP_CALL_UID:
            return after
        made.append(1)
        return (len(made), *after[1:])

    registers(patch, change)


@mutant("3.1", "PSCI_VERSION is NOT_SUPPORTED", "conduit", in_worker=True)
def no_psci_version(patch: Patch) -> None:
    def version(_psci: Psci, _vcpu: int, _x1: int, _x2: int, _x3: int) -> psci.PsciResult:
        return psci.PsciResult(U64)

    patch(psci, "_FUNCTIONS", {**psci._FUNCTIONS, abi.PSCI_VERSION: version})


@mutant("8.5", "MPIDR_EL1 has its MT bit set", "affinity", in_worker=True)
def mpidr_with_mt(patch: Patch) -> None:
    mpidr = abi.mpidr_el1
    patch(abi, "mpidr_el1", lambda vcpu: mpidr(vcpu) | 1 << 24)


# ---- a VCPU that goes off and on ----


def after_off(patch: Patch, wrong: Callable[[int], int]) -> None:
    """Let `wrong(address)` be what PV_LOCK_PREEMPTED returns to a VCPU that has been off."""
    answer, power = Exits._hypercall, Psci.call
    been_off: set[int] = set()

    def called(self: Psci, vcpu: int, function_id: int, args: tuple[int, int, int]) -> Any:
        done = power(self, vcpu, function_id, args)
        if isinstance(done.action, PowerOff):
            been_off.add(vcpu)
        return done

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        ours = vcpu.x(0) & U32 == PREEMPTED
        answer(self, cpu, vcpu)
        if ours and vcpu.index in been_off:
            vcpu.set_x(0, wrong(vcpu.x(0)))

    patch(Psci, "call", called)
    patch_answer(patch, changed)


@mutant("9.1", "a VCPU that goes off loses its address", "off-and-on", in_worker=True)
def address_lost_at_off(patch: Patch) -> None:
    after_off(patch, lambda _address: U64)


@mutant("9.1", "a VCPU that comes back on has another address", "off-and-on", in_worker=True)
def address_moves_at_off(patch: Patch) -> None:
    after_off(patch, lambda address: address + 2048)


@mutant("9.3", "a second PV_LOCK_PREEMPTED leaves a count of calls in the padding", "called-again")
def second_call_not_zeroed(patch: Patch) -> None:
    made: dict[int, int] = {}

    def answer(calls: Hypercalls, vcpu: int, function: int, _argument: int) -> int | None:
        ipa = calls.pvlock.ipa(vcpu)
        if function != PREEMPTED or ipa is None:
            return None
        made[vcpu] = made.get(vcpu, 0) + 1
        if made[vcpu] == 1:
            return None
        calls.pvlock.memory.write_u64(ipa + 8, made[vcpu], "mutant")
        return ipa

    answers(patch, answer)
