# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux with PV-lock on the emulator: what its programs read is what the host did."""

import bisect
import re
from collections import Counter
from pathlib import Path

import pytest

from pvlock import Machine, SystemEvent
from pvlock.abi import Policy
from pvlock.engines.contract import HostEvent, Switch

VCPUS, PCPUS = 6, 2
SAMPLES = 40
LIMIT_NS = 5_000_000_000
BLUR_NS = 6_000
"""A quantum, an exit and a switch: by so much may the clocks of two CPUs differ."""
LINE = re.compile(r"^\[ *\d+\.\d+\] (pvlock: .*)$", re.M)
FLAG = re.compile(r"^init: (\w+) (\d+) 0x(\w+) (\d) (\d+) (\d+)$", re.M)


def boot(
    kernel: Path, init: Path, append: str, policy: Policy = Policy.PREEMPTED, *,
    pvlock: bool = True, trap_wfe: bool = True,
) -> tuple[str, list[Switch]]:  # fmt: skip
    """Run until it switches itself off; return what it printed, and the switches."""
    with Machine(
        VCPUS, pcpus=PCPUS, policy=policy, pvlock=pvlock, record=True, ram_size=256 << 20,
        bootargs=f"console=ttyAMA0 {append}", trap_wfe=trap_wfe,
    ) as machine:  # fmt: skip
        machine.load(kernel, init.read_bytes())
        assert machine.run(LIMIT_NS) is SystemEvent.OFF
        text = machine.console.text.replace("\r", "")
        assert "init: done\n" in text, text
        return text, machine.switches()


@pytest.mark.parametrize("policy", list(Policy))
def test_a_program_reads_what_the_host_wrote(
    pvlock_kernel: Path, init: Path, policy: Policy
) -> None:
    text, switches = boot(pvlock_kernel, init, f"samples={SAMPLES}", policy)
    assert LINE.findall(text) == ["pvlock: present, found by SMCCC_ARCH_FEATURES"]
    times: list[list[int]] = [[] for _ in range(VCPUS)]
    flags: list[list[int]] = [[] for _ in range(VCPUS)]
    for switch in switches:
        if switch.event is HostEvent.READY:
            continue
        runnable = switch.event in (HostEvent.SLICE, HostEvent.YIELD)
        counts = runnable if policy is Policy.PREEMPTED else switch.event is not HostEvent.IN
        times[switch.vcpu].append(switch.time_ns)
        flags[switch.vcpu].append(int(counts))
    judged: Counter[int] = Counter()
    for _name, cpu, _ipa, flag, before, after in FLAG.findall(text):
        at = bisect.bisect(times[int(cpu)], int(before) - BLUR_NS)
        if at == bisect.bisect(times[int(cpu)], int(after) + BLUR_NS):
            assert int(flag) == flags[int(cpu)][at - 1], (cpu, before)
            judged[int(flag)] += 1
    # Two of six can run; the rest wait for a CPU, and all are busy.
    assert judged.total() > SAMPLES * VCPUS * 0.9
    assert judged[0] > SAMPLES and judged[1] > SAMPLES


def test_cpus_go_off_and_on(pvlock_kernel: Path, init: Path) -> None:
    text, _switches = boot(pvlock_kernel, init, "hotplug=1")
    by_name = {
        name: {int(cpu): address for what, cpu, address, *_ in FLAG.findall(text) if what == name}
        for name in ("flag", "off", "again")
    }
    # The flag of a CPU that is off can be read, and it comes back to the same one.
    assert by_name["flag"] == by_name["off"] == by_name["again"]
    assert len(by_name["flag"]) == VCPUS


def test_without(pvlock_kernel: Path, init: Path) -> None:
    text, _switches = boot(pvlock_kernel, init, "hotplug=1", pvlock=False)
    # The UID is there all the same: it names the hypervisor.
    sign = "although the hypervisor's UID has a sign of it"
    assert LINE.findall(text) == [f"pvlock: not present, {sign}"]
    assert not FLAG.search(text)
    text, _switches = boot(pvlock_kernel, init, "pvlock=off")
    assert LINE.findall(text) == ["pvlock: switched off on the command line"]


def operations(text: str) -> int:
    found = re.search(r"^init: load (\d+) operations per second$", text, re.M)
    assert found is not None, text
    return int(found[1])


def test_a_lock_gains(pvlock_kernel: Path, init: Path) -> None:
    """One directory's rwsem, where WFE does not trap."""
    off, on = (
        operations(boot(pvlock_kernel, init, f"create=40 pvlock={word}", trap_wfe=False)[0])
        for word in ("off", "on")
    )
    assert on > 1.3 * off


def test_waiters_for_spinlocks_sleep_and_are_woken(pvlock_kernel: Path, init: Path) -> None:
    text, _switches = boot(pvlock_kernel, init, "duplicate=40 pvspinlock=on", trap_wfe=False)
    assert "pvlock: paravirtual spinlocks" in LINE.findall(text)
    rows = re.findall(r"^init: spinlock \d+ (\d+) (\d+) (\d+) (\d+)$", text, re.M)
    waits, _spurious, _pending, kicks = (sum(map(int, each)) for each in zip(*rows, strict=True))
    assert waits > 0
    assert kicks > 0
    native = boot(pvlock_kernel, init, "duplicate=40", trap_wfe=False)[0]
    assert operations(text) > operations(native)
