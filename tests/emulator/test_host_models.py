# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest sees of the host's options: whom a trapped WFE yields to, and the scheduler."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from asm import ROOT, assemble
from pvlock import Machine, hint, workload
from pvlock.errors import ConfigError
from pvlock.workload import Settings

MS = 1_000_000
# VCPU 0 waits in WFE at EL1, and VCPU 1 works at the level that it was told in X0.
GUEST = """
	mrs x1, mpidr_el1
	and x1, x1, #0xff
	cbnz x1, 1f
	mrs x1, sctlr_el1
0:	wfe
	b 0b
1:	cbz x0, 2f
	mov x1, #0x3c0			// EL0
	msr spsr_el1, x1
	adr x1, 2f
	msr elr_el1, x1
	eret
2:	b .
"""


def reasons(at_el0: bool, **host: Any) -> Counter[str | None]:
    """Return why VCPUs lost the one CPU in 10 ms."""
    with Machine(2, 1, engine="emulator", slice_ns=MS, record=True, **host) as machine:
        loaded = machine.load(assemble(GUEST))
        machine.vcpus[1].start(loaded.entry, at_el0)
        machine.run(10 * MS)
        return Counter(switch.reason for switch in machine.switches())


@pytest.mark.parametrize("at_el0", [False, True])
def test_a_spinning_kernel_passes_over_user_space_only_with_the_filter(at_el0: bool) -> None:
    unfiltered, filtered = reasons(at_el0), reasons(at_el0, yield_filter=True)
    assert unfiltered["yield"] > 3
    assert filtered["yield"] == (0 if at_el0 else unfiltered["yield"])


def test_wfe_that_always_traps_costs_an_exit_though_nobody_waits() -> None:
    def turns(**host: Any) -> int | None:
        with Machine(1, 1, engine="emulator", **host) as machine:
            machine.load(assemble("mov x20, #0\n1: wfe\n add x20, x20, #1\n b 1b\n"))
            machine.run(MS)
            return machine.vcpus[0].get("x20")

    always = turns(trap_wfe="always", exit_ns=10_000)
    assert always is not None
    assert 180 <= always <= 200  # every other one finds the event that the trap left
    assert turns(trap_wfe=True) == turns(trap_wfe=False) == 1  # it waits for ever


@pytest.mark.parametrize("woken", [True, False])
def test_a_vcpu_that_has_only_just_woken_is_yielded_to_if_that_is_asked_for(
    woken: bool,
) -> None:
    """VCPU 0 spins in WFE when VCPU 1 starts; else that would wait for the slice to end."""
    host: dict[str, Any] = {"trap_wfe": "always", "yield_woken": woken, "slice_ns": 5 * MS}
    with Machine(2, 1, engine="emulator", record=True, **host) as machine:
        loaded = machine.load(assemble(GUEST))
        machine.run(MS // 2)
        machine.vcpus[1].start(loaded.entry, 0)
        machine.run(10 * MS)
        first = next(switch for switch in machine.switches() if switch.vcpu == 1)
        assert (first.time_ns < MS) is woken
        assert woken or first.time_ns > 5 * MS // 4  # the shortest first slice


@pytest.mark.parametrize("guest", ["mutex", "rwsem", "qspinlock", "ticket", "idle"])
def test_each_lock_works_under_eevdf_and_repeats(guest: str) -> None:
    settings = Settings(
        guest, vcpus=5, pcpus=2, duration_ns=2 * MS, slice_ns=300_000, scheduler="eevdf",
        yield_woken=True, yield_filter=True,
    )  # fmt: skip
    results = [workload.run("with", settings) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0] is not None
    assert results[0].acquisitions > 100
    other = workload.run("with", replace(settings, seed=2))
    assert other != results[0]


def test_yields_from_one_cpu_to_another_leave_time_to_run() -> None:
    """A VCPU alone on its CPU yields each microsecond to those of another, one of which owns."""
    settings = Settings(
        vcpus=3, pcpus=2, duration_ns=MS, slice_ns=100_000, scheduler="eevdf", trap_wfe="always"
    )
    result = workload.run("without", settings)
    assert result is not None
    assert result.usage.time_ns < 3 * MS


def test_the_two_schedulers_differ() -> None:
    settings = Settings(vcpus=5, pcpus=2, duration_ns=2 * MS, slice_ns=300_000)
    fifo, eevdf = (
        workload.run("without", replace(settings, scheduler=scheduler))
        for scheduler in ("fifo", "eevdf")
    )
    assert fifo is not None
    assert eevdf is not None
    assert fifo.usage != eevdf.usage


def test_vcpus_that_only_work_have_equal_shares_under_eevdf_and_stay_on_their_cpus() -> None:
    with Machine(
        6, 3, engine="emulator", slice_ns=100_000, record=True, scheduler="eevdf"
    ) as machine:
        loaded = machine.load(assemble("b .\n"))
        for vcpu in machine.vcpus[1:]:
            vcpu.start(loaded.entry)
        machine.run(20 * MS)
        shares = [used.running_ns for used in machine.usage().vcpus]
        assert max(shares) - min(shares) <= 400_000
        assert sum(shares) == pytest.approx(3 * 20 * MS, rel=0.05)
        cpus = {(s.vcpu, s.cpu) for s in machine.switches() if s.time_ns > MS}
        assert len(cpus) == 6


# ---- yield by hint ----


# VCPU 1 works, and VCPU 0 calls with what it was told in X0: the calls' answers are in X20 and X21.
HINT = f"""
	mrs x1, mpidr_el1
	and x1, x1, #0xff
	cbnz x1, 1f
	mov w0, #1
	movk w0, #0x8000, lsl #16		// SMCCC_ARCH_FEATURES
	mov w1, #{hint.YIELD_TO & 0xFFFF}
	movk w1, #{hint.YIELD_TO >> 16}, lsl #16
	hvc #0
	mov x21, x0
	mov x22, #20000
0:	subs x22, x22, #1		// 40 us: until VCPU 1 waits for the CPU
	b.ne 0b
	mov x22, #100
2:	mov w0, #{hint.YIELD_TO & 0xFFFF}
	movk w0, #{hint.YIELD_TO >> 16}, lsl #16
	mov x1, x19
	hvc #0
	mov x20, x0
	subs x22, x22, #1
	b.ne 2b
1:	b .
"""


def hinted(affinity: int, **host: Any) -> tuple[int, int, Counter[str | None]]:
    """Return what ARCH_FEATURES and the hint answered, and why VCPUs lost the one CPU."""
    with Machine(2, 1, engine="emulator", slice_ns=MS, record=True, **host) as machine:
        loaded = machine.load(assemble(HINT))
        machine.vcpus[0].set("x19", affinity)
        machine.vcpus[1].start(loaded.entry)
        machine.run(5 * MS)
        signed = [
            value - (value >> 63 << 64) for value in map(machine.vcpus[0].get, ("x21", "x20"))
        ]
        return signed[0], signed[1], Counter(switch.reason for switch in machine.switches())


def test_a_hint_gives_the_cpu_to_the_vcpu_that_it_names() -> None:
    features, answer, switches = hinted(1, hint="after")
    assert (features, answer) == (0, 0)
    assert switches["yield"] >= 1


@pytest.mark.parametrize("scheduler", ["fifo", "eevdf"])
def test_a_hint_that_names_oneself_does_nothing(scheduler: str) -> None:
    assert hinted(0, hint="after", scheduler=scheduler)[1] == 0
    assert hinted(0, hint="after", scheduler=scheduler)[2]["yield"] == 0


def test_a_hint_that_names_no_vcpu_is_refused() -> None:
    assert hinted(2, hint="after")[:2] == (0, hint.INVALID_PARAMETER)
    assert hinted(1 << 31 | 1, hint="after")[1] == hint.INVALID_PARAMETER


def test_without_the_option_there_is_no_such_call() -> None:
    features, answer, switches = hinted(1)
    assert (features, answer) == (-1, -1)
    assert switches["yield"] == 0


def test_the_guests_and_the_host_mean_the_same_call() -> None:
    source = (ROOT / "guest" / "hint" / "hint.c").read_text(encoding="utf-8")
    assert re.findall(r"PV_YIELD_TO = (0x\w+)", source) == [f"{hint.YIELD_TO:#X}".replace("X", "x")]


def hypercalls(guest: str, run: str, **host: Any) -> int:
    settings = Settings(guest, vcpus=8, pcpus=4, duration_ns=4 * MS, slice_ns=500_000, **host)
    result = workload.run(run, settings)
    assert result is not None
    return result.usage.exits["hvc"]


@pytest.mark.parametrize("guest", ["mutex", "rwsem", "qspinlock"])
def test_a_waiter_gives_hints_only_if_it_is_told_to(guest: str) -> None:
    """Without the option, all calls are those that find and start things."""
    assert hypercalls(guest, "without", hint="after") > hypercalls(guest, "without")


def test_where_a_flag_would_send_it_to_sleep_a_waiter_hints_instead_if_it_is_told_to() -> None:
    def sleeps(word: Any) -> int:
        settings = Settings(vcpus=6, pcpus=2, duration_ns=2 * MS, slice_ns=300_000, hint=word)
        result = workload.run("with", settings)
        assert result is not None
        return sum(vcpu.sleeps for vcpu in result.report.vcpus)

    assert sleeps("off") > 0
    assert sleeps("after") > 0
    assert sleeps("instead") == 0


def test_a_guest_that_gives_hints_records_no_locks() -> None:
    with pytest.raises(ConfigError, match="gives hints"):
        workload.run("with", Settings(hint="after", duration_ns=MS), trace=True)
