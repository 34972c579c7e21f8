# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock check`: the part of the command line that judges hypervisors."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pvlock import engines
from pvlock.abi import Policy
from pvlock.cli.outputs import refuse_collisions
from pvlock.cli.screen import paragraph
from pvlock.cli.shared import Status, engine_option, say
from pvlock.errors import LogError, PvlockError
from pvlock.files import replacing
from pvlock.memory_map import MAX_VCPUS

if TYPE_CHECKING:
    from pvlock.conformance.outcome import Outcome

# As pvlock.conformance has them, which is imported when it is needed.
PROFILES = ("document", "series", "pvlock")
FORMATS = ("tap", "json", "junit")
_FILE = click.Path(path_type=Path)
_VCPUS = click.IntRange(1, MAX_VCPUS)
_LIST_INDENT = 38
_UP_TO_THE_HOST = ("BLOCKS", "OVERCOMMIT", "PARALLEL")
"""What no engine can promise on a real host, which schedules as it likes."""
_ONLY_ENGINES = ("engine", "policy", "vcpus", "pcpus")


@click.command()
@engine_option("auto")
@click.option(
    "--case",
    "cases",
    multiple=True,
    metavar="GLOB",
    help="Only cases with this name or clause, such as 3.7 or 'store-*'.  May repeat.",
)
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    help="Whose clauses count: the document's, the series' too, or all."
    "  [default: pvlock; document for --parse]",
)
@click.option(
    "--policy", type=click.Choice([p.value for p in Policy]), help="Only this one.  [default: both]"
)
@click.option(
    "--vcpus", type=_VCPUS, default=4, show_default=True, metavar="N", help="VCPUs of the guest."
)
@click.option(
    "--pcpus", type=_VCPUS, default=2, show_default=True, metavar="N", help="CPUs that they share."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="tap",
    show_default=True,
    help="The form of the report: for people, for programs, for CI.",
)
@click.option(
    "--image",
    type=_FILE,
    metavar="FILE",
    help="Write the guest as a Linux Image, and do nothing else.",
)
@click.option(
    "--elf", type=_FILE, metavar="FILE", help="Write the guest as an ELF file, and do nothing else."
)
@click.option(
    "--parse",
    "log",
    metavar="FILE|-",
    help="Judge a console log of the guest, from wherever it ran.",
)
@click.option("--present", is_flag=True, help="With --parse: it fails if PV-lock is not offered.")
@click.option(
    "--absent-ok", is_flag=True, help="With --parse: a hypervisor need not offer PV-lock."
)
@click.option("--list", "listing", is_flag=True, help="List the cases, and do nothing else.")
@click.pass_context
def check(
    ctx: click.Context, engine: str, cases: tuple[str, ...], profile: str | None,
    policy: str | None, vcpus: int, pcpus: int, form: str, image: Path | None, elf: Path | None,
    log: str | None, present: bool, absent_ok: bool, listing: bool,
) -> None:  # fmt: skip
    """Judge a hypervisor by SPECIFICATION.md: an engine of pvlock, or, by its log, any other.

    Exit status: 0 everything that the profile asks for is there; 1 it is not, or nothing was
    judged; 2 the command line makes no sense; 3 the hypervisor does not offer PV-lock.
    """
    given = [n for n in _ONLY_ENGINES if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if listing or image or elf:
        _only_write(listing, image, elf, cases)
        return
    if log is not None and given:
        raise click.UsageError(f"--{given[0]} is for an engine, and --parse for a log")
    for option, on in (("--present", present), ("--absent-ok", absent_ok)):
        if on and log is None:
            raise click.UsageError(f"{option} is for --parse: an engine of pvlock always offers it")
    if present and absent_ok:
        raise click.UsageError("--present and --absent-ok contradict each other")
    profile = profile or ("document" if log is not None else "pvlock")
    found = _Found("console log" if log is not None else f"engine {engine}")
    try:
        if log is not None:
            _read_log(found, log, cases, profile, present)
        else:
            _run(found, engine, policy, cases or ("*",), vcpus, pcpus)
    except (PvlockError, KeyboardInterrupt) as error:
        # A report all the same: what reads it later must not take "no tests" for "no failures".
        found.outcomes.append(_failed(str(error) or "interrupted"))
        _report(found, profile, form, absent_ok)
        raise
    sys.exit(_report(found, profile, form, absent_ok))


@dataclass
class _Found:
    """What there is to report: of what, which outcomes, and what to tell the user about them."""

    subject: str
    outcomes: "list[Outcome]" = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    absent: str = ""
    """If PV-lock was not offered: what the guest found instead."""


def _failed(reason: str) -> "Outcome":
    from pvlock.conformance.outcome import JUDGED, Outcome, Verdict

    return Outcome(JUDGED, Verdict.FAILED, reason=reason)


def _only_write(listing: bool, image: Path | None, elf: Path | None, cases: Sequence[str]) -> None:
    from pvlock.conformance import audit, userspace
    from pvlock.conformance.cases import binary, guest_cases, select

    named = (("--image", image), ("--elf", elf))
    refuse_collisions([(option, path) for option, path in named if path is not None])
    for path, kind in ((image, "Image"), (elf, "elf")):
        if path is not None:
            with replacing(path) as file:
                file.write_bytes(binary(kind))
            say(f"wrote {path}")
    if listing:
        known = (*guest_cases(), *audit.CASES, *userspace.cases())
        for case in select(known, cases or ("*",)):
            text = f"{case.clause + '/' + case.tag:<14} {case.name:<22} {case.what}"
            paragraph(text, sys.stdout, _LIST_INDENT)


def _run(
    found: "_Found", engine: str, policy: str | None, cases: Sequence[str], vcpus: int, pcpus: int
) -> None:
    from functools import partial

    from pvlock.conformance import run
    from pvlock.machine import Machine

    chosen = engines.choose(engine)
    emulated = chosen == "emulator"
    policies = [Policy(policy)] if policy else list(Policy)
    found.subject = f"engine {chosen}, {vcpus} VCPUs on {pcpus} CPUs, {', '.join(policies)}"
    for number, each in enumerate(policies):
        found.outcomes += run(
            partial(Machine, engine=chosen), each, cases, vcpus=vcpus, pcpus=pcpus,
            scripted=emulated, without=() if emulated else _UP_TO_THE_HOST, user_space=number == 0,
        )  # fmt: skip


def _read_log(
    found: "_Found", name: str, cases: Sequence[str], profile: str, present: bool
) -> None:
    """Read a log into `found`. What it lacks is a failure, as is a log that is not whole."""
    from pvlock.conformance.cases import guest_cases, select
    from pvlock.conformance.outcome import OFFERED, Outcome, Verdict, in_profile
    from pvlock.conformance.tap import Log, read

    wanted = {case.name for case in select(guest_cases(), cases or ("*",))}
    log = Log()
    cut: list[Outcome] = []
    try:
        read(_text(name), log)
    except LogError as error:
        found.problems.append(f"{name}: {error}")
        cut = [_failed(found.problems[0])]
    found.outcomes = [o for o in log.outcomes if o.case.name in wanted] + cut
    if log.facts:
        found.subject = "; ".join(f"{fact}: {value}" for fact, value in log.facts.items())
    if cut:
        return
    heard = {outcome.case.name for outcome in log.outcomes}
    for case in guest_cases():
        if case.name in wanted and case.name not in heard and in_profile(case, profile):
            why = "was not run; name what was by --case"
            found.problems.append(f"{name}: case {case.name} {why}")
            found.outcomes.append(Outcome(case, Verdict.FAILED, reason=why))
    found.absent = "" if log.interface == "present" else log.facts["interface"]
    if present and found.absent:
        why = f"PV-lock was not offered: interface {found.absent}"
        found.problems.append(f"{name}: {why}")
        found.outcomes.append(Outcome(OFFERED, Verdict.FAILED, reason=why))


def _text(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise LogError(error.strerror or str(error)) from error
    return data.decode("utf-8", "replace")


def _report(found: "_Found", profile: str, form: str, absent_ok: bool) -> int:
    """Print the report and what it comes to; return the exit status."""
    from pvlock.conformance.outcome import Conclusion, judge
    from pvlock.conformance.render import Report, render

    judgement = judge(found.outcomes, profile, offered=not found.absent, absent_ok=absent_ok)
    print(render(Report(found.subject, found.outcomes, judgement), form), end="", flush=True)
    for problem in found.problems[:1]:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        say(f"{problem}{more}")
    say(judgement.sentence)
    if judgement.conclusion is Conclusion.ABSENT:
        say(f"interface {found.absent}; --absent-ok accepts that, --present calls it a failure")
    if judgement.succeeds:
        return 0
    return Status.NOT_OFFERED if judgement.conclusion is Conclusion.ABSENT else 1
