# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run FILE`: the part of the command line that runs a guest file."""

import contextlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvlock.cli.outputs import refuse_collisions, write_each
from pvlock.cli.page_file import PageFile
from pvlock.cli.profile_files import ProfileFile, ProfileOptions
from pvlock.cli.shared import ended_by_signals, json_output, json_writer, say
from pvlock.cli.trace_files import TraceFiles
from pvlock.errors import PvlockError
from pvlock.host import Host, without_simulated
from pvlock.image import Image, Kind
from pvlock.machine import Machine

if TYPE_CHECKING:
    from pvlock.cli.guest_run import Output
    from pvlock.trace.linux.points import Points

LIMIT_NS = 100_000_000
"""How long an ELF file may run by default; a Linux kernel may take any time."""
_MEMORY_MIB, _LINUX_MEMORY_MIB = 64, 512


@dataclass(frozen=True)
class FileOptions:
    """What a user may choose for a guest file besides the host.

    `limit_ns` is the guest time that the file may take (None: any). The other fields have the names
    of options of `pvlock run`, which fill them: `append` are the boot arguments, and `memory_mib`
    None is what suits the kind of file. `initrd` and `no_reboot` concern Linux only: the initial
    RAM disk, and whether a reset ends the run instead of booting the kernel again. `input_from` is
    a script that types at the guest (pvlock.keyboard), instead of whoever is at the terminal.
    `system_map` is a file with the symbols of a Linux kernel that has none itself.
    """

    engine: str
    limit_ns: int | None
    no_pvlock: bool = False
    append: str = ""
    memory_mib: int | None = None
    initrd: str | None = None
    no_reboot: bool = False
    input_from: str | None = None
    system_map: str | None = None


def run_file(
    guest: Image, host: Host, options: FileOptions, json_to: str | None, trace_to: str | None,
    html_to: Path | None, profiled: ProfileOptions | None = None,
) -> None:  # fmt: skip
    """Run `guest` on `host`, its console on our standard output. Raises PvlockError."""
    from pvlock import keyboard
    from pvlock.cli import guest_run
    from pvlock.cli import initrd as archive
    from pvlock.cli.terminal import Pace, Terminal, somebody_is_here
    from pvlock.keyboard import Keyboard

    write = json_writer(json_to)
    keys = Keyboard(keyboard.read(options.input_from)) if options.input_from else None
    files = TraceFiles(trace_to, [""]) if trace_to else None
    page = PageFile(html_to) if html_to else None
    profile = ProfileFile(profiled, guest) if profiled else None
    read = {"the guest": guest.name, "--initrd": options.initrd, "--input": options.input_from}
    if options.system_map:
        read["--system-map"] = options.system_map
    refuse_collisions(
        [
            *(one for to in (files, page, profile) if to for one in to.outputs),
            *json_output(json_to),
        ],
        [(name, Path(path)) for name, path in read.items() if path],
    )
    terminal = Terminal(sys.stderr.buffer if json_to == "-" else sys.stdout.buffer)
    linux = guest.kind is Kind.LINUX
    mib = options.memory_mib or (_LINUX_MEMORY_MIB if linux else _MEMORY_MIB)
    facts = _facts(guest, host, options)
    unseen: dict[str, Any] = {}
    watched = _watched(guest, options, unseen) if linux and (files or page) else None

    def output(data: bytes) -> None:
        terminal.output(data)
        if not linux and data.endswith(b"\n"):
            terminal.flush()

    def create(output: "Output") -> Machine:
        return Machine(
            engine=options.engine, pvlock=not options.no_pvlock, bootargs=options.append,
            ram_size=mib << 20, trace=bool(files or page), watched=watched,
            profile=profile.profiler if profile else None, output=output, **host.keywords(),
        )  # fmt: skip

    def attach(machine: Machine) -> contextlib.AbstractContextManager[None]:
        receive = machine.console.receive if keys is None else None
        return terminal.attached(receive) if linux else contextlib.nullcontext()

    def finished(machine: Machine) -> None:
        if profile:
            terminal.flush()
            profile.show(machine.profile())
        if not (files or page):
            return
        events = machine.events(**facts | unseen)
        if files:
            files.write("", events, sys.stderr)
        if page:
            page.write([events], sys.stderr)

    with ended_by_signals(terminal.abandon):
        disk = archive.read(options.initrd, say) if options.initrd else None
        try:
            event, usage = guest_run.run(
                create, guest, disk, output, options.limit_ns,
                reboot=not options.no_reboot, keyboard=keys, attach=attach, finished=finished,
                pace=Pace if linux and keys is None and somebody_is_here() else None,
            )  # fmt: skip
        finally:
            terminal.flush()
    writes = [lambda: profile.write(facts)] if profile else []
    if event is None:
        write_each(*writes)
        limit = (options.limit_ns or 0) / 1e6
        raise PvlockError(f"{guest.name}: still running after {limit:g} ms (--duration)")
    from pvlock import report

    shares = {"profile": profile.result} if profile else {}
    result = facts | {"event": event, "usage": asdict(usage)} | shares
    write_each(*writes, lambda: write(report.to_json(report.document("run-file", result))))
    if files:
        files.say_what_is_next(sys.stderr)
    say(f"guest {event} after {report.time(usage.time_ns)}")


def _watched(guest: Image, options: FileOptions, unseen: dict[str, Any]) -> "Points | None":
    """Return what to watch in a Linux kernel, so that its trace has its own tasks and locks.

    What cannot be seen in this kernel is added to `unseen`. None on an engine that cannot watch.
    Raises SymbolsError.
    """
    if options.engine != "emulator":
        return None
    from pvlock import linux_image
    from pvlock.trace.linux import points

    data = linux_image.kernel_bytes(guest)
    symbols = linux_image.read_symbols(data, guest.name, options.system_map)
    found = points.find(data, guest.name, symbols)
    unseen |= {f"not_seen_{number}": line for number, line in enumerate(found.missing, 1)}
    return found


def _facts(guest: Image, host: Host, options: FileOptions) -> dict[str, Any]:
    """Return what was asked for, by name: nothing of it is a workload's."""
    limit = {} if options.limit_ns is None else {"duration_ns": options.limit_ns}
    return {
        "guest": guest.name,
        **without_simulated(host.keywords(), options.engine),
        **limit,
        "engine": options.engine,
        "pvlock": not options.no_pvlock,
    }
