# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of guests that mean harm: however one ends, it is an event or one typed error."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pvlock.engines.contract import SystemEvent, Usage
from pvlock.errors import EngineError, GuestFault, WorkerDied
from pvlock.image import Image
from pvlock.machine import Machine

MS: Final = 1_000_000
NOP, BRANCH_TO_SELF, WFI = 0xD503201F, 0x14000000, 0xD503207F


@dataclass
class End:
    """How a machine ended: `event` is what run() returned, or the error that it raised."""

    event: SystemEvent | EngineError | None
    console: str
    usage: Usage | None = None
    registers: dict[str, int] = field(default_factory=dict)


def run(
    guest: bytes | Image,
    *,
    until_ns: int = 5 * MS,
    vcpus: int = 1,
    start_all: bool = False,
    prepare: Callable[[Machine], object] = lambda _machine: None,
    finish: Callable[[Machine], object] = lambda _machine: None,
    registers: tuple[str, ...] = (),
    **options: Any,
) -> End:
    """Run `guest` to its end or `until_ns`; only typed errors come out of the engine.

    X0 is the VCPU's index; `start_all` lets every VCPU begin where VCPU 0 does.
    """
    with Machine(vcpus, **options) as machine:
        loaded = machine.load(guest)
        machine.vcpus[0].set("x0", 0)
        if start_all:
            for vcpu in machine.vcpus[1:]:
                vcpu.start(loaded.entry, vcpu.index)
        prepare(machine)
        end = End(None, "")
        try:
            end.event = machine.run(until_ns)
        except EngineError as error:
            assert "\n" not in str(error)
            end.event = error
        end.console = machine.console.text
        if not isinstance(end.event, WorkerDied):
            end.usage = machine.usage()
            end.registers = {name: machine.vcpus[0].get(name) for name in registers}
        finish(machine)
        return end


def fault(end: End) -> GuestFault:
    assert isinstance(end.event, GuestFault), end
    return end.event
