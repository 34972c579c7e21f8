# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of the PV-lock interface, PV time, SMCCC and PSCI (SPECIFICATION.md, section 1).

Each constant has a row in that section's table, which names its source. The C headers of the guest
and of the BPF program repeat these values by hand, so that one wrong number cannot make both sides
agree.
"""

import enum
import struct
import uuid

# PV-lock, SPECIFICATION.md, section 1 and clauses 3.5 to 3.11.
PV_LOCK_FEATURES = 0xC600_0020
PV_LOCK_PREEMPTED = 0xC600_0021

# SMC Calling Convention, Arm DEN0028.
SMCCC_VERSION = 0x8000_0000
SMCCC_ARCH_FEATURES = 0x8000_0001
VENDOR_HYP_CALL_UID = 0x8600_FF01
SMCCC_VERSION_1_1 = 0x1_0001
SUCCESS = 0
NOT_SUPPORTED = -1

# PV time, Arm DEN0057A, SPECIFICATION.md, section 10.
PV_TIME_FEATURES = 0xC500_0020
PV_TIME_ST = 0xC500_0021

# Power State Coordination Interface, Arm DEN0022. CPU_ON and AFFINITY_INFO take addresses or
# affinities, so they exist in both calling conventions; the others only as SMC32.
PSCI_VERSION = 0x8400_0000
PSCI_CPU_OFF = 0x8400_0002
PSCI_CPU_ON = 0xC400_0003
PSCI_CPU_ON_SMC32 = 0x8400_0003
PSCI_AFFINITY_INFO = 0xC400_0004
PSCI_AFFINITY_INFO_SMC32 = 0x8400_0004
PSCI_SYSTEM_OFF = 0x8400_0008
PSCI_SYSTEM_RESET = 0x8400_0009
PSCI_FEATURES = 0x8400_000A
PSCI_VERSION_1_0 = 0x1_0000

PSCI_SUCCESS = 0
PSCI_NOT_SUPPORTED = -1
PSCI_INVALID_PARAMETERS = -2
PSCI_DENIED = -3
PSCI_ALREADY_ON = -4
PSCI_ON_PENDING = -5
PSCI_INTERNAL_FAILURE = -6
PSCI_NOT_PRESENT = -7
PSCI_DISABLED = -8
PSCI_INVALID_ADDRESS = -9

AFFINITY_ON = 0
AFFINITY_OFF = 1
AFFINITY_ON_PENDING = 2

# The VCPU attribute through which user space sets the address, SPECIFICATION.md, section 5.
KVM_ARM_VCPU_PVLOCK_CTRL = 3
KVM_ARM_VCPU_PVLOCK_IPA = 0
UNSET = 2**64 - 1

# The structure of one VCPU, SPECIFICATION.md, section 2: a u64, then 56 bytes of padding.
STRUCTURE_SIZE = 64
STRUCTURE_STRIDE = 64
STRUCTURE_ALIGNMENT = 64
PREEMPTED_OFFSET = 0

# The stolen-time structure of one VCPU, SPECIFICATION.md, section 10; it has the same size.
STOLEN_TIME_REVISION_OFFSET = 0
STOLEN_TIME_ATTRIBUTES_OFFSET = 4
STOLEN_TIME_OFFSET = 8

# The trace region, SPECIFICATION.md, section 11: a head with names, then a ring for each VCPU.
TRACE_HEAD_SIZE = 4096
TRACE_RINGS_OFFSET = 0
TRACE_STRIDE_OFFSET = 8
TRACE_VCPUS_OFFSET = 16
TRACE_NAMED_OFFSET = 20
TRACE_NAMES_OFFSET = 64
TRACE_NAMES = 63
TRACE_NAME_SIZE = 64
TRACE_RING_WRITTEN_OFFSET = 0
TRACE_RING_MASK_OFFSET = 8
TRACE_RING_EVENTS_OFFSET = 64
TRACE_EVENT_SIZE = 24
TRACE_CONTENDED = 8
TRACE_ACQUIRED = 9
TRACE_RELEASED = 10
TRACE_SLEPT = 11
TRACE_WOKEN = 12
TRACE_GRANTED = 14
TRACE_SHARED = 256
TRACE_NOBODY = -1

# 4 bits of Aff0 and 8 bits each of Aff1 and Aff2.
VCPU_LIMIT = 2**20

DT_COMPATIBLE = "pvlock,preempted-v1"
DT_TRACE_COMPATIBLE = "pvlock,trace-v1"
HYPERVISOR_UID = uuid.UUID("9692a414-c110-4646-837d-0effaa02cd77")

_MPIDR_RES1 = 1 << 31


class Policy(enum.StrEnum):
    """When the field `preempted` becomes 1 (SPECIFICATION.md, clauses 6.3 and 6.4)."""

    SCHEDULED_OUT = "scheduled-out"
    PREEMPTED = "preempted"


def affinity(vcpu: int) -> int:
    """Return Aff2:Aff1:Aff0 of VCPU number `vcpu`, as PSCI and the device tree name it.

    The numbering is KVM's: Aff0 counts from 0 to 15, then Aff1, then Aff2 (SPECIFICATION.md, clause
    8.5). Raises ValueError unless 0 <= vcpu < VCPU_LIMIT.

    >>> hex(affinity(17))
    '0x101'
    """
    if not 0 <= vcpu < VCPU_LIMIT:
        raise ValueError(f"VCPU {vcpu} is not in 0..{VCPU_LIMIT - 1}")
    return (vcpu & 0xF) | (vcpu >> 4 & 0xFF) << 8 | (vcpu >> 12) << 16


def mpidr_el1(vcpu: int) -> int:
    """Return what VCPU number `vcpu` reads in MPIDR_EL1: its affinity, and the RES1 bit 31.

    Raises ValueError as `affinity` does.
    """
    return _MPIDR_RES1 | affinity(vcpu)


def uid_words(uid: uuid.UUID = HYPERVISOR_UID) -> tuple[int, int, int, int]:
    """Return `uid` as W0 to W3 of the call-UID function: byte 0 is the lowest of W0 (DEN0028).

    >>> [hex(word) for word in uid_words()]
    ['0x14a49296', '0x464610c1', '0xff0e7d83', '0x77cd02aa']
    """
    w0, w1, w2, w3 = struct.unpack("<4I", uid.bytes)
    return w0, w1, w2, w3
