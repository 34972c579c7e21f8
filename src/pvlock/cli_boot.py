# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run FILE`: the part of the command line that runs a guest file."""

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pvlock.cli_output import json_writer
from pvlock.cli_trace import TraceFiles
from pvlock.errors import ImageError, PvlockError

if TYPE_CHECKING:
    from pvlock.boot import Output
    from pvlock.workload import Settings

LIMIT_NS = 100_000_000
"""How long a file may run by default; a Linux kernel may take any time."""
_MEMORY_MIB, _LINUX_MEMORY_MIB = 64, 512


def run_file(
    settings: "Settings", *, limit_ns: int | None, pvlock: bool, append: str, initrd: str | None,
    memory_mib: int | None, reboot: bool, json_to: str | None, trace_to: str | None,
) -> None:  # fmt: skip
    """Run a guest file, its console on our standard output. Raises PvlockError."""
    from pvlock import boot, image, report
    from pvlock import initrd as archive
    from pvlock.machine import Machine
    from pvlock.terminal import Terminal

    guest = image.parse(_read(settings.guest), settings.guest)
    linux = guest.kind is image.Kind.LINUX
    disk = None if initrd is None else _read(initrd)
    if disk is not None and initrd is not None:
        archive.check(disk, initrd)
    mib = memory_mib or (_LINUX_MEMORY_MIB if linux else _MEMORY_MIB)
    limit_ns = limit_ns or (None if linux else LIMIT_NS)
    files = TraceFiles(trace_to, [""]) if trace_to else None
    console = sys.stderr.buffer if json_to == "-" else sys.stdout.buffer

    terminal = Terminal(console)

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

    def finished(machine: Machine) -> None:
        if files:
            facts = report.settings_of(settings, settings.engine) | {"pvlock": pvlock}
            files.write("", machine.events(**facts), sys.stderr)

    def attach(machine: Machine) -> contextlib.AbstractContextManager[None]:
        return terminal.attached(machine.console.receive) if linux else contextlib.nullcontext()

    with json_writer(json_to) as write:
        try:
            event, usage = boot.run(
                create, guest, disk, output, limit_ns,
                reboot=reboot, attach=attach, finished=finished,
            )  # fmt: skip
        finally:
            terminal.flush()
        if event is None:
            limit = (limit_ns or 0) / 1e6
            raise PvlockError(f"{settings.guest}: still running after {limit:g} ms (--duration)")
        facts = report.settings_of(settings, settings.engine)
        facts |= {"pvlock": pvlock, "event": event}
        write(report.to_json(facts | {"usage": asdict(usage)}))
    print(f"pvlock: guest {event} after {report.time(usage.time_ns)}", file=sys.stderr)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
