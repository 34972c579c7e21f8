# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges every switch of a machine: what memory says, against what is so.

Each time before guest code runs, the audit looks which VCPU each simulated CPU will execute, and
why a VCPU that is no longer there left the guest. From that alone it derives every flag and every
wait, and compares them with memory, at the addresses of SPECIFICATION.md, clause 2.5. It asks
neither the scheduler nor the publisher, since they are what it judges.
"""

import ctypes as c
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pvlock import abi
from pvlock.abi import Policy
from pvlock.engines.contract import Audit, Mistake
from pvlock.engines.emulator.vcpu import Exit
from pvlock.engines.emulator.vm import Vm
from pvlock.memory_map import PVLOCK_BASE, STOLEN_TIME_BASE

_MOST_MISTAKES = 4
"""How many mistakes are kept; all are counted."""
_OUT = {Exit.SLICE: "slice", Exit.WFE: "yield", Exit.WFI: "block", Exit.HVC: "off"}
_BY_ITSELF = frozenset({"block", "off"})
"""Ways out after which the VCPU could not have gone on running."""
_WORDS = abi.STRUCTURE_SIZE // 8


@dataclass(slots=True)
class _Life:
    """What the audit knows of a VCPU; times in ns.

    `out` is how it lost its last CPU, `out_ns` when. It could run since `ready_ns`, and did not.
    `stolen_ns` is what its structure said when it lost its CPU.
    """

    cpu: int | None = None
    last_cpu: int | None = None
    out: str = "off"
    out_ns: int = 0
    ready_ns: int | None = None
    stolen_ns: int = 0


class AuditedVm(Vm):
    """A Vm whose flags and stolen time are compared with the truth whenever a guest could look."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        config = self.config
        self._number = {self._pointers[vcpu]: vcpu for vcpu in range(config.vcpus)}
        self._lives = [_Life() for _ in range(config.vcpus)]
        self._executed: list[int | None] = [None] * config.pcpus
        self._left: dict[int, tuple[int, Exit]] = {}
        self._away = set(range(config.vcpus))
        self._flag_words = self._words(PVLOCK_BASE + abi.PREEMPTED_OFFSET)
        self._stolen_words = self._words(STOLEN_TIME_BASE + abi.STOLEN_TIME_OFFSET)
        self._wanted = [self._flag(life) for life in self._lives]
        self._inexact_ns = 2 * (config.quantum_ns + config.exit_ns)
        self._ways: Counter[str] = Counter()
        self._compared = self._waits = 0
        self._wrong: Counter[str] = Counter()
        self._mistakes: list[Mistake] = []
        self._native = _Watched(self._native, self._before, self._after)

    def audit(self) -> Audit:
        """Return what was found so far."""
        return Audit(
            dict(sorted(self._ways.items())), self._compared, self._waits, dict(self._wrong),
            tuple(self._mistakes),
        )  # fmt: skip

    def _words(self, first: int) -> Sequence[int]:
        """Return a view of the same word of each VCPU's structure."""
        count = (self.config.vcpus - 1) * _WORDS + 1
        words = (c.c_uint64 * count).from_address(self.memory.host(first, 8 * count))
        return memoryview(words).cast("B").cast("Q")[::_WORDS]

    def _before(self) -> None:
        """Compare: guest code will run next."""
        ready = self._see_who_is_ready()
        executed = [self._number[cpu.vcpu] if cpu.vcpu else None for cpu in self.cpus]
        if executed != self._executed:
            for cpu, vcpu in enumerate(self._executed):
                if vcpu is not None and vcpu != executed[cpu]:
                    self._see_out(vcpu, cpu)
            for cpu, vcpu in enumerate(executed):
                if vcpu is not None and vcpu != self._executed[cpu]:
                    self._see_in(vcpu, cpu, ready)
            self._executed = executed
        self._left.clear()
        self._compared += len(self._wanted)
        flags = list(self._flag_words)
        if flags != self._wanted:
            for vcpu, (flag, wanted) in enumerate(zip(flags, self._wanted, strict=True)):
                if flag != wanted:
                    self._note("flag", vcpu, flag, wanted)

    def _after(self, cpu: int) -> None:
        """Note why the VCPU on `cpu` has left the guest."""
        slot = self.cpus[cpu]
        vcpu = self._number[slot.vcpu]
        self._left[vcpu] = int(slot.now), Exit(self.vcpus[vcpu].state.exit)

    def _flag(self, life: _Life) -> int:
        counts = self.config.policy is Policy.SCHEDULED_OUT or life.out not in _BY_ITSELF
        return int(life.cpu is None and counts)

    def _see_who_is_ready(self) -> set[int]:
        """Return the VCPUs that slept or were off when guest code ran last, and can run now."""
        ready = set()
        for vcpu in self._away:
            life = self._lives[vcpu]
            if life.out == "block":
                can_run = not self.vcpus[vcpu].state.asleep
            else:
                can_run = self.psci.is_on(vcpu) and vcpu not in self._starting
            if can_run:
                now = max((at for at, _ in self._left.values()), default=self.now)
                life.ready_ns = max(now, life.out_ns)
                ready.add(vcpu)
        self._away -= ready
        return ready

    def _see_out(self, vcpu: int, cpu: int) -> None:
        life = self._lives[vcpu]
        life.out_ns, why = self._left.get(vcpu, (int(self.cpus[cpu].now), Exit.NONE))
        life.cpu, life.out = None, _OUT.get(why, "script")
        life.ready_ns = None if life.out in _BY_ITSELF else life.out_ns
        life.stolen_ns = self._stolen_words[vcpu]
        self._ways[f"out-{life.out}"] += 1
        self._wanted[vcpu] = self._flag(life)
        if life.out in _BY_ITSELF:
            self._away.add(vcpu)

    def _see_in(self, vcpu: int, cpu: int, ready: set[int]) -> None:
        life = self._lives[vcpu]
        before = self._executed[cpu]
        how = life.out
        if life.out in _BY_ITSELF:
            how += "-idle" if vcpu in ready and before is None else "-queued"
        self._ways[f"in-{how}"] += 1
        self._ways["migration"] += life.last_cpu not in (None, cpu)
        self._ways["in-directed"] += before is not None and self._lives[before].out == "yield"
        if life.ready_ns is not None:
            self._waits += 1
            waited = int(self.cpus[cpu].now) - life.ready_ns
            stolen = self._stolen_words[vcpu] - life.stolen_ns
            if abs(stolen - waited) > self._inexact_ns:
                self._note("stolen-time", vcpu, stolen, waited)
        life.cpu = life.last_cpu = cpu
        life.ready_ns = None
        self._wanted[vcpu] = self._flag(life)

    def _note(self, what: str, vcpu: int, found: int, wanted: int) -> None:
        self._wrong[what] += 1
        if self._wrong[what] <= _MOST_MISTAKES:
            life = self._lives[vcpu]
            where = f"after {life.out}" if life.cpu is None else f"on CPU {life.cpu}"
            self._mistakes.append(Mistake(what, self.now, vcpu, where, found, wanted))


class _Watched:
    """The C library, with a look before and after guest code runs."""

    def __init__(
        self, library: Any, before: Callable[[], None], after: Callable[[int], None]
    ) -> None:
        self._library, self._before, self._after = library, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def vm_run(self, *arguments: Any) -> int:
        self._before()
        cpu = int(self._library.vm_run(*arguments))
        if cpu >= 0:
            self._after(cpu)
        return cpu
