# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM of KVM: memory slots, VCPUs, the in-kernel GICv3, and the calls that the kernel forwards."""

import ctypes as c
import errno
import mmap
import os
import resource
from collections.abc import Iterator, Sequence

from pvlock import abi, memory_map
from pvlock.engines.kvm import ioctl
from pvlock.engines.kvm.vcpu import KvmVcpu
from pvlock.errors import ConfigError, EngineError, EngineUnavailable
from pvlock.memory import MemorySlot, fence

_INTERRUPTS = 64
"""As many as the emulator's GIC has: 32 for each VCPU, and 32 for devices."""
_LEAST_IPA_BITS = 32
_OTHER_DESCRIPTORS = 256
_ALWAYS_IPA_BITS = 40
"""The address bits of guests where KVM has no KVM_CAP_ARM_VM_IPA_SIZE."""
_SPI = 1 << 24  # KVM_ARM_IRQ_TYPE_SPI in KVM_IRQ_LINE


def open_kvm() -> int:
    """Open /dev/kvm; raises EngineUnavailable with the remedy, EngineError for other failures."""
    try:
        fd = os.open(ioctl.PATH, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise EngineUnavailable(
            "kvm", f"{ioctl.PATH}: {error.strerror}", "run as root or join the group kvm"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise EngineError(f"cannot open {ioctl.PATH}: {error.strerror}") from error
        raise EngineUnavailable(
            "kvm",
            f"{ioctl.PATH}: {error.strerror}",
            "use a host whose CPU and kernel have KVM (in a VM: nested virtualisation)",
        ) from error
    try:
        version = ioctl.must("tell its version", fd, ioctl.GET_API_VERSION)
    except BaseException:
        os.close(fd)
        raise
    if version != ioctl.API_VERSION:
        os.close(fd)
        raise EngineUnavailable(
            "kvm", f"KVM has API version {version}", f"pvlock speaks {ioctl.API_VERSION}"
        )
    return fd


class KvmVm:
    """The kernel's half of a machine; close() frees all of it."""

    def __init__(self, vcpus: int, slots: Sequence[MemorySlot], coalesced: Sequence[int]) -> None:
        """Create the VM with `vcpus` VCPUs, all off.

        `coalesced` are 4-byte registers whose writes wait in a ring for posted_writes(). Raises
        ConfigError, EngineUnavailable or EngineError.
        """
        self.vcpus: list[KvmVcpu] = []
        self._ring: c.Structure | None = None
        self._page: mmap.mmap | None = None
        self._kvm = open_kvm()
        self.fd = self._gic = -1
        try:
            self.fd = ioctl.must(
                "create a VM", self._kvm, ioctl.CREATE_VM, ipa_bits(self._kvm, slots)
            )
            self._add_slots(slots)
            self._enable(ioctl.CAP_ARM_NISV_TO_USER)
            run_size = ioctl.must("size kvm_run", self._kvm, ioctl.GET_VCPU_MMAP_SIZE)
            self.target = ioctl.VcpuInit()
            ioctl.must("name its CPU", self.fd, ioctl.ARM_PREFERRED_TARGET, self.target)
            _allow_descriptors(vcpus)
            for index in range(vcpus):
                self.vcpus.append(KvmVcpu(self.fd, index, run_size))
                self.vcpus[index].reset(self.target)
            self._create_gic()
            self._coalesce(coalesced)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free everything that the kernel keeps; no VCPU may be running."""
        self._ring = None
        while self.vcpus:
            self.vcpus.pop().close()
        for fd in (self._gic, self.fd, self._kvm):
            if fd >= 0:
                os.close(fd)
        self._gic = self.fd = self._kvm = -1
        self._page = None

    def forward_pvlock(self) -> None:
        """Have the kernel forward the two PV-lock calls to us; call it before any VCPU runs.

        Raises EngineUnavailable before Linux 6.4, which has the SMCCC filter (commit 821d935c87bc).
        """
        wanted = ioctl.SmcccFilter(abi.PV_LOCK_FEATURES, 2, ioctl.SMCCC_FILTER_FWD_TO_USER)
        argument = ioctl.device_attr(ioctl.VM_SMCCC_CTRL, ioctl.VM_SMCCC_FILTER, wanted)
        try:
            ioctl.call(self.fd, ioctl.SET_DEVICE_ATTR, argument)
        except OSError as error:
            raise EngineUnavailable(
                "kvm",
                f"its kernel cannot forward hypercalls to user space ({error.strerror})",
                "use Linux 6.4 or newer",
            ) from error

    def set_line(self, interrupt: int, level: bool) -> None:
        """Raise or lower the line of shared peripheral interrupt `interrupt` (32 or higher)."""
        line = ioctl.IrqLevel(_SPI | interrupt, int(level))
        ioctl.must("set an interrupt line", self.fd, ioctl.IRQ_LINE, line)

    def show(self, ipa: int, page: bytes | None) -> None:
        """Map `page` at `ipa`, read-only, in a slot of its own; None unmaps it.

        The guest takes the page for a device and may read it past the caches. KVM cleans a page
        from the caches when it maps it, so the page must not change while it is mapped.
        """
        if page is not None and len(page) != mmap.PAGESIZE:
            return
        if page is None and self._page is None:
            return
        if self._page is None:
            self._page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if page is not None:
            self._page[:] = page
        size = 0 if page is None else mmap.PAGESIZE
        address = ioctl.address_of(memoryview(self._page))
        region = ioctl.MemoryRegion(self._next_slot, ioctl.MEM_READONLY, ipa, size, address)
        ioctl.must("show a device", self.fd, ioctl.SET_USER_MEMORY_REGION, region)

    def posted_writes(self) -> Iterator[tuple[int, int, int]]:
        """Take the writes that wait in the ring: (IPA, bytes, value), oldest first."""
        ring = self._ring
        while ring is not None and ring.first != ring.last:
            fence()
            entry = ring.writes[ring.first % len(ring.writes)]
            size = min(entry.len, 8)
            write = (
                int(entry.phys_addr),
                size,
                int.from_bytes(bytes(entry.data[:size]), "little"),
            )
            ring.first = (ring.first + 1) % len(ring.writes)
            yield write

    def _add_slots(self, slots: Sequence[MemorySlot]) -> None:
        self._next_slot = len(slots)
        for number, slot in enumerate(slots):
            # The kernel itself writes stolen time, through the guest's own mapping.
            readonly = slot.readonly and slot.base != memory_map.STOLEN_TIME_BASE
            region = ioctl.MemoryRegion(
                number,
                ioctl.MEM_READONLY if readonly else 0,
                slot.base,
                slot.size,
                ioctl.address_of(slot.buffer),
            )
            ioctl.must(f"map slot {slot.name}", self.fd, ioctl.SET_USER_MEMORY_REGION, region)

    def _create_gic(self) -> None:
        device = ioctl.CreateDevice(ioctl.DEV_TYPE_ARM_VGIC_V3)
        ioctl.must("create a GICv3", self.fd, ioctl.CREATE_DEVICE, device)
        self._gic = int(device.fd)
        gicr = memory_map.gicr_base(len(self.vcpus))
        for group, attr, value in (
            (ioctl.VGIC_GRP_ADDR, ioctl.VGIC_V3_ADDR_TYPE_DIST, c.c_uint64(memory_map.GICD_BASE)),
            (ioctl.VGIC_GRP_ADDR, ioctl.VGIC_V3_ADDR_TYPE_REDIST, c.c_uint64(gicr)),
            (ioctl.VGIC_GRP_NR_IRQS, 0, c.c_uint32(_INTERRUPTS)),
            (ioctl.VGIC_GRP_CTRL, ioctl.VGIC_CTRL_INIT, None),
        ):
            argument = ioctl.device_attr(group, attr, value)
            ioctl.must("set up the GICv3", self._gic, ioctl.SET_DEVICE_ATTR, argument)

    def _coalesce(self, registers: Sequence[int]) -> None:
        page = ioctl.call(self.fd, ioctl.CHECK_EXTENSION, ioctl.CAP_COALESCED_MMIO)
        if page <= 0:  # then every write is an exit of its own
            return
        for ipa in registers:
            zone = ioctl.CoalescedZone(ipa, 4, 0)
            ioctl.must("coalesce writes", self.fd, ioctl.REGISTER_COALESCED_MMIO, zone)
        self._ring = self.vcpus[0].ring(page)

    def _enable(self, capability: int) -> None:
        ioctl.must(
            f"enable capability {capability}",
            self.fd,
            ioctl.ENABLE_CAP,
            ioctl.EnableCap(capability),
        )


def _allow_descriptors(vcpus: int) -> None:
    """Raise this process's limit of descriptors: 512 VCPUs need more than most shells allow.

    A VCPU takes two: its own, and the copy that Python keeps with the mapping.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * vcpus + _OTHER_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def ipa_bits(kvm: int, slots: Sequence[MemorySlot] = ()) -> int:
    """Return how many bits the guest's addresses need to reach all of `slots`.

    With fewer bits a CPU walks fewer levels of tables after a TLB miss. Raises ConfigError when
    guests on this host cannot have as many.
    """
    end = max((slot.end for slot in slots), default=0)
    bits = max((end - 1).bit_length(), _LEAST_IPA_BITS)
    limit = supported(kvm, ioctl.CAP_ARM_VM_IPA_SIZE) or _ALWAYS_IPA_BITS
    if bits > limit:
        raise ConfigError(f"memory ends at {end:#x}; guests on this host have {limit} address bits")
    return bits


def supported(fd: int, capability: int) -> int:
    """Return what KVM_CHECK_EXTENSION says of a capability; 0 means no."""
    try:
        return ioctl.call(fd, ioctl.CHECK_EXTENSION, capability)
    except OSError as error:
        raise EngineError(f"KVM cannot say what it can: {error.strerror}") from error
