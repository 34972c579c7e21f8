# SPDX-License-Identifier: GPL-2.0-or-later
"""The host thread of a VCPU. It enters the guest, hands exits on, and stops when it is told to."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path

from pvlock.engines.kvm.publisher import Publisher
from pvlock.engines.kvm.switches import Switches
from pvlock.engines.kvm.vcpu import Exit, Kicked, KvmVcpu, Mmio
from pvlock.errors import EngineError

_KICK = signal.SIGRTMIN + 1
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class ThreadTimes:
    """What the host's scheduler says of a thread: ns on a CPU and waiting for one, and turns."""

    running_ns: int = 0
    queued_ns: int = 0
    turns: int = 0


class VcpuThread:
    """Runs one VCPU between resume() and stop(), on some of the host's CPUs.

    The thread calls `on_exit` with each exit, and goes on if the answer is true. It calls
    `on_error` with whatever `on_exit` or the VCPU raises.
    """

    def __init__(
        self,
        vcpu: KvmVcpu,
        cpus: Set[int],
        on_exit: Callable[[KvmVcpu, Exit], bool],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Prepare a thread that has not started."""
        self.vcpu = vcpu
        self.publisher: Publisher | None = None
        self.switches: Switches | None = None
        self.structure: int | None = None
        """The number of this VCPU's structure in the publisher's region; None if it has none."""
        self.kicks = 0
        self._cpus = cpus
        self._on_exit, self._on_error = on_exit, on_error
        self._published: int | None = None
        self._state = threading.Condition()
        self._wanted = self._ended = False
        self._parked = True
        self._times = ThreadTimes()
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Let the VCPU run; the first call starts the thread."""
        with self._state:
            self._wanted, self._parked = True, False
            self._state.notify_all()
        if self._thread is None:
            name = f"pvlock-vcpu{self.vcpu.index}"
            self._thread = threading.Thread(target=self._main, name=name, daemon=True)
            # The thread inherits this mask: Ctrl-C and SIGTERM go to other threads, and a kick can
            # only end KVM_RUN.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._thread.start()
            except RuntimeError as error:
                self._thread, self._parked = None, True
                raise EngineError(f"cannot start VCPU {self.vcpu.index}: {error}") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def stop(self) -> None:
        """Ask the VCPU to leave the guest; wait_parked() waits for it."""
        with self._state:
            self._wanted = False
            if not self._parked and self._thread is not None and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, _KICK)

    def wait_parked(self) -> None:
        """Wait until the VCPU has left the guest and its exit has been answered."""
        with self._state:
            self._state.wait_for(lambda: self._parked)

    def end(self) -> None:
        """End the thread."""
        thread = self._thread
        if thread is None:
            return
        with self._state:
            self._ended = True
            self._state.notify_all()
        self.stop()
        thread.join(_JOIN_SECONDS)

    def times(self) -> ThreadTimes:
        """Return the thread's times so far; after its end, the last ones that are known."""
        thread = self._thread
        if thread is not None and thread.native_id is not None:
            path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
            # The thread may have ended, and a kernel without CONFIG_SCHED_INFO has no such file.
            with contextlib.suppress(OSError, TypeError, ValueError):
                self._times = ThreadTimes(*map(int, path.read_text().split()))
        return self._times

    def _main(self) -> None:
        try:
            self._stay()
            self.vcpu.kick_with(_KICK)
            while self._wait():
                self._publish()
                self._run_recorded()
        except BaseException as error:
            self._on_error(error)
        finally:
            self.times()
            with self._state:
                self._parked, self._thread, self._published = True, None, None
                self._state.notify_all()

    def _stay(self) -> None:
        try:
            os.sched_setaffinity(0, self._cpus)
        except OSError as error:
            raise EngineError(f"VCPU {self.vcpu.index} cannot have its CPUs: {error}") from error

    def _wait(self) -> bool:
        with self._state:
            while not (self._wanted or self._ended):
                # Each time, as resume() and stop() may both come before this thread wakes up.
                self._parked = True
                self._state.notify_all()
                self._state.wait()
            self._parked = self._ended
            return not self._ended

    def _run_recorded(self) -> None:
        if self.switches is None:
            self._run()
            return
        self.switches.enter(self.vcpu.index)
        try:
            self._run()
        finally:
            self.switches.leave()

    def _run(self) -> None:
        exit: Exit | None = None
        while self._wanted:
            exit = self._enter()
            if isinstance(exit, Kicked):
                self.kicks += 1
                signal.sigtimedwait({_KICK}, 0)
            elif not self._on_exit(self.vcpu, exit):
                with self._state:
                    self._wanted = False
        if isinstance(exit, Mmio):
            self.vcpu.settle()

    def _enter(self) -> Exit:
        try:
            return self.vcpu.enter()
        except OSError as error:
            raise self.vcpu.fault(f"its thread: {error.strerror}") from error

    def _publish(self) -> None:
        if self.publisher is not None and self.structure != self._published:
            if self._published is not None:
                self.publisher.remove_current_thread()
            if self.structure is not None:
                self.publisher.add_current_thread(self.vcpu.index, self.structure)
            self._published = self.structure
