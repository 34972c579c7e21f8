# SPDX-License-Identifier: GPL-2.0-or-later
"""The KVM engine runs real VCPUs, each in a thread of this process, on a host with a stock kernel.

The kernel does the GIC, the timer, PSCI and stolen time. Its SMCCC filter forwards PV-lock's two
hypercalls to us, and a BPF program publishes `preempted` into memory that the guest can only read.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence

from pvlock import abi
from pvlock.engines.contract import (
    Counter,
    EngineConfig,
    Handler,
    Switch,
    SystemEvent,
    Usage,
    VcpuUsage,
    switches_in,
)
from pvlock.engines.kvm import bpf, clock, ioctl
from pvlock.engines.kvm.publisher import Publisher, explain
from pvlock.engines.kvm.switches import Switches
from pvlock.engines.kvm.thread import VcpuThread
from pvlock.engines.kvm.vcpu import Exit, Hypercall, KvmVcpu, Mmio, Undecoded
from pvlock.engines.kvm.vm import KvmVm
from pvlock.errors import ConfigError, EngineError, StateError
from pvlock.host import simulated_only
from pvlock.memory import MemorySlot, private_slot

_POLL_SECONDS = 0.01
"""How long a coalesced write may wait."""
_RECORD_SECONDS = 0.002
"""How often the events of a traced machine are collected. A VCPU's ring of 32,767 events overflows
only if the guest records one every 60 ns, or one every 10 µs while the host is 300 ms late."""


class PublishedSlot(MemorySlot):
    """A memory slot whose bytes are a BPF map that the kernel's half of a Publisher writes."""

    publisher: Publisher

    def close(self) -> None:
        """Detach the program. The map is freed when nobody views it any longer."""
        self.buffer = memoryview(b"")
        self.publisher.close()


class KvmEngine:
    """A machine whose VCPUs are KVM's (contract.Engine). Guest time is the time spent in run()."""

    name = "kvm"
    step_ns = 200_000_000
    ring_events = 1 << 15
    slack_ns = 60_000_000_000

    def __init__(self, config: EngineConfig, slots: Sequence[MemorySlot]) -> None:
        """Create the VM; raises ConfigError, EngineUnavailable or EngineError."""
        _refuse_simulated(config)
        cpus = _choose_cpus(config.pcpus)
        self._slots = slots  # the kernel has only their addresses: they must live as long as the VM
        self._published = next((s for s in slots if isinstance(s, PublishedSlot)), None)
        self._changed = threading.Condition()
        self._handling = threading.Lock()
        self._handler: Handler | None = None
        self._outcome: SystemEvent | BaseException | None = None
        self._elapsed_ns = 0
        self._closed = False
        self._exits = dict.fromkeys(("hypercall", "mmio", "coalesced", "abort", "kick"), 0)
        self._switches: Switches | None = None
        self._recorded = bytearray()
        self.collect: Callable[[int], None] | None = None
        self.counter = Counter(1)
        self._vm = KvmVm(config.vcpus, slots, config.coalesced)
        try:
            if config.record:
                self._record(cpus)
            if self._published is not None:
                self._vm.forward_pvlock()
            self._threads = [
                VcpuThread(vcpu, set(cpus), self._on_exit, self._end) for vcpu in self._vm.vcpus
            ]
            for thread in self._threads:
                thread.publisher = self._published.publisher if self._published else None
                thread.switches = self._switches
        except BaseException:
            self._free()
            raise

    ram_slot = staticmethod(private_slot)

    @staticmethod
    def published_slot(config: EngineConfig, base: int, size: int, name: str) -> MemorySlot:
        """See contract.Opener."""
        publisher = Publisher(config.vcpus, config.policy)
        buffer = publisher.buffer
        if buffer.nbytes != size:
            publisher.close()
            raise EngineError(f"the BPF map has {buffer.nbytes} bytes, the slot {size}")
        slot = PublishedSlot(base, size, name, buffer, readonly=True)
        slot.publisher = publisher
        return slot

    def entropy(self, size: int) -> bytes:
        """See contract.Engine."""
        return os.urandom(size)

    def start(self, vcpu: int, entry: int, x0: int) -> None:
        """See contract.Engine."""
        self._stopped(vcpu).start(entry, x0)

    def get(self, vcpu: int, register: str) -> int:
        """See contract.Engine."""
        return self._stopped(vcpu).get(register)

    def set(self, vcpu: int, register: str, value: int) -> None:
        """See contract.Engine."""
        self._stopped(vcpu).set(register, value)

    def inject_abort(self, vcpu: int, address: int) -> None:
        """See contract.Engine; KVM takes FAR_EL1 from the VCPU's last fault, not `address`."""
        self._stopped(vcpu).abort()

    def publish_at(self, vcpu: int, ipa: int) -> None:
        """See contract.Engine; raises ConfigError for an address outside the published slot."""
        slot = self._published
        if slot is None or not slot.base <= ipa <= slot.end - abi.STRUCTURE_SIZE:
            raise ConfigError(f"VCPU {vcpu}: the kvm engine cannot publish at {ipa:#x}")
        self._threads[vcpu].structure = (ipa - slot.base) // abi.STRUCTURE_STRIDE

    def stolen_time_at(self, vcpu: int, ipa: int) -> None:
        """See contract.Engine; where the kernel has no PV time, the guest has none either."""
        self._stopped(vcpu).set_attr(ioctl.VCPU_PVTIME_CTRL, ioctl.VCPU_PVTIME_IPA, ipa)

    def set_line(self, interrupt: int, level: bool) -> None:
        """See contract.Interrupting."""
        self._open()
        self._vm.set_line(interrupt, level)

    def show(self, ipa: int, page: bytes | None) -> None:
        """See contract.Showing."""
        self._open()
        self._vm.show(ipa, page)

    def run(self, handler: Handler, until_ns: int) -> SystemEvent | None:
        """See contract.Engine."""
        self._open()
        self._handler, self._outcome = handler, None
        begin = time.monotonic_ns()
        end = begin + until_ns - self._elapsed_ns
        if end <= begin:
            return None
        poll = _RECORD_SECONDS if self._switches else _POLL_SECONDS
        if self._switches:
            self._clock.begin()
            self._collect()
        try:
            for thread in self._threads:
                thread.resume()
            while self._outcome is None and (left := end - time.monotonic_ns()) > 0:
                with self._changed:
                    self._changed.wait(min(left / 1e9, poll))
                with self._handling:
                    self._drain()
                self._collect()
        finally:
            self._pause()
            if self._switches:
                self._clock.end()
            self._collect()
            self._elapsed_ns += time.monotonic_ns() - begin
        with self._handling:
            self._drain()
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def usage(self) -> Usage:
        """See contract.Engine; the times are what the host's scheduler says of each thread."""
        times = [thread.times() for thread in self._threads]
        kicks = sum(thread.kicks for thread in self._threads)
        return Usage(
            time_ns=self._elapsed_ns,
            switches=sum(each.turns for each in times),
            vcpus=tuple(VcpuUsage(None, each.running_ns, each.queued_ns) for each in times),
            exits=self._exits | {"kick": kicks},
        )

    def switches(self) -> list[Switch]:
        """See contract.Engine."""
        self._fetch_switches()
        return switches_in(self._recorded)

    @property
    def skew_ns(self) -> int:
        """See contract.Recording."""
        return self._clock.skew_ns if self._switches else 0

    @property
    def lost_switches(self) -> Sequence[int]:
        """See contract.Recording."""
        return self._switches.lost if self._switches else ()

    def take_switches(self) -> bytes:
        """See contract.Recording."""
        self._fetch_switches()
        taken = bytes(self._recorded)
        self._recorded.clear()
        return taken

    def close(self) -> None:
        """See contract.Engine."""
        if self._closed:
            return
        self._closed = True
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.end()
        self._free()

    # -- on the threads of VCPUs --

    def _on_exit(self, vcpu: KvmVcpu, exit: Exit) -> bool:
        """Answer an exit; False ends the run."""
        if isinstance(exit, SystemEvent):
            self._end(exit)
            return False
        with self._handling:
            self._drain()
            handler = self._handler
            assert handler is not None
            match exit:
                case Hypercall():
                    self._exits["hypercall"] += 1
                    names = ("x0", "x1", "x2", "x3")
                    before = [vcpu.get(name) for name in names]
                    after = handler.hypercall(vcpu.index, before)
                    for name, old, new in zip(names, before, after, strict=True):
                        if old != new:
                            vcpu.set(name, new)
                case Mmio(ipa, size, None):
                    self._exits["mmio"] += 1
                    answer = handler.mmio_read(vcpu.index, ipa, size)
                    if answer is None:
                        self._abort(vcpu, exit)
                    else:
                        vcpu.complete(answer)
                case Mmio(ipa, size, int(value)):
                    self._exits["mmio"] += 1
                    if not handler.mmio_write(vcpu.index, ipa, size, value):
                        self._abort(vcpu, exit)
                case Undecoded():
                    self._abort(vcpu, exit)
        return True

    def _abort(self, vcpu: KvmVcpu, exit: Mmio | Undecoded) -> None:
        self._exits["abort"] += 1
        vcpu.abort(exit)

    def _drain(self) -> None:
        for ipa, size, value in self._vm.posted_writes():
            self._exits["coalesced"] += 1
            assert self._handler is not None
            self._handler.mmio_write(0, ipa, size, value)

    def _end(self, outcome: SystemEvent | BaseException) -> None:
        with self._changed:
            if self._outcome is None:
                self._outcome = outcome
            self._changed.notify_all()

    # -- private --

    def _record(self, cpus: Sequence[int]) -> None:
        numbers = {cpu: number for number, cpu in enumerate(cpus)}
        self._clock = clock.Clock(lambda: self._vm.vcpus[0].get("cntvct_el0"), clock.frequency())
        self.counter = self._clock.counter
        try:
            self._switches = Switches(len(self._vm.vcpus), numbers)
        except bpf.LoadError as error:
            raise explain(error) from error

    def _fetch_switches(self) -> None:
        if self._switches:
            self._recorded += self._switches.take(self._clock.of)

    def _collect(self) -> None:
        """Take what is recorded before it overflows."""
        if not self._switches:
            return
        if self.collect:
            self.collect(self._clock.now())
        else:
            self._fetch_switches()

    def _free(self) -> None:
        if self._switches:
            self._fetch_switches()
            self._switches.close()
        self._vm.close()

    def _pause(self) -> None:
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.wait_parked()

    def _stopped(self, vcpu: int) -> KvmVcpu:
        self._open()
        return self._vm.vcpus[vcpu]

    def _open(self) -> None:
        if self._closed:
            raise StateError("the KVM engine", "closed", "open")


def _refuse_simulated(config: EngineConfig) -> None:
    for name, default in simulated_only(EngineConfig).items():
        if getattr(config, name) != default:
            raise ConfigError(f"{name}: the kvm engine runs on a real host, which has its own")


def _choose_cpus(count: int) -> Sequence[int]:
    usable = sorted(os.sched_getaffinity(0))
    if count > len(usable):
        raise ConfigError(
            f"pcpus: {count}, but this process may use {len(usable)} CPUs of the host"
        )
    return usable[:count]
