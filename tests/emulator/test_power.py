# SPDX-License-Identifier: GPL-2.0-or-later
"""VCPUs that go on and off where a guest or the host asks for it against all reason."""

import contextlib
import struct

import pytest

from asm import ENTRY, assemble
from hostile import BRANCH_TO_SELF, MS, fault, run
from pvlock import abi, memory_map
from pvlock.engines.contract import SystemEvent
from pvlock.errors import GuestStalled, PvlockError
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")


def test_a_storm_of_system_off_ends_the_machine_once_each_run() -> None:
    guest = assemble("1: set x0, 0x84000008\nhvc #0\nb 1b")
    with Machine(4) as machine:
        loaded = machine.load(guest)
        for vcpu in machine.vcpus[1:]:
            vcpu.start(loaded.entry)
        for _ in range(100):
            assert machine.run(5 * MS) is SystemEvent.OFF


@pytest.mark.parametrize(
    "entry",
    [0, 1, 0xDEAD0000, memory_map.PVLOCK_BASE, memory_map.UART_BASE, ENTRY + 2, 2**64 - 4, 1 << 63],
    ids=hex,
)
def test_cpu_on_with_a_hostile_entry_is_a_fault_of_that_vcpu(entry: int) -> None:
    guest = f"set x0, 0xc4000003\nmov x1, #1\nset x2, {entry:#x}\nhvc #0\nb ."
    assert fault(run(assemble(guest), vcpus=2)).vcpu == 1


def test_cpu_on_and_off_without_end_runs_until_the_limit() -> None:
    guest = """
	mov x19, #0
1:	add x19, x19, #1
	and x1, x19, #3
	adr x2, other
	set x0, 0xc4000003
	hvc #0
	set x0, 0xc4000004
	and x1, x19, #3
	mov x2, #0
	hvc #0
	b 1b
other:
	set x0, 0x84000002
	hvc #0
	udf #0
"""
    end = run(assemble(guest), vcpus=4, pcpus=2)
    assert end.event is None
    assert end.usage is not None
    assert end.usage.exits["hvc"] > 1000
    assert end.usage.switches > 10


def test_a_vcpu_that_the_host_started_is_on_for_psci() -> None:
    """Vcpu.start() is "as PSCI CPU_ON would"; a second start is refused, not a reset mid-flight."""
    ask = "set x0, 0xc4000003\nmov x1, #1\nadr x2, 1f\nhvc #0\nmov x19, x0\noff\n1: b ."
    with Machine(2) as machine:
        machine.load(assemble(ask))
        machine.memory.write(0x4300_0000, struct.pack("<I", BRANCH_TO_SELF), "test")
        machine.vcpus[1].start(0x4300_0000)
        assert machine.run(5 * MS) is SystemEvent.OFF
        assert machine.vcpus[0].get("x19") == abi.PSCI_ALREADY_ON % 2**64


def test_a_vcpu_that_the_host_started_twice_is_off_after_cpu_off() -> None:
    """Or the second start is refused; no left-over start wakes a VCPU that is off."""
    with Machine() as machine:
        loaded = machine.load(assemble("set x0, 0x84000002\nhvc #0\nb ."))
        with contextlib.suppress(PvlockError):
            machine.vcpus[0].start(loaded.entry)
        with pytest.raises(GuestStalled):
            machine.run(5 * MS)
