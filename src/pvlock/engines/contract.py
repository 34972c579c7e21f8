# SPDX-License-Identifier: GPL-2.0-or-later
"""What an engine is: the little that differs between an emulated machine and KVM.

An engine maps memory slots, runs VCPUs, publishes `preempted`, and hands what it cannot answer to a
Handler. Device tree, loader, console and hypercalls are above it and know no engine.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pvlock.abi import Policy
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


@dataclass(frozen=True)
class EngineConfig:
    """What a machine is made of; times in ns of guest time.

    `script` replaces the round-robin scheduler (emulator only). `record` keeps every switch.
    `trap_wfe`: a WFE gives its CPU away while VCPUs wait for one (KVM's wfe_trap_policy).
    `coalesced` are device registers whose writes nobody waits for; they arrive in order, and before
    any other question. `exit_ns` is what leaving the guest costs it, `switch_ns` what putting a
    VCPU on a CPU costs.
    """

    vcpus: int
    pcpus: int
    policy: Policy
    slice_ns: int = 3_000_000
    quantum_ns: int = 1_000
    seed: int = 1
    script: tuple[Placement, ...] | None = None
    record: bool = False
    trap_wfe: bool = True
    coalesced: tuple[int, ...] = ()
    exit_ns: int = 1_000
    switch_ns: int = 3_000


@dataclass(frozen=True)
class Switch:
    """A VCPU that got a CPU (`reason` None) or lost it, at `time_ns`."""

    time_ns: int
    cpu: int
    vcpu: int
    reason: str | None


@dataclass(frozen=True)
class VcpuUsage:
    """What one VCPU used: instructions, and ns on a CPU and waiting for one."""

    instructions: int
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


class Opener(Protocol):
    """Creates the engine's machine over the memory slots."""

    def __call__(self, config: EngineConfig, slots: Sequence[MemorySlot]) -> Engine:
        """Create a machine whose VCPUs are all off."""
