# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are in the machine: IPAs of devices and memory slots, interrupt numbers, limits."""

from typing import Final

GICD_BASE: Final = 0x0800_0000
GICD_SIZE: Final = 0x1_0000
UART_BASE: Final = 0x0900_0000
UART_SIZE: Final = 0x1000
GICR_STRIDE: Final = 0x2_0000
"""Bytes of redistributor frames per VCPU: RD_base and SGI_base."""
GICR_LOW: Final = 0x080A_0000
GICR_HIGH: Final = 0x1000_0000
TRACE_BASE: Final = 0x2000_0000
"""The trace region: a slot of its own, which the guest writes."""
PVLOCK_BASE: Final = 0x3000_0000
"""The PV-lock region: a slot of its own, read-only to the guest."""
STOLEN_TIME_BASE: Final = 0x3020_0000
RAM_BASE: Final = 0x4000_0000
RAM_SIZE: Final = 64 << 20
RAM_LIMIT: Final = 64 << 30
RAM_GRANULE: Final = 2 << 20

UART_INTERRUPT: Final = 33
"""Interrupt ID; the device tree counts shared interrupts from 32."""
VIRTUAL_TIMER_PPI: Final = 27
PHYSICAL_TIMER_PPI: Final = 30

MAX_VCPUS: Final = 512
"""The limit of KVM/arm64 with a GICv3."""


def gicr_base(vcpus: int) -> int:
    """Return where the redistributors begin: as on QEMU's virt board, if they fit below the UART.

    Guests that are made for that board need not read the device tree then.
    """
    return GICR_LOW if GICR_LOW + vcpus * GICR_STRIDE <= UART_BASE else GICR_HIGH
