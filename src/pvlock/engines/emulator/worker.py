# SPDX-License-Identifier: GPL-2.0-or-later
"""The process in which one emulated machine runs; engine.py starts it and talks to it.

    python -m pvlock.engines.emulator.worker SOCKET-FD

A hostile guest can at worst end this process; the parent then reads, in the memory that both share,
which VCPU ran and where it was.
"""

import base64
import contextlib
import ctypes as c
import mmap
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pvlock.engines.contract import (
    EngineConfig,
    Placement,
    Read,
    Sampling,
    Spin,
    SpinKind,
    Watch,
    WatchPoint,
)
from pvlock.engines.emulator.audit import AuditedVm
from pvlock.engines.emulator.protocol import Channel, pack_error
from pvlock.engines.emulator.vcpu import VcpuState, VmState
from pvlock.engines.emulator.vm import Vm, VmMemory
from pvlock.errors import PvlockError, StateError

_PR_SET_PDEATHSIG = 1
_MOST_POSTED = 1024


class Worker:
    """Serves requests about one machine until the parent hangs up."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._keep: list[Any] = []
        self._posted: list[list[int]] = []
        self._vm = self._create(channel.receive()["value"])
        self._commands: dict[str, Callable[..., Any]] = {
            "start": self._vm.start,
            "publish_at": self._vm.publish_at,
            "stolen_time_at": self._vm.stolen_time_at,
            "get": lambda vcpu, name: self._vm.vcpus[vcpu].get(name),
            "set": lambda vcpu, name, value: self._vm.vcpus[vcpu].set(name, value),
            "inject_abort": lambda vcpu, far: self._vm.vcpus[vcpu].inject_abort(far),
            "run": self._vm.run,
            "usage": self._usage,
            "watch": self._watch,
            "watched": self._watched,
            "sample": self._sample,
            "samples": self._samples,
            "audit": self._audit,
            "switches": lambda: base64.b64encode(self._vm.take_switches()).decode(),
        }  # fmt: skip

    def serve(self) -> None:
        """Answer until the connection ends."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                name, *arguments = self._hear()
                self._reply(self._commands[name], arguments)

    def _reply(self, command: Callable[..., Any], arguments: list[Any]) -> None:
        try:
            self._send({"result": command(*arguments)})
        except PvlockError as error:
            self._send({"error": pack_error(error)})

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message, and with it the coalesced writes that came before it."""
        if self._posted:
            message["posted"] = self._posted
        self._channel.send(message)
        self._posted.clear()

    def _create(self, request: dict[str, Any]) -> Vm:
        raw = request["config"]
        script = raw.pop("script")
        config = EngineConfig(
            **{**raw, "coalesced": tuple(raw["coalesced"])},
            script=None if script is None else tuple(Placement(*line) for line in script),
        )
        slots = [
            (ipa, size, readonly, self._address(fd, size))
            for ipa, size, readonly, fd in request["slots"]
        ]
        states = self._address(request["state_fd"], state_size(config.vcpus))
        vm = (AuditedVm if config.audit else Vm)(
            config,
            VmMemory(slots),
            VmState.from_address(states),
            [
                VcpuState.from_address(states + c.sizeof(VmState) + i * c.sizeof(VcpuState))
                for i in range(config.vcpus)
            ],
            self._ask,
            self._post,
        )
        self._channel.send({"result": None})
        return vm

    def _address(self, fd: int, size: int) -> int:
        view = (c.c_char * size).from_buffer(mmap.mmap(fd, size))
        self._keep.append(view)
        return c.addressof(view)

    def _post(self, line: list[int]) -> None:
        self._posted.append(line)
        if len(self._posted) == _MOST_POSTED:
            self._ask(line[0], "flush", [])

    def _ask(self, vcpu: int, kind: str, numbers: Sequence[int]) -> Any:
        self._send({"vcpu": vcpu, "kind": kind, "numbers": numbers})
        return self._hear()

    def _hear(self) -> Any:
        """Wait for a request or an answer, and do what devices have told before it."""
        message = self._channel.receive()
        for kind, number, value in message["told"]:
            if kind == "line":
                self._vm.gic.set_spi(number, value)
            else:
                self._vm.show(number, None if value is None else bytes.fromhex(value))
        return message["value"]

    def _watch(self, points: Sequence[Sequence[Any]]) -> None:
        self._vm.watch(
            [
                WatchPoint(pc, Watch(flags), size, tuple(masks), tuple(Read(*one) for one in reads))
                for pc, flags, size, masks, reads in points
            ]
        )

    def _watched(self) -> list[Any]:
        records, lost = self._vm.take_watched()
        return [base64.b64encode(records).decode(), lost]

    def _sample(self, period_ns: int, user: int, queue: int | None, spins: list[list[int]]) -> None:
        made = tuple(Spin(start, end, SpinKind(kind), *rest) for start, end, kind, *rest in spins)
        self._vm.sample(Sampling(period_ns, user, queue, made))

    def _samples(self) -> list[Any]:
        taken, lost = self._vm.take_samples()
        return [base64.b64encode(taken).decode(), lost]

    def _audit(self) -> dict[str, Any]:
        if not isinstance(self._vm, AuditedVm):
            raise StateError("audit", "not audited", "audited")
        return asdict(self._vm.audit())

    def _usage(self) -> dict[str, Any]:
        vm = self._vm
        vm.scheduler.account(vm.now)
        return {
            "time_ns": vm.now,
            "switches": vm.scheduler.switches,
            "exits": dict(sorted(vm.exits.items())),
            "vcpus": [
                [vcpu.state.instructions, task.running_ns, task.queued_ns]
                for vcpu, task in zip(vm.vcpus, vm.scheduler.tasks, strict=True)
            ],
        }


def state_size(vcpus: int) -> int:
    """Bytes of memory in which the worker shows its parent what it does."""
    return c.sizeof(VmState) + vcpus * c.sizeof(VcpuState)


def main() -> None:
    """Run one machine; the parent's end of the connection decides how long."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    # The terminal's Ctrl-C reaches us too; what happens then is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        c.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        Worker(channel).serve()
    except PvlockError as error:
        channel.send({"error": pack_error(error)})


if __name__ == "__main__":
    main()
