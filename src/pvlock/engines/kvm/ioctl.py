# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/kvm as arm64 has it: numbers, structures, and the one function that calls the kernel.

Names and layouts are those of linux/kvm.h and asm/kvm.h. Nothing else in pvlock makes a KVM ioctl.
"""

import ctypes as c
import fcntl
import os
from typing import TYPE_CHECKING, Final

from pvlock.errors import EngineError

if TYPE_CHECKING:
    Value = c.Structure | c._SimpleCData[int]
    Argument = int | Value

PATH: Final = "/dev/kvm"
API_VERSION: Final = 12

# -- requests --
GET_API_VERSION: Final = 0xAE00
CREATE_VM: Final = 0xAE01
CHECK_EXTENSION: Final = 0xAE03
GET_VCPU_MMAP_SIZE: Final = 0xAE04
CREATE_VCPU: Final = 0xAE41
SET_USER_MEMORY_REGION: Final = 0x4020AE46
IRQ_LINE: Final = 0x4008AE61
REGISTER_COALESCED_MMIO: Final = 0x4010AE67
RUN: Final = 0xAE80
SET_SIGNAL_MASK: Final = 0x4004AE8B
SET_MP_STATE: Final = 0x4004AE99
SET_VCPU_EVENTS: Final = 0x4040AEA0
ENABLE_CAP: Final = 0x4068AEA3
GET_ONE_REG: Final = 0x4010AEAB
SET_ONE_REG: Final = 0x4010AEAC
ARM_VCPU_INIT: Final = 0x4020AEAE
ARM_PREFERRED_TARGET: Final = 0x8020AEAF
CREATE_DEVICE: Final = 0xC00CAEE0
SET_DEVICE_ATTR: Final = 0x4018AEE1
HAS_DEVICE_ATTR: Final = 0x4018AEE3

# -- capabilities --
CAP_COALESCED_MMIO: Final = 15
CAP_MAX_VCPUS: Final = 66
CAP_READONLY_MEM: Final = 81
CAP_ARM_PSCI_0_2: Final = 102
CAP_IMMEDIATE_EXIT: Final = 136
CAP_ARM_VM_IPA_SIZE: Final = 165
CAP_ARM_INJECT_EXT_DABT: Final = 178
CAP_ARM_NISV_TO_USER: Final = 177
CAP_STEAL_TIME: Final = 187

# -- values --
MEM_READONLY: Final = 1 << 1
FEATURE_POWER_OFF: Final = 1 << 0
FEATURE_PSCI_0_2: Final = 1 << 2
MP_STATE_RUNNABLE: Final = 0
DEV_TYPE_ARM_VGIC_V3: Final = 7
CREATE_DEVICE_TEST: Final = 1
VGIC_GRP_ADDR: Final = 0
VGIC_GRP_NR_IRQS: Final = 3
VGIC_GRP_CTRL: Final = 4
VGIC_CTRL_INIT: Final = 0
VGIC_V3_ADDR_TYPE_DIST: Final = 2
VGIC_V3_ADDR_TYPE_REDIST: Final = 3
VM_SMCCC_CTRL: Final = 0
VM_SMCCC_FILTER: Final = 0
SMCCC_FILTER_FWD_TO_USER: Final = 2
VCPU_PVTIME_CTRL: Final = 2
VCPU_PVTIME_IPA: Final = 0

# -- exit reasons --
EXIT_HYPERCALL: Final = 3
EXIT_MMIO: Final = 6
EXIT_FAIL_ENTRY: Final = 9
EXIT_INTR: Final = 10
EXIT_INTERNAL_ERROR: Final = 17
EXIT_SYSTEM_EVENT: Final = 24
EXIT_ARM_NISV: Final = 28
SYSTEM_EVENT_SHUTDOWN: Final = 1
SYSTEM_EVENT_RESET: Final = 2

# -- register numbers --
_REG: Final = 0x6030_0000_0000_0000  # arm64, 64 bits wide
REG_CORE: Final = _REG | 0x10 << 16
REG_SYSTEM: Final = _REG | 0x13 << 16


class MemoryRegion(c.Structure):
    """struct kvm_userspace_memory_region."""

    _fields_ = (
        ("slot", c.c_uint32),
        ("flags", c.c_uint32),
        ("guest_phys_addr", c.c_uint64),
        ("memory_size", c.c_uint64),
        ("userspace_addr", c.c_uint64),
    )


class VcpuInit(c.Structure):
    """struct kvm_vcpu_init."""

    _fields_ = (("target", c.c_uint32), ("features", c.c_uint32 * 7))


class OneReg(c.Structure):
    """struct kvm_one_reg."""

    _fields_ = (("id", c.c_uint64), ("addr", c.c_uint64))


class CreateDevice(c.Structure):
    """struct kvm_create_device."""

    _fields_ = (("type", c.c_uint32), ("fd", c.c_uint32), ("flags", c.c_uint32))


class DeviceAttr(c.Structure):
    """struct kvm_device_attr."""

    _fields_ = (
        ("flags", c.c_uint32),
        ("group", c.c_uint32),
        ("attr", c.c_uint64),
        ("addr", c.c_uint64),
    )


class EnableCap(c.Structure):
    """struct kvm_enable_cap."""

    _fields_ = (
        ("cap", c.c_uint32),
        ("flags", c.c_uint32),
        ("args", c.c_uint64 * 4),
        ("pad", c.c_uint8 * 64),
    )


class SmcccFilter(c.Structure):
    """struct kvm_smccc_filter."""

    _fields_ = (
        ("base", c.c_uint32),
        ("nr_functions", c.c_uint32),
        ("action", c.c_uint8),
        ("pad", c.c_uint8 * 15),
    )


class SignalMask(c.Structure):
    """struct kvm_signal_mask with the kernel's sigset: `len` is 8."""

    _pack_ = 4
    _fields_ = (("len", c.c_uint32), ("sigset", c.c_uint64))


class VcpuEvents(c.Structure):
    """struct kvm_vcpu_events."""

    _fields_ = (
        ("serror_pending", c.c_uint8),
        ("serror_has_esr", c.c_uint8),
        ("ext_dabt_pending", c.c_uint8),
        ("pad", c.c_uint8 * 5),
        ("serror_esr", c.c_uint64),
        ("reserved", c.c_uint32 * 12),
    )


class IrqLevel(c.Structure):
    """struct kvm_irq_level."""

    _fields_ = (("irq", c.c_uint32), ("level", c.c_uint32))


class CoalescedZone(c.Structure):
    """struct kvm_coalesced_mmio_zone."""

    _fields_ = (("addr", c.c_uint64), ("size", c.c_uint32), ("pio", c.c_uint32))


class CoalescedWrite(c.Structure):
    """struct kvm_coalesced_mmio, an entry of the ring."""

    _fields_ = (
        ("phys_addr", c.c_uint64),
        ("len", c.c_uint32),
        ("pio", c.c_uint32),
        ("data", c.c_uint8 * 8),
    )


def coalesced_ring(page_size: int) -> type[c.Structure]:
    """Return struct kvm_coalesced_mmio_ring for a kernel whose pages have `page_size` bytes."""
    count = (page_size - 8) // c.sizeof(CoalescedWrite)

    class Ring(c.Structure):
        _fields_ = (
            ("first", c.c_uint32),
            ("last", c.c_uint32),
            ("writes", CoalescedWrite * count),
        )

    return Ring


class _Mmio(c.Structure):
    _fields_ = (
        ("phys_addr", c.c_uint64),
        ("data", c.c_uint8 * 8),
        ("len", c.c_uint32),
        ("is_write", c.c_uint8),
    )


class _SystemEvent(c.Structure):
    _fields_ = (("type", c.c_uint32), ("ndata", c.c_uint32), ("data", c.c_uint64 * 16))


class _Nisv(c.Structure):
    _fields_ = (("esr_iss", c.c_uint64), ("fault_ipa", c.c_uint64))


class _FailEntry(c.Structure):
    _fields_ = (("hardware_entry_failure_reason", c.c_uint64), ("cpu", c.c_uint32))


class _InternalError(c.Structure):
    _fields_ = (("suberror", c.c_uint32), ("ndata", c.c_uint32))


class _Exit(c.Union):
    _fields_ = (
        ("mmio", _Mmio),
        ("system_event", _SystemEvent),
        ("arm_nisv", _Nisv),
        ("fail_entry", _FailEntry),
        ("internal", _InternalError),
    )


class Run(c.Structure):
    """The beginning of struct kvm_run, which the kernel shares with us for each VCPU."""

    _anonymous_ = ("exit",)
    _fields_ = (
        ("request_interrupt_window", c.c_uint8),
        ("immediate_exit", c.c_uint8),
        ("padding", c.c_uint8 * 6),
        ("exit_reason", c.c_uint32),
        ("ready_for_interrupt_injection", c.c_uint8),
        ("if_flag", c.c_uint8),
        ("flags", c.c_uint16),
        ("cr8", c.c_uint64),
        ("apic_base", c.c_uint64),
        ("exit", _Exit),
    )


def call(fd: int, request: int, argument: "Argument" = 0) -> int:
    """Make the ioctl `request` on `fd`; return its result. Raises OSError as the kernel says."""
    while True:
        try:
            return fcntl.ioctl(fd, request, argument)
        except InterruptedError:
            if request == RUN:  # a kick; other calls, such as CREATE_VM, are made again
                raise


def must(what: str, fd: int, request: int, argument: "Argument" = 0) -> int:
    """Make an ioctl; raises EngineError ("KVM cannot `what`: ...") where the kernel refuses."""
    try:
        return call(fd, request, argument)
    except OSError as error:
        raise EngineError(f"KVM cannot {what}: {os.strerror(error.errno or 0)}") from error


def device_attr(group: int, attr: int, value: "Value | None" = None) -> DeviceAttr:
    """Return the argument of SET_DEVICE_ATTR; `value`, if any, must live until the call."""
    return DeviceAttr(0, group, attr, 0 if value is None else c.addressof(value))


def address_of(buffer: memoryview) -> int:
    """Return the address of a writable buffer in this process, valid until it is released."""
    return c.addressof(c.c_char.from_buffer(buffer))
