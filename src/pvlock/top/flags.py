# SPDX-License-Identifier: GPL-2.0-or-later
"""The flags that pvlock's own KVM engine publishes, beside what their VCPUs do at that moment.

The engine's BPF program (bpf/publisher.bpf.c) writes `preempted` of each VCPU at each switch, and
bpf/top.bpf.c sees the same switches. So of a VM whose VMM has such a program, a flag and its truth
can be read at one moment, and must agree.
"""

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pvlock import abi
from pvlock.abi import Policy
from pvlock.engines.kvm import bpf, publisher
from pvlock.memory import fence
from pvlock.top.slots import PLACE, U64, Glance, ReadyBy, State
from pvlock.top.watch import Watcher

MOST = 64
"""So many VCPUs are compared at a look; of more, others at each look."""
_SURE_NS = 1_000_000
"""A flag is wrong if it stays so for so long, while the VCPU does the same."""
_PATIENCE_NS = 20_000_000
_PAUSE_SECONDS = 0.0001
_OF_A_PROGRAM = "anon_inode:bpf-prog"
_POLICIES = {name: policy for policy, name in publisher.PROGRAMS.items()}


@dataclass
class Compared:
    """How often a VCPU's flag was looked at, was set, should have been set, and was wrong."""

    policy: Policy
    looks: int = 0
    flag: int = 0
    truth: int = 0
    differ: int = 0

    def add(self, flag: bool, truth: bool) -> None:
        """Count a look."""
        self.looks += 1
        self.flag += flag
        self.truth += truth
        self.differ += flag != truth


class Published:
    """The flags of one VM, in the memory of another process."""

    def __init__(self, policy: Policy, flags: bpf.ForeignMap, structures: bpf.ForeignMap) -> None:
        """Map `flags`, and take over both file descriptors. Raises OSError."""
        self.policy = policy
        self._structures = structures.fd
        self._entries = flags.entries
        size = -(-flags.entries * abi.STRUCTURE_STRIDE // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            self._memory = mmap.mmap(flags.fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(flags.fd)

    def structure(self, tid: int) -> int | None:
        """Return the number of a thread's structure; None: its flag is not published here."""
        with contextlib.suppress(OSError):
            value = bpf.of_thread(self._structures, tid, PLACE.size)
            if value is not None:
                (number,) = PLACE.unpack(value)
                return int(number) if number < self._entries else None
        return None

    def flag(self, structure: int) -> bool:
        """Return what the guest reads now."""
        place = structure * abi.STRUCTURE_STRIDE + abi.PREEMPTED_OFFSET
        value = U64.unpack_from(self._memory, place)[0]
        fence()
        return bool(value)

    def close(self) -> None:
        """Let the kernel free the flags when their VM has ended."""
        self._memory.close()
        os.close(self._structures)


def published_by(pid: int) -> list[Published]:
    """Return the flags that a process publishes now; none where this user may not ask."""
    found = []
    for number in _programs(pid):
        with contextlib.suppress(OSError):
            program = bpf.program_by_id(number)
            if program.name in _POLICIES:
                found += _published(_POLICIES[program.name], program)
    return found


def _programs(pid: int) -> Iterator[int]:
    """Yield the IDs of the BPF programs that a process has open."""
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if path.readlink().name == _OF_A_PROGRAM:
                    lines = Path(f"/proc/{pid}/fdinfo/{path.name}").read_text().splitlines()
                    values = dict(line.split(":", 1) for line in lines)
                    yield int(values.get("prog_id", ""))


def _published(policy: Policy, program: bpf.ForeignProgram) -> list[Published]:
    """Return the flags of a program of this name, if its maps are those of our publisher."""
    maps: dict[str, bpf.ForeignMap] = {}
    for number in program.maps:
        opened = bpf.map_by_id(number)
        if opened.name in (publisher.FLAGS, publisher.STRUCTURES) and opened.name not in maps:
            maps[opened.name] = opened
        else:
            os.close(opened.fd)
    flags, structures = maps.get(publisher.FLAGS), maps.get(publisher.STRUCTURES)
    if (
        flags is not None
        and structures is not None
        and (flags.kind, flags.value_size) == (bpf.MAP_TYPE_ARRAY, abi.STRUCTURE_STRIDE)
        and (structures.kind, structures.value_size) == (bpf.MAP_TYPE_TASK_STORAGE, PLACE.size)
    ):
        return [Published(policy, flags, structures)]
    for opened in maps.values():
        os.close(opened.fd)
    return []


def truth(glance: Glance, policy: Policy) -> bool | None:
    """Say what the flag of a VCPU that does this must be; None: it is not known.

    See SPECIFICATION.md, section 6: under `preempted` a flag that a preemption has set stays until
    the VCPU has a CPU, and one that sleeps or has just been woken is not preempted.
    """
    if policy is Policy.SCHEDULED_OUT:
        return glance.state is not State.RUNNING
    if glance.state is not State.READY:
        return False
    return None if glance.ready_by is ReadyBy.UNSEEN else glance.ready_by is ReadyBy.PREEMPTED


class FlagReader:
    """Compares flags with the truth, a few times a second, for all VMs that publish them."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._published: dict[tuple[int, int], list[Published]] = {}
        self._compared: dict[int, Compared] = {}
        self._next = 0

    @property
    def busy(self) -> bool:
        """Whether any VM publishes flags."""
        return any(self._published.values())

    def look(self) -> None:
        """Find who publishes flags, and compare some of them."""
        running = [
            (number, glance)
            for number, glance in self._watcher.glances()
            if glance.vm and glance.state not in (State.FREE, State.DEAD)
        ]
        self._find({(glance.tgid, glance.vm) for _, glance in running})
        flagged = [each for each in running if self._published[each[1].tgid, each[1].vm]]
        if not flagged:
            return
        start = self._next % len(flagged)
        for number, glance in (flagged[start:] + flagged[:start])[:MOST]:
            self._compare(number, glance)
        self._next = start + MOST if len(flagged) > MOST else 0

    def _find(self, vms: set[tuple[int, int]]) -> None:
        """Ask about VMs that are new, and let go of those that are gone.

        A VM's flags are published before its VCPUs first run, so once is enough.
        """
        for gone in self._published.keys() - vms:
            for each in self._published.pop(gone):
                each.close()
        for tgid, vm in vms - self._published.keys():
            self._published[tgid, vm] = published_by(tgid)

    def _compare(self, number: int, glance: Glance) -> None:
        for published in self._published[glance.tgid, glance.vm]:
            structure = published.structure(glance.tid)
            if structure is not None:
                found = self._flag_and_truth(number, glance.tid, published, structure)
                if found is not None:
                    policy = published.policy
                    compared = self._compared.setdefault(glance.tid, Compared(policy))
                    compared.add(*found)
                return

    def _flag_and_truth(
        self, number: int, tid: int, published: Published, structure: int
    ) -> tuple[bool, bool] | None:
        """Return both at one moment; None: there was none, or the truth is not known.

        The two programs see a switch one after the other. So a difference counts only if it stays
        while nothing is switched.
        """
        end = time.monotonic_ns() + _PATIENCE_NS
        sequence, since = -1, 0
        while (now := time.monotonic_ns()) < end:
            before = self._watcher.glance(number)
            flag = published.flag(structure)
            after = self._watcher.glance(number)
            if before.tid != tid:
                return None
            if before.sequence & 1 or before.sequence != after.sequence:
                continue
            wanted = truth(before, published.policy)
            if wanted is None or flag == wanted:
                return None if wanted is None else (flag, wanted)
            if before.sequence != sequence:
                sequence, since = before.sequence, now
            elif now - since > _SURE_NS:
                # Or the VMM has taken the thread's flag away from it meanwhile.
                same = published.structure(tid) == structure
                return (flag, wanted) if same else None
            time.sleep(_PAUSE_SECONDS)
        return None

    def take(self) -> dict[int, Compared]:
        """Return what was compared since the last call, by thread."""
        taken, self._compared = self._compared, {}
        return taken

    def close(self) -> None:
        """Let go of all flags; safe to call twice."""
        self._find(set())
