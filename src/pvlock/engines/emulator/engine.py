# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator engine as its users see it: starts a worker process and talks to it."""

import base64
import collections
import ctypes as c
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple
from typing import Any

from pvlock.engines.contract import (
    SWITCH,
    WATCHED,
    Audit,
    Counter,
    EngineConfig,
    Handler,
    HostEvent,
    Mistake,
    Sampling,
    Switch,
    SystemEvent,
    Usage,
    VcpuUsage,
    WatchPoint,
    switches_in,
)
from pvlock.engines.emulator.protocol import Channel, unpack_error
from pvlock.engines.emulator.vcpu import VcpuState, VmState
from pvlock.engines.emulator.worker import state_size
from pvlock.errors import EngineError, PvlockError, StateError, WorkerDied
from pvlock.memory import MemorySlot, anonymous_slot

_EXIT_SECONDS = 5
_EVENTS = frozenset(HostEvent)


class EmulatorEngine:
    """A machine in a worker process of its own (contract.Engine)."""

    name = "emulator"
    step_ns = 1
    slack_ns = 50_000_000
    counter = Counter(1_000_000_000)
    ring_events = 1 << 13
    lost_switches = ()
    patience_s = 30.0
    """Seconds without an answer, and without progress of any VCPU, before the worker is killed."""
    worker = f"{__package__}.worker"
    """The module that the worker process runs."""

    def __init__(self, config: EngineConfig, slots: Sequence[MemorySlot]) -> None:
        """Start the worker; raises EngineError when it cannot create the machine."""
        self._vcpus, self._seed = config.vcpus, config.seed
        self._killed = ""
        self.skew_ns = config.quantum_ns + config.exit_ns + config.switch_ns
        self._recorded = bytearray()
        # Whoever types tells of it from a thread of his own.
        self._told: collections.deque[list[Any]] = collections.deque()
        self._state = anonymous_slot(0, state_size(config.vcpus), "vcpus")
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the worker lives
        ours, theirs = socket.socketpair()
        fds = [slot.fd for slot in (*slots, self._state) if slot.fd is not None]
        # Ctrl-C is ours. The worker ignores it, but inherits our mask, which holds before that.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.worker, str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *fds],
                stdin=subprocess.DEVNULL,
                # Unicorn prints before it aborts: that belongs into our error, not on a terminal.
                stdout=self._last_words,
                stderr=self._last_words,
                # The same modules as ours, however this interpreter found them.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            ours.close()
            self._last_words.close()
            self._state.close()
            raise EngineError(
                f"cannot start the emulator's worker, {sys.executable}: {error.strerror}"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        self._channel: Channel | None = Channel(ours)
        try:
            self._call(
                {
                    "config": asdict(config) | {"script": _plain(config)},
                    "slots": [[s.base, s.size, s.readonly, s.fd] for s in slots],
                    "state_fd": self._state.fd,
                }
            )
        except BaseException:
            self.close()
            raise

    ram_slot = staticmethod(anonymous_slot)

    @staticmethod
    def published_slot(config: EngineConfig, base: int, size: int, name: str) -> MemorySlot:
        """See contract.Opener."""
        return anonymous_slot(base, size, name, readonly=True)

    def entropy(self, size: int) -> bytes:
        """See contract.Engine. It follows from the seed alone."""
        return hashlib.shake_256(f"entropy of seed {self._seed}".encode()).digest(size)

    def start(self, vcpu: int, entry: int, x0: int) -> None:
        """See contract.Engine."""
        self._call(["start", vcpu, entry, x0])

    def get(self, vcpu: int, register: str) -> int:
        """See contract.Engine."""
        return int(self._call(["get", vcpu, register]))

    def set(self, vcpu: int, register: str, value: int) -> None:
        """See contract.Engine."""
        self._call(["set", vcpu, register, value])

    def inject_abort(self, vcpu: int, address: int) -> None:
        """See contract.Engine."""
        self._call(["inject_abort", vcpu, address])

    def publish_at(self, vcpu: int, ipa: int) -> None:
        """See contract.Engine."""
        self._call(["publish_at", vcpu, ipa])

    def stolen_time_at(self, vcpu: int, ipa: int) -> None:
        """See contract.Engine."""
        self._call(["stolen_time_at", vcpu, ipa])

    def set_line(self, interrupt: int, level: bool) -> None:
        """See contract.Interrupting. The worker hears of it with what is said to it next."""
        self._told.append(["line", interrupt, level])

    def show(self, ipa: int, page: bytes | None) -> None:
        """See contract.Showing. Reads still leave the guest, but are answered by the worker."""
        self._told.append(["page", ipa, None if page is None else page.hex()])

    def run(self, handler: Handler, until_ns: int) -> SystemEvent | None:
        """See contract.Engine."""
        event = self._call(["run", until_ns], handler)
        return None if event is None else SystemEvent(event)

    def usage(self) -> Usage:
        """See contract.Engine."""
        raw = self._call(["usage"])
        return Usage(**{**raw, "vcpus": tuple(VcpuUsage(*numbers) for numbers in raw["vcpus"])})

    def audit(self) -> Audit:
        """See contract.Auditing."""
        raw = self._call(["audit"])
        return Audit(**{**raw, "mistakes": tuple(Mistake(**each) for each in raw["mistakes"])})

    def switches(self) -> list[Switch]:
        """See contract.Engine."""
        self._fetch_switches()
        return switches_in(self._recorded)

    def take_switches(self) -> bytes:
        """See contract.Recording."""
        self._fetch_switches()
        taken = bytes(self._recorded)
        self._recorded.clear()
        return taken

    def watch(self, points: Sequence[WatchPoint]) -> None:
        """See contract.Watching."""
        self._call(
            [
                "watch",
                [
                    [p.pc, p.flags, p.word_size, p.word_masks, [astuple(read) for read in p.reads]]
                    for p in points
                ],
            ]
        )

    def take_watched(self) -> tuple[bytes, int]:
        """See contract.Watching."""
        taken, lost = bytearray(), 0
        while True:
            try:
                text, more = self._call(["watched"])
                part, lost = base64.b64decode(text, validate=True), lost + int(more)
            except (TypeError, ValueError):
                part = b"?"
            if len(part) % WATCHED.size:
                self.close()
                raise WorkerDied("it sent nonsense instead of what it watched", None, None)
            taken += part
            if not part:
                return bytes(taken), lost

    def sample(self, how: Sampling) -> None:
        """See contract.Sampled."""
        self._call(
            ["sample", how.period_ns, how.user_registers, how.queue, list(map(astuple, how.spins))]
        )

    def take_samples(self) -> tuple[bytes, int]:
        """See contract.Sampled."""
        taken, lost = bytearray(), 0
        while True:
            try:
                text, more = self._call(["samples"])
                part, lost = base64.b64decode(text, validate=True), lost + int(more)
            except (TypeError, ValueError):
                self.close()
                raise WorkerDied("it sent nonsense instead of samples", None, None) from None
            taken += part
            if not part:
                return bytes(taken), lost

    def close(self) -> None:
        """See contract.Engine."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self._process.kill()
            self._process.wait()
            self._last_words.close()
            self._state.close()

    def _fetch_switches(self) -> None:
        """Get what the worker recorded, in answers of bounded size, until one is empty."""
        while True:
            try:
                part = base64.b64decode(self._call(["switches"]), validate=True)
            except (TypeError, ValueError):
                part = b"?"
            if len(part) % SWITCH.size or any(
                number not in _EVENTS for *_, number in SWITCH.iter_unpack(part)
            ):
                self.close()
                raise WorkerDied("it sent nonsense instead of switches", None, None)
            self._recorded += part
            if not part:
                return

    def _call(self, request: Any, handler: Handler | None = None) -> Any:
        if self._channel is None:
            raise StateError("the emulator", "closed", "open")
        try:
            self._send(request)
            while True:
                self._watch()
                answer = self._channel.receive()
                for line in answer.get("posted", ()):
                    _answer(handler, {"vcpu": line[0], "kind": "mmio_write", "numbers": line[1:]})
                if "result" in answer:
                    return answer["result"]
                if "error" in answer:
                    error = _error(answer["error"])
                    break
                self._send(_answer(handler, answer))
        except (EOFError, ConnectionError):
            raise self._post_mortem() from None
        raise error

    def _send(self, value: Any) -> None:
        """Send a request or an answer, and with it what devices have told since the last one."""
        assert self._channel is not None
        told = []
        while self._told:
            told.append(self._told.popleft())
        self._channel.send({"value": value, "told": told})

    def _watch(self) -> None:
        """Wait for the worker's answer, and kill it if it does not get on: Unicorn is in a loop."""
        assert self._channel is not None
        seen = None
        while not self._channel.ready(self.patience_s):
            times = [self._vcpu(index).time for index in range(self._vcpus)]
            if times == seen:
                self._killed = f"killed, no progress for {self.patience_s:g} s"
                self._process.kill()
                return
            seen = times

    def _vcpu(self, index: int) -> VcpuState:
        """Return a copy of what the worker shows of a VCPU."""
        start, size = c.sizeof(VmState) + index * c.sizeof(VcpuState), c.sizeof(VcpuState)
        return VcpuState.from_buffer_copy(bytes(self._state.buffer[start : start + size]))

    def _post_mortem(self) -> WorkerDied:
        """Say how the worker ended and, from the memory shared with it, what it ran last."""
        try:
            code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        how = self._killed or how
        self._last_words.seek(0)
        if words := self._last_words.read().decode("utf-8", "replace").split("\n"):
            how += "".join(f": {line.strip()}" for line in words[-2:-1])
        raw = bytes(self._state.buffer[: c.sizeof(VmState)])
        running = VmState.from_buffer_copy(raw).running
        vcpu = pc = None
        if 0 < running <= self._vcpus:
            vcpu = running - 1
            pc = self._vcpu(vcpu).pc
        self.close()
        return WorkerDied(how, vcpu, pc)


def _plain(config: EngineConfig) -> list[list[int | None]] | None:
    if config.script is None:
        return None
    return [[line.time_ns, line.cpu, line.vcpu] for line in config.script]


def _error(packed: Any) -> PvlockError:
    """Unpack an error; whoever sends nonsense is no worker of ours any more."""
    try:
        return unpack_error(packed)
    except (AttributeError, TypeError, ValueError):
        raise ConnectionError from None


def _answer(handler: Handler | None, question: Any) -> Any:
    if handler is None:
        raise ConnectionError
    try:
        vcpu, kind = int(question["vcpu"]), str(question["kind"])
        numbers = [int(number) for number in question["numbers"]]
    except (IndexError, KeyError, TypeError, ValueError):
        raise ConnectionError from None
    match kind, numbers:
        case "hypercall", [_, _, _, _]:
            return list(handler.hypercall(vcpu, numbers))
        case "flush", []:  # the coalesced writes that came with it are what matters
            return None
        case "mmio_read", [ipa, size]:
            return handler.mmio_read(vcpu, ipa, size)
        case "mmio_write", [ipa, size, value]:
            return handler.mmio_write(vcpu, ipa, size, value)
    raise ConnectionError
