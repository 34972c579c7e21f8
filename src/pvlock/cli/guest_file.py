# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run FILE`: the part of the command line that runs a guest file."""

import contextlib
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pvlock.abi import Policy
from pvlock.cli.shared import ended_by_signals, json_writer, say
from pvlock.cli.trace_files import TraceFiles
from pvlock.errors import PvlockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvlock.boot import Output
    from pvlock.workload import Settings

LIMIT_NS = 100_000_000
"""How long a file may run by default; a Linux kernel may take any time."""
_MEMORY_MIB, _LINUX_MEMORY_MIB = 64, 512


def run_file(
    path: str, begin: "Callable[[Policy], Settings]", *, limit_ns: int | None, pvlock: bool,
    append: str, initrd: str | None, memory_mib: int | None, reboot: bool, json_to: str | None,
    trace_to: str | None,
) -> None:  # fmt: skip
    """Run the guest file `path`, its console on our standard output. Raises PvlockError.

    `begin` gets the policy for a user who wants none in particular, and returns the settings.
    """
    from pvlock import boot, image
    from pvlock import initrd as archive
    from pvlock.machine import Machine
    from pvlock.terminal import Terminal

    write = json_writer(json_to)
    files = TraceFiles(trace_to, [""]) if trace_to else None
    terminal = Terminal(sys.stderr.buffer if json_to == "-" else sys.stdout.buffer)

    with ended_by_signals(terminal.abandon), image.opened(path) as guest:
        linux = guest.kind is image.Kind.LINUX
        # Linux must not take a sleeping VCPU for a preempted one (SPECIFICATION.md, 6.5 and E3).
        settings = begin(Policy.PREEMPTED if linux else Policy.SCHEDULED_OUT)
        disk = archive.read(initrd) if initrd else None
        limit_ns = limit_ns or (None if linux else LIMIT_NS)
        mib = memory_mib or (_LINUX_MEMORY_MIB if linux else _MEMORY_MIB)

        def output(data: bytes) -> None:
            terminal.output(data)
            if not linux and data.endswith(b"\n"):
                terminal.flush()

        def create(output: "Output") -> Machine:
            return Machine(
                settings.vcpus, settings.pcpus, engine=settings.engine, pvlock=pvlock,
                policy=settings.policy, slice_ns=settings.slice_ns, quantum_ns=settings.quantum_ns,
                seed=settings.seed, trap_wfe=settings.trap_wfe, exit_ns=settings.exit_ns,
                switch_ns=settings.switch_ns, bootargs=append, output=output, ram_size=mib << 20,
                trace=files is not None,
            )  # fmt: skip

        def attach(machine: Machine) -> contextlib.AbstractContextManager[None]:
            receive = machine.console.receive
            return terminal.attached(receive) if linux else contextlib.nullcontext()

        def finished(machine: Machine) -> None:
            if files:
                files.write("", machine.events(**_facts(settings, pvlock)), sys.stderr)

        try:
            event, usage = boot.run(
                create, guest, disk, output, limit_ns,
                reboot=reboot, attach=attach, finished=finished,
            )  # fmt: skip
        finally:
            terminal.flush()
    if event is None:
        limit = (limit_ns or 0) / 1e6
        raise PvlockError(f"{path}: still running after {limit:g} ms (--duration)")
    from pvlock import report

    write(report.to_json(_facts(settings, pvlock) | {"event": event, "usage": asdict(usage)}))
    say(f"guest {event} after {report.time(usage.time_ns)}")


def _facts(settings: "Settings", pvlock: bool) -> dict[str, Any]:
    from pvlock import report

    return report.settings_of(settings, settings.engine) | {"pvlock": pvlock}
