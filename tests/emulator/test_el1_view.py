# SPDX-License-Identifier: GPL-2.0-or-later
"""System registers as EL1 and EL0 see them: what belongs to other levels does not exist."""

import struct
from typing import Final

import pytest

from asm import assemble
from fragments import SETUP, TELLING_VECTOR
from hostile import MS, run
from pvlock.engines.contract import SystemEvent
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")

UNDEFINED: Final = 1 << 25
RESULTS, TABLE, SCRATCH = 0x4100_0000, 0x4040_0000, 0x4030_0000
COUNT: Final = 1 << 14
"""Encodings of op1, CRn, CRm and op2."""
READ: Final = 1 << 21
NOP, RET = 0xD503_201F, 0xD65F_03C0

# Executes COUNT pairs of instructions from TABLE, each followed by a RET. The first is always
# executed at EL1, and leaves in X0 what the second writes; the second at the level that X19 says.
# What its syndrome was goes to RESULTS, 0 if there was none.
HARNESS = """
	adr x0, vectors
	msr vbar_el1, x0
	set x20, 0x40400000
	set x21, 0x41000000
	set x22, 0x4000
next:
	mov x0, #0
	tst x19, #2
	b.eq 1f
	set x0, 0x40300000
1:	mov x26, #0
	blr x20
	cbz x26, 2f
	mov x0, #0
2:	mov x26, #0
	add x20, x20, #8
	tst x19, #1
	b.ne user
	blr x20
	b done
user:
	adr x30, svc_there
	msr elr_el1, x20
	msr spsr_el1, xzr
	eret
svc_there:
	svc #0
back:
	lsr w1, w26, #26
	cmp w1, #0x15
	csel w26, wzr, w26, eq
done:
	str w26, [x21], #4
	add x20, x20, #8
	subs x22, x22, #1
	b.ne next
	off
	.balign 2048
vectors:
	.rept 8
	.balign 128
	mrs x26, esr_el1
	mrs x24, elr_el1
	add x24, x24, #4
	msr elr_el1, x24
	eret
	.endr
	.rept 8
	.balign 128
	mrs x26, esr_el1
	b back
	.endr
"""


def encoding(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    return 0xD500_0000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5


def index(op1: int, crn: int, crm: int, op2: int) -> int:
    return op1 << 11 | crn << 7 | crm << 3 | op2


def syndromes(op0: int, read: bool, user: bool) -> list[int]:
    """Execute every MRS (or MSR, SYS) with this op0 once, with X0; return what each led to."""
    codes = [
        encoding(op0, n >> 11, n >> 7 & 15, n >> 3 & 15, n & 7) | (READ if read else 0)
        for n in range(COUNT)
    ]
    # EL1 writes what it read: VBAR_EL1 is among these registers, too.
    firsts = [NOP if read or user or op0 == 1 else code | READ for code in codes]
    table = b"".join(
        struct.pack("<4I", first, RET, code, RET) for first, code in zip(firsts, codes, strict=True)
    )
    with Machine(quantum_ns=100_000, slice_ns=1 << 50) as machine:
        machine.load(assemble(HARNESS))
        machine.vcpus[0].set("x19", user | (2 if op0 == 1 else 0))
        machine.memory.write(TABLE, table, "test")
        assert machine.run(100 * MS) is SystemEvent.OFF
        return list(struct.unpack(f"<{COUNT}I", machine.memory.read(RESULTS, 4 * COUNT, "test")))


# Registers that EL0 may have if EL1 lets it, in the order op1, CRn, CRm, op2 (all op0 = 3).
TRAPPED_AT_EL0: Final = {
    *((3, 0, 0, 1),),  # CTR_EL0
    *((3, 4, 2, 1),),  # DAIF
    *((3, 14, 0, op2) for op2 in range(3)),  # counters
    *((3, 14, crm, op2) for crm in (2, 3) for op2 in range(3)),  # timers
}
TRAPPED_AT_EL0_OF_OP0_1: Final = {
    *((3, 7, 4, 1),),  # DC ZVA
    *((3, 7, 5, 1),),  # IC IVAU
    *((3, 7, 3, op2) for op2 in (4, 5, 7)),  # CFP, DVP and CPP RCTX
    *((3, 7, crm, 1) for crm in (10, 11, 12, 13, 14)),  # DC by address to PoC, PoU, PoP, PoDP
}


@pytest.mark.parametrize("read", [True, False], ids=["read", "write"])
@pytest.mark.parametrize("op0", [1, 2, 3])
def test_at_el1_there_is_a_register_or_there_is_none(op0: int, read: bool) -> None:
    """No trap tells EL1 that somebody above it would have had to allow the access."""
    assert set(syndromes(op0, read, user=False)) <= {0, UNDEFINED}


@pytest.mark.parametrize("read", [True, False], ids=["read", "write"])
@pytest.mark.parametrize("op0", [1, 2, 3])
def test_at_el0_only_what_el1_can_allow_traps(op0: int, read: bool) -> None:
    may_trap = {index(*r) for r in (TRAPPED_AT_EL0_OF_OP0_1 if op0 == 1 else TRAPPED_AT_EL0)}
    for n, esr in enumerate(syndromes(op0, read, user=True)):
        if esr not in (0, UNDEFINED):
            assert esr >> 26 == 0x18, hex(esr)
            assert n in may_trap, (op0, n >> 11, n >> 7 & 15, n >> 3 & 15, n & 7, hex(esr))


def test_mdccsr_is_where_it_belongs_and_el1_may_keep_it_from_el0() -> None:
    mdccsr, other = index(3, 0, 1, 0), index(0, 0, 1, 0)
    assert syndromes(2, read=True, user=False)[mdccsr] == 0
    assert syndromes(2, read=True, user=False)[other] == UNDEFINED
    for tdcc in (0, 1):
        guest = SETUP + f"""
	mov x3, #{tdcc << 12}
	msr mdscr_el1, x3
	mov x3, #7
	to_el0
	mrs x3, mdccsr_el0
	svc #0
""" + TELLING_VECTOR  # fmt: skip
        end = run(assemble(guest), registers=("esr_el1", "x3"))
        assert end.registers["esr_el1"] >> 26 == (0x18 if tdcc else 0x15)
        assert end.registers["x3"] == (7 if tdcc else 0)


STEPPED: Final = """
	msr oslar_el1, xzr
	mov x3, #1 << 13 | 1		// MDSCR_EL1.KDE, SS
	msr mdscr_el1, x3
	isb
	mov x4, #0
	{unmask}
	add x4, x4, #1
	add x4, x4, #1
	off
"""


@pytest.mark.parametrize("unmask", ["msr daifclr, #8", "msr daifclr, #15", "msr daif, xzr"])
def test_software_step_starts_where_debug_exceptions_are_unmasked(unmask: str) -> None:
    guest = SETUP + STEPPED.format(unmask=unmask) + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1", "x4"))
    assert end.console == "v"
    assert end.registers["esr_el1"] >> 26 == 0x33  # software step, same exception level
    assert end.registers["x4"] == 0


@pytest.mark.parametrize("unmask", ["msr daifclr, #7", "nop"])
def test_software_step_does_not_start_while_they_are_masked(unmask: str) -> None:
    guest = SETUP + STEPPED.format(unmask=unmask) + TELLING_VECTOR
    end = run(assemble(guest), registers=("x4",))
    assert (end.event, end.console) == (SystemEvent.OFF, "")
    assert end.registers["x4"] == 2
