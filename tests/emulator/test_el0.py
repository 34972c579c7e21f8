# SPDX-License-Identifier: GPL-2.0-or-later
"""What EL0 may not do or read, what EL1 can let it, and what a guest must not learn of the host."""

from typing import Final

import pytest

from asm import assemble
from fragments import SETUP, TELLING_VECTOR
from hostile import End, run
from pvlock.engines.contract import SystemEvent

pytestmark = pytest.mark.usefixtures("bounded")

UNDEFINED: Final = 1 << 25
"""ESR_EL1 after an Undefined Instruction: "unknown reason", and IL."""


@pytest.mark.parametrize("instruction", ["hvc #0", "smc #0", "msr vbar_el1, x0", "tlbi vmalle1"])
def test_el0_cannot_do_what_el1_may(instruction: str) -> None:
    guest = SETUP + f"to_el0\n{instruction}\nb .\n" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] >> 26 in (0, 0x18)  # unknown, or a trapped system instruction


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
