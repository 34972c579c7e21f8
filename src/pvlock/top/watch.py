# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches VCPU threads from inside the kernel (bpf/top.bpf.c): every switch, no events."""

import contextlib
import errno
import mmap
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

from pvlock.engines.kvm import bpf
from pvlock.errors import EngineUnavailable, WatchError
from pvlock.memory import fence
from pvlock.top import needs, slots
from pvlock.top.slots import Feature, Glance, Slot, State
from pvlock.top.threads import Displacer, Key, Snapshot, Thread

OBJECT = Path(__file__).with_name("top.bpf.o")
_PROGRAMS = ("switched", "woken", "migrated", "exited")
_RECORDING = ("record_switch", "record_wakeup")
_LOOK = "look"
_YIELDS = "yielded"
SLOTS = 4096
"""Threads that can be watched at once."""
PAIRS = 16 * SLOTS
"""Pairs of a thread and a displacer of an interval."""
_RETRIES = 1000
_POSSIBLE = Path("/sys/devices/system/cpu/possible")


def _possible_cpus() -> int:
    """Return one more than the highest number that a CPU of this host can have."""
    return int(_POSSIBLE.read_text().strip().replace(",", "-").split("-")[-1]) + 1


class Watcher:
    """Threads inside KVM, and those that are asked for, from when `look()` first meets them."""

    def __init__(self, limit: int = SLOTS, ring_size: int = 0) -> None:
        """Load and attach the programs, to watch `limit` threads at most.

        With a `ring_size`, a power of 2 of whole pages, every switch is recorded too: see take().

        Raises WatchError, whose text says what this host lacks.
        """
        self._limit = limit
        self._names: dict[Displacer, str] = {}
        self._advanced: dict[int, dict[Displacer, int]] = {}
        self._wanted: set[int] = set()
        self._epoch = 0
        self._mapped: list[mmap.mmap] = []
        cpus = _possible_cpus()
        entries = {
            **dict.fromkeys(("slots", "waiting", "homes", "vacant", "wanted"), limit),
            "logs": cpus,
            "even": PAIRS,
            "odd": PAIRS,
            "records": ring_size or mmap.PAGESIZE,
        }
        self._ring_size = ring_size
        self._attached = (*(_RECORDING if ring_size else ()), *_PROGRAMS)
        self._ring: bpf.RingBuffer | None = None
        self.yields = True
        """Whether directed yields are counted."""
        try:
            self._object = self._load(entries)
        except EngineUnavailable as error:
            raise WatchError(f"{error.capability}; {error.remedy}") from error
        try:
            with self._explained():
                self._start(limit, cpus)
        except BaseException:
            self.close()
            raise

    def _load(self, entries: Mapping[str, int]) -> bpf.BpfObject:
        programs = (*self._attached, _LOOK)
        with contextlib.suppress(bpf.LoadError):
            # Not every kernel has the function, or lets a program be put there.
            return bpf.BpfObject(OBJECT, (*programs, _YIELDS), entries)
        self.yields = False
        try:
            return bpf.BpfObject(OBJECT, programs, entries)
        except bpf.LoadError as error:
            raise WatchError(needs.why_not(error)) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WatchError(f"the kernel refuses the BPF program: {error.strerror}") from error

    def _start(self, limit: int, cpus: int) -> None:
        self._general = self._map("general", slots.GENERAL.size, mmap.PROT_READ | mmap.PROT_WRITE)
        self._slots = self._map("slots", limit * slots.SLOT_SIZE, mmap.PROT_READ | mmap.PROT_WRITE)
        self._logs = self._map("logs", cpus * slots.LOG_SIZE, mmap.PROT_READ)
        self._charges = [
            self._table(name, slots.PAIR.size, slots.CHARGE.size, PAIRS) for name in ("even", "odd")
        ]
        self._vacant = self._table("vacant", 0, slots.PLACE.size, limit)
        self._asked = self._table("wanted", 4, 8, limit)
        self._homes = self._table("homes", 8, 4, limit)
        for number in range(limit):
            self._vacant.put(None, slots.PLACE.pack(number))
        if self._ring_size:
            self._ring = bpf.RingBuffer(self._object.map_fd("records"), self._ring_size)
        for name in self._attached:
            self._object.attach(name)
        if self.yields:
            try:
                self._object.attach(_YIELDS)
            except OSError:
                # Linux 6.1 on arm64 loads such a program, and has no means to call it.
                self.yields = False
        self._iterator = self._object.iterate(_LOOK)

    def _map(self, name: str, size: int, protection: int) -> mmap.mmap:
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        mapped = mmap.mmap(self._object.map_fd(name), pages, prot=protection)
        self._mapped.append(mapped)
        return mapped

    def _table(self, name: str, key: int, value: int, entries: int) -> bpf.Table:
        return bpf.Table(self._object.map_fd(name), key, value, entries)

    @property
    def features(self) -> Feature:
        """What the program found in this kernel; after a look()."""
        return Feature(slots.GENERAL.unpack_from(self._general)[1])

    def want(self, tids: Iterable[int]) -> None:
        """Watch these threads too, from the next look() on."""
        wanted = set(tids)
        for tid in sorted(self._wanted - wanted):
            self._asked.drop(slots.PLACE.pack(tid))
        for tid in sorted(wanted - self._wanted):
            try:
                self._asked.put(slots.PLACE.pack(tid), slots.U64.pack(0))
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
                raise WatchError(f"more than {self._limit} threads are asked for") from error
        self._wanted = wanted

    def look(self) -> int:
        """Find new threads among all of this host; return how many found no place."""
        slots.PLACE.pack_into(self._general, 8, 0)
        with self._explained():
            bpf.iterate_over(self._iterator)
        return int(slots.GENERAL.unpack_from(self._general)[2])

    def snapshot(self) -> Snapshot:
        """Return all sums, and begin a new interval. Threads that have ended are there once more.

        Raises WatchError.
        """
        unplaced = self.look()
        self._names.clear()
        self._epoch += 1
        slots.PLACE.pack_into(self._general, 0, self._epoch)
        # At once after the new epoch has begun: what ends in between is charged in the next.
        read = [(n, *self._read(n)) for n in range(self._limit) if self._tid(n)]
        read = [each for each in read if each[2].state is not State.FREE]
        opened = {number: self._open_charges(slot, at) for number, at, slot in read}
        with self._explained():
            charges = self._take_charges()
        threads: dict[Key, Thread] = {}
        dead: list[tuple[int, Slot]] = []
        vms: dict[int, set[int]] = defaultdict(set)
        for number, at, slot in read:
            if slot.vm:
                vms[slot.vm].add(number)
            if slot.state is State.DEAD:
                dead.append((number, slot))
            charged = self._charged(number, charges[number], opened[number])
            thread = self._thread(at, slot, number, charged)
            threads[thread.key] = thread
        self._free(dead, vms)
        return Snapshot(time.monotonic_ns(), threads, dict(self._names), unplaced)

    def _tid(self, number: int) -> int:
        place = number * slots.SLOT_SIZE + slots.TID_AT
        return int(slots.PLACE.unpack_from(self._slots, place)[0])

    def _read(self, number: int) -> tuple[int, Slot]:
        """Return a slot as it was at a time."""
        start = number * slots.SLOT_SIZE
        for _ in range(_RETRIES):
            (before,) = slots.PLACE.unpack_from(self._slots, start)
            fence()
            data = self._slots[start : start + slots.SLOT_SIZE]
            at = time.monotonic_ns()
            fence()
            if slots.PLACE.unpack_from(self._slots, start)[0] == before and not before & 1:
                return at, slots.slot(data)
        raise WatchError("the kernel never left a VCPU's sums alone long enough to be read")

    def glances(self) -> list[tuple[int, Glance]]:
        """Return the slots that threads have, each with what its thread does."""
        return [(n, self.glance(n)) for n in range(self._limit) if self._tid(n)]

    def glance(self, number: int) -> Glance:
        """Return what the thread of a slot does; it is whole if the sequence is even and stays."""
        found = slots.glance(self._slots, number * slots.SLOT_SIZE)
        fence()
        return found

    def _thread(self, at: int, slot: Slot, number: int, charged: dict[Displacer, int]) -> Thread:
        has = self.features
        times = {State.RUNNING: slot.running, State.READY: slot.ready, State.BLOCKED: slot.blocked}
        parity = (self._epoch - 1) & 1
        longest, throttled = slot.longest[parity], slot.throttled
        place = number * slots.SLOT_SIZE + slots.LONGEST_AT + 8 * parity
        slots.U64.pack_into(self._slots, place, 0)
        if slot.state is State.DEAD:
            at = slot.since
        else:
            times[slot.state] += at - slot.since
        if slot.state is State.READY:
            longest = max(longest, at - slot.since)
            throttled += min(slot.open_throttled, at - slot.charged)
        vm = slot.vm != 0
        counted = bool(has & (Feature.WFE_EXITS | Feature.YIELDS_TRIED)) and vm
        return Thread(
            key=Key(slot.tid, slot.began),
            tgid=slot.tgid,
            name=slot.name,
            vm=slot.vm,
            vcpu=None if slot.vcpu == slots.NO_VCPU else slot.vcpu,
            at=at,
            alive=slot.state is not State.DEAD,
            running=times[State.RUNNING],
            ready=times[State.READY],
            blocked=times[State.BLOCKED],
            preemptions=slot.preemptions,
            throttled=throttled if has & Feature.THROTTLED else None,
            waits=slot.waits,
            migrations=slot.migrations,
            exits=slot.exits if counted else None,
            vain=slot.vain if counted else None,
            yields=slot.yields if self.yields else None,
            longest=longest,
            gaps=slot.gaps,
            displaced=charged,
        )

    def _open_charges(self, slot: Slot, at: int) -> dict[Displacer, int]:
        """Return the charges of a wait that has not ended."""
        found: dict[Displacer, int] = defaultdict(int)
        if slot.state is State.READY:
            start = slot.cpu * slots.LOG_SIZE
            log = self._logs[start : start + slots.LOG_SIZE]
            for who, ns, name in slots.open_charges(log, slot.charged, at):
                found[who] += ns
                self._names.setdefault(who, name)
        return found

    def _take_charges(self) -> dict[int, dict[Displacer, int]]:
        """Return, by slot, the charges of waits that ended before this epoch began."""
        found: dict[int, dict[Displacer, int]] = defaultdict(dict)
        for key, value in self._charges[(self._epoch - 1) & 1].items(drop=True):
            number, who = slots.PAIR.unpack(key)
            ns, name = slots.CHARGE.unpack(value)
            displacer = slots.displacer(who)
            found[number][displacer] = ns
            self._names[displacer] = slots.text(name)
        return found

    def _charged(
        self, number: int, ended: dict[Displacer, int], opened: dict[Displacer, int]
    ) -> dict[Displacer, int]:
        """Return what is new of a slot's charges.

        What was shown of a wait before it ended is in the kernel's charges once more when it has.
        """
        advanced = self._advanced.pop(number, {})
        new, left = {}, defaultdict(int, opened)
        for who in ended.keys() | opened.keys() | advanced.keys():
            ns = ended.get(who, 0) + opened.get(who, 0) - advanced.get(who, 0)
            if ns > 0:
                new[who] = ns
            elif ns:
                left[who] -= ns
        self._advanced[number] = left
        return new

    def _free(self, dead: list[tuple[int, Slot]], vms: Mapping[int, set[int]]) -> None:
        """Let the slots of the dead be used again; the first of a VM only when the VM is gone."""
        gone = {number for number, _ in dead}
        homes = {place: vm for vm, place in self._places_of_homes().items()}
        for number, slot in dead:
            if slot.vm and number in homes and homes[number] == slot.vm:
                if not vms[slot.vm] <= gone:
                    continue
                self._homes.drop(slot.vm.to_bytes(8, "little"))
            self._advanced.pop(number, None)
            slots.PLACE.pack_into(self._slots, number * slots.SLOT_SIZE + slots.TID_AT, 0)
            self._vacant.put(None, slots.PLACE.pack(number))

    def _places_of_homes(self) -> dict[int, int]:
        return {
            int.from_bytes(key, "little"): slots.PLACE.unpack(value)[0]
            for key, value in self._homes.items()
        }

    def take(self) -> bytes:
        """Return the records since the last call, packed (slots.RECORD); each CPU's in order."""
        return b"" if self._ring is None else self._ring.take()

    @property
    def lost(self) -> int:
        """Records that found no place, since nobody took the ones before."""
        return int(slots.GENERAL.unpack_from(self._general)[3])

    def program_fd(self, name: str) -> int:
        """Return the file descriptor of a program, for what the kernel counts of it."""
        return self._object.program_fd(name)

    def close(self) -> None:
        """Detach the programs and free everything; safe to call twice."""
        self._ring = None
        while self._mapped:
            self._mapped.pop().close()
        self._object.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
