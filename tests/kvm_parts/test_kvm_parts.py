# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of the kvm engine that need no KVM: what it asks for, and what it does when that fails."""

import mmap
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pvlock import Machine, abi, memory_map
from pvlock.attribute import DeviceAttr
from pvlock.engines.kvm import ioctl, thread, vcpu, vm
from pvlock.errors import ConfigError, EngineError
from pvlock.memory import MemorySlot


def fail(error: BaseException) -> None:
    raise AssertionError from error


def test_a_thread_that_cannot_start_is_an_error_and_no_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one = thread.VcpuThread(SimpleNamespace(index=3), {0}, lambda *_: True, fail)  # type: ignore[arg-type]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(EngineError, match="cannot start VCPU 3: can't start new thread"):
        one.resume()
    one.stop()
    one.wait_parked()
    one.end()


def test_a_page_that_was_never_shown_is_not_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a page of the host is not the device's: 16 or 64 KiB."""
    made: vm.KvmVm = vm.KvmVm.__new__(vm.KvmVm)
    made._page = None
    monkeypatch.setattr(ioctl, "must", None)
    made.show(memory_map.UART_BASE, bytes(2 * mmap.PAGESIZE))
    made.show(memory_map.UART_BASE, None)


def test_a_vcpu_that_was_stopped_behind_an_access_has_finished_it() -> None:
    """Else its registers are those of before the access, and what they are set to is too."""
    done: list[str] = []

    def enter() -> vcpu.Mmio:
        one.stop()
        return vcpu.Mmio(0x900_0000, 4, 1)

    inner = SimpleNamespace(index=0, enter=enter, settle=lambda: done.append("settled"))
    one = thread.VcpuThread(inner, {0}, lambda *_: not done.append("answered"), fail)  # type: ignore[arg-type, func-returns-value]
    one._wanted = True
    one._run()
    assert done == ["answered", "settled"]


@pytest.mark.parametrize(
    ("mib", "limit", "bits"),
    [(64, 40, 32), (3072, 40, 32), (3074, 40, 33), (65536, 37, 37), (65536, 0, 37), (64, 32, 32)],
)
def test_a_vm_has_the_address_bits_that_its_memory_needs(
    mib: int, limit: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm, "supported", lambda _fd, _capability: limit)
    ram = MemorySlot(memory_map.RAM_BASE, mib << 20, "ram", memoryview(b""))
    low = MemorySlot(memory_map.PVLOCK_BASE, 4096, "pvlock", memoryview(b""))
    assert vm.ipa_bits(3, [ram, low]) == bits


def test_a_host_with_too_few_address_bits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "supported", lambda _fd, _capability: 36)
    ram = MemorySlot(memory_map.RAM_BASE, 65536 << 20, "ram", memoryview(b""))
    with pytest.raises(ConfigError, match=r"memory ends at 0x1040000000; .* have 36 address bits"):
        vm.ipa_bits(3, [ram])


def test_a_structure_that_the_engine_refuses_has_no_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the kvm engine does outside its own region: the guest must find nothing there (5.10)."""

    def refuse(number: int, ipa: int) -> None:
        raise ConfigError(f"VCPU {number}: cannot publish at {ipa:#x}")

    attribute = DeviceAttr(abi.KVM_ARM_VCPU_PVLOCK_CTRL, abi.KVM_ARM_VCPU_PVLOCK_IPA, 0)
    with Machine(2, engine="emulator", place=False) as machine:
        user: Any = SimpleNamespace(read_u64=lambda _address: memory_map.RAM_BASE)
        published = machine.engine.publish_at
        monkeypatch.setattr(machine.engine, "publish_at", refuse)
        with pytest.raises(ConfigError, match="VCPU 1: cannot publish at 0x40000000"):
            machine.vcpus[1].set_attr(attribute, user)
        assert machine.pvlock.ipa(1) is None
        monkeypatch.setattr(machine.engine, "publish_at", published)
        assert machine.vcpus[1].set_attr(attribute, user) == 0
