# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of one run: what the host's scheduler did, and what the guest did with its locks.

They are a table of columns, sorted by time. A trace file holds it, and pvlock.trace.attribution
analyses it.

    every VCPU       off at first; SCHED_IN ... PREEMPTED, BLOCKED or OFF; [READY]; SCHED_IN ...
    a wait           CONTENDED, {CONTENDED | SLEPT, WOKEN}, ACQUIRED      of one VCPU and object
    a lock held      ACQUIRED (or GRANTED by another) ... RELEASED        of one VCPU and object

A wait or a hold that is open at the end of the table lasted to the end of the run. Waits of one
VCPU nest: on its way to sleep for a mutex it may wait for the spinlock around the list of sleepers.

The events of one VCPU are in the order in which it did them. The order of events of different VCPUs
is as exact as the clock that they share. On the emulator a CPU may be `skew_ns` ahead of another,
so a lock can be ACQUIRED up to that time before its last owner's RELEASED. The owner of a lock is
the VCPU that was the last to get it, by ACQUIRED or by another's GRANTED, and has not RELEASED it.
"""

import enum
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MOST_EVENTS = 10_000_000
"""The events that a trace keeps. It ends with them; those that follow are counted as dropped."""

VM = 1 << 32
"""In a trace of a host, `names` has at VM + a VCPU the name of its VM."""

Setting = str | int | float | bool | None


class Kind(enum.IntEnum):
    """What happened. `object` is the CPU's number up to 7, the lock's address from 8 on.

    The values are those of the guest's ring (guest/include/pvlock_trace.h) from 8 on.
    """

    SCHED_IN = 0
    """The VCPU runs on CPU `object` from here on. The cost of the switch has been paid before."""
    PREEMPTED = 1
    """The VCPU lost CPU `object` although it could have gone on. Its slice ended, or Flag says why
    else."""
    BLOCKED = 2
    """The VCPU waits for an interrupt (WFI) and has left CPU `object`."""
    OFF = 3
    """The VCPU was turned off, or does not run again (reset, end of the machine). On KVM a VCPU is
    also off while pvlock has stopped it."""
    READY = 4
    """The VCPU was blocked or off; now it could run, and waits for a CPU. `object` is 0."""
    CONTENDED = 8
    """The VCPU begins to wait for lock `object`. `other` is the VCPU before it in the lock's queue,
    or -1 if none is known. A second CONTENDED in a wait says that `other` has changed."""
    ACQUIRED = 9
    """The VCPU has lock `object`, with or without a wait before. A reader has Flag.SHARED."""
    RELEASED = 10
    """The VCPU has released lock `object`. The guest records this after the release itself, so
    another VCPU may have the lock already."""
    SLEPT = 11
    """In its wait for lock `object`, the VCPU goes to sleep until another wakes it."""
    WOKEN = 12
    """The VCPU runs again after SLEPT."""
    LOST = 13
    """`object` events of the VCPU are missing here, because its ring was full. Waits and holds that
    are open here may have ended, and others may have begun."""
    GRANTED = 14
    """The VCPU gave lock `object` to VCPU `other`, which waits for it. That VCPU owns the lock from
    here on, and its ACQUIRED follows when it runs again. A reader has Flag.SHARED."""
    ABANDONED = 15
    """The VCPU waits for lock `object` no more, and does not have it."""


class Flag(enum.IntFlag):
    """More about an event."""

    SHARED = 1
    """On CONTENDED, ACQUIRED, RELEASED: the VCPU shares the lock with others, as a reader."""
    YIELD = 2
    """On PREEMPTED: a WFE that trapped gave the CPU to another VCPU."""
    SCRIPT = 4
    """On PREEMPTED: a scripted schedule took the CPU."""
    GUEST = 8
    """The guest's scheduler did it: `object` is a VCPU, which a task got or lost. On BLOCKED: the
    task sleeps; on PREEMPTED and READY: it could run, and waits for a VCPU."""
    UNSEEN = 16
    """On ACQUIRED, RELEASED: somebody has the lock, and nobody can say who. The task of the event
    stands for them all."""
    INFERRED = 32
    """On ACQUIRED, RELEASED: that this task has the lock is inferred from what it did later."""
    STANDING = 64
    """On ACQUIRED: the lock is the place at the head of a queue. Its owner keeps it while it waits
    for what the queue is for."""


@dataclass
class Events:
    """The table of events: a column for each field, with a row for each event.

    `time` is in ns of one clock, as are `start` and `end` of the run. `vcpus` and `pcpus` are the
    numbers of VCPUs and CPUs. `names` has the names of locks by their addresses; a lock may have
    none. `dropped` counts, for each VCPU, the events that were lost because a ring or the table was
    full. `rejected` counts the entries of its ring that could not be events: a guest may write
    anything. `skew_ns` is how far the clocks of two CPUs may be apart. `settings` says which run it
    was: at least guest, policy, pvlock and engine.

    A trace of a Linux guest that was watched (pvlock.trace.linux) has tasks as well. The last
    `tasks` of its rows are no VCPUs but tasks of the guest's kernel, which have VCPUs as VCPUs have
    CPUs; `names` has their names. Its lock events are those of tasks. pvlock.trace.tasks puts both
    levels together.

    A trace of a host (`pvlock record`) has the setting "host". Its rows are the VCPUs of all VMs,
    as many as the setting "watched" says, and then whoever else had a CPU; `names` has their names.
    A READY in it has the CPU in whose queue the VCPU waits.

    Machine.events() and pvlock.trace.perfetto.read() return it. How often did each VCPU take a
    lock?

    >>> import numpy as np
    >>> from pvlock import Machine
    >>> from pvlock.workload import image_of
    >>> with Machine(2, 2, trace=True, bootargs="duration=1000000", engine="emulator") as machine:
    ...     _ = machine.load(image_of("ticket", trace=True))
    ...     _ = machine.run(100_000_000)
    ...     events = machine.events()
    >>> acquired = np.bincount(events.vcpu[events.kind == Kind.ACQUIRED])
    >>> [int(count) > 50 for count in acquired]
    [True, True]
    """

    time: NDArray[np.int64]
    vcpu: NDArray[np.int32]
    kind: NDArray[np.uint8]
    object: NDArray[np.uint64]
    other: NDArray[np.int32]
    flags: NDArray[np.uint8]
    vcpus: int
    pcpus: int
    start: int
    end: int
    names: dict[int, str] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    skew_ns: int = 0
    settings: dict[str, Setting] = field(default_factory=dict)
    tasks: int = 0

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.time)

    def vcpu_name(self, vcpu: int) -> str:
        """Return what to call a VCPU. In a trace of a host (Setting "host"), `names` has it.

        It also has the names of tasks.
        """
        number = f"VCPU {vcpu}"
        named = self.settings.get("host") or vcpu >= self.vcpus - self.tasks
        return self.names.get(vcpu, number) if named else number

    @property
    def machine_vcpus(self) -> int:
        """How many VCPUs the machine has, where the rows of the table may be others' too."""
        vcpus = self.settings.get("vcpus")
        return vcpus if self.tasks and isinstance(vcpus, int) else self.vcpus

    def locks(self) -> bool:
        """Tell whether the guest recorded what it did with any lock."""
        return bool(((self.kind >= Kind.CONTENDED) & (self.kind != Kind.LOST)).any())

    def name_of(self, lock: int) -> str:
        """Return what the lock at an address is called: name, name@address, or address.

        No two locks are called the same, though a guest may give several locks one name, or a name
        that looks like an address.

        >>> none = np.empty(0, np.int64)
        >>> names = {0x1000: "mutex", 0x2000: "list", 0x3000: "list"}
        >>> events = Events(none, none, none, none, none, none, 1, 1, 0, 0, names)
        >>> [events.name_of(lock) for lock in (0x1000, 0x2000, 0x4000)]
        ['mutex', 'list@0x2000', '0x4000']
        """
        return self._called.get(lock, f"{lock:#x}")

    @cached_property
    def _called(self) -> dict[int, str]:
        names = {lock: name.strip() for lock, name in self.names.items() if name.strip()}
        locks = Counter(names.values())
        return {
            lock: name
            if locks[name] == 1 and "@" not in name and not name.startswith("0x")
            else f"{name}@{lock:#x}"
            for lock, name in names.items()
        }
