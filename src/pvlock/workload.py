# SPDX-License-Identifier: GPL-2.0-or-later
"""Bundled workloads: run() runs them, and read() reads what they print.

A workload guest (guest/harness/workload.c) prints one fact on each line.
"""

import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pvlock import engines, hint
from pvlock.duration import text_of
from pvlock.engines.contract import Usage
from pvlock.errors import ConfigError, EngineError
from pvlock.host import Host, time
from pvlock.machine import Machine

if TYPE_CHECKING:
    from pvlock.trace.events import Events

_FOLDER = Path(__file__).with_name("guests")
_STEPS = 100
_NEARLY = 0.99
"""The share shown while the guest writes its report: the run can fail until the report is read."""
RUNS = ("without", "with", "baseline")
"""The three runs: without PV-lock, with PV-lock, and with PV-lock and no more VCPUs than CPUs."""

_TRACED, _HINTED = ".traced", ".hinted"
_PRESENCE = {"present": True, "absent": False}

R = TypeVar("R")
Progress = Callable[[str, float], None]
"""Called with the name of a run, and with the share that is done: 1 when its result is certain."""


@dataclass(frozen=True)
class Settings(Host):
    """A bundled workload and the host that it runs on; times in ns of guest time.

    >>> Settings("rwsem", vcpus=4, cs_ns=5_000).slice_ns
    3000000
    """

    guest: str = "mutex"
    _: KW_ONLY
    engine: str = "auto"
    duration_ns: int = field(
        default=100_000_000, metadata=time("duration", "Guest time of a run.", 1_000)
    )
    cs_ns: int = field(default=2_000, metadata=time("cs", "Time in the critical section."))
    think_ns: int = field(
        default=8_000, metadata=time("think", "Mean time between two critical sections.")
    )

    def facts(self) -> dict[str, Any]:
        """Return all fields by name, those of _FIRST first."""
        facts = asdict(self)
        return {name: facts[name] for name in dict.fromkeys((*_FIRST, *facts))}


_FIRST = (
    *("guest", "vcpus", "pcpus", "duration_ns", "slice_ns", "quantum_ns", "policy"),
    *("engine", "cs_ns", "think_ns"),
)
"""The order in which files have always had the settings; fields not named here come after."""


@dataclass(frozen=True)
class VcpuCounts:
    """What one VCPU counted. Times are in ns; `spin` leaves out the time off its CPU."""

    acquisitions: int
    wait: int
    spin: int
    sleeps: int
    longest: int


@dataclass(frozen=True)
class Report:
    """What a workload guest printed. `waits` has, by the least wait of a bucket in ns, a count."""

    pvlock: bool
    stolen_time: bool
    duration_ns: int
    vcpus: tuple[VcpuCounts, ...]
    waits: dict[int, int]

    def wait_percentile(self, percent: float) -> int:
        """Return the wait in ns that `percent` of all acquisitions did not exceed, exact to 3 %.

        >>> Report(True, True, 1_000, (), {32: 98, 64: 2}).wait_percentile(99)
        64
        """
        wanted, seen = percent / 100 * sum(self.waits.values()), 0
        for start, count in sorted(self.waits.items()):
            seen += count
            if seen >= wanted:
                return start
        return 0


@dataclass(frozen=True)
class Result:
    """One finished run: the guest's report, and what the machine used."""

    vcpus: int
    pcpus: int
    report: Report
    usage: Usage
    events: "Events | None" = field(default=None, repr=False, compare=False)
    """All that happened, if the run was traced."""

    @property
    def acquisitions(self) -> int:
        """Acquisitions of all VCPUs."""
        return sum(vcpu.acquisitions for vcpu in self.report.vcpus)

    @property
    def throughput(self) -> float:
        """Acquisitions per second of guest time."""
        return self.acquisitions * 1e9 / self.report.duration_ns

    @property
    def fairness(self) -> float:
        """Acquisitions of the VCPU with the fewest, as a share of those of the one with most."""
        counts = [vcpu.acquisitions for vcpu in self.report.vcpus]
        return min(counts) / max(max(counts), 1)

    @property
    def spin_share(self) -> float:
        """Share of the CPUs' time that went into spinning."""
        spin = sum(vcpu.spin for vcpu in self.report.vcpus)
        return spin / (self.pcpus * self.report.duration_ns)

    @property
    def longest_wait_ns(self) -> int:
        """The longest wait for the lock in ns."""
        return max(vcpu.longest for vcpu in self.report.vcpus)


@dataclass
class Comparison:
    """The runs that finished, by name (RUNS): all three, unless `interrupted`."""

    settings: Settings
    runs: dict[str, Result] = field(default_factory=dict)
    interrupted: bool = False


def names() -> list[str]:
    """Return the names of the bundled workloads."""
    elves = (path.stem for path in _FOLDER.glob("*.elf"))
    return sorted(name for name in elves if not name.endswith((_TRACED, _HINTED)))


def image_of(name: str, trace: bool = False, hinted: bool = False) -> bytes:
    """Return the ELF file of a bundled workload; with `trace`, of the one that records its locks.

    That of one that gives hints with `hinted`. Raises ConfigError if there is no such file.
    """
    if trace and hinted:
        raise ConfigError("no bundled guest both gives hints and records its locks")
    if name not in names():
        raise ConfigError(
            f"{name!r} is neither a file nor a bundled guest; of those there are "
            f"{', '.join(names())}"
        )
    file = f"{name}{_TRACED if trace else _HINTED if hinted else ''}.elf"
    return (_FOLDER / file).read_bytes()


def machine_of(name: str, host: Host) -> tuple[int, bool]:
    """Return how many VCPUs the run called `name` has on `host`, and whether it has PV-lock."""
    if name == "baseline":
        return min(host.vcpus, host.pcpus), True
    return host.vcpus, name == "with"


def run(
    name: str,
    settings: Settings,
    progress: Progress = lambda _name, _share: None,
    cancelled: Callable[[], bool] = lambda: False,
    trace: bool = False,
) -> Result | None:
    """Run the workload as `name` (one of RUNS) says; return None when `cancelled`.

    With `trace` the guest records its locks, and the result has all events. Raises EngineError
    when the machine, or the guest in it, fails.

    >>> result = run("with", Settings(engine="emulator", duration_ns=1_000_000))
    >>> result.vcpus, result.pcpus, result.acquisitions > 100
    (8, 4, True)
    """
    vcpus, pvlock = machine_of(name, settings)
    bootargs = f"duration={settings.duration_ns} cs={settings.cs_ns} think={settings.think_ns}"
    if settings.hint == hint.INSTEAD:
        bootargs += " hint-instead=1"
    host = settings.keywords() | {"vcpus": vcpus}
    with Machine(
        engine=settings.engine, pvlock=pvlock, bootargs=bootargs, trace=trace, **host
    ) as machine:
        machine.load(image_of(settings.guest, trace, settings.hint != hint.OFF))
        # Starting takes time too, and each VCPU ends its last turn when it next gets a CPU.
        limit = 2 * settings.duration_ns + (vcpus + 10) * settings.slice_ns
        limit += machine.engine.slack_ns
        step = max(settings.duration_ns // _STEPS, machine.engine.step_ns)
        now, event = 0, None
        while event is None:
            if cancelled():
                return None
            if now >= limit:
                raise EngineError(f"{settings.guest} ({name}): not finished after {text_of(limit)}")
            now += step
            event = machine.run(now)
            progress(name, min(now / settings.duration_ns, _NEARLY))
        report = read(machine.console.text)
        if len(report.vcpus) != vcpus or report.pvlock != pvlock:
            raise EngineError(f"{settings.guest} ({name}): its report is of another machine")
        facts = settings.facts() | {"run": name, "pvlock": pvlock, "engine": machine.engine.name}
        events = machine.events(**facts) if trace else None
        progress(name, 1.0)
        return Result(vcpus, settings.pcpus, report, machine.usage(), events)


def compare(
    settings: Settings,
    progress: Progress = lambda _name, _share: None,
    trace: bool = False,
) -> Comparison:
    """Run the workload without PV-lock, with it, and not overcommitted; `trace` as for run().

    Emulated machines run two at a time. On KVM, where they would share a real host, they run one
    after the other. After Ctrl-C the result has the runs that have finished. Raises the first
    EngineError of a run.
    """
    at_once = 1 if engines.choose(settings.engine) == "kvm" else 2
    runs, interrupted = each_run(
        lambda name, cancelled: run(name, settings, progress, cancelled, trace), at_once
    )
    return Comparison(settings, runs, interrupted)


def each_run(
    run: Callable[[str, Callable[[], bool]], R | None], at_once: int
) -> tuple[dict[str, R], bool]:
    """Call `run` for each of RUNS, `at_once` of them at a time; return what finished, by name.

    `run` also gets what tells it whether to stop, and then returns None. The second value returned
    is whether Ctrl-C came: what had finished by then is returned. Raises the first error of a run.
    """
    from concurrent.futures import ThreadPoolExecutor  # a large library; no guest file needs it

    runs: dict[str, R] = {}
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        futures = {name: pool.submit(run, name, stop.is_set) for name in RUNS}
        try:
            for name, future in futures.items():
                result = future.result()
                if result is not None:
                    runs[name] = result
        except KeyboardInterrupt:
            stop.set()
            for name, future in futures.items():
                if not future.cancel() and (late := future.result()) is not None:
                    runs[name] = late
            return runs, True
        except BaseException:
            stop.set()
            raise
    return runs, False


def read(text: str) -> Report:
    """Read what a workload guest printed. Raises EngineError if its report is not complete."""
    words = [line.split() for line in text.splitlines()]
    facts = {line[0]: line[1] for line in words if len(line) == 2}
    counts = [line[1:] for line in words if line[:1] == ["vcpu"]]
    try:
        duration = int(facts["duration"])
        if words[-1] != ["end"] or duration <= 0:
            raise ValueError
        if [int(number) for number, *_ in counts] != list(range(len(counts))):
            raise ValueError
        return Report(
            pvlock=_PRESENCE[facts["pvlock"]],
            stolen_time=_PRESENCE[facts["stolen-time"]],
            duration_ns=duration,
            vcpus=tuple(
                VcpuCounts(**dict(zip(w[1::2], map(int, w[2::2]), strict=True))) for w in counts
            ),
            waits={int(w[1]): int(w[2]) for w in words if w[0] == "waits"},
        )
    except (IndexError, KeyError, TypeError, ValueError):
        last = text.strip().splitlines()[-1:] or ["nothing"]
        raise EngineError(f"the guest did not finish its report; last line: {last[0]}") from None
