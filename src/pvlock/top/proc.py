# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of processes and threads. Whatever has ended meanwhile is just not there."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, fixed since Linux 3.8


def _read(path: Path) -> bytes:
    # A process can end between any two calls, and some files of it only its owner may read.
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def in_initial_namespace() -> bool:
    """Tell whether process IDs here are those of the kernel; if it cannot be told, they are."""
    try:
        return str((PROC / "self/ns/pid").readlink()) == _INITIAL_PID_NAMESPACE
    except OSError:
        return True


def processes() -> list[int]:
    """Return the IDs of all processes that can be seen."""
    return [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]


def exists(pid: int) -> bool:
    """Tell whether there is such a process."""
    return bool(status(pid).get("Tgid") == str(pid))


def threads(pid: int) -> list[int]:
    """Return the IDs of a process's threads."""
    try:
        return [int(path.name) for path in (PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []


def command(pid: int) -> list[str]:
    """Return the command line of a process; kernel threads have none."""
    text = _read(PROC / str(pid) / "cmdline").decode(errors="replace")
    return text.rstrip("\0").split("\0") if text else []


def name(pid: int, tid: int | None = None) -> str:
    """Return the name of a thread, by default of a process's first; "" if it has ended."""
    path = PROC / str(pid) / "task" / str(tid or pid) / "comm"
    return _read(path).decode(errors="replace").rstrip("\n")


def status(pid: int, tid: int | None = None) -> dict[str, str]:
    """Return the lines of `status` of a thread, by default of a process's first."""
    text = _read(PROC / str(pid) / "task" / str(tid or pid) / "status").decode(errors="replace")
    lines = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in lines}


def schedstat(pid: int, tid: int) -> tuple[int, int, int] | None:
    """Return ns on a CPU, ns in a queue, and stretches on a CPU of a thread; None if it has ended.

    The kernel must have CONFIG_SCHED_INFO.
    """
    fields = _read(PROC / str(pid) / "task" / str(tid) / "schedstat").split()
    return (int(fields[0]), int(fields[1]), int(fields[2])) if len(fields) == 3 else None


def cgroups(pid: int) -> list[str]:
    """Return the cgroups of a process: one for each hierarchy."""
    text = _read(PROC / str(pid) / "cgroup").decode(errors="replace")
    return [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]


def all_threads(pids: Iterable[int]) -> Iterator[tuple[int, int, str]]:
    """Return process, thread, and the thread's name for all of these processes."""
    for pid in pids:
        for tid in threads(pid):
            yield pid, tid, name(pid, tid)
