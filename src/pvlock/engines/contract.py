# SPDX-License-Identifier: GPL-2.0-or-later
"""What an engine is: the little that differs between an emulated machine and KVM.

An engine maps memory slots, runs VCPUs, publishes `preempted`, and hands what it cannot answer to a
Handler. Device tree, loader, console and hypercalls are above it and know no engine.
"""

import enum
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pvlock.host import SIMULATED, Host
from pvlock.memory import MemorySlot


class SystemEvent(enum.StrEnum):
    """How a guest ended its run by itself (PSCI)."""

    OFF = "off"
    RESET = "reset"


@dataclass(frozen=True)
class Placement:
    """A line of a scripted schedule: from `time_ns` on, `cpu` is for `vcpu` (None: nobody)."""

    time_ns: int
    cpu: int
    vcpu: int | None


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Host):
    """What an engine is told of its machine: the host, and what is no property of any host.

    `script` replaces the round-robin scheduler. `record` keeps every switch. `coalesced` are device
    registers whose writes nobody waits for; the writes arrive in order, and before any other
    question.
    """

    script: tuple[Placement, ...] | None = field(default=None, metadata=SIMULATED)
    record: bool = False
    coalesced: tuple[int, ...] = ()


@dataclass(frozen=True)
class Switch:
    """A VCPU that got a CPU (`reason` None) or lost it, at `time_ns`."""

    time_ns: int
    cpu: int
    vcpu: int
    reason: str | None


SWITCH = struct.Struct("<qiHH")
"""A switch, packed: its time in ns, VCPU, CPU, and the place of its reason in REASONS."""

READY = "ready"
REASONS = (None, "slice", "yield", "wfi", "off", "script", READY)
"""Why a VCPU lost its CPU; None: it got one. READY is no switch: a VCPU that was blocked or off can
run from then on, if a CPU is free."""


@dataclass(frozen=True)
class Counter:
    """The guest's counter (CNTVCT_EL0): `hz` ticks a second, `offset_ns` behind the engine's clock.

    An event that the guest stamps with `ticks` was at ticks / hz seconds + `offset_ns` of the
    engine's time, the one of Switch.
    """

    hz: int
    offset_ns: int = 0


@dataclass(frozen=True)
class VcpuUsage:
    """What one VCPU used: instructions (None: not counted), ns on a CPU and waiting for one."""

    instructions: int | None
    running_ns: int
    queued_ns: int


@dataclass(frozen=True)
class Usage:
    """What a machine used up to now; `exits` counts what left the guest, by kind."""

    time_ns: int
    switches: int
    vcpus: tuple[VcpuUsage, ...]
    exits: dict[str, int] = field(default_factory=dict)


class Handler(Protocol):
    """Answers what the engine does not know. Called while the VCPU waits."""

    def hypercall(self, vcpu: int, registers: Sequence[int]) -> Sequence[int]:
        """Answer an HVC: X0 to X3 in, X0 to X3 out."""

    def mmio_read(self, vcpu: int, ipa: int, size: int) -> int | None:
        """Read a device register of 1, 2, 4 or 8 bytes; None: nothing is there."""

    def mmio_write(self, vcpu: int, ipa: int, size: int, value: int) -> bool:
        """Write a device register; False: nothing is there."""


class Engine(Protocol):
    """A virtual machine. Every method raises EngineError when the engine cannot go on."""

    name: str
    step_ns: int
    """The shortest run() that does not disturb the guest."""
    slack_ns: int
    """How much longer than its guest's own time a run may take: starting, waiting for CPUs."""

    def start(self, vcpu: int, entry: int, x0: int) -> None:
        """Let a VCPU start at IPA `entry` with X0, as the boot protocol says."""

    def get(self, vcpu: int, register: str) -> int:
        """Read a register: x0 to x30, sp, pc, pstate, or an EL1 system register."""

    def set(self, vcpu: int, register: str, value: int) -> None:
        """Write a register."""

    def inject_abort(self, vcpu: int, address: int) -> None:
        """Make the VCPU take a synchronous external data abort with FAR_EL1 = `address`."""

    def publish_at(self, vcpu: int, ipa: int) -> None:
        """Keep the `preempted` field of the structure at `ipa` current for this VCPU."""

    def stolen_time_at(self, vcpu: int, ipa: int) -> None:
        """Keep the stolen-time structure at `ipa` current for this VCPU."""

    def run(self, handler: Handler, until_ns: int) -> SystemEvent | None:
        """Run all VCPUs until the guest ends the run, or (None) until `until_ns` of guest time."""

    def usage(self) -> Usage:
        """Return what was used so far."""

    def switches(self) -> list[Switch]:
        """Return the recorded switches, oldest first."""

    def close(self) -> None:
        """End the machine and free everything; safe to call twice."""


@runtime_checkable
class Interrupting(Protocol):
    """What an engine has besides, if devices above it can interrupt."""

    def set_line(self, interrupt: int, level: bool) -> None:
        """Raise or lower the line of shared peripheral interrupt `interrupt` (32 or higher)."""


@runtime_checkable
class Showing(Protocol):
    """What an engine has besides, if guests can read a device of its without leaving the guest."""

    def show(self, ipa: int, page: bytes | None) -> None:
        """Let reads of the page at `ipa` see `page`, without an exit; None: they exit again.

        Writes exit as before. Does nothing where a page of the host is larger than `page`.
        """


@runtime_checkable
class Recording(Protocol):
    """What an engine has besides, if a machine on it can be traced."""

    counter: Counter
    skew_ns: int
    """How far the clocks of two CPUs may be apart."""
    ring_events: int
    """How many events the ring of each VCPU has, a power of two."""

    def take_switches(self) -> bytes:
        """Return the recorded switches since the last call, packed one after the other (SWITCH).

        They are then forgotten, also by switches(). Those of one VCPU are in order.
        """

    @property
    def lost_switches(self) -> Sequence[int]:
        """By VCPU, how many switches could not be recorded so far; empty: that cannot be."""


@runtime_checkable
class Live(Recording, Protocol):
    """A Recording engine whose run() is so long that what is recorded must be taken meanwhile."""

    collect: Callable[[int], None] | None
    """Called with the engine's time: as run() begins, now and then while VCPUs run, as it ends."""


class Opener(Protocol):
    """Creates the engine's machine over the memory slots."""

    ring_events: int
    """See Recording."""

    def ram_slot(self, base: int, size: int, name: str, /) -> MemorySlot:
        """Return the slot that will be the guest's RAM."""

    def published_slot(
        self, config: EngineConfig, base: int, size: int, name: str, /
    ) -> MemorySlot:
        """Return the slot, read-only to the guest, in which the engine will publish `preempted`."""

    def __call__(self, config: EngineConfig, slots: Sequence[MemorySlot]) -> Engine:
        """Create a machine whose VCPUs are all off."""
