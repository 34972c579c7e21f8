# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of guest that `pvlock run` takes, and which of its options are for which kind."""

import enum
from typing import Any

import click
from click.core import ParameterSource

from pvlock.abi import Policy


class GuestKind(enum.Flag):
    """What a guest is. An option says with these for which guests it is."""

    WORKLOAD = enum.auto()
    ELF = enum.auto()
    LINUX = enum.auto()
    LOADS = enum.auto()
    FILE = ELF | LINUX
    ANY = WORKLOAD | FILE | LOADS


_NAMES = {
    GuestKind.WORKLOAD: "a bundled workload",
    GuestKind.ELF: "an ELF file",
    GuestKind.LINUX: "a Linux Image",
    GuestKind.FILE: "a guest file",
    GuestKind.LOADS: "the guest linux, which runs loads",
}
DEFAULT_POLICY = {
    GuestKind.WORKLOAD: Policy.SCHEDULED_OUT,
    GuestKind.ELF: Policy.SCHEDULED_OUT,
    # Linux must not take a sleeping VCPU for a preempted one (SPECIFICATION.md, 6.5 and E3).
    GuestKind.LINUX: Policy.PREEMPTED,
    GuestKind.LOADS: Policy.PREEMPTED,
}


class GuestOption(click.Option):
    """An option that only some `kinds` of guest have, as its help text says."""

    def __init__(self, *arguments: Any, kinds: GuestKind, **attributes: Any) -> None:
        text = attributes["help"]
        if kinds in _NAMES:
            attributes["help"] = f"For {_NAMES[kinds]}: {text[0].lower()}{text[1:]}"
        super().__init__(*arguments, **attributes)
        self.kinds = kinds


def refuse_options_of_others(context: click.Context, guest: str, kind: GuestKind) -> None:
    """Raise UsageError if an option was given that is not for `guest`, which is of `kind`."""
    for option in context.command.params:
        if not isinstance(option, GuestOption) or kind in option.kinds:
            continue
        if context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"{option.opts[0]} is for {_NAMES[option.kinds]}; {guest} is {_NAMES[kind]}"
            )
