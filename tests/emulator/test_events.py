# SPDX-License-Identifier: GPL-2.0-or-later
"""The event register: what sets it, what a WFE does while it is clear, and what a wait costs."""

import pytest

from asm import assemble
from pvlock import Machine, SystemEvent
from pvlock.engines.contract import Placement

MS = 1_000_000
HEAD = """
	mrs x1, mpidr_el1
	and x1, x1, #0xff
	adr x9, word
"""
TAIL = """
	.balign 64
word:	.quad 0
"""
# VCPU 0 turns the machine off when VCPU 1 has counted in X20 what it waited.
CLOCK = "isb\n mrs {}, cntvct_el0\n"
CLEAR = "sevl\n wfe\n"


def waited(
    wait: str, other: str = "1: wfi\n b 1b\n", *, vcpus: int = 2, wfe: bool = False, until: int = MS
) -> int | None:
    """Return how many ns VCPU 1 waits in `wait` while VCPU 0 does `other`; None: for ever."""
    guest = f"""
{HEAD}
	cbnz x1, 2f
{other}
2:	{CLOCK.format("x10")}
	{wait}
	{CLOCK.format("x11")}
	sub x20, x11, x10
	mov w0, #8
	movk w0, #0x8400, lsl #16		// SYSTEM_OFF
	hvc #0
{TAIL}"""
    script = [Placement(0, cpu, cpu) for cpu in range(vcpus)]
    with Machine(vcpus, script=script, trap_wfe=wfe) as machine:
        loaded = machine.load(assemble(guest))
        for vcpu in machine.vcpus[1:]:
            vcpu.start(loaded.entry, 0)
        event = machine.run(until)
        assert event in (None, SystemEvent.OFF)
        return machine.vcpus[1].get("x20") if event else None


DELAY = "mov x3, #20000\n1: subs x3, x3, #1\n b.ne 1b\n"
"""40 us of instructions."""


def test_a_wait_ends_at_once_where_the_register_is_set() -> None:
    assert (waited("sevl\n wfe\n") or 0) < 10


def test_a_wait_with_nothing_to_end_it_lasts() -> None:
    assert waited(CLEAR + "wfe\n") is None


def test_sev_of_another_vcpu_ends_it() -> None:
    ns = waited(CLEAR + "wfe\n", DELAY + "sev\n3: wfi\n b 3b\n")
    assert ns is not None
    assert 38_000 < ns < 42_000


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("load", ["ldxr", "ldaxr"])
def test_a_store_to_what_was_loaded_exclusively_ends_it(load: str, size: int) -> None:
    suffix, register = {1: ("b", "w5"), 2: ("h", "w5"), 4: ("", "w5"), 8: ("", "x5")}[size]
    wait = CLEAR + f"{load}{suffix} {register}, [x9]\n wfe\n"
    store = f"mov x5, #1\n str{suffix} {register}, [x9]\n3: wfi\n b 3b\n"
    ns = waited(wait, DELAY + store)
    assert ns is not None
    assert 38_000 < ns < 42_000


def test_a_store_beside_it_does_not() -> None:
    wait = CLEAR + "ldxr w5, [x9]\n wfe\n"
    assert waited(wait, DELAY + "mov x5, #1\n str w5, [x9, #4]\n3: wfi\n b 3b\n") is None


def test_a_store_that_came_before_the_wait_ends_it() -> None:
    """The monitor is lost between the load and the WFE: the register is set by then."""
    wait = CLEAR + "ldxr x5, [x9]\n mov x4, #30000\n4: subs x4, x4, #1\n b.ne 4b\n wfe\n"
    ns = waited(wait, DELAY + "mov x5, #1\n str x5, [x9]\n3: wfi\n b 3b\n")
    assert ns is not None
    assert 60_000 <= ns < 61_000


def test_a_store_of_the_same_value_is_not_seen() -> None:
    """No rule, but a limit, which README.md states."""
    wait = CLEAR + "ldxr x5, [x9]\n wfe\n"
    assert waited(wait, DELAY + "str xzr, [x9]\n3: wfi\n b 3b\n") is None


def test_clrex_gives_the_monitor_up() -> None:
    wait = CLEAR + "ldxr x5, [x9]\n clrex\n wfe\n"
    assert waited(wait, DELAY + "mov x5, #1\n str x5, [x9]\n3: wfi\n b 3b\n") is None


@pytest.mark.parametrize("bit", [10, 14])
@pytest.mark.parametrize("falling", [False, True])
def test_the_event_stream_ends_it_when_the_bit_changes(bit: int, falling: bool) -> None:
    """CNTKCTL_EL1: EVNTEN, EVNTDIR, EVNTI. The event is when the counter's bit turns."""
    control = 1 << 2 | falling << 3 | bit << 4
    wait = f"mov x5, #{control}\n msr cntkctl_el1, x5\n isb\n{CLEAR} wfe\n wfe\n wfe\n"
    ns = waited(wait)
    assert ns is not None
    period = 2 << bit
    assert period < ns < 3.1 * period


def test_a_wait_ends_exactly_when_the_counter_turns() -> None:
    guest = f"""
	mov x5, #{1 << 2 | 12 << 4}
	msr cntkctl_el1, x5
	isb
	sevl
	wfe
	wfe
	{CLOCK.format("x20")}
	mov w0, #8
	movk w0, #0x8400, lsl #16
	hvc #0
"""
    with Machine(1, trap_wfe=False) as machine:
        machine.load(assemble(guest))
        assert machine.run(MS) is SystemEvent.OFF
        turned = machine.vcpus[0].get("x20") % (2 << 12)
        assert 1 << 12 <= turned <= (1 << 12) + 4


def test_a_wait_is_no_work() -> None:
    """What a VCPU waits is time, and no instruction."""
    with Machine(1, trap_wfe=False) as machine:
        machine.load(assemble("sevl\n1: wfe\n b 1b\n"))
        assert machine.run(1000 * MS) is None
        usage = machine.usage()
        assert usage.vcpus[0].instructions is not None
        assert usage.vcpus[0].instructions < 100
        assert usage.vcpus[0].running_ns > 999 * MS


@pytest.mark.parametrize(("slice_ns", "trapped"), [(100 * MS, False), (MS, True)])
def test_twe_is_decided_when_a_vcpu_gets_its_cpu(slice_ns: int, trapped: bool) -> None:
    """KVM sets HCR_EL2.TWE in kvm_arch_vcpu_load().

    VCPU 0 gets a free CPU, and waits on it through its slice although VCPU 1 waits for the CPU by
    then. Whoever gets the CPU after that slice traps.
    """
    with Machine(2, 1, slice_ns=slice_ns) as machine:
        loaded = machine.load(assemble("1: wfe\n b 1b\n"))
        machine.vcpus[1].start(loaded.entry)
        machine.run(4 * MS)
        assert (machine.usage().exits.get("wfe", 0) > 0) is trapped


def test_el0_waits_only_where_el1_lets_it() -> None:
    """Where SCTLR_EL1.nTWE is zero, the WFE of EL0 is an exception, class 1."""
    guest = """
	mrs x1, sctlr_el1
	bic x1, x1, #0x40000
	msr sctlr_el1, x1
	isb
	adr x1, vectors
	msr vbar_el1, x1
	mov x1, #0x3c0
	msr spsr_el1, x1
	adr x1, user
	msr elr_el1, x1
	eret
user:	wfe
	wfe
	b .
	.balign 2048
vectors:
	.fill 0x400, 1, 0
	mrs x20, esr_el1
	mrs x21, elr_el1
	adr x22, user
	sub x21, x21, x22
	mov w0, #8
	movk w0, #0x8400, lsl #16
	hvc #0
"""
    with Machine(1) as machine:
        machine.load(assemble(guest))
        assert machine.run(MS) is SystemEvent.OFF
        vcpu = machine.vcpus[0]
        assert vcpu.get("x20") == 1 << 26 | 1 << 25 | 1 << 24 | 0xE << 20 | 1
        assert vcpu.get("x21") == 4  # ERET had set the event register: the first went through
