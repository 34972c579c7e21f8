# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run`: a bundled workload, three times over, or a guest file."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pvlock import __version__, engines
from pvlock.abi import Policy
from pvlock.cli.guest_file import LIMIT_NS, run_file
from pvlock.cli.shared import INTERRUPTED, engine_option, json_writer
from pvlock.cli.trace_files import TraceFiles
from pvlock.duration import HOUR_NS, nanoseconds
from pvlock.memory_map import MAX_VCPUS, RAM_LIMIT

if TYPE_CHECKING:
    from pvlock.workload import Settings

_MOST_NS = 1_000_000
"""What machine.Machine takes as a quantum or a cost."""
_VCPUS = click.IntRange(1, MAX_VCPUS)
_PCPUS = 4
_EMULATED_HOST = ("--slice", "--quantum", "--wfe", "--exit-cost", "--switch-cost")
_WHY_AUTO = {
    "kvm": "this host has all that it needs",
    "emulator": "kvm cannot run here, see pvlock doctor",
}


class Duration(click.ParamType[int]):
    """A time such as 100ms, 2us or 1.5s, as a whole number of ns between `low` and `high`."""

    name = "time"

    def __init__(self, low: int = 0, high: int = HOUR_NS) -> None:
        self._low, self._high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the time in ns."""
        try:
            return nanoseconds(str(value), self._low, self._high)
        except ValueError as error:
            self.fail(f"{value!r} is {error}", param, ctx)


@click.command()
@click.argument("guest", default="mutex")
@click.option("--kernel", metavar="FILE", help="The same as GUEST.")
@click.option(
    "--vcpus", type=_VCPUS, default=8, show_default=True, help="VCPUs of the guest, 1 to 512."
)
@click.option(
    "--pcpus",
    type=_VCPUS,
    help="CPUs that they share.  [default: 4; with kvm at most those that pvlock may use]",
)
@click.option(
    "--duration",
    "duration_ns",
    type=Duration(1_000),
    help="Guest time: how long a workload runs, or how long a file may."
    "  [default: 100ms; for a Linux Image any time]",
)
@click.option(
    "--slice",
    "slice_ns",
    type=Duration(1_000),
    default="3ms",
    show_default=True,
    help="Time slice of the host's scheduler.",
)
@click.option(
    "--quantum",
    "quantum_ns",
    type=Duration(10, _MOST_NS),
    default="1us",
    show_default=True,
    help="How finely the emulated CPUs are interleaved.",
)
@click.option(
    "--policy",
    type=click.Choice([p.value for p in Policy]),
    help="When a VCPU counts as preempted: off its CPU, or only if it could have gone on."
    "  [default: scheduled-out; preempted for a Linux Image]",
)
@engine_option("auto")
@click.option(
    "--cs",
    "cs_ns",
    type=Duration(),
    default="2us",
    show_default=True,
    help="Workload: time in the critical section.",
)
@click.option(
    "--think",
    "think_ns",
    type=Duration(),
    default="8us",
    show_default=True,
    help="Workload: mean time between two.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@click.option(
    "--wfe",
    type=click.Choice(["trap", "notrap"]),
    default="trap",
    show_default=True,
    help="Does a WFE give its CPU to a preempted VCPU while VCPUs wait for one, as KVM does?",
)
@click.option(
    "--exit-cost",
    "exit_ns",
    type=Duration(100, _MOST_NS),
    default="1us",
    show_default=True,
    help="What leaving the guest costs it.",
)
@click.option(
    "--switch-cost",
    "switch_ns",
    type=Duration(0, _MOST_NS),
    default="3us",
    show_default=True,
    help="What putting another VCPU on a CPU costs.",
)
@click.option("--no-pvlock", is_flag=True, help="A file: run it on a machine without PV-lock.")
@click.option("--append", default="", help="A file: the kernel command line (boot arguments).")
@click.option("--initrd", metavar="FILE", help="A Linux Image: its initial RAM disk.")
@click.option(
    "--memory",
    "memory_mib",
    type=click.IntRange(4, RAM_LIMIT >> 20),
    metavar="MIB",
    help="A file: RAM.  [default: 64; 512 for a Linux Image]",
)
@click.option("--no-reboot", is_flag=True, help="A Linux Image: its reboot ends the run.")
@click.option("--json", "json_to", metavar="FILE|-", help="Write the results as JSON.")
@click.option(
    "--trace",
    "trace_to",
    metavar="FILE",
    help="Write a trace for Perfetto and `pvlock explain`. A workload: two, FILE's name with"
    " .without and .with in it; its guest records its locks.",
)
def run(
    guest: str, kernel: str | None, json_to: str | None, trace_to: str | None, no_pvlock: bool,
    append: str, initrd: str | None, memory_mib: int | None, no_reboot: bool, wfe: str,
    duration_ns: int | None, policy: str | None, **options: Any,
) -> None:  # fmt: skip
    """Run GUEST and show what PV-lock buys.

    A bundled workload (mutex, rwsem, qspinlock, ticket, idle) runs without PV-lock, with it, and
    not overcommitted. A file (ELF or Linux Image) runs once, its console on the standard output;
    what is typed goes to a Linux guest, and Ctrl-A x ends it.
    """
    guest = _guest(guest, kernel)
    say = sys.stderr if json_to == "-" else sys.stdout
    is_file = kernel is not None or os.sep in guest or Path(guest).is_file()
    chosen = options["engine"]
    if not (is_file and chosen == "kvm"):  # a machine says itself why it cannot be made, and sooner
        chosen = engines.choose(chosen)
    note = f" (auto: {_why_auto(chosen)})" if options["engine"] == "auto" else ""
    options["engine"] = chosen
    if chosen == "kvm":
        _refuse_emulated_host(click.get_current_context())
    options["pcpus"] = options["pcpus"] or _default_pcpus(chosen)
    options |= {"guest": guest, "trap_wfe": wfe == "trap", "duration_ns": duration_ns or LIMIT_NS}

    def begin(default: Policy) -> "Settings":
        """Say what is about to run, and return its settings."""
        from pvlock.workload import Settings

        settings = Settings(policy=Policy(policy or default), **options)
        words = f"pvlock {__version__}: engine {chosen}{note}, policy {settings.policy}"
        print(words, file=sys.stderr if is_file else say, flush=True)
        return settings

    if is_file:
        run_file(
            guest, begin, limit_ns=duration_ns, pvlock=not no_pvlock, append=append, initrd=initrd,
            memory_mib=memory_mib, reboot=not no_reboot, json_to=json_to, trace_to=trace_to,
        )  # fmt: skip
        return
    for_files = ("--no-pvlock", "--append", "--initrd", "--memory", "--no-reboot")
    if no_pvlock or append or initrd or memory_mib or no_reboot:
        raise click.UsageError(f"{', '.join(for_files)} are for a guest file, not a workload")
    _run_workload(begin(Policy.SCHEDULED_OUT), chosen, json_to, trace_to, say)


def _why_auto(chosen: str) -> str:
    return f"{engines.VARIABLE} names it" if engines.named() else _WHY_AUTO[chosen]


def _guest(guest: str, kernel: str | None) -> str:
    if kernel is None:
        return guest
    if click.get_current_context().get_parameter_source("guest") is not ParameterSource.DEFAULT:
        raise click.UsageError("--kernel FILE and GUEST are two names for one thing; give one")
    return kernel


def _refuse_emulated_host(context: click.Context) -> None:
    """Refuse what describes a host that is emulated, where it was asked for."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        option = parameter.opts[0]
        if option in _EMULATED_HOST and given is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"{option}: the kvm engine runs on a real host, which has its own; "
                "--engine emulator takes it"
            )


def _default_pcpus(engine: str) -> int:
    return min(_PCPUS, len(os.sched_getaffinity(0))) if engine == "kvm" else _PCPUS


def _run_workload(
    settings: "Settings", engine: str, json_to: str | None, trace_to: str | None, say: Any
) -> None:
    from rich.console import Console

    from pvlock import report, workload

    workload.image_of(settings.guest)
    files = TraceFiles(trace_to, workload.RUNS[:2]) if trace_to else None
    write = json_writer(json_to)
    with _progress(say) as progress:
        comparison = workload.compare(settings, progress, trace=files is not None)
    write(report.to_json(report.as_dict(comparison, engine)))
    console = Console(file=say, width=None if say.isatty() else 100, highlight=False)
    if comparison.runs:
        console.print(report.table(comparison))
    console.print("\n" + report.sentence(comparison))
    for name, result in comparison.runs.items():
        if files and result.events is not None:
            files.write(name, result.events, say)
    if comparison.interrupted:
        sys.exit(INTERRUPTED)


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
