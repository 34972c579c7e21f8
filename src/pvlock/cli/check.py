# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock check`: the part of the command line that judges hypervisors."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pvlock import engines
from pvlock.abi import Policy
from pvlock.cli.shared import engine_option, say
from pvlock.errors import ConfigError, LogError
from pvlock.files import replacing
from pvlock.memory_map import MAX_VCPUS

if TYPE_CHECKING:
    from pvlock.conformance.outcome import Outcome
    from pvlock.conformance.tap import Log

# As pvlock.conformance has them, which is imported when it is needed.
PROFILES = ("document", "series", "pvlock")
FORMATS = ("tap", "json", "junit")
_FILE = click.Path(path_type=Path)
_VCPUS = click.IntRange(1, MAX_VCPUS)
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
@click.option("--vcpus", type=_VCPUS, default=4, show_default=True)
@click.option("--pcpus", type=_VCPUS, default=2, show_default=True)
@click.option("--format", "form", type=click.Choice(FORMATS), default="tap", show_default=True)
@click.option("--image", type=_FILE, help="Write the guest as a Linux Image, and do nothing else.")
@click.option("--elf", type=_FILE, help="Write the guest as an ELF file, and do nothing else.")
@click.option(
    "--parse",
    "log",
    metavar="FILE|-",
    help="Judge a console log of the guest, from wherever it ran.",
)
@click.option("--present", is_flag=True, help="With --parse: PV-lock must have been offered.")
@click.option("--list", "listing", is_flag=True, help="List the cases, and do nothing else.")
@click.pass_context
def check(
    ctx: click.Context, engine: str, cases: tuple[str, ...], profile: str | None,
    policy: str | None, vcpus: int, pcpus: int, form: str, image: Path | None, elf: Path | None,
    log: str | None, present: bool, listing: bool,
) -> None:  # fmt: skip
    """Judge a hypervisor by SPECIFICATION.md: an engine of pvlock, or, by its log, any other.

    Exit status: 0 everything that the profile asks for is there; 1 it is not, or nothing was
    judged; 2 the command line makes no sense.
    """
    given = [n for n in _ONLY_ENGINES if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if listing or image or elf:
        _only_write(listing, image, elf, cases)
        return
    if log is not None and given:
        raise click.UsageError(f"--{given[0]} is for an engine, and --parse for a log")
    if present and log is None:
        raise click.UsageError("--present is for --parse: an engine of pvlock always offers it")
    if log is not None:
        profile = profile or "document"
        subject, outcomes, offered = _read_log(log, cases, profile, present)
    else:
        profile = profile or "pvlock"
        subject, outcomes = _run(engine, policy, cases or ("*",), vcpus, pcpus)
        offered = True
    _report(subject, outcomes, profile, form, offered)


def _only_write(listing: bool, image: Path | None, elf: Path | None, cases: Sequence[str]) -> None:
    from pvlock.conformance import userspace
    from pvlock.conformance.cases import binary, guest_cases, select

    for path, kind in ((image, "Image"), (elf, "elf")):
        if path is not None:
            with replacing(path) as file:
                file.write_bytes(binary(kind))
            say(f"wrote {path}")
    if listing:
        known = (*guest_cases(), *userspace.cases())
        for case in select(known, cases or ("*",)):
            print(f"{case.clause + '/' + case.tag:<14} {case.name:<22} {case.what}")


def _run(
    engine: str, policy: str | None, cases: Sequence[str], vcpus: int, pcpus: int
) -> tuple[str, "list[Outcome]"]:
    from functools import partial

    from pvlock.conformance import run
    from pvlock.machine import Machine

    chosen = engines.choose(engine)
    emulated = chosen == "emulator"
    policies = [Policy(policy)] if policy else list(Policy)
    outcomes: list[Outcome] = []
    for number, each in enumerate(policies):
        outcomes += run(
            partial(Machine, engine=chosen), each, cases, vcpus=vcpus, pcpus=pcpus,
            scripted=emulated, without=() if emulated else _UP_TO_THE_HOST, user_space=number == 0,
        )  # fmt: skip
    return f"engine {chosen}, {vcpus} VCPUs on {pcpus} CPUs, {', '.join(policies)}", outcomes


def _read_log(
    name: str, cases: Sequence[str], profile: str, present: bool
) -> tuple[str, "list[Outcome]", bool]:
    from pvlock.conformance.cases import guest_cases, select
    from pvlock.conformance.outcome import in_profile
    from pvlock.conformance.tap import parse

    log = parse(_text(name))
    wanted = [case.name for case in select(guest_cases(), cases or ("*",))]
    heard = {outcome.case.name for outcome in log.outcomes}
    for case in guest_cases():
        if case.name in wanted and case.name not in heard and in_profile(case, profile):
            raise LogError(f"{name}: case {case.name} was not run; name what was by --case")
    if present and log.interface != "present":
        raise LogError(f"{name}: PV-lock was not offered: interface {log.facts['interface']}")
    outcomes = [outcome for outcome in log.outcomes if outcome.case.name in wanted]
    return _describe(log), outcomes, log.interface == "present"


def _describe(log: "Log") -> str:
    return "; ".join(f"{name}: {value}" for name, value in log.facts.items())


def _text(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"--parse {name}: {error.strerror}") from error
    return data.decode("utf-8", "replace")


def _report(
    subject: str, outcomes: "list[Outcome]", profile: str, form: str, offered: bool
) -> None:
    from pvlock.conformance.outcome import judge
    from pvlock.conformance.render import Report, render

    judgement = judge(outcomes, profile)
    print(render(Report(subject, outcomes, judgement), form), end="", flush=True)
    say(judgement.sentence)
    if not offered:
        say("PV-lock was not offered, which is a correct answer too")
    if not judgement.conforms:
        sys.exit(1)
