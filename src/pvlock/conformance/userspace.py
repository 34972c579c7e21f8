# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the user-space side: the VCPU attribute and what a reset keeps (sections 5 and 9).

This is a library. To check a VM object of your own, write an adapter with the methods of `Vm`, and
call `check(make)`, where `make(pvlock)` creates a fresh VM, with PV-lock on or off. `MachineVm` is
the adapter for pvlock's own machine. Results are as KVM's ioctls give them: 0 or a negative errno.
"""

import errno
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from pvlock import abi
from pvlock.attribute import DeviceAttr
from pvlock.conformance.cases import Case, select
from pvlock.conformance.outcome import Outcome, Verdict
from pvlock.errors import MemoryAccessError
from pvlock.machine import Machine

GROUP, IPA = abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA
_UNKNOWN = ((GROUP, IPA + 1), (GROUP + 0x1000, IPA), (GROUP, 2**32 + IPA))


class Vm(Protocol):
    """A VM with two VCPUs or more, none of which has run yet or has an address.

    `region` is the IPA, and `region_size` the bytes, of a memory slot that structures may be in:
    64-byte aligned, 256 bytes or more, and no slot begins where it ends. `outside` is an IPA,
    64-byte aligned, that no slot holds.
    """

    region: int
    region_size: int
    outside: int

    def has_attr(self, vcpu: int, group: int, attr: int) -> int:
        """KVM_HAS_DEVICE_ATTR on the VCPU."""

    def set_attr(self, vcpu: int, group: int, attr: int, value: int | None) -> int:
        """KVM_SET_DEVICE_ATTR with a pointer to `value`, or, if None, one that cannot be read."""

    def get_attr(self, vcpu: int, group: int, attr: int, writable: bool) -> tuple[int, int]:
        """KVM_GET_DEVICE_ATTR, with a pointer that is `writable` or not.

        Returns the result and the value that was stored; 0 if none was.
        """

    def reset(self, vcpu: int) -> None:
        """Reset the VCPU, as when it goes off and on."""

    def read(self, ipa: int, size: int) -> bytes:
        """Read guest memory."""

    def close(self) -> None:
        """End the VM."""


Make = Callable[[bool], Vm]
"""Creates a VM with its PV-lock on or off."""


class _Failed(Exception):
    """What a check found; its text is the reason."""


@dataclass(frozen=True)
class _Check:
    case: Case
    pvlock: bool
    run: Callable[[Vm], None]


_CHECKS: list[_Check] = []


def _check(
    clause: str, tag: str, name: str, what: str, pvlock: bool = True
) -> Callable[[Callable[[Vm], None]], Callable[[Vm], None]]:
    def enter(run: Callable[[Vm], None]) -> Callable[[Vm], None]:
        _CHECKS.append(_Check(Case(clause, tag, name, frozenset(), what), pvlock, run))
        return run

    return enter


def cases() -> tuple[Case, ...]:
    """Return the cases of this module."""
    return tuple(check.case for check in _CHECKS)


def check(make: Make, patterns: Collection[str] = ("*",)) -> list[Outcome]:
    """Run the checks that `patterns` select, each on a VM of its own; return their outcomes.

    If `make` or a VM raises an exception, the check has failed: no attribute may end the VMM.

    >>> def make(pvlock):
    ...     return MachineVm(Machine(2, engine="emulator", pvlock=pvlock, place=False))
    >>> [(outcome.case.name, str(outcome.verdict)) for outcome in check(make, ["5.5", "5.6"])]
    [('attr-misaligned', 'ok'), ('attr-twice', 'ok')]
    """
    chosen = {case.name for case in select(cases(), patterns)}
    return [_run(item, make) for item in _CHECKS if item.case.name in chosen]


def _run(item: _Check, make: Make) -> Outcome:
    verdict, reason = Verdict.OK, ""
    try:
        vm = make(item.pvlock)
        try:
            item.run(vm)
        finally:
            vm.close()
    except _Failed as failed:
        verdict, reason = Verdict.FAILED, str(failed)
    except Exception as error:
        verdict, reason = Verdict.FAILED, f"raised {type(error).__name__}: {error}"
    return Outcome(item.case, verdict, "user space", reason)


def _expect(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise _Failed(f"{what} returned {_name(found)}, not {_name(wanted)}")


def _name(result: int) -> str:
    return f"-{errno.errorcode[-result]}" if -result in errno.errorcode else str(result)


def _set(vm: Vm, vcpu: int, ipa: int | None) -> int:
    return vm.set_attr(vcpu, GROUP, IPA, ipa)


def _address(vm: Vm, vcpu: int) -> int:
    result, value = vm.get_attr(vcpu, GROUP, IPA, True)
    _expect("get", result, 0)
    return value


def _expect_address(vm: Vm, vcpu: int, wanted: int) -> None:
    if (found := _address(vm, vcpu)) != wanted:
        raise _Failed(f"get read {found:#x}, not {wanted:#x}")


@_check("5.1", "document", "attr-set-get", "an address that was set can be read again")
def _set_get(vm: Vm) -> None:
    for vcpu, ipa in enumerate((vm.region + 64, vm.region)):
        _expect("set", _set(vm, vcpu, ipa), 0)
        _expect_address(vm, vcpu, ipa)


@_check("5.2", "series", "attr-has", "has is 0 for the attribute and -ENXIO for every other")
def _has(vm: Vm) -> None:
    _expect("has", vm.has_attr(0, GROUP, IPA), 0)
    for group, attr in _UNKNOWN:
        _expect(
            f"has of group {group}, attribute {attr}", vm.has_attr(0, group, attr), -errno.ENXIO
        )


@_check("5.3", "document", "attr-off", "with PV-lock off all three return -ENXIO", pvlock=False)
def _off(vm: Vm) -> None:
    _expect("has", vm.has_attr(0, GROUP, IPA), -errno.ENXIO)
    _expect("set", _set(vm, 0, vm.region), -errno.ENXIO)
    _expect("get", vm.get_attr(0, GROUP, IPA, True)[0], -errno.ENXIO)


@_check("5.3", "series", "attr-unknown", "set and get of another attribute return -ENXIO")
def _unknown(vm: Vm) -> None:
    for group, attr in _UNKNOWN:
        what = f"of group {group}, attribute {attr}"
        _expect(f"set {what}", vm.set_attr(0, group, attr, vm.region), -errno.ENXIO)
        _expect(f"get {what}", vm.get_attr(0, group, attr, True)[0], -errno.ENXIO)
    _expect_address(vm, 0, abi.UNSET)


@_check("5.4", "series", "attr-fault", "set and get with a bad pointer return -EFAULT")
def _fault(vm: Vm) -> None:
    _expect("set", _set(vm, 0, None), -errno.EFAULT)
    _expect("get", vm.get_attr(0, GROUP, IPA, False)[0], -errno.EFAULT)
    _expect_address(vm, 0, abi.UNSET)


@_check("5.5", "document", "attr-misaligned", "set of a misaligned address returns -EINVAL")
def _misaligned(vm: Vm) -> None:
    for offset in (1, 2, 4, 8, 16, 32, 63, 65):
        _expect(f"set {offset} bytes on", _set(vm, 0, vm.region + offset), -errno.EINVAL)
    _expect_address(vm, 0, abi.UNSET)


@_check("5.6", "document", "attr-twice", "a second set returns -EEXIST, of the same address too")
def _twice(vm: Vm) -> None:
    _expect("set", _set(vm, 0, vm.region), 0)
    for ipa in (vm.region, vm.region + 64):
        _expect("the second set", _set(vm, 0, ipa), -errno.EEXIST)


@_check("5.7", "document", "attr-outside", "set of an address outside memory returns -EINVAL")
def _outside(vm: Vm) -> None:
    for ipa in (vm.outside, 2**64 - 64):
        _expect(f"set of {ipa:#x}", _set(vm, 0, ipa), -errno.EINVAL)
    _expect_address(vm, 0, abi.UNSET)


@_check("5.7", "series", "attr-slot-end", "a memory slot must hold all 64 bytes")
def _slot_end(vm: Vm) -> None:
    end = vm.region + vm.region_size
    _expect("set where the slot ends", _set(vm, 0, end), -errno.EINVAL)
    _expect("set 64 bytes before", _set(vm, 0, end - 64), 0)


@_check("5.8", "pvlock", "attr-shared", "set of another VCPU's address returns -EEXIST")
def _shared(vm: Vm) -> None:
    _expect("set", _set(vm, 0, vm.region), 0)
    _expect("set on the other VCPU", _set(vm, 1, vm.region), -errno.EEXIST)
    _expect_address(vm, 1, abi.UNSET)


@_check("5.9", "series", "attr-unset", "get reads all ones while nothing is set")
def _unset(vm: Vm) -> None:
    _expect_address(vm, 0, abi.UNSET)
    _expect_address(vm, 1, abi.UNSET)


@_check("5.10", "series", "attr-order", "of several errors set reports the first of 5.10's order")
def _order(vm: Vm) -> None:
    _expect("set", _set(vm, 0, vm.region), 0)
    result = vm.set_attr(0, GROUP, IPA + 1, None)
    _expect("set of an unknown attribute by a bad pointer", result, -errno.ENXIO)
    result = vm.get_attr(0, GROUP, IPA + 1, False)[0]
    _expect("get of an unknown attribute by a bad pointer", result, -errno.ENXIO)
    _expect("set by a bad pointer where one is set", _set(vm, 0, None), -errno.EFAULT)
    _expect("misaligned, where one is set", _set(vm, 0, vm.outside + 1), -errno.EINVAL)
    _expect("outside memory, where one is set", _set(vm, 0, vm.outside), -errno.EEXIST)
    _expect("misaligned and outside memory", _set(vm, 1, vm.outside + 1), -errno.EINVAL)


@_check("5.10", "series", "attr-refusal", "a refused set changes nothing")
def _refusal(vm: Vm) -> None:
    _expect("set", _set(vm, 0, vm.region), 0)
    before = vm.read(vm.region, vm.region_size)
    for vcpu, ipa in ((0, vm.region + 64), (0, vm.region + 1), (1, vm.region + 8), (1, vm.outside)):
        if _set(vm, vcpu, ipa) == 0:
            raise _Failed(f"set of {ipa:#x} on VCPU {vcpu} was not refused")
    _expect_address(vm, 0, vm.region)
    _expect_address(vm, 1, abi.UNSET)
    if vm.read(vm.region, vm.region_size) != before:
        raise _Failed("a refused set wrote to guest memory")


@_check("9.1", "pvlock", "attr-reset", "a reset of the VCPU keeps its address")
def _reset(vm: Vm) -> None:
    _expect("set", _set(vm, 1, vm.region + 64), 0)
    vm.reset(1)
    _expect_address(vm, 1, vm.region + 64)


@_check("9.2", "document", "attr-stays", "no operation changes or removes an address")
def _stays(vm: Vm) -> None:
    _expect("set", _set(vm, 0, vm.region), 0)
    for value in (abi.UNSET, 0, vm.region + 64):
        if _set(vm, 0, value) == 0:
            raise _Failed(f"set of {value:#x} was accepted")
    vm.get_attr(0, GROUP, IPA, False)
    _expect_address(vm, 0, vm.region)


class MachineVm:
    """pvlock's own machine as a Vm. close() closes the machine too."""

    _POINTER, _BAD_POINTER = 0x1000, 0

    def __init__(self, machine: Machine) -> None:
        """Take `machine`, made with `place` off. Its PV-lock region is the slot called "pvlock"."""
        self._machine = machine
        self._word = 0
        slots = {slot.name: slot for slot in machine.memory.slots}
        slot = slots.get("pvlock", slots["ram"])
        self.region, self.region_size = slot.base, slot.size
        self.outside = max(slot.end for slot in machine.memory.slots) + 0x10_0000

    def has_attr(self, vcpu: int, group: int, attr: int) -> int:
        """See Vm."""
        return self._machine.vcpus[vcpu].has_attr(DeviceAttr(group, attr))

    def set_attr(self, vcpu: int, group: int, attr: int, value: int | None) -> int:
        """See Vm."""
        self._word = value or 0
        pointer = self._BAD_POINTER if value is None else self._POINTER
        return self._machine.vcpus[vcpu].set_attr(DeviceAttr(group, attr, pointer), self)

    def get_attr(self, vcpu: int, group: int, attr: int, writable: bool) -> tuple[int, int]:
        """See Vm."""
        self._word = 0
        pointer = self._POINTER if writable else self._BAD_POINTER
        result = self._machine.vcpus[vcpu].get_attr(DeviceAttr(group, attr, pointer), self)
        return result, self._word

    def reset(self, vcpu: int) -> None:
        """See Vm. A start resets a VCPU, as PSCI CPU_ON does."""
        self._machine.vcpus[vcpu].start(self._machine.memory.slots[0].base)

    def read(self, ipa: int, size: int) -> bytes:
        """See Vm."""
        return self._machine.memory.read(ipa, size, "conformance")

    def close(self) -> None:
        """See Vm."""
        self._machine.close()

    # -- attribute.UserMemory, with one word --

    def read_u64(self, addr: int) -> int:
        """Return the word."""
        self._check(addr)
        return self._word

    def write_u64(self, addr: int, value: int) -> None:
        """Store the word."""
        self._check(addr)
        self._word = value

    def _check(self, addr: int) -> None:
        if addr != self._POINTER:
            raise MemoryAccessError(addr, 8, "user space")
