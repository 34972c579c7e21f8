# SPDX-License-Identifier: GPL-2.0-or-later
"""Over a million sampled instruction words, each executed once: none harms even its worker."""

import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pytest

from asm import ENTRY, assemble
from fragments import GIC_ON, mmu_on
from hostile import MS
from pvlock import memory_map
from pvlock.engines.contract import SystemEvent
from pvlock.errors import EngineError, WorkerDied
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")

TABLES, PROGRESS, SCRATCH, SLOTS = 0x4010_0000, 0x4040_0000, 0x4060_0000, 0x4080_0000
SAMPLES: Final = 1_000_000
STEP_NS: Final = 20 * MS
TIMER_NS: Final = 200_000
EL1H, EL0T = 5, 0
# Runs the words that the host put at SLOTS one by one, each followed by a branch back to `next`.
# Nothing at `next` depends on what a word left behind, short of one that moves the vector or the
# translation tables. RAM is zeros, which are UDF, so a branch into it comes back too; an endless
# loop is ended by the timer. No page that a word could well write is executable.
HARNESS = """
	adr x1, vectors
	msr vbar_el1, x1
	mov x1, #0xffffffff
	msr cpacr_el1, x1
	mov x0, #0
""" + GIC_ON + mmu_on(TABLES) + f"""
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


@pytest.mark.parametrize(
    ("count", "first", "pstate"),
    [
        (SAMPLES, range(1 << 32), EL1H),
        (100_000, range(1 << 32), EL0T),
        (100_000, range(0xD500_0000, 0xD600_0000), EL1H),  # system instructions and registers
    ],
    ids=["any-at-el1", "any-at-el0", "system-at-el1"],
)
def test_sampled_encodings_harm_nobody(
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
    assert not result.killed, [(hex(word), died.how) for word, died in result.killed]
