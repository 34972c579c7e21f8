# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that write where they should not: over RAM, the read-only regions, and their own code."""

import pytest

from asm import assemble
from fragments import RANDOM, SETUP, SKIPPING_VECTOR
from hostile import BRANCH_TO_SELF, MS, NOP, run
from pvlock import memory_map
from pvlock.errors import EngineError, GuestFault
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")


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
