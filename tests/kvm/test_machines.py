# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines on KVM: scripted, stopped, killed, two at once, in namespaces; and what they leave."""

import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm.conftest import DEADLINE_NS
from pvlock import Machine, Policy, SystemEvent, workload
from pvlock.errors import ConfigError, EngineError, GuestFault
from pvlock.memory_map import PVLOCK_BASE, RAM_BASE
from recorder import object_ids, object_ids_of

Guest = Callable[[str], Path]
Start = Callable[..., subprocess.Popen[str]]
ENDLESS = """
from pvlock import Machine, workload
with Machine(2, 1, engine="kvm", bootargs="duration=600000000000") as machine:
    machine.load(workload.image_of("mutex"))
    machine.run(200_000_000)
    print("ready", flush=True)
    machine.run(600_000_000_000)
"""


def test_a_machine_goes_on_where_it_stopped(guest: Guest, nothing_left: None) -> None:
    with Machine(2, 2, engine="kvm", bootargs="duration=1000000000") as machine:
        machine.load(workload.image_of("mutex"))
        for step in range(1, 6):
            assert machine.run(step * 100_000_000) is None
            pc = machine.vcpus[0].get("pc")
            assert 0x4020_0000 <= pc < 0x4030_0000 or machine.vcpus[0].get("pstate") & 0xF == 5
            before = machine.usage()
            time.sleep(0.05)
            assert machine.usage().vcpus[0].running_ns - before.vcpus[0].running_ns < 50_000_000
            assert machine.usage().time_ns == before.time_ns
        assert machine.run(DEADLINE_NS) is SystemEvent.OFF
        assert workload.read(machine.console.text).pvlock


def test_registers_are_read_and_written(nothing_left: None) -> None:
    with Machine(1, engine="kvm") as machine:
        vcpu = machine.vcpus[0]
        for number, name in enumerate(["x0", "x30", "sp", "pc", "elr_el1", "tpidr_el1", "sp_el0"]):
            vcpu.set(name, 0x4000_0000 + 16 * number)
            assert vcpu.get(name) == 0x4000_0000 + 16 * number
        with pytest.raises(ConfigError, match="no register is called 'x31'"):
            vcpu.get("x31")


@pytest.mark.parametrize("bits", [29, 33, 36, 39])
def test_a_load_from_where_nothing_is_aborts(bits: int, nothing_left: None) -> None:
    """The address is within the guest's address bits, or beyond them, where KVM itself aborts."""
    load, here = struct.pack("<I", 0xF9400001), struct.pack("<I", 0x14000000)  # LDR X1, [X0]; B .
    with Machine(1, engine="kvm") as machine:
        machine.memory.write(RAM_BASE, load, "test")
        machine.memory.write(RAM_BASE + 0x1000 + 0x200, here, "test")
        machine.vcpus[0].start(RAM_BASE, 1 << bits)
        machine.vcpus[0].set("vbar_el1", RAM_BASE + 0x1000)
        assert machine.run(200_000_000) is None
        state = [machine.vcpus[0].get(name) for name in ("pc", "esr_el1", "far_el1")]
    assert state == [RAM_BASE + 0x1200, 0x96000010, 1 << bits]


def test_two_machines_do_not_see_each_other(guest: Guest, nothing_left: None) -> None:
    """While one machine runs, no flag of the other changes; then they change places."""
    with Machine(4, 2, engine="kvm") as one, Machine(4, 2, engine="kvm") as other:
        assert one.pvlock.addresses == other.pvlock.addresses
        for machine, idle in ((one, other), (other, one)):
            machine.load(guest("samples"))
            before = idle.memory.read(PVLOCK_BASE, 4 * 64, "test")
            assert machine.run(DEADLINE_NS) is SystemEvent.OFF, machine.console.text
            assert idle.memory.read(PVLOCK_BASE, 4 * 64, "test") == before
            assert flags_seen(machine) == {0, 1}


def flags_seen(machine: Machine) -> set[int]:
    """Return the flags of other VCPUs that the guest `samples` saw; check that its own was 0."""
    _, where, count, _, own_not_zero = machine.console.text.split()
    assert own_not_zero == "0"
    samples = machine.memory.read(int(where, 16), int(count) * 32, "samples")
    return {flag for _, _, _, flag in struct.iter_unpack("<4Q", samples)}


@pytest.mark.parametrize("policy", list(Policy))
def test_vcpus_that_are_off(policy: Policy) -> None:
    with Machine(4, 2, engine="kvm", policy=policy) as machine:
        off = [int(policy is Policy.SCHEDULED_OUT)] * 4
        assert [vcpu.preempted for vcpu in machine.vcpus] == off
        machine.run(100_000_000)  # nothing is loaded, so all VCPUs wait to be turned on
        until = time.monotonic() + 10
        while [vcpu.preempted for vcpu in machine.vcpus] != off:
            assert time.monotonic() < until


def test_addresses_that_the_engine_cannot_publish_at() -> None:
    with (
        Machine(2, engine="kvm", place=False) as machine,
        pytest.raises(ConfigError, match="cannot publish at 0x40000000"),
    ):
        machine.engine.publish_at(0, 0x4000_0000)


@pytest.mark.parametrize(
    "option",
    [
        {"slice_ns": 1_000_000},
        {"quantum_ns": 2_000},
        {"script": []},
        {"trap_wfe": False},
        {"exit_ns": 2_000},
        {"switch_ns": 0},
        {"pcpus": 500},
    ],
)
def test_options_of_an_emulated_host_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        Machine(2, engine="kvm", **option)  # type: ignore[arg-type]


def test_a_guest_that_leaves_its_memory_only_stops_itself(nothing_left: None) -> None:
    """The guest jumps to where no memory is. The abort's vector is where no memory is, too."""
    with Machine(1, engine="kvm") as machine:
        machine.vcpus[0].start(0x7000_0000)
        try:
            assert machine.run(500_000_000) is None
        except GuestFault as fault:
            assert fault.vcpu == 0


def test_what_a_handler_raises_comes_out_of_run(nothing_left: None) -> None:
    def refuse(_data: bytes) -> None:
        raise BrokenPipeError("gone")

    with Machine(2, engine="kvm", output=refuse, bootargs="duration=1000000") as machine:
        machine.load(workload.image_of("mutex"))
        with pytest.raises(BrokenPipeError):
            machine.run(DEADLINE_NS)


def test_a_thread_that_dies_ends_the_machine(
    monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    from pvlock.engines.kvm.vcpu import KvmVcpu

    enter = KvmVcpu.enter

    def fail(self: KvmVcpu) -> object:
        if self.index == 1:
            raise OSError(5, "Input/output error")
        return enter(self)

    monkeypatch.setattr(KvmVcpu, "enter", fail)
    with Machine(2, engine="kvm", bootargs="duration=1000000000") as machine:
        machine.load(workload.image_of("mutex"))
        with pytest.raises(EngineError, match=r"VCPU 1 at PC .*Input/output error"):
            machine.run(DEADLINE_NS)


def ready(process: subprocess.Popen[str]) -> set[tuple[str, int]]:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.stdout.read()
    found = object_ids_of(process.pid)
    assert {kind for kind, _ in found} == {"prog", "map", "link"}
    return found


def gone(objects: set[tuple[str, int]]) -> bool:
    until = time.monotonic() + 30
    while objects & object_ids():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def test_a_killed_machine_leaves_nothing(script: Start) -> None:
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    processes = [script(ENDLESS) for _ in signals]
    objects = [ready(process) for process in processes]
    assert not objects[0] & objects[1] | objects[1] & objects[2]
    for process, each in zip(processes, signals, strict=True):
        process.send_signal(each)
        assert process.wait(30) in (-each, 1)
    assert gone(set().union(*objects))


def test_in_a_pid_namespace(guest: Guest, script: Start) -> None:
    process = script(
        f"""
import os
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pvlock import Machine
from kvm.test_machines import flags_seen
assert os.getpid() == 1
with Machine(4, 2, engine="kvm") as machine:
    machine.load({str(guest("samples"))!r})
    print(machine.run({DEADLINE_NS}), flags_seen(machine))
""",
        "unshare", "--pid", "--fork", "--mount-proc",
    )  # fmt: skip
    text, _ = process.communicate(timeout=90)
    assert process.returncode == 0, text
    assert text == "off {0, 1}\n"
