# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of a host's VMs, one after the other, from the best source that there is."""

import fnmatch
import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from pvlock.errors import WatchError
from pvlock.top import names, proc, usage
from pvlock.top.flags import Compared, FlagReader
from pvlock.top.schedstat import Reader
from pvlock.top.slots import Feature
from pvlock.top.threads import Snapshot
from pvlock.top.usage import Names, VmUsage
from pvlock.top.watch import Watcher

_LOOK_SECONDS = 0.25
"""So often the kernel looks for new VCPUs."""
_COMPARE_SECONDS = 0.05
"""So often flags are compared with the truth, where any are published."""
_WANT_SECONDS = 1.0
"""So often threads are looked for by their names, for which all of /proc is read."""


def matching(pattern: str, pids: Iterable[int]) -> set[int]:
    """Return the threads of these processes whose names match a pattern as of a shell."""
    return {tid for _, tid, name in proc.all_threads(pids) if fnmatch.fnmatchcase(name, pattern)}


@dataclass(frozen=True)
class Choice:
    """What is to be watched; with nothing set, every VCPU of the host."""

    pids: Collection[int] = ()
    cgroup: str | None = None
    threads: str | None = None
    """A pattern as of a shell: threads of these names, be they VCPUs or not."""


@dataclass(frozen=True)
class Interval:
    """What VMs did in an interval that ended at `ended` (seconds since the epoch)."""

    ended: float
    ns: int
    vms: list[VmUsage]
    unplaced: int = 0
    found: int = 0
    """Threads that are watched now."""
    missing: list[int] = field(default_factory=list)
    """Processes that were asked for and have ended."""
    flags: Mapping[int, Compared] = field(default_factory=dict)
    """By thread: the flag that pvlock's own engine publishes of it, beside the truth."""


class Session:
    """Begin with `with`; then each interval() waits for its end."""

    def __init__(self, choice: Choice, bpf: bool = True) -> None:
        """Find the best source; `degraded` says why it is not the best of all.

        Raises WatchError for what is asked for and is not there.
        """
        self._choice = choice
        for pid in choice.pids:
            if not proc.exists(pid):
                raise WatchError(f"there is no process {pid}, or this user may not see it")
        if choice.cgroup is not None and not self._in_cgroup():
            raise WatchError(f"no process is in a cgroup {choice.cgroup}")
        self.degraded: str | None = None
        self._watcher: Watcher | None = None
        self._flags: FlagReader | None = None
        self._reader = Reader()
        if not bpf:
            self.degraded = "BPF is not asked for"
        elif not proc.in_initial_namespace():
            self.degraded = "this is not the host's PID namespace (containers: --pid=host)"
        else:
            try:
                self._watcher = Watcher()
                self._flags = FlagReader(self._watcher)
            except WatchError as error:
                self.degraded = str(error)
        self.names = Names(names.vm_name, proc.name)
        self._before: Snapshot | None = None
        self._wanted_at = self._looked_at = 0.0

    @property
    def source(self) -> str:
        """Where the figures come from: bpf or schedstat."""
        return "schedstat" if self._watcher is None else "bpf"

    @property
    def lacks(self) -> list[str]:
        """What this kernel does not tell the BPF program, in words."""
        if self._watcher is None:
            return []
        has, found = self._watcher.features, []
        if not (has & Feature.NOTIFIERS and has & Feature.VCPUS):
            found.append("which threads are VCPUs (their names are asked)")
        if not has & Feature.THROTTLED:
            found.append("for how long a queue was throttled (Linux 6.6 and newer do)")
        if not self._watcher.yields:
            found.append("directed yields (no program can be put at yield_to)")
        return found

    def interval(self, seconds: float) -> Interval:
        """Wait, and return what was done meanwhile. Raises WatchError."""
        if self._before is None:
            self.start()
        assert self._before is not None
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            pause = self.pause
            time.sleep(min(left, pause))
            if left > pause:
                self.look()
        return self.cut()

    @property
    def pause(self) -> float:
        """The seconds after which look() is to be called again."""
        comparing = self._flags is not None and self._flags.busy
        return _COMPARE_SECONDS if comparing else _LOOK_SECONDS

    def start(self) -> None:
        """Begin the first interval. Raises WatchError."""
        self._want()
        self._before = self._snapshot()
        self._refuse_nothing(self._before)

    def cut(self) -> Interval:
        """End an interval, begin the next, and return what was done in it. Raises WatchError."""
        assert self._before is not None
        self._want()
        before, after = self._before, self._snapshot()
        self._before = after
        chosen = self._processes()
        vms = usage.only(usage.between(before, after), chosen)
        if self._choice.threads is not None:
            vms = [vm for vm in (self._named(vm) for vm in vms) if vm is not None]
        gone = [pid for pid in self._choice.pids if not proc.exists(pid)]
        found = sum(len(vm.threads) for vm in vms)
        flags = {} if self._flags is None else self._flags.take()
        ns = after.at - before.at
        return Interval(time.time(), ns, vms, after.unplaced, found, gone, flags)

    def _snapshot(self) -> Snapshot:
        snapshot = (self._watcher or self._reader).snapshot()
        self.names.learn(snapshot)
        return snapshot

    def look(self) -> None:
        """Find new threads, and compare flags; to be called after each `pause`."""
        if self._watcher is None or self._flags is None:
            return
        if time.monotonic() - self._wanted_at > _WANT_SECONDS:
            self._want()
        if time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._watcher.look()
        self._flags.look()

    def _want(self) -> None:
        """Ask for the threads that the kernel does not find by itself."""
        self._wanted_at = time.monotonic()
        wanted: set[int] = set()
        if self._choice.threads is not None:
            wanted |= self._matching()
        if self._watcher is not None:
            has = self._watcher.features
            if has and not (has & Feature.NOTIFIERS and has & Feature.VCPUS):
                wanted |= names.vcpu_threads(proc.processes()).keys()
        (self._watcher or self._reader).want(wanted)

    def _matching(self) -> set[int]:
        pids = self._processes()
        return matching(self._choice.threads or "*", proc.processes() if pids is None else pids)

    def _named(self, vm: VmUsage) -> VmUsage | None:
        threads = [
            each
            for each in vm.threads
            if fnmatch.fnmatchcase(each.thread.name, self._choice.threads or "*")
        ]
        return usage.of_threads(vm, threads) if threads else None

    def _processes(self) -> set[int] | None:
        """Return the processes that are asked for; None: all."""
        chosen: set[int] | None = set(self._choice.pids) or None
        if self._choice.cgroup is not None:
            inside = self._in_cgroup()
            chosen = inside if chosen is None else chosen & inside
        return chosen

    def _in_cgroup(self) -> set[int]:
        wanted = "/" + (self._choice.cgroup or "").strip("/")
        if (root := os.path.relpath(wanted, "/sys/fs/cgroup")) and not root.startswith(".."):
            wanted = "/" + root.removeprefix("unified/") if root != "." else "/"
        below = wanted.rstrip("/") + "/"
        return {
            pid
            for pid in proc.processes()
            if any(path == wanted or path.startswith(below) for path in proc.cgroups(pid))
        }

    def _refuse_nothing(self, first: Snapshot) -> None:
        pattern, chosen = self._choice.threads, self._processes()
        threads = [each for each in first.threads.values() if chosen is None or each.tgid in chosen]
        if pattern is not None:
            if not any(fnmatch.fnmatchcase(each.name, pattern) for each in threads):
                raise WatchError(f"no thread's name matches {pattern!r}")
            return
        for pid in self._choice.pids:
            if not any(each.tgid == pid for each in threads):
                raise WatchError(
                    f"process {pid} ({proc.name(pid) or 'ended'}) is no VMM that runs VCPUs;"
                    " --threads '*' watches its threads"
                )

    def close(self) -> None:
        """Detach what has been put into the kernel; safe to call twice."""
        if self._flags is not None:
            self._flags.close()
        if self._watcher is not None:
            self._watcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
