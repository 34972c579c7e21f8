# SPDX-License-Identifier: GPL-2.0-or-later
"""What an engine is: the little that differs between an emulated machine and KVM.

An engine maps memory slots, runs VCPUs, publishes `preempted`, and hands what it cannot answer to a
Handler. Device tree, loader, console and hypercalls are above the engine, whichever it is.
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
    """A line of a scripted schedule: from `time_ns` on, `cpu` runs `vcpu`, or nobody if None."""

    time_ns: int
    cpu: int
    vcpu: int | None


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Host):
    """What an engine is told of its machine: the host, and what is no property of any host.

    `script` replaces the round-robin scheduler. With `record` the engine keeps every switch.
    `coalesced` are the addresses of device registers. The engine may collect writes to them, and
    hands them to its Handler in order, before it asks the Handler anything else.
    """

    script: tuple[Placement, ...] | None = field(default=None, metadata=SIMULATED)
    record: bool = False
    coalesced: tuple[int, ...] = ()
    audit: bool = field(default=False, metadata=SIMULATED)
    """Whether every switch is judged (Auditing)."""


class HostEvent(enum.IntEnum):
    """What the host's scheduler did with a VCPU; the value is its number in a packed record.

    `bpf/switches.bpf.c` has the same numbers.
    """

    IN = 0
    """The VCPU got a CPU."""
    SLICE = 1
    """The VCPU lost its CPU although it could have gone on, because its time was over."""
    YIELD = 2
    """The VCPU gave its CPU to another VCPU: its WFE trapped."""
    WFI = 3
    """The VCPU lost its CPU because it waits for an interrupt."""
    OFF = 4
    """The VCPU lost its CPU because it was turned off or stopped."""
    SCRIPT = 5
    """The VCPU lost its CPU because a scripted schedule said so."""
    READY = 6
    """The VCPU was blocked or off, and can run again when a CPU is free. This is no switch."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A VCPU that got `cpu` (HostEvent.IN) or lost it (all others but READY), at `time_ns`."""

    time_ns: int
    cpu: int
    vcpu: int
    event: HostEvent

    @property
    def reason(self) -> str | None:
        """Why the VCPU lost the CPU: slice, yield, wfi, off or script; None if it got the CPU."""
        return None if self.event is HostEvent.IN else self.event.name.lower()


@dataclass(frozen=True, slots=True)
class Ready:
    """A VCPU that was blocked or off, and waits for a CPU from `time_ns` on."""

    time_ns: int
    vcpu: int


SWITCH = struct.Struct("<qiHH")
"""A Switch or a Ready is packed as time in ns, VCPU, CPU (0 for a Ready), number of HostEvent."""


def pack(record: Switch | Ready) -> bytes:
    """Pack one record (SWITCH).

    >>> unpack(pack(Switch(9, 1, 0, HostEvent.WFI)))
    [Switch(time_ns=9, cpu=1, vcpu=0, event=<HostEvent.WFI: 3>)]
    """
    if isinstance(record, Ready):
        return SWITCH.pack(record.time_ns, record.vcpu, 0, HostEvent.READY)
    return SWITCH.pack(record.time_ns, record.vcpu, record.cpu, record.event)


def unpack(packed: bytes | bytearray) -> list[Switch | Ready]:
    """Return the records that are packed one after the other; raises ValueError for nonsense."""
    if len(packed) % SWITCH.size:
        raise ValueError(f"{len(packed)} bytes are no whole number of records")
    return [
        Ready(time_ns, vcpu)
        if number == HostEvent.READY
        else Switch(time_ns, cpu, vcpu, HostEvent(number))
        for time_ns, vcpu, cpu, number in SWITCH.iter_unpack(packed)
    ]


def switches_in(packed: bytes | bytearray) -> list[Switch]:
    """Return the switches among the packed records; raises ValueError for nonsense."""
    return [record for record in unpack(packed) if isinstance(record, Switch)]


@dataclass(frozen=True)
class Counter:
    """The guest's counter (CNTVCT_EL0), which has `hz` ticks a second.

    An event that the guest stamps with `ticks` happened at ticks / hz seconds + `offset_ns` of the
    engine's time. The times of Switch and Ready are the engine's too.
    """

    hz: int
    offset_ns: int = 0


@dataclass(frozen=True)
class VcpuUsage:
    """What one VCPU used: instructions (None if uncounted), ns on a CPU, ns waiting for one."""

    instructions: int | None
    running_ns: int
    queued_ns: int


@dataclass(frozen=True)
class Usage:
    """What a machine used so far; `exits` counts by kind how often a VCPU left the guest."""

    time_ns: int
    switches: int
    vcpus: tuple[VcpuUsage, ...]
    exits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A word in memory that was not what it should have been, when guest code was to run.

    `what` is the word: flag or stolen-time. `where` says where the VCPU was.
    """

    what: str
    time_ns: int
    vcpu: int
    where: str
    found: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found. `ways` counts the ways in which VCPUs got and lost CPUs, by name.

    `compared` is how many flags were judged, `waits` how many waits for a CPU. `wrong` counts what
    was not right, by Mistake.what; `mistakes` are the first ones.
    """

    ways: dict[str, int]
    compared: int
    waits: int
    wrong: dict[str, int]
    mistakes: tuple[Mistake, ...]


class Handler(Protocol):
    """Answers what the engine cannot answer. The VCPU waits for the answer."""

    def hypercall(self, vcpu: int, registers: Sequence[int]) -> Sequence[int]:
        """Answer an HVC: X0 to X3 in, X0 to X3 out."""

    def mmio_read(self, vcpu: int, ipa: int, size: int) -> int | None:
        """Read a device register of 1, 2, 4 or 8 bytes; return None if no device is there."""

    def mmio_write(self, vcpu: int, ipa: int, size: int, value: int) -> bool:
        """Write a device register; return False if no device is there."""


class Engine(Protocol):
    """A virtual machine. Every method raises EngineError when the engine cannot go on."""

    name: str
    step_ns: int
    """The shortest run() that does not disturb the guest."""
    slack_ns: int
    """How much longer a run may take than the guest's own time, to start and to wait for CPUs."""

    def entropy(self, size: int) -> bytes:
        """Return `size` bytes for the guest's random numbers: the same again where runs repeat."""

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
        """Return the recorded switches, oldest first. A Ready is no switch, and left out."""

    def close(self) -> None:
        """End the machine and free everything; safe to call twice."""


@runtime_checkable
class Interrupting(Protocol):
    """What an engine also has if devices above it can interrupt the guest."""

    def set_line(self, interrupt: int, level: bool) -> None:
        """Raise or lower the line of shared peripheral interrupt `interrupt` (32 or higher)."""


@runtime_checkable
class Showing(Protocol):
    """What an engine also has if the guest can read a page of a device without an exit."""

    def show(self, ipa: int, page: bytes | None) -> None:
        """Let the guest read `page` at `ipa` without an exit; with None its reads exit again.

        Writes exit as before. The call does nothing where the host's pages are larger than `page`.
        """


@runtime_checkable
class Auditing(Protocol):
    """What an engine also has if it knows the truth of every switch (EngineConfig.audit)."""

    def audit(self) -> Audit:
        """Return what the audit found so far. Raises StateError without EngineConfig.audit."""


@runtime_checkable
class Recording(Protocol):
    """What an engine also has if its machine can be traced."""

    counter: Counter
    skew_ns: int
    """How far the clocks of two CPUs may be apart."""
    ring_events: int
    """How many events the ring of each VCPU has, a power of two."""

    def take_switches(self) -> bytes:
        """Return the Switch and Ready records since the last call, packed (SWITCH).

        The engine forgets these records, so that switches() no longer has them. The records of one
        VCPU are in order.
        """

    @property
    def lost_switches(self) -> Sequence[int]:
        """How many records of each VCPU were lost so far; empty if none can be lost."""


class Watch(enum.IntFlag):
    """What is done about a function that is watched."""

    ALWAYS = 1
    """Each call is recorded."""
    RETURN = 2
    """And its return."""
    WAIT = 4
    """The call is a wait for the lock at X0. It must have RETURN, too."""
    AWAITED = 8
    """A call is recorded only while somebody waits for the lock at X0."""
    USER = 16
    """X0 is an address of user space. The lock is at the IPA of it."""


READS, WORDS = 6, 2
"""How many values from memory a record can have, and how many words of a lock can be looked at."""
SP_REGISTER = 31
VALUE = 32
"""The base of a Read that is the first Read's value; VALUE + 1 is the second's, and so on."""


@dataclass(frozen=True)
class Read:
    """A value in the kernel's memory: `size` bytes (4 or 8) at `offset` from register X`base`."""

    base: int
    offset: int
    size: int = 8


@dataclass(frozen=True)
class WatchPoint:
    """A function of the guest's kernel, at the virtual address `pc`, whose calls are recorded.

    With the record of a call are the values of `reads`. While somebody waits for a lock, its words
    are looked at: there are WORDS of them, of `word_size` bytes each (4 or 8; 0: none), from X0 on.
    A change within `word_masks` makes a record.
    """

    pc: int
    flags: Watch
    word_size: int = 0
    word_masks: tuple[int, int] = (0, 0)
    reads: tuple[Read, ...] = ()


WATCHED = struct.Struct(f"<QQ3QQQ{READS}QIHBB")
"""What was seen at a point: time in ns, lock, X0 to X2, LR, SP_EL0, the values of its reads, its
number, VCPU, kind (Seen), and whether the lock is watched no more."""


class Seen(enum.IntEnum):
    """The kinds of records of what is watched."""

    CALL = 0
    RETURN = 1
    """X0 to X2, LR and SP_EL0 are those after the return."""
    WORDS = 2
    """The words of a lock have changed: the first is in place of X0, the second in place of X1. Of
    the other fields only time, lock, point and `last` have a meaning."""


@runtime_checkable
class Watching(Protocol):
    """What an engine also has if functions of a guest's kernel can be watched, at no cost to it."""

    def watch(self, points: Sequence[WatchPoint]) -> None:
        """Watch these from now on. Raises EngineError where they are too many, or a second time."""

    def take_watched(self) -> tuple[bytes, int]:
        """Return the records since the last call, packed (WATCHED), and how many were lost.

        They are in the order in which things happened; the times of two VCPUs may be in another, by
        up to the skew.
        """


@runtime_checkable
class WatchingRecording(Recording, Watching, Protocol):
    """A Recording engine that can watch."""


@runtime_checkable
class Live(Recording, Protocol):
    """A Recording engine whose records must be taken while run() is still under way."""

    collect: Callable[[int], None] | None
    """What the engine calls, with its time, as run() begins, now and then in it, and as it ends."""


class SpinKind(enum.IntEnum):
    """What a function waits for in which a kernel spins."""

    OWNER = 0
    """The owner of a lock, which the lock names."""
    QUEUE = 1
    """The one before it in the queue of osq_lock()."""
    HELPER = 2
    """A function that such functions call: what its caller waits for."""


@dataclass(frozen=True)
class Spin:
    """A function in which a kernel spins, from `start` to `end`, and how to see what it waits for.

    For SpinKind.OWNER: the address of the lock is in X0 up to the instruction at `moved`, and from
    then on in X`register`. The word at `owner` in the lock is the address of the owner's task, but
    for `flags`; with a bit of `readers`, readers own it, and who they are is not known.
    """

    start: int
    end: int
    kind: SpinKind
    moved: int = 0
    register: int = 0
    owner: int = 0
    flags: int = 0
    readers: int = 0


@dataclass(frozen=True)
class Sampling:
    """How a machine is sampled: at each multiple of `period_ns`, each VCPU that has a CPU.

    For a Linux kernel: `user_registers` is how far before its last frame record the registers of
    the user program are, `queue` where osq_lock() has its nodes, counted from TPIDR_EL1 (None: not
    known). Without `spins` nobody is asked whom he waits for.
    """

    period_ns: int
    user_registers: int = 304
    queue: int | None = None
    spins: tuple[Spin, ...] = ()


SAMPLE = struct.Struct("<QQQQIHhBBBBI")
"""A sample is packed as: time in ns, task (SP_EL0; 0 at EL0), LR, owner of the awaited lock (or 0),
points, VCPU, awaited VCPU (or -1), Awaits, flags (1: it waits in WFE), number of frames in the
kernel, in user space, instructions from where the block begins to the first frame. That many frames
of 8 bytes follow: the instruction, then addresses of return, those in the kernel first. `points` is
for how many multiples of the period in a row it stands."""


class Awaits(enum.IntEnum):
    """What a waiter that spins waits for, at the time of the sample."""

    NOBODY = 0
    """It does not spin, or for whom is not known; the lock may be free."""
    RUNNING = 1
    """A VCPU that has a CPU."""
    OFF = 2
    """A VCPU that is off its CPU."""
    SLEEPING = 3
    """A task that runs on no VCPU."""
    READERS = 4
    """Readers, whoever they are."""


@runtime_checkable
class Sampled(Protocol):
    """What an engine also has if what its VCPUs do can be sampled, at no cost to the guest."""

    def sample(self, how: Sampling) -> None:
        """Take samples from now on. Raises EngineError if that is done already."""

    def take_samples(self) -> tuple[bytes, int]:
        """Return the samples since the last call, packed (SAMPLE), and how many points were lost.

        Those of each VCPU are in order.
        """


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
