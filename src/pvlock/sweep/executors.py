# SPDX-License-Identifier: GPL-2.0-or-later
"""Executors do runs: on this machine's cores, or on the workers of a Dask cluster."""

import logging
import os
import re
import socket
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol

from pvlock.errors import ConfigError, PvlockError
from pvlock.extras import load_extra
from pvlock.sweep.run import Failure, Outcome, Run, execute

Job = tuple[Run, str]
"""A run, and the fingerprint of the code that must do it."""

_SECONDS = 10
_ADDRESS = re.compile(r"(?:tcp|tls)://(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})", re.ASCII)


class Executor(Protocol):
    """Does jobs, in any order and as many at a time as it likes."""

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Run, Outcome], None, None]:
        """Yield each run as it finishes; closing the iterator ends the others."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalExecutor:
    """Runs `jobs` machines at a time on this host, by threads: each machine has its own process."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Run, Outcome], None, None]:
        """See Executor."""
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._jobs)
        try:
            futures = {pool.submit(execute, run, code, stop.is_set): run for run, code in jobs}
            for future in as_completed(futures):
                outcome = future.result()
                assert outcome is not None
                yield futures[future], outcome
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class DaskExecutor:
    """Runs machines on the workers of a Dask cluster, all of which need pvlock (extra `dask`)."""

    def __init__(self, address: str) -> None:
        """Connect to the scheduler; raises PvlockError if it does not answer or has no workers."""
        self._dask = load_extra("distributed", "dask", "--scheduler")
        self._address = address
        where = _ADDRESS.fullmatch(address)
        if where is None:
            raise ConfigError(f"--scheduler {address}: not an address such as tcp://host:8786")
        # Dask's client prints a traceback where a run or a connection fails. We raise or report.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            # A Client that finds no scheduler would leave threads behind, which complain later.
            socket.create_connection((where[1].strip("[]"), int(where[2])), _SECONDS).close()
            self._client = self._dask.Client(address, timeout=_SECONDS, set_as_default=False)
        except (OSError, ValueError, OverflowError) as error:
            raise PvlockError(f"--scheduler {address}: {error}") from error
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError as error:
            self._client.close()
            raise PvlockError(f"--scheduler {address}: it has no workers") from error

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Run, Outcome], None, None]:
        """See Executor; raises PvlockError when the scheduler is lost."""
        futures = {self._client.submit(execute, *job, pure=False): job[0] for job in jobs}
        try:
            for future in self._dask.as_completed(list(futures), loop=self._client.loop):
                yield futures.pop(future), self._outcome(future)
        finally:
            self._client.cancel(list(futures))
            self._client.close()

    def _outcome(self, future: Any) -> Outcome:
        if future.status == "finished":
            outcome: Outcome = future.result()
            return outcome
        if future.status != "error":
            raise PvlockError(f"--scheduler {self._address}: the connection was lost")
        error = future.exception()
        if isinstance(error, self._dask.KilledWorker):
            return Failure("KilledWorker: every Dask worker that tried it died")
        return Failure(" ".join(f"{type(error).__name__}: {error}".split()))
