# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts workers (worker.py), and asks the kernel what it counted of them."""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pvlock.top import proc

WORKER = Path(__file__).with_name("worker.py")
PATIENCE_S = 60


class Worker:
    """A process of one thread. It sleeps but for what it is told to do."""

    def __init__(self, name: str, cpu: int, policy: str = "first") -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), name, str(cpu)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PVLOCK_TEST_POLICY": policy},
        )
        self.pid = self._process.pid
        self.done()

    def do(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())
        self._process.stdin.flush()

    def done(self) -> None:
        """Wait until it has done it, and sleeps again."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline()
        until = time.monotonic() + PATIENCE_S
        while not self._sleeps():
            assert time.monotonic() < until
            time.sleep(0.001)

    def _sleeps(self) -> bool:
        """Tell whether it is off its CPU, in a system call on its standard input."""
        call = Path(f"/proc/{self.pid}/syscall").read_text().split()
        return call[1:2] == ["0x0"]

    def is_done(self) -> bool:
        """Tell whether done() would return at once."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0]) and self._sleeps()

    def switches(self) -> int:
        status = proc.status(self.pid)
        return int(status["voluntary_ctxt_switches"]) + self.preemptions()

    def preemptions(self) -> int:
        return int(proc.status(self.pid)["nonvoluntary_ctxt_switches"])

    def times(self) -> tuple[int, int]:
        """Return ns on a CPU and in a queue, as the kernel counts them."""
        found = proc.schedstat(self.pid, self.pid)
        assert found is not None
        return found[0], found[1]

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()


@contextlib.contextmanager
def workers(count: int, name: str, cpu: int, policy: str = "first") -> Iterator[list[Worker]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Worker(f"{name}{i}", cpu, policy)) for i in range(count)]
