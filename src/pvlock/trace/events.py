# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of one run: what the host's scheduler did, and what the guest did with its locks.

A table of columns, sorted by time. It is what a trace file holds and what is analysed.

    every VCPU       off at first; SCHED_IN ... PREEMPTED, BLOCKED or OFF; [READY]; SCHED_IN ...
    a wait           CONTENDED, {CONTENDED | SLEPT, WOKEN}, ACQUIRED      of one VCPU and object
    a lock held      ACQUIRED (or GRANTED by another) ... RELEASED        of one VCPU and object

A wait or a hold that is open at the end of the table lasted to the end of the run. Waits of one
VCPU nest: on its way to sleep for a mutex it may wait for the spinlock around the list of sleepers.

The events of one VCPU are in the order in which it did them. Those of different VCPUs are as exact
as the clock that they share: on the emulator a CPU may be `skew_ns` ahead of another, so that a
lock can be ACQUIRED up to that time before its last owner's RELEASED. The owner is whoever ACQUIRED
it, or was GRANTED it, last and has not RELEASED it.
"""

import enum
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MOST_EVENTS = 10_000_000
"""Events that a trace keeps: it then ends, and what follows is counted as dropped."""

VM = 1 << 32
"""In a trace of a host, `names` has at VM + a VCPU the name of its VM."""

Setting = str | int | float | bool | None


class Kind(enum.IntEnum):
    """What happened. `object` is the CPU's number up to 7, the lock's address from 8 on.

    The values are those of the guest's ring (guest/include/pvlock_trace.h) from 8 on.
    """

    SCHED_IN = 0
    """The VCPU runs on CPU `object` from here on. The cost of the switch is behind it."""
    PREEMPTED = 1
    """It lost CPU `object` although it could have gone on: end of its slice, or a yield (Flag)."""
    BLOCKED = 2
    """It waits for an interrupt (WFI), off CPU `object`."""
    OFF = 3
    """It was turned off, or (reset, end of the machine) does not run again; on KVM also while
    pvlock has stopped it."""
    READY = 4
    """Blocked or off until now, it could run, and waits for a CPU. `object` is 0."""
    CONTENDED = 8
    """It begins to wait for lock `object`. `other`: the VCPU before it in the lock's queue, or -1
    where there is none, or none is known. Again within a wait: this is now its place."""
    ACQUIRED = 9
    """It has the lock, with a wait before or without; Flag.SHARED for a reader."""
    RELEASED = 10
    """It released the lock; recorded after the release itself, so others may have it already."""
    SLEPT = 11
    """Within its wait for `object` it goes to sleep until somebody wakes it."""
    WOKEN = 12
    """It runs again after SLEPT."""
    LOST = 13
    """`object` events of this VCPU are missing here: its ring was full. Its waits and holds that
    are open here may have ended, and others begun."""
    GRANTED = 14
    """It gave lock `object` to VCPU `other`, which waits for it: that VCPU owns it from here on,
    and its ACQUIRED comes when it runs again. Flag.SHARED for a reader."""


class Flag(enum.IntFlag):
    """More about an event."""

    SHARED = 1
    """CONTENDED, ACQUIRED, RELEASED: as a reader, together with other readers."""
    YIELD = 2
    """PREEMPTED: a WFE that trapped gave the CPU to another VCPU."""
    SCRIPT = 4
    """PREEMPTED: a scripted schedule took the CPU."""


@dataclass
class Events:
    """The table, n events in columns of n; times in ns of one clock.

    A trace of a host (`pvlock record`) has the setting "host". Its rows are the VCPUs of all VMs,
    "watched" of them, and then whoever else had a CPU; `names` has what they are called. A READY
    there has the CPU in whose queue it waits.

    `vcpus`, `pcpus` say how many there are. The run is from `start` to `end`. `names` has a lock's
    name by its address, for those that have one. `dropped` has, by VCPU, how many of its events
    were lost because a ring or the table was full, `rejected` how many were no events: a guest
    wrote them, and may write anything. `skew_ns` is how far the clocks of two CPUs may be apart.
    `settings` is what the run was: at least guest, policy, pvlock and engine.
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

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.time)

    def vcpu_name(self, vcpu: int) -> str:
        """Return what to call a VCPU. In a trace of a host (Setting "host"), `names` has it."""
        number = f"VCPU {vcpu}"
        return self.names.get(vcpu, number) if self.settings.get("host") else number

    def locks(self) -> bool:
        """Tell whether the guest recorded what it did with any lock."""
        return bool(((self.kind >= Kind.CONTENDED) & (self.kind != Kind.LOST)).any())

    def name_of(self, lock: int) -> str:
        """Return what to call the lock at an address, and no other: name, name@address, or address.

        A guest may give several locks one name, or one that looks like an address.
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
