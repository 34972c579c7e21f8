# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPU quota of a process: that of its cgroup, or of the nearest one above that has one."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pvlock.top import proc

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroup:
    """`quota` is in CPUs, None without one; `throttled` is how often it was, since it was made."""

    path: str
    quota: float | None
    throttled: int


def of(pid: int) -> Cgroup | None:
    """Return the cgroup that limits a process; None: none does, or it cannot be told."""
    for name in sorted(set(proc.cgroups(pid)), key=len, reverse=True):
        for root in (_ROOT, _ROOT / "cpu", _ROOT / "cpu,cpuacct", _ROOT / "unified"):
            folder = root / name.lstrip("/")
            while folder != root and root in folder.parents:
                quota = _quota(folder)
                if quota is not None:
                    return Cgroup(f"/{folder.relative_to(root)}", quota, _throttled(folder))
                folder = folder.parent
    return None


def _quota(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return None if int(quota) < 0 else int(quota) / int(period)
    return None


def _throttled(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "cpu.stat").read_text().splitlines():
            if line.startswith("nr_throttled "):
                return int(line.split()[1])
    return 0
