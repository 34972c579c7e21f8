# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run`: a bundled workload or loads of Linux, three times over, or a guest file."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pvlock import __version__, engines, image
from pvlock.abi import Policy
from pvlock.cli import guest_loads
from pvlock.cli.guest_file import LIMIT_NS, FileOptions, run_file
from pvlock.cli.guest_kind import DEFAULT_POLICY, GuestKind, GuestOption, refuse_options_of_others
from pvlock.cli.knob_options import knob_options
from pvlock.cli.outputs import refuse_collisions, write_each
from pvlock.cli.page_file import PageFile, html_option
from pvlock.cli.profile_files import profile_asked_for, profile_options
from pvlock.cli.screen import console, paragraph, show
from pvlock.cli.shared import Status, engine_option, json_output, json_writer
from pvlock.cli.trace_files import TraceFiles
from pvlock.host import Host, knobs, simulated_only
from pvlock.memory_map import RAM_LIMIT
from pvlock.workload import Settings

_WHY_AUTO = {
    "kvm": "this host has all that it needs",
    "emulator": "kvm cannot run here, see pvlock doctor",
}
REPEATS = 5
"""So often a comparison is made on a real host."""
_DEFAULTS = {
    "pcpus": f"{Host.pcpus}; with kvm at most those that pvlock may use",
    "policy": f"{Policy.SCHEDULED_OUT}; {Policy.PREEMPTED} for a Linux Image",
    "duration_ns": "100ms; for a Linux Image any time",
}
_KINDS = {"cs_ns": GuestKind.WORKLOAD, "think_ns": GuestKind.WORKLOAD}


class Address(click.ParamType[int]):
    """An address, in hexadecimal with 0x or in decimal."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        """Return the number. Raises BadParameter."""
        try:
            return int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no address, such as 0x40080000", param, context)


def _option(kinds: GuestKind, *names: str, **attributes: Any) -> Callable[..., Any]:
    return click.option(*names, cls=GuestOption, kinds=kinds, **attributes)


@click.command()
@click.argument("guest", default=Settings.guest)
@click.option(
    "--kernel",
    metavar="FILE",
    help="The same as GUEST; with the guest linux, a kernel of your own.",
)
@engine_option("auto")
@knob_options(Settings, _KINDS, _DEFAULTS)
@_option(
    GuestKind.FILE,
    "--no-pvlock",
    is_flag=True,
    help="Run it on a machine without PV-lock.",
)
@_option(
    GuestKind.FILE,
    "--append",
    default="",
    help="The boot arguments (a kernel's command line).",
)
@_option(
    GuestKind.FILE,
    "--memory",
    "memory_mib",
    type=click.IntRange(4, RAM_LIMIT >> 20),
    metavar="MIB",
    help="Size of its RAM.  [default: 64; 512 for a Linux Image]",
)
@_option(
    GuestKind.FILE,
    "--load-address",
    type=Address(),
    metavar="IPA",
    help="It is a raw binary, which begins at this address (QEMU's virt board: 0x40080000).",
)
@_option(GuestKind.LINUX, "--initrd", metavar="FILE", help="Its initial RAM disk.")
@_option(GuestKind.LINUX, "--no-reboot", is_flag=True, help="Its reboot ends the run.")
@_option(
    GuestKind.FILE,
    "--input",
    "input_from",
    metavar="FILE",
    help="Type what the script FILE says, when the console says what it waits for.",
)
@_option(
    GuestKind.WORKLOAD,
    "--repeat",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="With kvm: compare so often, since a real host's runs scatter.  [default: 5; 1 where the"
    " CPUs are emulated]",
)
@_option(
    GuestKind.LOADS,
    "--load",
    metavar="LIST",
    help="Which loads, with commas; all is all of them.",
)
@click.option("--json", "json_to", metavar="FILE|-", help="Write the results as JSON.")
@click.option(
    "--trace",
    "trace_to",
    metavar="FILE",
    help="Write a trace for Perfetto and `pvlock explain`. A workload: two, FILE's name with"
    " .without and .with in it, of the first comparison; its guest records its locks. A Linux Image"
    " on the emulator: with the tasks and locks of its own kernel.",
)
@html_option("Trace, and write a page for a browser: results, findings, a timeline to zoom into.")
@profile_options
def run(
    guest: str,
    kernel: str | None,
    engine: str,
    json_to: str | None,
    trace_to: str | None,
    html_to: Path | None,
    **options: Any,
) -> None:
    """Run GUEST and show what PV-lock buys.

    A bundled workload (mutex, rwsem, qspinlock, ticket, idle) runs without PV-lock, with it, and
    not overcommitted. So does linux: a Linux guest with loads such as UnixBench's. A file (ELF or
    Linux Image) runs once, its console on the standard output; what is typed goes to a Linux
    guest, and Ctrl-A x ends it.
    """
    context = click.get_current_context()
    of_linux = _is_linux(context, guest, kernel)
    guest = guest if of_linux else _guest(context, guest, kernel)
    is_file = not of_linux and _is_file(guest, kernel)
    asked = engine
    if not (is_file and engine == "kvm"):  # a machine says itself why it cannot be made, and sooner
        engine = engines.choose(engine)
    given = {name: options[name] for name in knobs(Settings) if options[name] is not None}
    if engine == "kvm":
        _refuse_simulated(given)
        given.setdefault("pcpus", min(Host.pcpus, len(os.sched_getaffinity(0))))
    told = f"engine {engine}{_why_auto(engine) if asked == 'auto' else ''}"

    if of_linux:
        refuse_options_of_others(context, guest_loads.GUEST, GuestKind.LOADS)
        if trace_to:
            raise click.UsageError("--trace is for a workload or a file; linux runs loads")
        say = sys.stderr if json_to == "-" else sys.stdout
        chosen = guest_loads.settings(options["load"], engine, given)
        _announce(told, chosen, say)
        guest_loads.run(chosen, kernel, json_to, say)
        return
    if not is_file:
        refuse_options_of_others(context, guest, GuestKind.WORKLOAD)
        settings = Settings(guest, engine=engine, **given)
        say = sys.stderr if json_to == "-" else sys.stdout
        _announce(told, settings, say)
        _refuse_repeat(engine, options["repeat"])
        _run_workload(settings, engine, options["repeat"], json_to, trace_to, html_to, say)
        return
    with image.opened(guest, options["load_address"]) as opened:
        kind = GuestKind.LINUX if opened.kind is image.Kind.LINUX else GuestKind.ELF
        refuse_options_of_others(context, guest, kind)
        limit_ns = given.pop("duration_ns", None if kind is GuestKind.LINUX else LIMIT_NS)
        host = Host(**{"policy": DEFAULT_POLICY[kind]} | given)
        _announce(told, host, sys.stderr)
        of_files = {f.name: options[f.name] for f in fields(FileOptions) if f.name in options}
        file_options = FileOptions(engine, limit_ns, **of_files)
        profile = profile_asked_for(options)
        if file_options.system_map and not (profile or trace_to or html_to):
            raise click.UsageError("--system-map is for --profile, --trace or --html")
        run_file(opened, host, file_options, json_to, trace_to, html_to, profile)


def _is_linux(context: click.Context, guest: str, kernel: str | None) -> bool:
    """Tell whether loads of Linux are asked for: by their name, or by --load where no GUEST is."""
    if context.get_parameter_source("guest") is ParameterSource.DEFAULT:
        return context.params["load"] is not None
    asked = kernel is not None or context.params["load"] is not None
    return guest == guest_loads.GUEST and (asked or not Path(guest).is_file())


def _is_file(guest: str, kernel: str | None) -> bool:
    return kernel is not None or os.sep in guest or Path(guest).is_file()


def _announce(engine: str, host: Host, stream: Any) -> None:
    paragraph(f"pvlock {__version__}: {engine}, policy {host.policy}", stream)


def _why_auto(chosen: str) -> str:
    why = f"{engines.VARIABLE} names it" if engines.named() else _WHY_AUTO[chosen]
    return f" (auto: {why})"


def _guest(context: click.Context, guest: str, kernel: str | None) -> str:
    if kernel is None:
        return guest
    if context.get_parameter_source("guest") is not ParameterSource.DEFAULT:
        raise click.UsageError("--kernel FILE and GUEST are two names for one thing; give one")
    return kernel


def _refuse_simulated(given: Mapping[str, Any]) -> None:
    """Refuse what only a simulated host has, where it was asked for."""
    for name in given:
        if name in simulated_only(Settings):
            raise click.UsageError(
                f"--{knobs(Settings)[name].option}: the kvm engine runs on a real host, which has "
                "its own; --engine emulator takes it"
            )


def _refuse_repeat(engine: str, count: int | None) -> None:
    if count is not None and engine != "kvm":
        raise click.UsageError(
            "--repeat: the emulator's runs repeat to the byte; another --seed gives another run"
        )


def _run_workload(
    settings: Settings, engine: str, repeat: int | None, json_to: str | None, trace_to: str | None,
    html_to: Path | None, say: Any,
) -> None:  # fmt: skip
    from pvlock import repeats, report, workload

    workload.image_of(settings.guest)
    files = TraceFiles(trace_to, workload.RUNS[:2]) if trace_to else None
    page = PageFile(html_to) if html_to else None
    write = json_writer(json_to)
    outputs = [one for to in (files, page) if to for one in to.outputs]
    refuse_collisions([*outputs, *json_output(json_to)])
    found: report.Measured
    with _progress(say) as progress:
        if engine == "kvm":
            emulated = engines.cpus_are_emulated()
            count = repeat or (1 if emulated else REPEATS)

            def compare(number: int) -> workload.Comparison:
                def told(name: str, share: float) -> None:
                    progress(name if count == 1 else f"{name}, {number + 1} of {count}", share)

                return workload.compare(settings, told, bool(files or page) and number == 0)

            found = repeats.repeat(count, emulated, compare)
        else:
            found = report.One(workload.compare(settings, progress, trace=bool(files or page)))
    shown = console(say)
    table, sentence = found.table(), found.sentence()
    if found.first.runs:
        show(shown, table)
    shown.print("\n" + sentence)
    runs = found.first.runs.items()
    traced = [(name, run.events) for name, run in runs if run.events is not None]

    def write_page() -> None:
        if page and traced:
            page.write([events for _, events in traced], say, table=table, summary=sentence)

    write_each(
        lambda: write(report.to_json(found.as_dict(engine))),
        *(partial(files.write, name, events, say) for name, events in traced if files),
        write_page,
    )
    if files and traced:
        files.say_what_is_next(say)
    if found.interrupted:
        sys.exit(Status.INTERRUPTED)


@contextlib.contextmanager
def _progress(stream: Any) -> Iterator[Callable[[str, float], None]]:
    """Show how far each run is: a live display on a terminal, else one line per finished run."""
    if not stream.isatty():
        done: set[str] = set()

        def plain(name: str, share: float) -> None:
            if share >= 1 and name not in done:
                done.add(name)
                # One write: two runs may end at the same time, each in a thread of its own.
                print(f"  {name}: done\n", end="", file=stream, flush=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>10}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as live:
        bars: dict[str, TaskID] = {}

        def update(name: str, share: float) -> None:
            if name not in bars:
                bars[name] = live.add_task(name, total=1.0)
            live.update(bars[name], completed=share)

        yield update
