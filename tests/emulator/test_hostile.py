# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests, files and options that mean harm: one typed error or a bounded run, and nothing is left.

Every test here also checks, on its way out, that it ended within minutes and left no process.
"""

import contextlib
import os
import random
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm import ENTRY, assemble, children, words
from pvlock import abi, memory_map
from pvlock.engines.contract import Placement, SystemEvent, Usage
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.errors import (
    ConfigError,
    EngineError,
    GuestFault,
    GuestStalled,
    ImageError,
    PvlockError,
    StateError,
    WorkerDied,
)
from pvlock.image import Image, Kind, Segment
from pvlock.machine import Machine
from pvlock.pl011 import Console
from pvlock.workload import image_of

MS: Final = 1_000_000
PATIENCE_S: Final = 300
"""What no test may take. A hang becomes a failure, not a test run that never ends."""

NOP, BRANCH_TO_SELF, WFI, UDF, HVC = 0xD503201F, 0x14000000, 0xD503207F, 0, 0xD4000002
ABORTS_UNICORN = 0x4ECF27D6
"""An undefined encoding on which Unicorn 2.1.4 ends its process."""


@pytest.fixture(autouse=True)
def _nothing_hangs_and_nothing_is_left() -> Iterator[None]:
    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {PATIENCE_S} s")

    before, old = children(), signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert children() <= before


@dataclass
class End:
    """How a machine ended: `event` is what run() returned, or the error that it raised."""

    event: SystemEvent | EngineError | None
    console: str
    usage: Usage | None = None
    registers: dict[str, int] = field(default_factory=dict)


def run(
    guest: bytes | Image,
    *,
    until_ns: int = 5 * MS,
    vcpus: int = 1,
    start_all: bool = False,
    prepare: Callable[[Machine], object] = lambda _machine: None,
    finish: Callable[[Machine], object] = lambda _machine: None,
    registers: tuple[str, ...] = (),
    **options: Any,
) -> End:
    """Run `guest` to its end or `until_ns`; only typed errors come out of the engine.

    X0 is the VCPU's index; `start_all` lets every VCPU begin where VCPU 0 does.
    """
    with Machine(vcpus, **options) as machine:
        loaded = machine.load(guest)
        machine.vcpus[0].set("x0", 0)
        if start_all:
            for vcpu in machine.vcpus[1:]:
                vcpu.start(loaded.entry, vcpu.index)
        prepare(machine)
        end = End(None, "")
        try:
            end.event = machine.run(until_ns)
        except EngineError as error:
            assert "\n" not in str(error)
            end.event = error
        end.console = machine.console.text
        if not isinstance(end.event, WorkerDied):
            end.usage = machine.usage()
            end.registers = {name: machine.vcpus[0].get(name) for name in registers}
        finish(machine)
        return end


def fault(end: End) -> GuestFault:
    assert isinstance(end.event, GuestFault), end
    return end.event


# ---- files and options ----


def segment_at(ipa: int, memsize: int = 16) -> Image:
    return Image("hostile", Kind.ELF_EXEC, ipa, (Segment(ipa, bytes(16), memsize),))


@pytest.mark.parametrize(
    "guest",
    [
        b"",
        b"#!/bin/sh\necho no guest\n",
        bytes(4096),
        b"\x7fELF",
        b"\x7fELF" + bytes(4096),
        Path(sys.executable).read_bytes(),
        image_of("mutex")[:100],
        image_of("mutex")[:5000],
        segment_at(memory_map.RAM_BASE - 0x1000),
        segment_at(memory_map.RAM_BASE + memory_map.RAM_SIZE),
        segment_at(memory_map.RAM_BASE, memory_map.RAM_SIZE + 1),
        segment_at(memory_map.RAM_BASE + memory_map.RAM_SIZE - 4096),
        segment_at(memory_map.PVLOCK_BASE),
        segment_at(memory_map.UART_BASE),
        segment_at(0),
        segment_at(2**64 - 16),
        "/nonexistent/guest.elf",
        "/",
    ],
    ids=[
        *("empty", "script", "zeros", "magic", "magic-and-zeros", "for-this-host"),
        *("headers-cut", "segments-cut", "before-ram", "after-ram", "larger-than-ram"),
        *("over-the-device-tree", "in-the-region", "in-a-device", "at-zero", "at-the-end"),
        *("missing", "directory"),
    ],
)
def test_what_is_no_guest_is_an_image_error(guest: bytes | Image | str) -> None:
    with Machine() as machine:
        with pytest.raises(ImageError) as raised:
            machine.load(guest)
        assert "\n" not in str(raised.value)
        # The machine is as it was before: another guest can be loaded and run.
        machine.load(words(BRANCH_TO_SELF))
        assert machine.run(MS) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_guest_with_random_damage_loads_or_is_an_image_error(seed: int) -> None:
    source = random.Random(seed)
    damaged = bytearray(image_of("mutex"))
    for _ in range(source.randrange(1, 8)):
        damaged[source.randrange(64 + 2 * 56)] = source.randrange(256)
    with contextlib.suppress(ImageError):
        run(bytes(damaged), until_ns=MS, vcpus=2)


@pytest.mark.parametrize(
    "options",
    [
        {"vcpus": 0},
        {"vcpus": -1},
        {"vcpus": 10_000},
        {"vcpus": memory_map.MAX_VCPUS + 1},
        {"pcpus": 0},
        {"pcpus": 10_000},
        {"slice_ns": -3},
        {"slice_ns": 0},
        {"slice_ns": 1 << 80},
        {"quantum_ns": -1},
        {"quantum_ns": 0},
        {"exit_ns": -1},
        {"switch_ns": -1},
        {"ram_size": 0},
        {"ram_size": -(2 << 20)},
        {"ram_size": (64 << 20) + 1},
        {"ram_size": 1 << 50},
        {"engine": "nonesuch"},
        {"bootargs": "x" * 100_000},
        {"bootargs": "a\0b"},
        {"bootargs": "ü"},
        {"script": [Placement(-1, 0, 0)]},
        {"script": [Placement(0, 1, 0)]},
        {"script": [Placement(0, -1, 0)]},
        {"script": [Placement(0, 0, 1)]},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_a_config_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        Machine(**options)
    assert "\n" not in str(raised.value)


def test_calls_that_make_no_sense_are_typed_errors() -> None:
    with Machine() as machine:
        with pytest.raises(ConfigError):
            machine.run(-1)
        with pytest.raises(ConfigError):
            machine.run(1 << 70)
        for name in ("x31", "nonesuch", "", "X0"):
            with pytest.raises(ConfigError):
                machine.vcpus[0].get(name)
            with pytest.raises(ConfigError):
                machine.vcpus[0].set(name, 0)
        machine.vcpus[0].set("x0", -1)
        assert machine.vcpus[0].get("x0") == 2**64 - 1
        machine.load(words(BRANCH_TO_SELF))
        with pytest.raises(StateError):
            machine.load(words(BRANCH_TO_SELF))
    with pytest.raises(StateError):
        machine.run(MS)
    machine.close()


# ---- one VCPU that goes astray ----


def test_a_jump_into_nowhere_without_a_vector_is_a_guest_fault() -> None:
    error = fault(run(assemble("set x1, 0xdead0000\nbr x1")))
    assert error.vcpu == 0
    assert error.pc == 0x200  # VBAR_EL1 resets to 0 here, and nothing is there either


# Steps over what faulted, whatever it was; clobbers nothing. Interrupts return at once.
SKIPPING_VECTOR = """
	.balign 2048
vectors:
	.rept 16
	.balign 128
	b skip
	.balign 128
	eret
	.balign 128
	eret
	.balign 128
	eret
	.endr
skip:
	stp x28, x29, [sp, #-16]!
	mrs x28, elr_el1
	add x28, x28, #4
	msr elr_el1, x28
	ldp x28, x29, [sp], #16
	eret
"""
# X0 has the VCPU's index, and keeps it; SP gets 64 KiB for each.
SETUP = """
	adr x1, vectors
	msr vbar_el1, x1
	set x1, 0x43000000
	add x1, x1, x0, lsl #16
	mov sp, x1
	mov x1, #3 << 20
	msr cpacr_el1, x1
	isb
	set x20, 0x9e3779b97f4a7c15
	add x21, x0, #1
	mul x20, x20, x21
"""
# The next random number (xorshift64) in X20.
RANDOM = """
	eor x20, x20, x20, lsl #13
	eor x20, x20, x20, lsr #7
	eor x20, x20, x20, lsl #17
"""
# Prints a letter from the vector, so that the test knows that it got there, and ends the machine.
TELLING_VECTOR = """
	.balign 2048
vectors:
	.rept 16
	.balign 128
	b tell
	.endr
tell:
	set x1, 0x09000000
	mov w2, #'v'
	strb w2, [x1]
	off
"""


def test_a_jump_into_nowhere_reaches_the_guests_vector() -> None:
    guest = SETUP + "set x1, 0xdead0000\nbr x1" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1", "far_el1", "elr_el1"))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] >> 26 == 0x21  # instruction abort, same exception level
    assert end.registers["far_el1"] == end.registers["elr_el1"] == 0xDEAD0000


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_misaligned_pc_reaches_the_guests_vector(offset: int) -> None:
    guest = SETUP + f"adr x1, vectors\nadd x1, x1, #{offset}\nbr x1" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] >> 26 == 0x22  # PC alignment fault


def test_a_misaligned_pc_without_a_vector_is_a_guest_fault() -> None:
    fault(run(assemble("adr x1, _start + 2\nbr x1")))


def test_svc_from_el0_reaches_the_guests_vector() -> None:
    guest = SETUP + "to_el0\nsvc #0x123\n" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] == 0x15 << 26 | 1 << 25 | 0x123


@pytest.mark.parametrize("instruction", ["hvc #0", "smc #0", "msr vbar_el1, x0", "tlbi vmalle1"])
def test_el0_cannot_do_what_el1_may(instruction: str) -> None:
    guest = SETUP + f"to_el0\n{instruction}\nb .\n" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] >> 26 in (0, 0x18)  # unknown, or a trapped system instruction


UNDEFINED: Final = 1 << 25
"""ESR_EL1 after an Undefined Instruction: "unknown reason", and IL."""


@pytest.mark.parametrize(
    "register",
    [
        *("mpidr_el1", "id_aa64pfr0_el1", "id_aa64dfr0_el1", "id_aa64isar0_el1"),
        *("id_aa64mmfr0_el1", "isr_el1", "s3_0_c4_c6_0", "s3_0_c12_c12_0", "vbar_el1"),
    ],
)
def test_registers_of_el1_are_undefined_at_el0(register: str) -> None:
    """Those that pvlock answers, of the GIC too, and one that Unicorn does."""
    guest = SETUP + f"mov x3, #7\nto_el0\nmrs x3, {register}\nb .\n" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1", "spsr_el1", "x3"))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers == {"esr_el1": UNDEFINED, "spsr_el1": 0, "x3": 7}


PCTEN, VCTEN, VTEN, PTEN = 1 << 0, 1 << 1, 1 << 8, 1 << 9
# CRm, op2, and what of CNTKCTL_EL1 lets EL0 in: one bit is enough.
COUNTERS = {
    "cntfrq_el0": (0, 0, (PCTEN, VCTEN)),
    "cntpct_el0": (0, 1, (PCTEN,)),
    "cntvct_el0": (0, 2, (VCTEN,)),
    "cntp_tval_el0": (2, 0, (PTEN,)),
    "cntp_ctl_el0": (2, 1, (PTEN,)),
    "cntp_cval_el0": (2, 2, (PTEN,)),
    "cntv_tval_el0": (3, 0, (VTEN,)),
    "cntv_ctl_el0": (3, 1, (VTEN,)),
    "cntv_cval_el0": (3, 2, (VTEN,)),
}
COUNTER_ACCESSES = [(name, True) for name in COUNTERS] + [
    (name, False) for name, (crm, *_) in COUNTERS.items() if crm
]


@pytest.mark.parametrize(("register", "is_read"), COUNTER_ACCESSES)
def test_el0_has_the_counters_and_timers_that_el1_gives_it(register: str, is_read: bool) -> None:
    crm, op2, enables = COUNTERS[register]
    access = f"mrs x3, {register}" if is_read else f"msr {register}, x3"

    def user(cntkctl: int) -> End:
        guest = SETUP + f"""
	mov x3, #{cntkctl}
	msr cntkctl_el1, x3
	set x3, 0x700000007
	to_el0
	{access}
	svc #0
""" + TELLING_VECTOR  # fmt: skip
        return run(assemble(guest), registers=("esr_el1", "x3"))

    trapped = 0x18 << 26 | 1 << 25 | 3 << 20 | op2 << 17 | 3 << 14 | 14 << 10 | 3 << 5 | crm << 1
    for denying in (0, (PCTEN | VCTEN | VTEN | PTEN) & ~sum(enables)):
        end = user(denying)
        assert end.registers == {"esr_el1": trapped | is_read, "x3": 0x7_0000_0007}
        assert end.usage is not None
        assert "timer" not in end.usage.exits
    for enable in enables:
        end = user(enable)
        assert end.registers["esr_el1"] == 0x15 << 26 | 1 << 25  # the SVC
        assert (end.registers["x3"] != 0x7_0000_0007) == is_read
        assert end.usage is not None
        assert end.usage.exits.get("timer", 0) == (not is_read)


@pytest.mark.parametrize("go_on", ["", "to_el0"], ids=["el1", "el0"])
@pytest.mark.parametrize(
    "access",
    [
        *("mrs x3, pmccntr_el0", "mrs x3, pmcr_el0", "mrs x3, pmevcntr0_el0"),
        *("mrs x3, pmxevcntr_el0", "mrs x3, pmceid0_el0", "mrs x3, pmuserenr_el0"),
        *("msr pmcr_el0, x3", "msr pmcntenset_el0, x3", "msr pmccntr_el0, x3"),
    ],
)
def test_there_is_no_performance_monitor(access: str, go_on: str) -> None:
    """ID_AA64DFR0_EL1 has none; Unicorn's would count the host's time."""
    guest = SETUP + f"mov x3, #7\n{go_on}\n{access}\nb .\n" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1", "x3"))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers == {"esr_el1": UNDEFINED, "x3": 7}


@pytest.mark.parametrize("go_on", ["", "to_el0"], ids=["el1", "el0"])
@pytest.mark.parametrize("register", ["s3_3_c2_c4_0", "s3_3_c2_c4_1"], ids=["rndr", "rndrrs"])
def test_random_numbers_are_not_the_hosts(register: str, go_on: str) -> None:
    guest = SETUP + f"{go_on}\nmrs x3, {register}\nsvc #0\n" + TELLING_VECTOR
    first, second = (run(assemble(guest), registers=("x3",)) for _ in range(2))
    assert (first.event, first.console) == (SystemEvent.OFF, "v")
    assert first.registers == second.registers


# ---- exception returns ----

ILLEGAL_STATE: Final = 0x0E << 26 | 1 << 25
PSTATE_IL: Final = 1 << 20


def return_with(spsr: int, eret: str = "eret", target: str = "mov x3, #1\nsvc #0") -> bytes:
    """Assemble a guest that returns to `target`, from where EL0 may read the counters."""
    return assemble(SETUP + f"""
	mov x3, #3
	msr cntkctl_el1, x3
	mov x3, #0
	adr x1, target
	msr elr_el1, x1
	set x1, {spsr:#x}
	msr spsr_el1, x1
	{eret}
	.balign 16
target:
	{target}
	.balign 16
""" + TELLING_VECTOR)  # fmt: skip


@pytest.mark.parametrize("eret", ["eret", "eretaa", "eretab"])
@pytest.mark.parametrize(
    ("spsr", "saved"),
    [
        (0x8, 0x5),  # to EL2, which is not the guest's
        (0x9, 0x5),
        (0xD, 0x5),
        (0x1, 0x5),  # EL0 has no SP_ELx
        (0x2, 0x5),
        (0x3C6, 0x3C5),
        (0x13, 0x5),  # to AArch32 at EL1
        (0x5, None),
        (0x4, None),
        (0x0, None),
        (PSTATE_IL | 0x5, 0x5),  # legal, into the illegal state
        (PSTATE_IL | 0x0, 0x0),
    ],
)
def test_an_illegal_exception_return_reaches_the_guests_vector(
    spsr: int, saved: int | None, eret: str
) -> None:
    end = run(return_with(spsr, eret), registers=("esr_el1", "spsr_el1", "x3"))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    if saved is None:
        assert end.registers == {"esr_el1": 0x15 << 26 | 1 << 25, "spsr_el1": spsr, "x3": 1}
    else:
        expected = {"esr_el1": ILLEGAL_STATE, "spsr_el1": PSTATE_IL | saved, "x3": 0}
        assert end.registers == expected


# MOV R4, #0x42000000; MRRC CNTVCT into R2 and R3; STR both; branch to self. And in Thumb.
A32 = ".word 0xe3a04442, 0xec532f1e, 0xe5842000, 0xe5843004, 0xeafffffe"
T32 = ".hword 0xf04f, 0x4484, 0xec53, 0x2f1e, 0x6022, 0x6063, 0xe7fe"


@pytest.mark.parametrize(("spsr", "code"), [(0x10, A32), (0x1D0, A32), (0x30, T32)])
def test_nothing_runs_in_aarch32(spsr: int, code: str) -> None:
    """The host's time, which MRRC would read, cannot make two runs differ."""
    stored = bytearray()

    def look(machine: Machine) -> None:
        stored.extend(machine.memory.read(0x4200_0000, 8, "test"))

    guest = return_with(spsr, target=code)
    ends = [run(guest, registers=("esr_el1", "spsr_el1", "x3"), finish=look) for _ in range(3)]
    assert ends[0] == ends[1] == ends[2]
    assert (ends[0].event, ends[0].console) == (SystemEvent.OFF, "v")
    saved = PSTATE_IL | 0x5 | spsr & 0x3C0
    assert ends[0].registers == {"esr_el1": ILLEGAL_STATE, "spsr_el1": saved, "x3": 0}
    assert not any(stored)


def test_nothing_runs_in_aarch32_when_the_host_says_so() -> None:
    guest = SETUP + "adr x1, 1f\nmsr elr_el1, x1\neret\n.balign 16\n1: " + A32 + TELLING_VECTOR

    def prepare(machine: Machine) -> None:
        machine.vcpus[0].set("spsr_el1", 0x10)

    end = run(assemble(guest), prepare=prepare, registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] == ILLEGAL_STATE


def test_a_guest_that_repairs_the_illegal_state_goes_on() -> None:
    guest = SETUP + """
	mov x3, #0
	adr x1, 1f
	msr elr_el1, x1
	mov x1, #8
	msr spsr_el1, x1
	eret
1:	off
	.balign 2048
vectors:
	.rept 16
	.balign 128
	add x3, x3, #1
	mrs x4, spsr_el1
	bic x4, x4, #1 << 20
	msr spsr_el1, x4
	eret
	.endr
"""  # fmt: skip
    end = run(assemble(guest), registers=("x3",))
    assert (end.event, end.registers) == (SystemEvent.OFF, {"x3": 1})


def test_a_branch_to_itself_runs_until_the_limit() -> None:
    end = run(words(BRANCH_TO_SELF))
    assert end.event is None
    assert end.usage is not None
    assert end.usage.time_ns >= 5 * MS


def test_a_guest_that_never_powers_off_runs_until_the_limit() -> None:
    end = run(assemble("1: add x0, x0, #1\nb 1b"), registers=("x0",))
    assert end.event is None
    assert end.registers["x0"] > 0


@pytest.mark.parametrize("vcpus", [1, 4])
def test_wfi_that_nothing_can_end_is_stalled(vcpus: int) -> None:
    end = run(words(WFI, 0x17FFFFFF), vcpus=vcpus, start_all=True)
    assert isinstance(end.event, GuestStalled), end


def test_all_vcpus_off_is_stalled() -> None:
    # CPU_OFF; were it to return: branch to self
    guest = assemble("set x0, 0x84000002\nhvc #0\nb .")
    for vcpus in (1, 4):
        end = run(guest, vcpus=vcpus, start_all=True)
        assert isinstance(end.event, GuestStalled), end


def test_a_machine_in_which_nothing_was_started_is_stalled() -> None:
    with Machine() as machine, pytest.raises(GuestStalled):
        machine.run(MS)


@pytest.mark.parametrize(
    ("vector", "lost"),
    [
        ("udf #0", True),
        ("svc #0", False),
        ("brk #0", True),
        ("ldr x0, [x1]", True),
        ("nop\nudf #0", False),
        ("eret", False),
        ("b .", False),
    ],
)
def test_a_vector_that_faults_for_ever_is_a_fault_or_runs_until_the_limit(
    vector: str, lost: bool
) -> None:
    body = "adr x1, vectors\nmsr vbar_el1, x1\nmov x1, #1 << 60\nudf #0\n.balign 2048\nvectors:\n"
    end = run(assemble(body + f".rept 16\n.balign 128\n{vector}\n.endr"))
    if lost:
        error = fault(end)
        assert (error.vcpu, error.pc & 0x7FF) == (0, 0x200)
    else:
        assert end.event is None


@pytest.mark.parametrize("vbar", [0, 0x3000_0000, 0x0900_0000, 0x7FFF_F800, 2**64 - 2048, 1 << 47])
def test_a_vector_that_is_nowhere_is_a_fault(vbar: int) -> None:
    # In the PV-lock region there are zeros, which are UDF; in a device nothing can be executed.
    error = fault(run(assemble(f"set x1, {vbar:#x}\nmsr vbar_el1, x1\nudf #0")))
    assert error.vcpu == 0
    assert error.pc == vbar + 0x200


def test_el0_that_faults_into_a_vector_that_returns_runs_until_the_limit() -> None:
    guest = SETUP + "to_el0\nudf #0"
    vector = "\n.balign 2048\nvectors:\n.rept 16\n.balign 128\neret\n.endr"
    assert run(assemble(guest + vector)).event is None


# ---- writes ----


@pytest.mark.parametrize("value", [0, NOP << 32 | NOP, BRANCH_TO_SELF << 32 | BRANCH_TO_SELF, -1])
def test_a_guest_that_overwrites_all_of_ram_ends_in_a_fault_or_at_the_limit(value: int) -> None:
    fill = f"set x0, 0x40000000\nset x1, {value % 2**64:#x}\n1: str x1, [x0], #8\nb 1b"
    end = run(assemble(fill), until_ns=40 * MS)
    assert end.event is None or isinstance(end.event, GuestFault), end


def test_a_guest_that_writes_to_every_address_runs_until_the_limit() -> None:
    """Up through 2 TiB in odd steps, from the last bytes of RAM, page tables in the way or not."""
    loop = "mov x0, #0\nset x1, 0x200ff8\n1: str x1, [x0]\nadd x0, x0, x1\nb 1b"
    end = run(assemble(SETUP + loop + SKIPPING_VECTOR), until_ns=20 * MS, registers=("x0",))
    assert end.event is None
    assert end.registers["x0"] > 1 << 34
    assert end.usage is not None
    assert end.usage.exits["data_abort"] > 1000


def test_a_guest_that_writes_over_its_page_tables_faults_or_runs_until_the_limit() -> None:
    guest = """
	set x0, 0x40100000		// one table: RAM as a 1 GiB block, to itself
	set x1, 0x40000705
	str x1, [x0, #8]
	set x1, 0xff04
	msr mair_el1, x1
	set x1, 0x100803519
	msr tcr_el1, x1
	msr ttbr0_el1, x0
	tlbi vmalle1
	dsb sy
	isb
	mrs x1, sctlr_el1
	set x2, 0x1005
	orr x1, x1, x2
	msr sctlr_el1, x1
	isb
	set x20, 0x9e3779b97f4a7c15
1:""" + RANDOM + """
	and x3, x20, #0xff8
	str x20, [x0, x3]
	ldr x4, [x20]
	tlbi vmalle1
	dsb sy
	isb
	b 1b
"""  # fmt: skip
    end = run(assemble(guest))
    assert end.event is None or isinstance(end.event, GuestFault), end


STORES = """
	str x20, [x3]
	strb w20, [x3, #1]
	stp x20, x20, [x3, #16]
	ldxr x4, [x3]
	stxr w4, x20, [x3]
	ldaxr x4, [x3]
	stlxr w4, x20, [x3]
	stlr x20, [x3]
	ldadd x20, x4, [x3]
	swpal x20, x4, [x3]
	ldr x4, [x3]
	cas x4, x20, [x3]
	casp x4, x5, x20, x21, [x3]
	str q0, [x3]
	st1 {v0.16b, v1.16b, v2.16b, v3.16b}, [x3]
	stnp x20, x20, [x3]
	dc zva, x3
	dc cvac, x3
	dc civac, x3
	prfm pstl1keep, [x3]
"""


@pytest.mark.parametrize("region", [memory_map.PVLOCK_BASE, memory_map.STOLEN_TIME_BASE])
def test_random_stores_to_a_read_only_region_change_nothing(region: int) -> None:
    """4 VCPUs on 4 CPUs, none of which ever leaves its own: all flags stay 0, all padding too."""
    vcpus, found = 4, bytearray()
    guest = (
        SETUP + f"set x2, {region:#x}\n1:" + RANDOM
        + f"and x3, x20, #0xff0\ncmp x3, #{64 * vcpus}\nb.hs 1b\nadd x3, x3, x2\n"
        + STORES + "b 1b\n" + SKIPPING_VECTOR
    )  # fmt: skip

    def look(machine: Machine) -> None:
        found.extend(machine.memory.read(region, 4096, "test"))

    end = run(assemble(guest), vcpus=vcpus, start_all=True, finish=look)
    assert end.event is None
    assert end.usage is not None
    assert end.usage.exits["data_abort"] > 5000
    expected = bytearray(4096)
    if region == memory_map.STOLEN_TIME_BASE:  # revision and attributes are 0; the time is ours
        for vcpu in range(vcpus):
            expected[64 * vcpu + 8 : 64 * vcpu + 16] = found[64 * vcpu + 8 : 64 * vcpu + 16]
    assert found == expected


@pytest.mark.parametrize("maintenance", ["", "ic ivau, x1\ndsb ish\nisb\n"])
def test_self_modifying_code_runs_until_the_limit(maintenance: str) -> None:
    """Each turn writes `add x0, x0, #n` over the instruction that it is about to run."""
    guest = f"""
	mov x2, #0
1:	add x2, x2, #1
	and x3, x2, #0xfff
	set x4, 0x91000000
	orr x4, x4, x3, lsl #10
	adr x1, patched
	str w4, [x1]
	{maintenance}
	b patched
patched:
	udf #0
	b 1b
"""
    end = run(assemble(guest), until_ns=MS, registers=("x0", "x2"))
    assert end.event is None
    if maintenance:
        turns = end.registers["x2"]
        assert turns > 100
        total = sum(turn & 0xFFF for turn in range(1, turns + 1))
        last = turns & 0xFFF
        assert end.registers["x0"] in (total, total - last)


def test_code_that_another_vcpu_patches_runs_until_the_limit() -> None:
    guest = SETUP + """
	adr x1, patched
	cbnz x0, patched
1:""" + RANDOM + """
	str w20, [x1]
	ic ivau, x1
	dsb ish
	isb
	b 1b
	.balign 64
patched:
	nop
	b patched
""" + SKIPPING_VECTOR  # fmt: skip
    end = run(assemble(guest), vcpus=4, start_all=True, until_ns=2 * MS)
    assert end.event is None or isinstance(end.event, EngineError), end


# ---- what traps ----

HYPERCALLS = (
    SETUP
    + """
1:""" + RANDOM + """
	mov x0, x20
	and x5, x20, #7
	cmp x5, #2
	b.lo call
	// a known service, a number near its beginning, maybe an argument that some call knows
	adr x6, services
	ldr w0, [x6, x5, lsl #2]
	ubfx x7, x20, #8, #6
	orr x0, x0, x7
call:""" + RANDOM + """
	and x1, x20, #0xf
	and w6, w0, #0xbfffffff		// PSCI CPU_OFF, SYSTEM_OFF, SYSTEM_RESET: not yet
	movz w7, #0x8400, lsl #16
	eor w6, w6, w7
	cmp w6, #2
	b.eq 1b
	cmp w6, #3
	b.eq 1b
	cmp w6, #8
	b.eq 1b
	cmp w6, #9
	b.eq 1b
	eor x2, x20, x0
	ror x3, x20, #17
	hvc #0
	cbnz x1, 2f
2:	b 1b
	.balign 4
services:
	.word 0x80000000, 0x80000000, 0x84000000, 0xc4000000, 0xc5000000, 0xc6000000, 0x86000000
	.word 0xc6000020
"""
    + SKIPPING_VECTOR
)  # fmt: skip


@pytest.mark.parametrize("pvlock", [True, False])
def test_random_hypercalls_from_four_vcpus_run_until_the_limit(pvlock: bool) -> None:
    end = run(assemble(HYPERCALLS), vcpus=4, start_all=True, pvlock=pvlock)
    assert end.event is None
    assert end.usage is not None
    assert end.usage.exits["hvc"] > 10_000


def test_a_storm_of_system_off_ends_the_machine_once_each_run() -> None:
    guest = assemble("1: set x0, 0x84000008\nhvc #0\nb 1b")
    with Machine(4) as machine:
        loaded = machine.load(guest)
        for vcpu in machine.vcpus[1:]:
            vcpu.start(loaded.entry)
        for _ in range(100):
            assert machine.run(5 * MS) is SystemEvent.OFF


@pytest.mark.parametrize(
    "entry",
    [0, 1, 0xDEAD0000, memory_map.PVLOCK_BASE, memory_map.UART_BASE, ENTRY + 2, 2**64 - 4, 1 << 63],
    ids=hex,
)
def test_cpu_on_with_a_hostile_entry_is_a_fault_of_that_vcpu(entry: int) -> None:
    guest = f"set x0, 0xc4000003\nmov x1, #1\nset x2, {entry:#x}\nhvc #0\nb ."
    assert fault(run(assemble(guest), vcpus=2)).vcpu == 1


def test_cpu_on_and_off_without_end_runs_until_the_limit() -> None:
    guest = """
	mov x19, #0
1:	add x19, x19, #1
	and x1, x19, #3
	adr x2, other
	set x0, 0xc4000003
	hvc #0
	set x0, 0xc4000004
	and x1, x19, #3
	mov x2, #0
	hvc #0
	b 1b
other:
	set x0, 0x84000002
	hvc #0
	udf #0
"""
    end = run(assemble(guest), vcpus=4, pcpus=2)
    assert end.event is None
    assert end.usage is not None
    assert end.usage.exits["hvc"] > 1000
    assert end.usage.switches > 10


def test_a_vcpu_that_the_host_started_is_on_for_psci() -> None:
    """Vcpu.start() is "as PSCI CPU_ON would"; a second start is refused, not a reset mid-flight."""
    ask = "set x0, 0xc4000003\nmov x1, #1\nadr x2, 1f\nhvc #0\nmov x19, x0\noff\n1: b ."
    with Machine(2) as machine:
        machine.load(assemble(ask))
        machine.memory.write(0x4300_0000, struct.pack("<I", BRANCH_TO_SELF), "test")
        machine.vcpus[1].start(0x4300_0000)
        assert machine.run(5 * MS) is SystemEvent.OFF
        assert machine.vcpus[0].get("x19") == abi.PSCI_ALREADY_ON % 2**64


def test_a_vcpu_that_the_host_started_twice_is_off_after_cpu_off() -> None:
    """Or the second start is refused; no left-over start wakes a VCPU that is off."""
    with Machine() as machine:
        loaded = machine.load(assemble("set x0, 0x84000002\nhvc #0\nb ."))
        with contextlib.suppress(PvlockError):
            machine.vcpus[0].start(loaded.entry)
        with pytest.raises(GuestStalled):
            machine.run(5 * MS)


GIC_ON = """
	set x1, 0x08000000		// GICD_CTLR: both groups
	mov w2, #3
	str w2, [x1]
	set x1, 0x10010000		// SGI_base of this VCPU: all in Group 1, enabled
	add x1, x1, x0, lsl #17
	mov w2, #-1
	str w2, [x1, #0x80]
	str w2, [x1, #0x100]
	mov x1, #0xf8
	msr s3_0_c4_c6_0, x1
	mov x1, #1
	msr s3_0_c12_c12_7, x1
	msr s3_0_c12_c12_6, x1
	isb
"""
# As SKIPPING_VECTOR, but an IRQ is acknowledged and ended.
ACKNOWLEDGING_VECTOR = """
	.balign 2048
vectors:
	.rept 4
	.balign 128
	b skip
	.balign 128
	b irq
	.balign 128
	eret
	.balign 128
	eret
	.endr
irq:
	stp x28, x29, [sp, #-16]!
	mrs x28, s3_0_c12_c12_0
	msr s3_0_c12_c12_1, x28
	add x27, x27, #1
	ldp x28, x29, [sp], #16
	eret
skip:
	mrs x28, elr_el1
	add x28, x28, #4
	msr elr_el1, x28
	eret
"""


@pytest.mark.parametrize("vector", [ACKNOWLEDGING_VECTOR, SKIPPING_VECTOR], ids=["ack", "ignore"])
def test_a_storm_of_sgis_runs_until_the_limit(vector: str) -> None:
    storm = "msr daifclr, #15\n1:" + RANDOM + """
	msr s3_0_c12_c11_5, x20
	ubfx x3, x20, #3, #40
	and x3, x3, #0xffffffff0f00000f
	msr s3_0_c12_c11_5, x3
	msr s3_0_c12_c11_6, x3
	msr s3_0_c12_c11_7, x3
	b 1b
"""  # fmt: skip
    storm = storm.replace("and x3, x3, #0xffffffff0f00000f", "set x4, 0x0f00000f\nand x3, x3, x4")
    guest = SETUP + "mov x27, #0\n" + GIC_ON + storm + vector
    end = run(assemble(guest), vcpus=4, pcpus=2, start_all=True, registers=("x27",))
    assert end.event is None
    assert end.usage is not None
    if vector is ACKNOWLEDGING_VECTOR:
        assert end.usage.exits["sysreg"] > 1000
        assert end.registers["x27"] > 10


CPU_INTERFACE = [
    *("s3_0_c4_c6_0", "s3_0_c12_c12_7", "s3_0_c12_c12_6", "s3_0_c12_c12_5", "s3_0_c12_c12_4"),
    *("s3_0_c12_c12_3", "s3_0_c12_c8_3", "s3_0_c12_c8_4", "s3_0_c12_c9_0", "s3_0_c12_c12_1"),
    *("s3_0_c12_c8_1", "s3_0_c12_c11_1", "s3_0_c12_c11_5", "s3_0_c12_c11_7", "s3_0_c12_c12_0"),
    *("s3_0_c12_c8_0", "s3_0_c12_c12_2", "s3_0_c12_c8_2", "s3_0_c12_c11_3", "s3_0_c12_c10_7"),
]
TIMERS = [
    *("cntv_ctl_el0", "cntv_cval_el0", "cntv_tval_el0", "cntp_ctl_el0", "cntp_cval_el0"),
    *("cntp_tval_el0", "cntkctl_el1", "s3_3_c14_c0_2", "s3_3_c14_c0_1", "s3_3_c14_c0_0"),
]


@pytest.mark.parametrize("registers", [CPU_INTERFACE, TIMERS], ids=["cpu-interface", "timers"])
@pytest.mark.parametrize("vector", [ACKNOWLEDGING_VECTOR, SKIPPING_VECTOR], ids=["ack", "ignore"])
def test_random_values_in_system_registers_run_until_the_limit(
    registers: list[str], vector: str
) -> None:
    accesses = "".join(f"{RANDOM}\nmsr {name}, x20\nmrs x3, {name}\n" for name in registers)
    guest = SETUP + "mov x27, #0\n" + GIC_ON + f"msr daifclr, #15\n1: {accesses} b 1b\n" + vector
    end = run(assemble(guest), vcpus=4, pcpus=2, start_all=True)
    assert end.event is None
    assert end.usage is not None
    assert sum(end.usage.exits.values()) > 1000


@pytest.mark.parametrize("vector", [ACKNOWLEDGING_VECTOR, SKIPPING_VECTOR], ids=["ack", "ignore"])
def test_random_gic_and_console_mmio_runs_until_the_limit(vector: str) -> None:
    loop = "1:" + RANDOM + """
	set x3, 0x08000000
	tbnz x20, #40, 2f
	set x3, 0x10000000
	tbnz x20, #41, 2f
	set x3, 0x09000000
2:	and x4, x20, #0xff000		// frames, and a bit beyond
	tbnz x20, #42, 3f
	mov x4, #0x10000
3:	and x5, x20, #0xfff
	add x3, x3, x4
	add x3, x3, x5
	str x20, [x3]
	ldr x6, [x3]
	and x3, x3, #~3
	str w20, [x3]
	ldr w6, [x3]
	ldrsw x6, [x3]
	strb w20, [x3]
	ldrsb w6, [x3]
	strh w20, [x3]
	ldrsh x6, [x3]
	ldp x6, x7, [x3]
	b 1b
"""  # fmt: skip
    guest = SETUP + "mov x27, #0\n" + GIC_ON + "msr daifclr, #15\n" + loop + vector
    end = run(assemble(guest), vcpus=4, pcpus=2, start_all=True)
    assert end.event is None
    assert end.usage is not None
    assert end.usage.exits["data_abort"] > 1000


@pytest.mark.parametrize(
    "instruction", ["tlbi vmalle1is", "tlbi vmalle1", "ic iallu", "ic ialluis", "ic ivau, x1"]
)
def test_maintenance_without_end_runs_until_the_limit(instruction: str) -> None:
    loop = f"\n1: {instruction}\ndsb ish\nisb\nb 1b\n"
    end = run(
        assemble(SETUP + loop + SKIPPING_VECTOR), vcpus=4, start_all=True, until_ns=2 * MS
    )  # fmt: skip
    assert end.event is None


@pytest.mark.parametrize("instruction", ["wfe", "wfi", "yield", "sevl\nwfe"])
def test_waiting_without_end_while_others_wait_for_a_cpu_runs_until_the_limit(
    instruction: str,
) -> None:
    guest = assemble(f"cbz x0, .\n1: {instruction}\nb 1b")
    assert run(guest, vcpus=4, pcpus=1, start_all=True).event is None


@pytest.mark.parametrize("costs", [(1_000, 0, 100), (100_000, 3_000, 1_000), (MS, 0, 100)], ids=str)
def test_no_vcpu_ever_sees_its_counter_go_back(costs: tuple[int, int, int]) -> None:
    """A VCPU that moves to another CPU takes its time with it, however the CPUs' clocks differ."""
    quantum_ns, switch_ns, exit_ns = costs
    guest = """
	mov x28, #0
	mrs x1, cntvct_el0
1:	mrs x2, cntvct_el0
	cmp x1, x2
	b.hi 2f
	mov x1, x2
	wfe
	b 1b
2:	sub x28, x1, x2
	off
"""
    end = run(
        assemble(guest), vcpus=3, pcpus=2, start_all=True, slice_ns=20_000, quantum_ns=quantum_ns,
        switch_ns=switch_ns, exit_ns=exit_ns,
    )  # fmt: skip
    assert end.event is None
    assert end.usage is not None
    assert end.usage.switches > 10


# ---- translation tables ----

MMU_ON = """
	set x1, 0xff04
	msr mair_el1, x1
	set x1, 0x100803519
	msr tcr_el1, x1
	set x1, 0x40100000
	msr ttbr0_el1, x1
	tlbi vmalle1
	dsb sy
	isb
	mrs x1, sctlr_el1
	set x2, 0x1005
	orr x1, x1, x2
	msr sctlr_el1, x1
	isb
"""


@pytest.mark.parametrize("seed", range(8))
def test_page_tables_that_point_everywhere_run_until_the_limit(seed: int) -> None:
    source = random.Random(seed)
    interesting = (memory_map.PVLOCK_BASE, memory_map.UART_BASE, 0x40100000, 0x40101000, 0)

    def entry() -> int:
        word = source.getrandbits(64)
        match source.randrange(4):
            case 0:
                return word
            case 1:
                return word & 0xFFFF | source.choice(interesting) | 3
            case 2:
                return word & 0x7FF0_0000_0000_0FFC | 0x40100000 + 4096 * source.randrange(8) | 3
            case _:
                return word | 3 | 1 << 10

    tables = [entry() for _ in range(512 * 8)]
    tables[1] = 0x4000_0705  # 0x4000_0000, where the guest is: as it was

    def prepare(machine: Machine) -> None:
        machine.memory.write(0x4010_0000, struct.pack("<4096Q", *tables), "test")

    loop = "1:" + RANDOM + """
	and x3, x20, #0x7fffffffff
	ldr x4, [x3]
	prfm pldl1keep, [x3]
	at s1e1r, x3
	at s1e1w, x3
	lsr x5, x3, #38
	cbnz x5, 1b
	lsr x5, x3, #30
	cmp x5, #1
	b.eq 1b
	ldxr x4, [x3]
	ic ivau, x3
	dc civac, x3
	ldp q0, q1, [x3]
	b 1b
"""  # fmt: skip
    end = run(assemble(SETUP + MMU_ON + loop + SKIPPING_VECTOR), prepare=prepare, until_ns=3 * MS)
    assert end.event is None
    assert end.usage is not None
    assert (end.usage.vcpus[0].instructions or 0) > 1000


@pytest.mark.parametrize(
    "ttbr",
    [0, 0xDEAD_0000, memory_map.PVLOCK_BASE, memory_map.UART_BASE, 0xFFFF_FFFF_F000, 1 << 39],
    ids=hex,
)
def test_translation_tables_that_are_nowhere_are_a_fault(ttbr: int) -> None:
    fault(run(assemble(MMU_ON.replace("0x40100000", hex(ttbr)) + "b .")))


def test_a_table_that_points_to_itself_is_walked_to_its_end() -> None:
    def prepare(machine: Machine) -> None:
        machine.memory.write(0x4010_0000, struct.pack("<512Q", *[0x4010_0403] * 512), "test")

    fault(run(assemble(MMU_ON + "b ."), prepare=prepare))


# ---- what Unicorn itself cannot stand ----


def test_a_worker_that_dies_is_a_typed_error_with_signal_vcpu_and_pc() -> None:
    died = run(words(ABORTS_UNICORN)).event
    assert isinstance(died, WorkerDied)
    assert died.how.startswith("signal SIGABRT")
    assert (died.vcpu, died.pc) == (0, ENTRY)
    for text in ("SIGABRT", "VCPU 0", f"{ENTRY:#x}"):
        assert text in str(died)


def test_the_vcpu_that_killed_the_worker_is_named() -> None:
    guest = assemble(f"cmp x0, #2\nb.ne .\nb 1f\n1: .inst {ABORTS_UNICORN:#x}")
    died = run(guest, vcpus=4, start_all=True).event
    assert isinstance(died, WorkerDied)
    assert died.vcpu == 2
    assert died.pc in range(ENTRY, ENTRY + 16)


def test_a_dead_machine_says_so_and_another_one_lives_on() -> None:
    with Machine() as good, Machine() as bad:
        good.load(words(BRANCH_TO_SELF))
        bad.load(words(ABORTS_UNICORN))
        with pytest.raises(WorkerDied):
            bad.run(MS)
        for _ in range(2):
            with pytest.raises(PvlockError):
                bad.run(MS)
            with pytest.raises(PvlockError):
                bad.vcpus[0].get("pc")
        assert good.run(MS) is None


def test_what_the_dying_worker_prints_stays_with_us(capfd: pytest.CaptureFixture[str]) -> None:
    """The caller gets one typed error; QEMU's last words are not for the caller's terminal."""
    run(words(ABORTS_UNICORN))
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_is_killed_is_a_typed_error() -> None:
    with Machine() as machine:
        machine.load(words(BRANCH_TO_SELF))
        machine.run(MS)
        before = children()
        assert len(before) == 1
        os.kill(before.pop(), signal.SIGKILL)
        with pytest.raises(WorkerDied) as died:
            machine.run(2 * MS)
        assert died.value.how == "signal SIGKILL"
        assert not children()


# ---- a million encodings ----

TABLES, PROGRESS, SCRATCH, SLOTS = 0x4010_0000, 0x4040_0000, 0x4060_0000, 0x4080_0000
SAMPLES: Final = 1_000_000
STEP_NS: Final = 20 * MS
TIMER_NS: Final = 200_000
# Runs the words that the host put at SLOTS one by one, each followed by a branch back to `next`.
# Nothing at `next` depends on what a word left behind, short of one that moves the vector or the
# translation tables. RAM is zeros, which are UDF, so a branch into it comes back too; an endless
# loop is ended by the timer. No page that a word could well write is executable.
HARNESS = """
	set x1, 0xff04
	msr mair_el1, x1
	set x1, 0x100803519
	msr tcr_el1, x1
	set x1, 0x40100000
	msr ttbr0_el1, x1
	adr x1, vectors
	msr vbar_el1, x1
	mov x1, #0xffffffff
	msr cpacr_el1, x1
	mov x0, #0
""" + GIC_ON + f"""
	tlbi vmalle1
	dsb sy
	isb
	mrs x1, sctlr_el1
	set x2, 0x1005
	orr x1, x1, x2
	msr sctlr_el1, x1
	isb
next:
	set x20, {PROGRESS:#x}
	ldp x0, x1, [x20]		// words begun, words in all
	cmp x0, x1
	b.hs 2f
	tst x0, #63
	add x0, x0, #1
	str x0, [x20]
	b.ne 1f
	mov x1, #2
	msr cntv_ctl_el0, x1
	set x1, {TIMER_NS}
	msr cntv_tval_el0, x1
	mov x1, #1
	msr cntv_ctl_el0, x1
1:	set x1, {SLOTS - 8:#x}
	add x1, x1, x0, lsl #3
	msr elr_el1, x1
	ldr x1, [x20, #16]
	msr spsr_el1, x1
	msr spsel, #1
	ldr x1, [x20, #24]
	mov sp, x1
	msr sp_el0, x1
	add x30, x20, #64
	ldp x0, x1, [x30]
	ldp x2, x3, [x30, #16]
	ldp x4, x5, [x30, #32]
	ldp x6, x7, [x30, #48]
	ldp x8, x9, [x30, #64]
	ldp x10, x11, [x30, #80]
	ldp x12, x13, [x30, #96]
	ldp x14, x15, [x30, #112]
	ldp x16, x17, [x30, #128]
	ldp x18, x19, [x30, #144]
	ldp x20, x21, [x30, #160]
	ldp x22, x23, [x30, #176]
	ldp x24, x25, [x30, #192]
	ldp x26, x27, [x30, #208]
	ldp x28, x29, [x30, #224]
	ldr x30, [x30, #240]
	eret
2:	off
	.balign 2048
vectors:
	.rept 16
	.balign 128
	b next
	.endr
	.balign 4
	.word next - _start		// the last word of the guest, for the host
"""  # fmt: skip


def sampler_tables() -> bytes:
    """Return an identity map of RAM and devices, in which nothing is writable and executable."""
    block, normal, privileged_only = 2 << 20, 1 << 10 | 3 << 8 | 1 << 2 | 1, 1 << 54
    never, read_only, user = 3 << 53, 1 << 7, 1 << 6
    level2 = []
    for ipa in range(memory_map.RAM_BASE, memory_map.RAM_BASE + memory_map.RAM_SIZE, block):
        if ipa == ENTRY:
            kind = read_only | privileged_only
        elif ipa == memory_map.RAM_BASE:
            kind = read_only | never
        elif ipa >= SLOTS:
            kind = read_only | user
        else:
            kind = never | (user if ipa == SCRATCH else 0)
        level2.append(ipa | normal | kind)
    level1 = [1 << 10 | never | 1, TABLES + 4096 | 3] + [0] * 510
    return struct.pack("<512Q", *level1) + struct.pack(f"<{len(level2)}Q", *level2)


@dataclass
class Sample:
    """What came of the sampled words: `ran` were begun, `killed` ended their worker."""

    ran: int = 0
    machines: int = 0
    killed: list[tuple[int, WorkerDied]] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)


def sample(encodings: list[int], seed: int, pstate: int) -> Sample:
    """Execute every word once, at the exception level of `pstate`; a new machine after each end."""
    elf = assemble(HARNESS)
    result, source = Sample(), random.Random(seed)
    with Machine() as machine:
        text_end = machine.load(elf).end
        (offset,) = struct.unpack("<I", machine.memory.read(text_end - 4, 4, "test"))
    back = (ENTRY + offset - SLOTS - 4) // 4
    slots = b"".join(
        struct.pack("<II", word, 0x1400_0000 | (back - 2 * n) & 0x3FF_FFFF)
        for n, word in enumerate(encodings)
    )
    while result.ran < len(encodings):
        # Most registers point to memory; some have other values that an instruction may like.
        registers = [SCRATCH + 0x8_0000 + 16 * source.randrange(0x8000) for _ in range(31)]
        registers[2:6] = 8, source.getrandbits(64), 0, 2**64 - 1
        result.machines += 1
        with Machine(quantum_ns=100_000, slice_ns=1 << 50) as machine:
            machine.load(elf)
            machine.memory.write(TABLES, sampler_tables(), "test")
            machine.memory.write(SLOTS, slots, "test")
            start = (result.ran, len(encodings), pstate, SCRATCH + 0x18_0000)
            machine.memory.write(PROGRESS, struct.pack("<4Q", *start), "test")
            machine.memory.write(PROGRESS + 64, struct.pack("<31Q", *registers), "test")
            why = begin(machine)
            before, result.ran = result.ran, machine.memory.read_u64(PROGRESS, "test")
            assert before < result.ran <= len(encodings)
            result.ended[type(why).__name__ if isinstance(why, EngineError) else str(why)] += 1
            if isinstance(why, WorkerDied):
                result.killed.append((encodings[result.ran - 1], why))
            else:
                result.exits.update(machine.usage().exits)
    return result


def begin(machine: Machine) -> SystemEvent | EngineError | None:
    """Run until the end; None when a word stopped all progress and the timer too."""
    now, last = 0, -1
    while True:
        now += STEP_NS
        try:
            if (event := machine.run(now)) is not None:
                return event
        except EngineError as error:
            return error
        if (done := machine.memory.read_u64(PROGRESS, "test")) == last:
            return None
        last = done


EL1H, EL0T = 5, 0


@pytest.mark.parametrize(
    ("count", "first", "pstate"),
    [
        (SAMPLES, range(1 << 32), EL1H),
        (100_000, range(1 << 32), EL0T),
        (100_000, range(0xD500_0000, 0xD600_0000), EL1H),  # system instructions and registers
    ],
    ids=["any-at-el1", "any-at-el0", "system-at-el1"],
)
def test_sampled_encodings_harm_at_most_their_own_worker(
    count: int,
    first: range,
    pstate: int,
    record_property: Callable[[str, object], None],
) -> None:
    source = random.Random(count + pstate)
    encodings = [source.choice(first) for _ in range(count)]
    result = sample(encodings, seed=1, pstate=pstate)
    record_property("encodings", result.ran)
    record_property("workers killed", len(result.killed))
    record_property("ended", dict(result.ended))
    print(f"{result.ran} encodings, {len(result.killed)} killed their worker; {result.ended}")
    assert result.ran == count
    assert sum(result.ended.values()) == result.machines
    # Moving the vector or the tables away is what sampled words can do; that is all they can do.
    assert set(result.ended) <= {"off", "None", "WorkerDied", "GuestFault", "GuestStalled", "reset"}
    assert result.ended["None"] + result.ended["GuestFault"] <= 20
    assert result.exits["timer"] > 0
    for word, died in result.killed:
        assert died.how.startswith(("signal SIGABRT", "signal SIGSEGV")), hex(word)
        assert died.vcpu == 0
        assert died.pc is not None
        # The block that ran last: the harness, or the slot of a word that branched.
        assert memory_map.RAM_BASE <= died.pc < memory_map.RAM_BASE + memory_map.RAM_SIZE


# ---- decoders and dispatch: cheap enough for thousands of inputs ----


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 0xFFF), st.sampled_from((1, 2, 4, 8)),
            st.integers(0, 2**64 - 1),
        )
    )
)  # fmt: skip
def test_the_console_takes_any_access(accesses: list[tuple[bool, int, int, int]]) -> None:
    console = Console(limit=16)
    for is_write, offset, size, value in accesses:
        if is_write:
            console.write(offset, size, value)
        else:
            assert 0 <= console.read(offset, size) < 2**64
    assert len(console.text.encode("utf-8", "replace")) <= 3 * 16


def test_a_worker_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would if Unicorn itself were in a loop: here the kernel stops it."""
    monkeypatch.setattr(EmulatorEngine, "patience_s", 0.2)
    with Machine() as machine:
        machine.load(assemble("b ."))
        machine.run(1_000)
        (worker,) = children()
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(WorkerDied, match="no progress for"):
            machine.run(MS)
    assert not children()
