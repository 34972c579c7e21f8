# SPDX-License-Identifier: GPL-2.0-or-later
"""The system registers that every engine knows by name, and their encodings."""


def key(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """Return the encoding of a system register, as MRS, MSR and KVM_GET_ONE_REG have it."""
    return op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


SYSTEM_REGISTERS = {
    "id_aa64mmfr0_el1": key(3, 0, 0, 7, 0),
    "sctlr_el1": key(3, 0, 1, 0, 0),
    "cpacr_el1": key(3, 0, 1, 0, 2),
    "ttbr0_el1": key(3, 0, 2, 0, 0),
    "ttbr1_el1": key(3, 0, 2, 0, 1),
    "tcr_el1": key(3, 0, 2, 0, 2),
    "spsr_el1": key(3, 0, 4, 0, 0),
    "elr_el1": key(3, 0, 4, 0, 1),
    "sp_el0": key(3, 0, 4, 1, 0),
    "esr_el1": key(3, 0, 5, 2, 0),
    "far_el1": key(3, 0, 6, 0, 0),
    "mair_el1": key(3, 0, 10, 2, 0),
    "vbar_el1": key(3, 0, 12, 0, 0),
    "tpidr_el1": key(3, 0, 13, 0, 4),
}
"""The registers that Engine.get and Engine.set know besides x0 to x30, sp, pc and pstate."""

EL1H_MASKED = 0x3C5
"""PSTATE at which the boot protocol and PSCI CPU_ON start a VCPU: EL1h, D, A, I and F set."""
