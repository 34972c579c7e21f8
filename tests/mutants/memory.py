# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the protection of the region."""

import ctypes as c
from typing import Any

from mutants.catalogue import Patch, mutant
from pvlock.engines.contract import EngineConfig
from pvlock.engines.emulator import exits
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.engines.emulator.exits import Exits
from pvlock.engines.emulator.vcpu import EmulatedVcpu, Exit
from pvlock.engines.emulator.vm import Vm
from pvlock.memory import MemorySlot, anonymous_slot
from pvlock.memory_map import PVLOCK_BASE, STOLEN_TIME_BASE

_ISV, _WNR = 1 << 24, 1 << 6


@mutant("7.1", "the region is writable", "store-plain", "store-pair", "store-simd")
def writable(patch: Patch) -> None:
    patch(EmulatorEngine, "published_slot", staticmethod(writable_slot))


def writable_slot(_config: EngineConfig, base: int, size: int, name: str) -> MemorySlot:
    return anonymous_slot(base, size, name)


def store_into_region(vcpu: EmulatedVcpu) -> bool:
    is_ours = PVLOCK_BASE <= vcpu.state.ipa < STOLEN_TIME_BASE
    return is_ours and bool(vcpu.state.esr & _WNR)


def has_syndrome(vcpu: EmulatedVcpu) -> bool:
    return bool(vcpu.state.esr & _ISV)


def write(self: Exits, vcpu: EmulatedVcpu, data: bytes) -> None:
    address = vcpu.state.ipa & ~15 if len(data) > 8 else vcpu.state.ipa
    assert isinstance(self.host, Vm)
    # A hostile guest stores beyond the region, too: what nothing holds cannot be written.
    if self.host.is_memory(address) and self.host.is_memory(address + len(data) - 1):
        c.memmove(self.host.memory.host(address, len(data)), data, len(data))


def stored(vcpu: EmulatedVcpu) -> bytes:
    """What a plain store wants to write, as its syndrome says."""
    size, rt = 1 << (vcpu.state.esr >> 22 & 3), vcpu.state.esr >> 16 & 31
    value: int = vcpu.x(rt) & (1 << 8 * size) - 1
    return value.to_bytes(size, "little")


def aborts(patch: Patch, changed: Any) -> None:
    """Replace what answers a data abort; the table that finds it holds the function itself."""
    patch(exits, "_ANSWERS", {**exits._ANSWERS, Exit.DATA_ABORT: changed})


@mutant("7.1", "a store aborts, and has written", "store-plain", in_worker=True)
def aborts_but_writes(patch: Patch) -> None:
    answer = Exits._data_abort

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        if store_into_region(vcpu) and has_syndrome(vcpu):
            write(self, vcpu, stored(vcpu))
        answer(self, cpu, vcpu)

    aborts(patch, changed)


@mutant("7.1", "a store is ignored and raises nothing", "store-plain", in_worker=True)
def stores_ignored(patch: Patch) -> None:
    answer = Exits._data_abort

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        if store_into_region(vcpu) and has_syndrome(vcpu):
            vcpu.skip()
            self.host.charge(cpu, 1_000)
            return
        answer(self, cpu, vcpu)

    aborts(patch, changed)


@mutant(
    "7.1",
    "stores without a syndrome (STP, STXR, atomics, SIMD, DC ZVA) write",
    "store-pair",
    "store-atomic",
    in_worker=True,
)
def wide_stores_write(patch: Patch) -> None:
    answer = Exits._data_abort

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        if store_into_region(vcpu) and not has_syndrome(vcpu):
            write(self, vcpu, b"\xff" * 16)
            vcpu.skip()
            self.host.charge(cpu, 1_000)
            return
        answer(self, cpu, vcpu)

    aborts(patch, changed)


@mutant(
    "7.1",
    "stores without a syndrome are skipped and raise nothing",
    "store-pair",
    "store-exclusive",
    "store-simd",
    "store-zva",
    in_worker=True,
)
def wide_stores_ignored(patch: Patch) -> None:
    answer = Exits._data_abort

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        if store_into_region(vcpu) and not has_syndrome(vcpu):
            vcpu.skip()
            self.host.charge(cpu, 1_000)
            return
        answer(self, cpu, vcpu)

    aborts(patch, changed)


@mutant(
    "7.1",
    "a store raises a translation fault, not an external abort",
    "store-plain",
    in_worker=True,
)
def translation_fault(patch: Patch) -> None:
    answer = Exits._data_abort

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        ours = store_into_region(vcpu)
        answer(self, cpu, vcpu)
        if ours:
            vcpu.set("esr_el1", vcpu.get("esr_el1") & ~0x3F | 0x07)

    aborts(patch, changed)


@mutant("7.1", "the abort does not say which address: FAR_EL1 is 0", "store-plain", in_worker=True)
def no_fault_address(patch: Patch) -> None:
    answer = Exits._data_abort

    def changed(self: Exits, cpu: int, vcpu: EmulatedVcpu) -> None:
        ours = store_into_region(vcpu)
        answer(self, cpu, vcpu)
        if ours:
            vcpu.set("far_el1", 0)

    aborts(patch, changed)
