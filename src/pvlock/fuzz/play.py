# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays one fuzz case, and judges by what the host can see and by what the guest saw."""

import hashlib
import mmap
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources

from pvlock import abi
from pvlock.abi import Policy
from pvlock.engines.contract import HostEvent, Live, Recording, SystemEvent, switches_in
from pvlock.errors import ConfigError, PvlockError
from pvlock.fuzz.case import Case
from pvlock.host import without_simulated
from pvlock.machine import Machine

RAM_SIZE = 16 << 20
_MOST_PROBLEMS = 10
_COUNT = re.compile(r"([a-z][a-z0-9 -]{0,40}) ([0-9]{1,20})")
_SHOWN = 100
"""Characters of the guest's last line that a problem shows."""
_LONGEST_OPERATION_NS = 2_000_000
"""The guest time that an operation of VCPU 0 may take; a case that takes more has got stuck."""
_PACE_NS = (1_000, 1_000_000)
"""The mean guest time from one look at the flags to the next: so much for each operation of the
case, but not more than the second figure."""


@dataclass(frozen=True)
class Played:
    """How a case went: `problems` is empty if nothing is wrong.

    `operations` are those of all VCPUs, or 0 if the guest did not reach its end. `digest` is a hash
    of everything that a run leaves: memory, console, switches, usage.
    """

    operations: int
    problems: tuple[str, ...]
    digest: str
    cancelled: bool = False


def guest() -> bytes:
    """Return the ELF file of the fuzzer guest. Raises ConfigError if it has not been built."""
    path = resources.files("pvlock") / "fuzz" / "guest.elf"
    if not path.is_file():
        raise ConfigError("the fuzzer guest is not built: make native")
    return path.read_bytes()


def play(case: Case, cancelled: Callable[[], bool] = lambda: False) -> Played:
    """Run `case` to its end, and look at the flags now and then.

    An error of the engine is a problem in the result. Raises ConfigError for a case of which no
    machine can be made.
    """
    problems: list[str] = []
    with _machine(case) as machine:
        machine.load(guest())
        flags = Flags(machine, case)
        event, stopped, digest = None, False, ""
        try:
            for until in _times(case, machine.engine.step_ns, machine.engine.slack_ns):
                event = machine.run(until)
                problems += flags.problems()
                stopped = cancelled()
                if event is not None or stopped or len(problems) >= _MOST_PROBLEMS:
                    break
            digest = _digest(machine, flags)
        except PvlockError as error:
            problems.append(f"{type(error).__name__}: {error}")
        operations, reported = _read(machine.console.text)
    if not stopped and not problems:
        if event is not SystemEvent.OFF:
            how = "got stuck" if event is None else f"ended by {event}"
            problems.append(f"the guest {how}: {_last_line(machine.console.text)}")
        problems += reported
    return Played(operations, tuple(problems[:_MOST_PROBLEMS]), digest, stopped)


def _machine(case: Case) -> Machine:
    real = case.engine == "kvm"
    host = {
        "policy": case.policy,
        "slice_ns": case.slice_ns,
        "quantum_ns": case.quantum_ns,
        "seed": case.seed,
        "trap_wfe": case.trap_wfe,
        "exit_ns": case.exit_ns,
    }
    return Machine(
        case.vcpus,
        min(case.pcpus, len(os.sched_getaffinity(0))) if real else case.pcpus,
        engine=case.engine,
        pvlock=case.pvlock,
        ram_size=RAM_SIZE,
        bootargs=_bootargs(case),
        record=not real,
        **without_simulated(host, case.engine),
    )


def _bootargs(case: Case) -> str:
    return f"seed={case.seed} operations={case.operations}"


def _times(case: Case, step_ns: int, slack_ns: int) -> Iterator[int]:
    """Yield random times, in ns, at which to look at the flags."""
    source, now = random.Random(case.seed), 0
    pace = max(min(_PACE_NS[0] * case.operations, _PACE_NS[1]), step_ns)
    while now < case.operations * _LONGEST_OPERATION_NS + slack_ns:
        now += source.randrange(1, 2 * pace)
        yield now


class Flags:
    """Compares the structures with what the engine's own record of switches demands.

    On a Live engine this finds no problems: the threads of its VCPUs stop when they like, so that
    there is no time at which every flag and the record must agree.
    """

    def __init__(self, machine: Machine, case: Case) -> None:
        """Begin with a machine that has not run yet."""
        self._machine, self._policy = machine, case.policy
        self._last = dict.fromkeys(range(case.vcpus), HostEvent.OFF)
        self.record = hashlib.sha256()
        """A hash of all switches so far."""

    def problems(self) -> list[str]:
        """Compare every byte of every structure, while the machine stands still."""
        engine = self._machine.engine
        if not isinstance(engine, Recording) or isinstance(engine, Live):
            return []
        taken = engine.take_switches()
        self.record.update(taken)
        for switch in switches_in(taken):
            self._last[switch.vcpu] = switch.event
        found = [self._problem(vcpu) for vcpu in self._machine.pvlock.addresses]
        return [problem for problem in [*found, self._stray()] if problem]

    def _problem(self, vcpu: int) -> str:
        last = self._last[vcpu]
        if self._policy is Policy.SCHEDULED_OUT:
            wanted = last is not HostEvent.IN
        else:
            wanted = last in (HostEvent.SLICE, HostEvent.YIELD)
        expected = int(wanted).to_bytes(8, "little").ljust(abi.STRUCTURE_SIZE, b"\0")
        address = self._machine.pvlock.addresses[vcpu]
        actual = self._machine.memory.read(address, abi.STRUCTURE_SIZE, "fuzz")
        if actual == expected:
            return ""
        where = "on a CPU" if last is HostEvent.IN else f"off its CPU ({last.name.lower()})"
        return f"at {self._now()} VCPU {vcpu} is {where}, its structure is {actual.hex()}"

    def _stray(self) -> str:
        """Check that the region holds nothing but structures and zeros."""
        addresses = self._machine.pvlock.addresses.values()
        end = max(addresses, default=0) + abi.STRUCTURE_SIZE
        if not addresses or end % mmap.PAGESIZE == 0:
            return ""
        slot = self._machine.memory.slot_of(min(addresses), abi.STRUCTURE_SIZE)
        assert slot is not None
        rest = self._machine.memory.read(end, slot.end - end, "fuzz")
        if not any(rest):
            return ""
        return f"at {self._now()} the region is not zero behind its structures"

    def _now(self) -> str:
        return f"{self._machine.usage().time_ns} ns"


def _read(console: str) -> tuple[int, list[str]]:
    """Return the operations that the guest counted, and what the guest saw to be wrong.

    The guest runs what it likes, and may have written over its own text and counts.
    """
    lines = console.splitlines()
    if lines[-1:] != ["end"]:
        return 0, [f"the guest did not finish its report: {_last_line(console)}"]
    lines = lines[1:-1]
    counts = {count[1]: int(count[2]) for count in map(_COUNT.fullmatch, lines) if count}
    wrong = {name: count for name, count in counts.items() if name.startswith("wrong ")}
    problems = [f"the guest saw {name}, {count} times" for name, count in wrong.items() if count]
    if len(wrong) != 5 or len(counts) != len(lines) or not counts.get("operations"):
        problems.append("the guest's report is not complete")
    return counts.get("operations", 0), problems


def _last_line(console: str) -> str:
    """Return the last line, as a terminal can show it."""
    lines = console.strip().splitlines()
    return repr(lines[-1][:_SHOWN])[1:-1] if lines else "it printed nothing"


def _digest(machine: Machine, flags: Flags) -> str:
    digest = hashlib.sha256(machine.console.text.encode())
    digest.update(repr((machine.usage(), flags.record.hexdigest())).encode())
    for slot in machine.memory.slots:
        digest.update(slot.buffer)
    return digest.hexdigest()
