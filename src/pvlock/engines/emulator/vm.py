# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated machine: its VCPUs in virtual time, under the host's scheduler.

Here time passes: VCPUs are started, interleaved, put on CPUs and woken, timers fire, and
`preempted` is published. What a VCPU leaves the guest for is answered in exits.py.
"""

import ctypes as c
import heapq
import mmap
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pvlock import abi
from pvlock.engines.contract import (
    SWITCH,
    EngineConfig,
    Placement,
    Ready,
    Sampling,
    Switch,
    SystemEvent,
    WatchPoint,
    pack,
)
from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator import psci
from pvlock.engines.emulator.eevdf import EevdfScheduler
from pvlock.engines.emulator.exits import Ask, Exits, Post
from pvlock.engines.emulator.gic import Gic
from pvlock.engines.emulator.profile import Profile
from pvlock.engines.emulator.scheduler import Place, Scheduler, ScriptedScheduler
from pvlock.engines.emulator.stage2 import Stage2
from pvlock.engines.emulator.vcpu import (
    CpuState,
    EmulatedVcpu,
    Exit,
    Mapping,
    SlotState,
    VcpuState,
    VmState,
    check_layout,
    create,
)
from pvlock.engines.emulator.watch import Watch
from pvlock.engines.emulator.yields import DirectedYield
from pvlock.errors import EngineError, GuestStalled, StateError

# These costs in ns are not options. The first is what an exception costs that the guest takes
# itself. The second is what a TLBI or IC costs, because all VCPUs must hear of it. The third is
# what a GIC or timer register costs, which hardware answers for KVM without a trap. An instruction
# costs 1 ns, and a trap costs `exit_ns`.
EXCEPTION_NS = 50
MAINTENANCE_NS = 200
SYSREG_NS = 20

START_JITTER_NS = 100_000
STAGE2_BASE = 1 << 39
"""Physical address of the stage 2 tables: just beyond what a guest can name."""

_NEVER = 1 << 62
_MOST_RECORDED = SWITCH.size << 20


class VmMemory:
    """The memory slots as this process maps them: (IPA, bytes, read-only, host address)."""

    def __init__(self, slots: Sequence[tuple[int, int, bool, int]]) -> None:
        self.slots = slots

    def host(self, ipa: int, size: int) -> int:
        """Return the host address of guest memory. Raises EngineError outside of all slots."""
        for base, length, _, address in self.slots:
            if base <= ipa and ipa + size <= base + length:
                return address + ipa - base
        raise EngineError(f"IPA {ipa:#x} is not in a memory slot")

    def is_memory(self, ipa: int) -> bool:
        """Tell whether a slot holds this address."""
        return any(base <= ipa < base + length for base, length, *_ in self.slots)


class Vm:
    """The machine. `vm`, `vcpus` are its state in the memory that the parent shares."""

    def __init__(
        self,
        config: EngineConfig,
        memory: VmMemory,
        vm: VmState,
        states: Sequence[VcpuState],
        ask: Ask,
        post: Post,
    ) -> None:
        self.config, self.memory, self._vm = config, memory, vm
        self._native = lib.libvcpu()
        check_layout()
        tables = Stage2([slot[:3] for slot in memory.slots], STAGE2_BASE)
        self._tables = (c.c_char * len(tables.data)).from_buffer(_page_aligned(tables.data))
        mappings: list[Mapping] = [(ipa, size, address) for ipa, size, _, address in memory.slots]
        mappings.append((STAGE2_BASE, len(tables.data), c.addressof(self._tables)))
        affinities = [abi.affinity(index) for index in range(config.vcpus)]
        self._pointers = (c.c_void_p * config.vcpus)(*(c.addressof(s) for s in states))
        self.gic = Gic(affinities)
        vm.vcpus, vm.count, vm.gic = c.addressof(self._pointers), config.vcpus, self.gic.handle
        vm.exception_ns, vm.maintenance_ns = EXCEPTION_NS, MAINTENANCE_NS
        vm.exit_ns, vm.sysreg_ns = config.exit_ns, SYSREG_NS
        vm.pauth = config.pauth
        self._slots = (SlotState * len(memory.slots))(
            *(SlotState(ipa, size, address, ro) for ipa, size, ro, address in memory.slots)
        )
        vm.slots, vm.slot_count = c.addressof(self._slots), len(memory.slots)
        for index, state in enumerate(states):
            state.index, state.mpidr = index, abi.mpidr_el1(index)
        create(vm, mappings, STAGE2_BASE)
        self.vcpus = [EmulatedVcpu(index, state) for index, state in enumerate(states)]
        self.cpus = (CpuState * config.pcpus)()
        self._on: list[int | None] = [None] * config.pcpus
        self._edge = c.c_uint64(config.quantum_ns)
        self.psci = psci.Psci(affinities)
        self._flags: dict[int, c.c_uint64] = {}
        self._stolen: dict[int, c.c_uint64] = {}
        self._counted = [0] * config.vcpus
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._sequence = 0
        self._starting: set[int] = set()
        self.event: SystemEvent | None = None
        self._exits_here: Counter[str] = Counter()
        self._recorded = bytearray()
        self._watch: Watch | None = None
        self._profile: Profile | None = None
        self._random = random.Random(config.seed)
        self.scheduler = self._schedule()
        self._exits = Exits(self, config, self.scheduler, self.gic, self.psci, ask, post)

    # -- what the parent may ask for --

    def start(self, vcpu: int, entry: int, x0: int) -> None:
        """Let a VCPU run from `entry`; when exactly is up to the seed, unless scripted.

        Raises StateError for one that is on.
        """
        if vcpu in self._starting or self.scheduler.tasks[vcpu].place is not Place.OFF:
            raise StateError(f"start of VCPU {vcpu}", "running it", "not running it")
        self._starting.add(vcpu)
        self.psci.turn_on(vcpu)
        self.vcpus[vcpu].reset(entry, x0)
        self.gic.reset_vcpu(vcpu)
        delay = 0 if self.config.script is not None else self._random.randrange(START_JITTER_NS)
        self._at(self.now + delay, lambda now: self._started(vcpu, now))

    def _started(self, vcpu: int, now: int) -> None:
        self._starting.remove(vcpu)
        self.scheduler.wake(vcpu, now)

    def publish_at(self, vcpu: int, ipa: int) -> None:
        """Publish the flag of `vcpu` at `ipa` from now on."""
        host = self.memory.host(ipa + abi.PREEMPTED_OFFSET, 8)
        self._flags[vcpu] = c.c_uint64.from_address(host)
        self._publish(vcpu, self.scheduler.flag(vcpu))

    def stolen_time_at(self, vcpu: int, ipa: int) -> None:
        """Publish the stolen time of `vcpu` at `ipa` from now on."""
        host = self.memory.host(ipa + abi.STOLEN_TIME_OFFSET, 8)
        self._stolen[vcpu] = c.c_uint64.from_address(host)

    @property
    def now(self) -> int:
        """Guest time in ns up to which every CPU has run, but for what a step overshot."""
        return max(self._edge.value - self.config.quantum_ns, 0)

    def run(self, until: int) -> SystemEvent | None:
        """Run until the guest ends the run (its event) or until `until` ns (None)."""
        self.event = None
        while self.event is None:
            due = self._fire(self.now)
            if self.now >= until:
                return None
            if self.scheduler.idle:
                if due >= _NEVER:
                    raise GuestStalled("every VCPU sleeps or is off, and nothing can wake one")
                self._idle_until(min(due, until))
                continue
            self._vm.can_yield = bool(self.scheduler.candidates())
            cpu = self._native.vm_run(
                c.byref(self._vm),
                c.byref(self.cpus),
                self.config.pcpus,
                c.byref(self._edge),
                self.config.quantum_ns,
                min(due, until),
            )
            if self._watch is not None:
                self._watch.drain()
            if self._profile is not None:
                self._profile.drain()
            if cpu < 0:
                # All CPUs reached the edge, which is where the next step begins.
                self._edge.value += self.config.quantum_ns
            else:
                self._exit(cpu)
        return self.event

    def show(self, ipa: int, page: bytes | None) -> None:
        """Answer reads of the device page at `ipa` from `page` from now on; None: ask again."""
        self._exits.shown[ipa] = page

    @property
    def exits(self) -> dict[str, int]:
        """Exits by kind, those included that were answered without leaving C.

        But a WFE that trapped and had nobody to yield to is not counted.
        """
        counted = self._exits_here.copy()
        for reason in Exit:
            counted[reason.name.lower()] += self._vm.exits[reason]
        del counted[Exit.WAKE.name.lower()]  # nothing left the guest for it
        return dict(+counted)

    def take_switches(self) -> bytes:
        """Return the oldest recorded switches, as many as fit into one answer, and forget them."""
        taken = bytes(self._recorded[:_MOST_RECORDED])
        del self._recorded[:_MOST_RECORDED]
        return taken

    def watch(self, points: Sequence[WatchPoint]) -> None:
        """Watch functions of the guest's kernel. Raises EngineError."""
        self._watch = Watch(self._vm, points)

    def take_watched(self) -> tuple[bytes, int]:
        """Return the oldest records of what is watched, and how many were lost; forget them."""
        return (b"", 0) if self._watch is None else self._watch.take()

    def sample(self, how: Sampling) -> None:
        """Take samples from now on. Raises EngineError if that is done already."""
        self._profile = Profile(self._vm, how, self.now)

    def take_samples(self) -> tuple[bytes, int]:
        """Return the oldest samples, and how many points were lost, and forget them."""
        return (b"", 0) if self._profile is None else self._profile.take()

    # -- what an exit may ask for (exits.Host) --

    def charge(self, cpu: int, cost_ns: int) -> None:
        """See exits.Host."""
        self.cpus[cpu].now += cost_ns

    def end(self, event: SystemEvent) -> None:
        """See exits.Host."""
        self.event = event

    def is_memory(self, ipa: int) -> bool:
        """See exits.Host."""
        return self.memory.is_memory(ipa)

    # -- scheduling --

    def _record(self, record: Switch | Ready) -> None:
        self._recorded += pack(record)

    def _schedule(self) -> Scheduler:
        config = self.config
        record = self._record if config.record else None
        if config.script is not None:
            scripted = ScriptedScheduler(
                self, config.vcpus, config.pcpus, _NEVER, config.policy, self._publish,
                record=record,
            )  # fmt: skip
            for placement in config.script:
                self._at(placement.time_ns, self._placer(scripted, placement))
            return scripted
        firsts = [
            self._random.randrange(config.slice_ns // 4, config.slice_ns) + 1
            for _ in range(config.vcpus)
        ]
        in_kernel = self._in_kernel if config.yield_filter else None
        common: dict[str, Any] = {
            "cpus": self, "vcpus": config.vcpus, "pcpus": config.pcpus,
            "slice_ns": config.slice_ns, "policy": config.policy, "publish": self._publish,
            "switch_ns": config.switch_ns, "first_slices": firsts, "record": record,
            "directed": DirectedYield(config.yield_woken, in_kernel),
        }  # fmt: skip
        if config.scheduler == "eevdf":
            return EevdfScheduler(**common, kick_ns=config.exit_ns)
        return Scheduler(**common)

    def _in_kernel(self, vcpu: int) -> bool:
        return self.vcpus[vcpu].in_kernel

    @staticmethod
    def _placer(scripted: ScriptedScheduler, line: Placement) -> Callable[[int], None]:
        return lambda now: scripted.place(line.cpu, line.vcpu, now)

    def assign(self, cpu: int, vcpu: int | None, now: int, deadline: int) -> None:
        """Put a VCPU on a CPU (scheduler.Cpus)."""
        slot, before = self.cpus[cpu], self._on[cpu]
        if self._profile is not None and before is not None and before != vcpu:
            self._profile.leave(self.vcpus[before], slot.now)
        slot.vcpu = None if vcpu is None else self._pointers[vcpu]
        slot.now, slot.deadline = max(now, slot.now), deadline
        if vcpu is not None and vcpu != before:
            self._entered(cpu, vcpu)
            if self._profile is not None:
                self._profile.enter(self.vcpus[vcpu], slot.now)
        self._on[cpu] = vcpu
        if vcpu is not None and vcpu in self._stolen:
            # Added, not set: PV_TIME_ST zeroes the structure, and counting begins there.
            queued = self.scheduler.tasks[vcpu].queued_ns
            self._stolen[vcpu].value += queued - self._counted[vcpu]
            self._counted[vcpu] = queued

    def clock(self, cpu: int) -> int:
        """Return the clock of a CPU in ns (scheduler.Cpus)."""
        return int(self.cpus[cpu].now)

    def deadline(self, cpu: int) -> int:
        """Return when the slice on a CPU ends in ns (scheduler.Cpus)."""
        return int(self.cpus[cpu].deadline)

    def _publish(self, vcpu: int, preempted: bool) -> None:
        if vcpu in self._flags:
            self._flags[vcpu].value = preempted

    def _at(self, time: int, action: Callable[[int], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time, self._sequence, action))

    def _fire(self, now: int) -> int:
        """Do what is due at `now`; return when the next thing is."""
        while self._events and self._events[0][0] <= now:
            heapq.heappop(self._events)[2](now)
        self._native.vm_fire_timers(c.byref(self._vm), now)
        self._wake_all(now)
        due = int(self._vm.timer_due)
        return min(due, self._events[0][0]) if self._events else due

    def _idle_until(self, time: int) -> None:
        quantum = self.config.quantum_ns
        self._edge.value = (-(-time // quantum) + 1) * quantum

    def _wake_all(self, now: int) -> None:
        """Wake the VCPUs that sleep and have an interrupt."""
        self._native.vm_update_lines(c.byref(self._vm))
        if not self._vm.wakes:
            return
        self._vm.wakes = 0
        for vcpu in self.vcpus:
            if vcpu.state.asleep and vcpu.state.line:
                vcpu.state.asleep = 0
                self.scheduler.wake(vcpu.index, now)

    def _entered(self, cpu: int, vcpu: int) -> None:
        """Do what KVM does when it puts a VCPU on a CPU (kvm_arch_vcpu_load).

        WFE traps from now on if others wait for the CPU (kvm_vcpu_should_clear_twe() asks
        single_task_running()), or always, or never. KVM sets HCR_EL2.TWE for that; here it is never
        set, and look_back() in native/blocks.c asks `trap_wfe`. The event register is set by the
        return to the guest.
        """
        state, trap = self.vcpus[vcpu].state, self.config.trap_wfe
        state.trap_wfe = trap == "always" or (bool(trap) and self.scheduler.others_wait(cpu))
        state.event = 1

    def _exit(self, cpu: int) -> None:
        index = self.scheduler.on[cpu]
        assert index is not None
        vcpu, reason = self.vcpus[index], Exit(self.vcpus[index].state.exit)
        self._exits_here[reason.name.lower()] += 1
        self._exits.answer(cpu, vcpu, reason)
        self._wake_all(self.clock(cpu))


def _page_aligned(data: bytearray) -> Any:
    pages = mmap.mmap(-1, len(data))
    pages[:] = bytes(data)
    return pages
