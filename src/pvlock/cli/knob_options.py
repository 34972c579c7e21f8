# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the command line that are made from the fields of a description (pvlock.host)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import click

from pvlock.cli.guest_kind import GuestKind, GuestOption
from pvlock.host import Host, Knob, knobs

Command = Callable[..., Any]


class KnobType(click.ParamType[Any]):
    """The text of an option, as the value that the option's knob makes of it."""

    def __init__(self, knob: Knob) -> None:
        self._knob = knob
        self.name = "time" if knob.is_time else "text" if knob.words else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of the field; fails, in one line, for any other text."""
        text = str(value)
        number = self.name == "number" and re.fullmatch(r"-?\d{1,20}", text, re.ASCII)
        try:
            return self._knob.parse(int(text) if number else text)
        except ValueError as error:
            self.fail(f"{text!r} is {error}", param, ctx)


def knob_options(
    description: type[Host],
    kinds: Mapping[str, GuestKind] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Callable[[Command], Command]:
    """Return what adds an option to a command for each knob of `description`.

    An option that is not given is None, since the description knows the default. By the names of
    fields, `kinds` says for which guests an option is (others: for any), and `defaults` is what the
    help says about the default where that is not a single value.
    """
    kinds, defaults = kinds or {}, defaults or {}

    def add(command: Command) -> Command:
        for name, knob in reversed([*knobs(description).items()]):
            default = defaults.get(name, knob.text(getattr(description, name)))
            limits = f"; {knob.limits()}" if knob.limits() else ""
            command = click.option(
                f"--{knob.option}",
                name,
                cls=GuestOption,
                kinds=kinds.get(name, GuestKind.ANY),
                type=KnobType(knob),
                metavar=f"[{'|'.join(knob.words)}]" if knob.words else None,
                help=f"{knob.help}  [default: {default}{limits}]",
            )(command)
        return command

    return add
