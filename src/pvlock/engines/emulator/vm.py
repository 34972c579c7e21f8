# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated machine: runs its VCPUs under the host's scheduler and answers their exits.

What a kernel does for KVM is done here: GIC, timers, PSCI, scheduling, publishing. What user space
does for KVM goes to the parent process, through `ask`.
"""

import ctypes as c
import heapq
import mmap
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pvlock import abi
from pvlock.engines.contract import EngineConfig, Placement, SystemEvent
from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator import psci
from pvlock.engines.emulator.gic import Gic
from pvlock.engines.emulator.scheduler import Place, Scheduler, ScriptedScheduler, Switch
from pvlock.engines.emulator.stage2 import Stage2
from pvlock.engines.emulator.vcpu import CpuState, EmulatedVcpu, Exit, Mapping, VcpuState, VmState
from pvlock.errors import EngineError, GuestFault, GuestStalled
from pvlock.memory_map import (
    GICD_BASE,
    GICD_SIZE,
    GICR_BASE,
    GICR_STRIDE,
    PHYSICAL_TIMER_PPI,
    VIRTUAL_TIMER_PPI,
)

# Costs in ns that are not options, where an instruction costs 1 and a trap `exit_ns`.
SYSREG_NS = 20
EXCEPTION_NS = 50
MAINTENANCE_NS = 200

START_JITTER_NS = 100_000
STAGE2_BASE = 1 << 39
"""Physical address of the stage 2 tables: just beyond what a guest can name."""

_NEVER = 1 << 62
_TIMER_PPIS = (VIRTUAL_TIMER_PPI, PHYSICAL_TIMER_PPI)
_ISV, _WNR, _S1PTW, _CM = 1 << 24, 1 << 6, 1 << 7, 1 << 8
_SGI_REGISTERS = {(3, 0, 12, 11, op2) for op2 in (5, 6, 7)}

Ask = Callable[[dict[str, Any]], Any]
"""Put a question to the parent process and wait for the answer."""


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
        """A slot holds this address."""
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
    ) -> None:
        self.config, self.memory, self._ask, self._vm = config, memory, ask, vm
        self._native = lib.libvcpu()
        if self._native.vcpu_size() != c.sizeof(VcpuState):
            raise EngineError("libvcpu is of another version of pvlock: reinstall pvlock")
        tables = Stage2([slot[:3] for slot in memory.slots], STAGE2_BASE)
        self._tables = (c.c_char * len(tables.data)).from_buffer(_page_aligned(tables.data))
        mappings: list[Mapping] = [(ipa, size, address) for ipa, size, _, address in memory.slots]
        mappings.append((STAGE2_BASE, len(tables.data), c.addressof(self._tables)))
        affinities = [abi.affinity(index) for index in range(config.vcpus)]
        self.vcpus = [
            EmulatedVcpu(index, state, abi.mpidr_el1(index), mappings, STAGE2_BASE)
            for index, state in enumerate(states)
        ]
        self._pointers = (c.c_void_p * config.vcpus)(*(c.addressof(s) for s in states))
        vm.vcpus, vm.count = c.addressof(self._pointers), config.vcpus
        vm.exception_ns, vm.maintenance_ns = EXCEPTION_NS, MAINTENANCE_NS
        vm.exception_offset = lib.exception_offset()
        for state in states:
            state.vm = c.addressof(vm)
        self._cpus = (CpuState * config.pcpus)()
        self._edge = c.c_uint64(config.quantum_ns)
        self.gic = Gic(affinities)
        self._psci = psci.Psci(affinities)
        self._flags: dict[int, c.c_uint64] = {}
        self._stolen: dict[int, c.c_uint64] = {}
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._sequence = 0
        self._timer_due: dict[tuple[int, int], int] = {}
        self._event: SystemEvent | None = None
        self.exits: Counter[str] = Counter()
        self.switches: list[Switch] = []
        self._random = random.Random(config.seed)
        self.scheduler = self._schedule()

    # -- what the parent may ask for --

    def start(self, vcpu: int, entry: int, x0: int) -> None:
        """Let a VCPU run from `entry`; when exactly is up to the seed, unless scripted."""
        self.vcpus[vcpu].reset(entry, x0)
        self.gic.reset_vcpu(vcpu)
        self._timer_changed(vcpu)
        delay = 0 if self.config.script is not None else self._random.randrange(START_JITTER_NS)
        self._at(self.now + delay, lambda now: self.scheduler.wake(vcpu, now))

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
        self._event = None
        while self._event is None:
            due = self._fire(self.now)
            if self.now >= until:
                return None
            if self.scheduler.idle:
                if due >= _NEVER:
                    raise GuestStalled("every VCPU sleeps or is off, and nothing can wake one")
                self._idle_until(min(due, until))
                continue
            self._vm.trap_wfe = self.config.trap_wfe and bool(self.scheduler.queue)
            cpu = self._native.vm_run(
                c.byref(self._vm),
                c.byref(self._cpus),
                self.config.pcpus,
                c.byref(self._edge),
                self.config.quantum_ns,
                min(due, until),
            )
            if cpu < 0:
                # All CPUs reached the edge, which is where the next step begins.
                self._edge.value += self.config.quantum_ns
            else:
                self._exit(cpu)
        return self._event

    # -- scheduling --

    def _schedule(self) -> Scheduler:
        config = self.config
        record = self.switches.append if config.record else None
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
        return Scheduler(
            self, config.vcpus, config.pcpus, config.slice_ns, config.policy, self._publish,
            config.switch_ns, firsts, record,
        )  # fmt: skip

    @staticmethod
    def _placer(scripted: ScriptedScheduler, line: Placement) -> Callable[[int], None]:
        return lambda now: scripted.place(line.cpu, line.vcpu, now)

    def assign(self, cpu: int, vcpu: int | None, now: int, deadline: int) -> None:
        """Put a VCPU on a CPU (scheduler.Cpus)."""
        slot = self._cpus[cpu]
        slot.vcpu = None if vcpu is None else self._pointers[vcpu]
        slot.now, slot.deadline = max(now, slot.now), deadline
        if vcpu is not None and vcpu in self._stolen:
            self._stolen[vcpu].value = self.scheduler.tasks[vcpu].queued_ns

    def clock(self, cpu: int) -> int:
        """Return the clock of a CPU in ns (scheduler.Cpus)."""
        return int(self._cpus[cpu].now)

    def deadline(self, cpu: int) -> int:
        """Return when the slice on a CPU ends in ns (scheduler.Cpus)."""
        return int(self._cpus[cpu].deadline)

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
        for (vcpu, timer), due in list(self._timer_due.items()):
            if due <= now:
                self.gic.set_level(vcpu, _TIMER_PPIS[timer], True)
                del self._timer_due[vcpu, timer]
        self._interrupts_changed(now)
        due = min(self._timer_due.values(), default=_NEVER)
        return min(due, self._events[0][0]) if self._events else due

    def _idle_until(self, time: int) -> None:
        quantum = self.config.quantum_ns
        self._edge.value = (-(-time // quantum) + 1) * quantum

    def _interrupts_changed(self, now: int) -> None:
        while self.gic.changed:
            vcpu = self.gic.changed.pop()
            line = self.gic.pending(vcpu)
            self.vcpus[vcpu].state.line = line.irq | line.fiq << 1
            if any(line) and self.scheduler.tasks[vcpu].place is Place.BLOCKED:
                self.scheduler.wake(vcpu, now)

    def _timer_changed(self, vcpu: int) -> None:
        state = self.vcpus[vcpu].state
        for number, timer in enumerate(state.timer):
            self._timer_due.pop((vcpu, number), None)
            enabled = timer.ctl & 3 == 1
            self.gic.set_level(
                vcpu, _TIMER_PPIS[number], bool(enabled and timer.cval <= state.time)
            )
            if enabled and state.time < timer.cval < _NEVER:
                self._timer_due[vcpu, number] = timer.cval

    # -- exits --

    def _exit(self, cpu: int) -> None:
        index = self.scheduler.on[cpu]
        assert index is not None
        vcpu, reason = self.vcpus[index], Exit(self.vcpus[index].state.exit)
        self.exits[reason.name.lower()] += 1
        cost = _EXITS[reason](self, cpu, vcpu)
        self._cpus[cpu].now += cost
        self._interrupts_changed(self.clock(cpu))

    def _slice(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self.scheduler.slice_end(cpu)
        return 0

    def _wfi(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        vcpu.skip()
        self._cpus[cpu].now += self.config.exit_ns
        # A pending interrupt ends WFI even while PSTATE masks it.
        if not vcpu.state.line:
            self.scheduler.block(cpu)
        return 0

    def _wfe(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self._cpus[cpu].now += self.config.exit_ns
        self.scheduler.yield_(cpu)
        return 0

    def _timer(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self._timer_changed(vcpu.index)
        return SYSREG_NS

    def _smc(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        # There is no EL3; KVM makes it undefined too.
        self._undefined(vcpu)
        return self.config.exit_ns

    def _hypercall(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        registers = [vcpu.x(n) for n in range(4)]
        if psci.handles(registers[0]):
            x1, x2, x3 = registers[1:]
            result = self._psci.call(vcpu.index, registers[0], (x1, x2, x3))
            if result.value is not None:
                vcpu.set_x(0, result.value)
            match result.action:
                case psci.PowerOn(target, entry, context_id):
                    self.start(target, entry, context_id)
                case psci.PowerOff():
                    self.scheduler.off(cpu)
                    return 0
                case psci.SystemOff():
                    self._event = SystemEvent.OFF
                case psci.SystemReset():
                    self._event = SystemEvent.RESET
            return self.config.exit_ns
        answer = self._ask({"hypercall": registers, "vcpu": vcpu.index})
        for number, value in enumerate(answer):
            vcpu.set_x(number, value)
        return self.config.exit_ns

    def _data_abort(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        state = vcpu.state
        esr, ipa = state.esr, state.ipa
        decoded = esr & _ISV and not esr & _S1PTW and not self.memory.is_memory(ipa)
        if esr & _CM and not self.memory.is_memory(ipa):
            vcpu.skip()
        elif not decoded or not self._mmio(vcpu, esr, ipa):
            self._abort(vcpu, state.far, is_fetch=False)
        return self.config.exit_ns

    def _mmio(self, vcpu: EmulatedVcpu, esr: int, ipa: int) -> bool:
        """Access a device as the syndrome says; False where there is none."""
        size, rt = 1 << (esr >> 22 & 3), esr >> 16 & 31
        if esr & _WNR:
            value = vcpu.x(rt) & (1 << 8 * size) - 1
            if not self._device_write(vcpu.index, ipa, size, value):
                return False
        else:
            loaded = self._device_read(vcpu.index, ipa, size)
            if loaded is None:
                return False
            vcpu.set_x(rt, _extended(loaded, size, bool(esr >> 21 & 1), bool(esr >> 15 & 1)))
        vcpu.skip()
        return True

    def _device_read(self, vcpu: int, ipa: int, size: int) -> int | None:
        if 0 <= ipa - GICD_BASE < GICD_SIZE:
            return self.gic.distributor_read(ipa - GICD_BASE, size)
        if 0 <= ipa - GICR_BASE < GICR_STRIDE * self.config.vcpus:
            return self.gic.redistributor_read(ipa - GICR_BASE, size)
        value = self._ask({"mmio_read": [ipa, size], "vcpu": vcpu})
        return None if value is None else int(value)

    def _device_write(self, vcpu: int, ipa: int, size: int, value: int) -> bool:
        if 0 <= ipa - GICD_BASE < GICD_SIZE:
            self.gic.distributor_write(ipa - GICD_BASE, size, value)
        elif 0 <= ipa - GICR_BASE < GICR_STRIDE * self.config.vcpus:
            self.gic.redistributor_write(ipa - GICR_BASE, size, value)
        else:
            return bool(self._ask({"mmio_write": [ipa, size, value], "vcpu": vcpu}))
        return True

    def _fetch_abort(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        self._abort(vcpu, vcpu.state.far, is_fetch=True)
        return self.config.exit_ns

    def _sysreg(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        state = vcpu.state
        n = state.sysreg
        key = (n >> 14, n >> 11 & 7, n >> 7 & 15, n >> 3 & 15, n & 7)
        if not vcpu.get("pstate") & 0xC:
            self._undefined(vcpu)
        elif state.is_write:
            if self.gic.sysreg_write(vcpu.index, key, state.value):
                vcpu.skip()
            else:
                self._undefined(vcpu)
        else:
            value = self.gic.sysreg_read(vcpu.index, key)
            if value is None:
                self._undefined(vcpu)
            else:
                vcpu.write_rt(value)
                vcpu.skip()
        return self.config.exit_ns if key in _SGI_REGISTERS else SYSREG_NS

    def _abort(self, vcpu: EmulatedVcpu, far: int, is_fetch: bool) -> None:
        vcpu.inject_abort(far, is_fetch)
        self._unless_lost(vcpu)

    def _undefined(self, vcpu: EmulatedVcpu) -> None:
        vcpu.inject_undefined()
        self._unless_lost(vcpu)

    def _unless_lost(self, vcpu: EmulatedVcpu) -> None:
        if vcpu.lost:
            self._lost(0, vcpu)

    def _lost(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        syndrome = f"ESR_EL1 {vcpu.state.esr:#x}, FAR_EL1 {vcpu.state.far:#x}"
        raise GuestFault(
            vcpu.index,
            vcpu.get("pc"),
            f"the first instruction of the guest's exception vector faults itself ({syndrome})",
        )

    def _engine(self, cpu: int, vcpu: EmulatedVcpu) -> int:
        why = lib.unicorn().uc_strerror(vcpu.state.error).decode()
        raise GuestFault(vcpu.index, vcpu.get("pc"), f"the CPU emulator gave up: {why}")


_EXITS: dict[Exit, Callable[[Vm, int, EmulatedVcpu], int]] = {
    Exit.SLICE: Vm._slice,
    Exit.WFI: Vm._wfi,
    Exit.WFE: Vm._wfe,
    Exit.TIMER: Vm._timer,
    Exit.SMC: Vm._smc,
    Exit.HVC: Vm._hypercall,
    Exit.DATA_ABORT: Vm._data_abort,
    Exit.FETCH_ABORT: Vm._fetch_abort,
    Exit.SYSREG: Vm._sysreg,
    Exit.LOST: Vm._lost,
    Exit.ENGINE: Vm._engine,
}


def _extended(value: int, size: int, signed: bool, to_64: bool) -> int:
    """Extend what a load of `size` bytes read, as the instruction would."""
    value &= (1 << 8 * size) - 1
    if signed and value >> 8 * size - 1:
        value -= 1 << 8 * size
    return value & ((1 << 64) - 1 if to_64 or not signed else (1 << 32) - 1)


def _page_aligned(data: bytearray) -> Any:
    pages = mmap.mmap(-1, len(data))
    pages[:] = bytes(data)
    return pages
