# SPDX-License-Identifier: GPL-2.0-or-later
"""The three runs of a Linux guest with loads: without PV-lock, with it, and not overcommitted.

Without PV-lock means: the same kernel on a machine that does not offer it.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from pvlock import engines, workload
from pvlock.abi import Policy
from pvlock.engines.contract import SystemEvent, Usage
from pvlock.errors import EngineError, GuestPanicked, ImageError
from pvlock.host import Host, time
from pvlock.image import Image
from pvlock.loads import guest
from pvlock.loads.catalogue import BY_NAME
from pvlock.loads.guest import Counted, Reader
from pvlock.machine import Machine
from pvlock.profile import Profile, Profiler

GUEST = "linux"
"""The name of this guest for `pvlock run`."""
_LEAST_RAM, _RAM_PER_VCPU = 512 << 20, 16 << 20
_WARMUP = 4
"""The share of a load's time that passes before it counts: a quarter."""
_PATIENCE_NS = 3_000_000_000
"""How long a guest may say nothing, besides what its loads take."""
_STEPS = 20
_BOOT_NS, _BETWEEN_NS = 150_000_000, 30_000_000
"""For the share that is done: about how long Linux boots, and starts and ends a load."""
_SETTLED_NS = 20_000_000
"""So long after a load's end the guest says what it did: init.c has the same number."""
_NEARLY = 0.99
_PANIC = "Kernel panic - not syncing"


@dataclass(frozen=True)
class Settings(Host):
    """Loads of a Linux guest, and the host that it runs on; times in ns of guest time."""

    loads: tuple[str, ...] = ()
    _: KW_ONLY
    engine: str = "auto"
    # The policy for Linux: it must not take a sleeping VCPU for a preempted one.
    policy: Policy = field(
        default=Policy.PREEMPTED, metadata=Host.__dataclass_fields__["policy"].metadata
    )
    duration_ns: int = field(
        default=50_000_000, metadata=time("duration", "Guest time of each load.", 1_000_000)
    )

    def facts(self) -> dict[str, Any]:
        """Return all fields by name."""
        facts = asdict(self)
        loads = facts.pop("loads")
        return {"guest": GUEST, "loads": list(loads), **facts}


@dataclass(frozen=True)
class Files:
    """What the guest is made of: the kernel, and busybox (None where no load needs it)."""

    kernel: Image
    kernel_file: bytes
    busybox: bytes | None

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each, by name; that of the loads' program too."""
        contents = {"kernel": self.kernel_file, "loads": guest.PROGRAM.read_bytes()}
        if self.busybox is not None:
            contents["busybox"] = self.busybox
        return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


@dataclass(frozen=True)
class Result:
    """One finished run: what the loads did, why some did not run, and what the machine used."""

    vcpus: int
    pcpus: int
    pvlock: bool
    loads: Mapping[str, Counted]
    refused: Mapping[str, str]
    usage: Usage
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """What was sampled of each load while its time counted, if the run was profiled."""


@dataclass
class Comparison:
    """The runs that finished, by name (workload.RUNS): all three, unless `interrupted`."""

    settings: Settings
    runs: dict[str, Result] = field(default_factory=dict)
    interrupted: bool = False
    timeless: bool = False
    """Was it KVM on an emulated host? Then times mean nothing."""


def run(
    name: str,
    settings: Settings,
    files: Files,
    progress: workload.Progress = lambda _name, _share: None,
    cancelled: Callable[[], bool] = lambda: False,
    profiler: Profiler | None = None,
) -> Result | None:
    """Run the loads as `name` (one of workload.RUNS) says; return None when `cancelled`.

    With `profiler` the result has a profile of each load, which changes nothing else. Raises
    ImageError for a kernel that does not use PV-lock, EngineError when the machine, or the guest in
    it, fails or does not finish.
    """
    vcpus, pvlock = workload.machine_of(name, settings)
    reader = Reader()
    warmup_ns = settings.duration_ns // _WARMUP
    host = settings.keywords() | {"vcpus": vcpus}
    with Machine(
        engine=settings.engine, pvlock=pvlock, output=reader, profile=profiler,
        bootargs=guest.bootargs(settings.loads, warmup_ns, settings.duration_ns),
        ram_size=max(_LEAST_RAM, vcpus * _RAM_PER_VCPU), **host,
    ) as machine:  # fmt: skip
        machine.load(files.kernel, guest.initrd(files.busybox))
        step = max(settings.duration_ns // _STEPS, machine.engine.step_ns)
        patience = _PATIENCE_NS + vcpus * settings.duration_ns + machine.engine.slack_ns
        clock = _Clock(settings)
        now, heard, lines, event = 0, 0, 0, None
        ends: dict[str, int] = {}
        while event is None:
            if cancelled():
                return None
            now += step
            event = machine.run(now)
            if reader.lines > lines:
                lines, heard = reader.lines, now
                ends = dict.fromkeys(reader.counted, now - _SETTLED_NS) | ends
            if pvlock and reader.pvlock is False:
                raise ImageError(
                    f"{files.kernel.name}: this kernel does not use PV-lock; "
                    "pvlock kernel build guest makes one that does"
                )
            if now - heard > patience:
                raise EngineError(
                    f"{GUEST} ({name}): said nothing for {patience / 1e9:g} s of guest time; "
                    f"it was at {reader.where}"
                )
            progress(name, clock.share(now, len(reader.begun)))
        usage = machine.usage()
        profiles = {}
        if profiler is not None:
            whole = machine.profile()
            profiles = {
                load: whole.part(ends[load] - counted.duration_ns, ends[load])
                for load, counted in reader.counted.items()
            }
    if event is SystemEvent.RESET:
        raise GuestPanicked(_reason(reader.tail), reader.tail)
    missing = [load for load in settings.loads if load not in reader.counted | reader.refused]
    if missing or not reader.ended:
        raise EngineError(f"{GUEST} ({name}): it ended at {reader.where}")
    if any(len(counted.operations) != vcpus for counted in reader.counted.values()):
        raise EngineError(f"{GUEST} ({name}): it did not start {vcpus} CPUs")
    progress(name, 1.0)
    return Result(vcpus, settings.pcpus, pvlock, reader.counted, reader.refused, usage, profiles)


def compare(
    settings: Settings,
    files: Files,
    progress: workload.Progress = lambda _name, _share: None,
) -> Comparison:
    """Do the three runs, as workload.compare() does; `files` must stay open meanwhile."""
    kvm = engines.choose(settings.engine) == "kvm"
    runs, interrupted = workload.each_run(
        lambda name, cancelled: run(name, settings, files, progress, cancelled), 1 if kvm else 2
    )
    return Comparison(settings, runs, interrupted, timeless=kvm and engines.cpus_are_emulated())


class _Clock:
    """Estimates which share of a run is done: the boot and each load are equal parts of it."""

    def __init__(self, settings: Settings) -> None:
        each = settings.duration_ns + settings.duration_ns // _WARMUP
        self._parts = [_BOOT_NS]
        self._parts += [each * BY_NAME[load].times + _BETWEEN_NS for load in settings.loads]
        self._at, self._since = 0, 0

    def share(self, now: int, begun: int) -> float:
        """Return the share at guest time `now`, when so many loads have begun."""
        if begun > self._at:
            self._at, self._since = begun, now
        part = min((now - self._since) / self._parts[self._at], 1.0)
        return min((self._at + part) / len(self._parts), _NEARLY)


def _reason(lines: tuple[str, ...]) -> str:
    found = next((line for line in lines if _PANIC in line), None)
    return found[found.index("Kernel") :] if found else "it reset the machine"
