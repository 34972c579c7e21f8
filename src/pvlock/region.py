# SPDX-License-Identifier: GPL-2.0-or-later
"""The structures of one VM: for PV-lock and for PV time, one of 64 bytes for each VCPU.

These classes know the address and the layout of each structure. The engine publishes in them.
"""

import errno
import mmap

from pvlock import abi
from pvlock.errors import ConfigError
from pvlock.memory import GuestMemory


def layout(base: int, vcpus: int) -> list[int]:
    """Return the IPA of each VCPU's structure in a region at `base` (SPECIFICATION.md, clause 2.5).

    Raises ConfigError when `base` is not 64-byte aligned.

    >>> [hex(ipa) for ipa in layout(0x3000_0000, 3)]
    ['0x30000000', '0x30000040', '0x30000080']
    """
    if base % abi.STRUCTURE_ALIGNMENT:
        raise ConfigError(f"region base {base:#x} is not {abi.STRUCTURE_ALIGNMENT}-byte aligned")
    return [base + abi.STRUCTURE_STRIDE * vcpu for vcpu in range(vcpus)]


def region_size(vcpus: int, page_size: int = mmap.PAGESIZE) -> int:
    """Return the bytes that `vcpus` structures take, rounded up to pages of the host.

    Only whole pages can be protected (SPECIFICATION.md, clause 7.2).

    >>> region_size(65, page_size=4096)
    8192
    """
    return -(-vcpus * abi.STRUCTURE_STRIDE // page_size) * page_size


class StructureRegion:
    """The addresses of one kind of structure; `addresses` maps a VCPU's number to an IPA."""

    _what = "structure"

    def __init__(self, memory: GuestMemory, enabled: bool = True) -> None:
        """Without `enabled` the VM has no such interface: a guest's calls get NOT_SUPPORTED."""
        self.memory = memory
        self.enabled = enabled
        self.addresses: dict[int, int] = {}

    def set_address(self, vcpu: int, ipa: int) -> int:
        """Place the structure of `vcpu` at `ipa`; return 0 or, changing nothing, a negative errno.

        It checks in this order (clauses 5.5 to 5.8): -EINVAL if `ipa` is not 64-byte aligned;
        -EEXIST if this VCPU has an address, or another VCPU has this one; -EINVAL if the structure
        would not be wholly in a memory slot.
        """
        if ipa % abi.STRUCTURE_ALIGNMENT:
            return -errno.EINVAL
        if vcpu in self.addresses or ipa in self.addresses.values():
            return -errno.EEXIST
        if not self.memory.contains(ipa, abi.STRUCTURE_SIZE):
            return -errno.EINVAL
        self.addresses[vcpu] = ipa
        return 0

    def forget_address(self, vcpu: int) -> None:
        """Take the address of `vcpu` back, because the engine cannot keep a structure there."""
        self.addresses.pop(vcpu, None)

    def ipa(self, vcpu: int) -> int | None:
        """Return the IPA of the structure of `vcpu`, or None when unset or not `enabled`."""
        return self.addresses.get(vcpu) if self.enabled else None

    def zero(self, vcpu: int) -> None:
        """Zero all 64 bytes of the structure of `vcpu`. Raises ConfigError if it has none."""
        self.memory.zero(self._address(vcpu), abi.STRUCTURE_SIZE, self._what)

    def _address(self, vcpu: int) -> int:
        if vcpu not in self.addresses:
            raise ConfigError(f"VCPU {vcpu} has no {self._what}: set its address first")
        return self.addresses[vcpu]


class PvLockRegion(StructureRegion):
    """The PV-lock structures: a u64 `preempted` at offset 0 (SPECIFICATION.md, section 2).

    >>> from pvlock.memory import anonymous_slot
    >>> memory = GuestMemory()
    >>> memory.add(anonymous_slot(0x3000_0000, 0x1000, "pvlock", readonly=True))
    >>> region = PvLockRegion(memory)
    >>> region.set_address(0, 0x3000_0000), region.set_address(1, 0x3000_0020)  # -EINVAL
    (0, -22)
    >>> region.read(0)
    0
    >>> memory.close()
    """

    _what = "PV-lock structure"

    def read(self, vcpu: int) -> int:
        """Return the field `preempted` of `vcpu`. Raises ConfigError if it has no structure."""
        return self.memory.read_u64(self._address(vcpu) + abi.PREEMPTED_OFFSET, self._what)


class StolenTimeRegion(StructureRegion):
    """The stolen-time structures of Arm DEN0057A (SPECIFICATION.md, section 10)."""

    _what = "stolen-time structure"

    def read(self, vcpu: int) -> int:
        """Return the stolen time of `vcpu` in ns. Raises ConfigError if it has no structure."""
        return self.memory.read_u64(self._address(vcpu) + abi.STOLEN_TIME_OFFSET, self._what)
