# SPDX-License-Identifier: GPL-2.0-or-later
"""An example for each command, and all of the command line as manual pages.

The pages are made of what `--help` is made of. They are in man/, and a test keeps them current.
"""

import re
from collections.abc import Iterator

import click

from pvlock.cli.shared import Status

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "check": (
        ("pvlock check --engine emulator", "Judge pvlock's own emulator."),
        ("pvlock check --parse console.log --present", "Judge another hypervisor by its log."),
    ),
    "completion": (("pvlock completion", "Let Tab complete pvlock's words in your shell."),),
    "doctor": (
        ("pvlock doctor", "See what can run here."),
        ("pvlock doctor --report host.zip", "Pack all about this host into one file to send."),
    ),
    "explain": (
        ("pvlock run --wfe notrap --trace mutex.pftrace", "Make two traces."),
        ("pvlock explain mutex.without.pftrace mutex.with.pftrace", "Compare them."),
    ),
    "export": (("pvlock export --listen 0.0.0.0:9752", "Serve to Prometheus elsewhere."),),
    "fuzz": (("pvlock fuzz --operations 100000 --seed 7", "Run hostile guests for a minute."),),
    "kernel": (("pvlock kernel fetch --out .", "Get Debian's kernel and a small initrd."),),
    "kernel build": (("pvlock kernel build guest --out Image", "Build a kernel with PV-lock."),),
    "kernel fetch": (
        ("pvlock kernel fetch --out .", "Put vmlinuz and initrd into this folder."),
        (
            "pvlock run --kernel vmlinuz --initrd initrd --append console=ttyAMA0",
            "Boot them.",
        ),
    ),
    "kernel patches": (("pvlock kernel patches --for guest", "Print the patches for a guest."),),
    "lab": (("pvlock lab -- run mutex --engine kvm --vcpus 4 --pcpus 2", "Run a guest on KVM."),),
    "record": (("pvlock record --seconds 5 -o host.pftrace", "Record this host for 5 seconds."),),
    "run": (
        ("pvlock run", "Compare a mutex with and without PV-lock."),
        ("pvlock run rwsem --vcpus 16 --pcpus 4 --duration 50ms", "Another lock, more VCPUs."),
        ("pvlock run guest.elf --vcpus 2 --json result.json", "Run a guest file."),
    ),
    "sweep": (
        (
            "pvlock sweep --guest mutex,ticket --vcpus 4,8 --pcpus 4 --out cells.csv",
            "Run four cells.",
        ),
    ),
    "top": (
        ("pvlock top", "Watch the VMs of this host."),
        ("pvlock top --once --json", "One second of it, for a program."),
    ),
}
_STATUS = {
    Status.DONE: "Done, or the answer is yes.",
    Status.FAILED: "A run failed, a file is not what it should be, or the answer is no.",
    Status.USAGE: "The command line makes no sense.",
    Status.NOT_OFFERED: "check: the hypervisor does not offer PV-lock.",
    Status.INTERRUPTED: "Ctrl-C.",
}
_DEFAULT = re.compile(r"  +\[default: ")


def epilog(name: str) -> str | None:
    """Return the examples of a command as its help shows them, None if there are none."""
    examples = EXAMPLES.get(name)
    if not examples:
        return None
    lines = [f"\b\n{what}\n  {command}" for command, what in examples]
    return "\n\n".join([f"{'Example' if len(examples) == 1 else 'Examples'}:", *lines])


def pages(group: click.Group) -> dict[str, str]:
    """Return the manual pages of `group` and all its commands, by the names of their files."""
    found = {}
    for words, command in _commands(group, ("pvlock",)):
        found["-".join(words) + ".1"] = _page(words, command)
    return found


def _commands(
    command: click.Command, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=words[-1])
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner, (*words, name))


def _page(words: tuple[str, ...], command: click.Command) -> str:
    name = " ".join(words[1:])
    context = click.Context(command, info_name=words[-1])
    text = (command.help or "").replace("\b\n", "")
    first, _, rest = text.partition("\n\n")
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    end = ["COMMAND"] if isinstance(command, click.Group) else arguments
    usage = " ".join([*words, "[OPTIONS]", *end])
    lines = [
        '.\\" SPDX-License-Identifier: GPL-2.0-or-later',
        f'.TH "{"-".join(words).upper()}" 1 "" "pvlock" "User Commands"',
        ".SH NAME",
        f"{_roff('-'.join(words))} \\- {_roff(' '.join(first.split()).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(usage)}",
        ".SH DESCRIPTION",
        _roff(" ".join(first.split())),
    ]
    for paragraph in rest.split("\n\n") if rest else ():
        lines += [".PP", _roff(" ".join(paragraph.split()))]
    lines += _options(command)
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for word in command.list_commands(context):
            inner = command.get_command(context, word)
            short = inner.get_short_help_str(200) if inner else ""
            lines += [".TP", f".BR {_roff('-'.join((*words, word)))} (1)", _roff(short)]
    if examples := EXAMPLES.get(name):
        lines.append(".SH EXAMPLES")
        for typed, what in examples:
            lines += [".PP", _roff(what), ".PP", ".nf", f"    {_roff(typed)}", ".fi"]
    lines.append(".SH EXIT STATUS")
    for status, meaning in _STATUS.items():
        if status is not Status.NOT_OFFERED or name in ("", "check"):
            lines += [".TP", f".B {status.value}", _roff(meaning)]
    lines += [".SH SEE ALSO", ".BR pvlock (1)" if name else "The documents of pvlock.", ""]
    return "\n".join(lines)


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required or name.startswith("--") else f"[{name}]"


def _options(command: click.Command) -> list[str]:
    lines = [".SH OPTIONS"]
    for option in command.params:
        if isinstance(option, click.Option):
            names = ", ".join((*option.opts, *option.secondary_opts))
            value = "" if option.is_flag else f" {metavar(option)}"
            lines += [".TP", f".B {_roff(names + value)}", _roff(_meaning(option))]
    return [*lines, ".TP", f".B {_roff('-h, --help')}", "Show the help and exit."]


def metavar(option: click.Option) -> str:
    """Return what the value of an option is called. Not by click, whose words change."""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return f"[{'|'.join(map(str, option.type.choices))}]"
    return option.type.name.replace(" range", "").upper()


def _meaning(option: click.Option) -> str:
    """Return an option's help, with its default and its limits."""
    notes = []
    if isinstance(option.show_default, str):
        notes.append(f"default: {option.show_default}")
    elif option.show_default and not option.is_flag and option.default is not None:
        notes.append(f"default: {option.default}")
    if isinstance(option.type, (click.IntRange, click.FloatRange)):
        low, high = option.type.min, option.type.max
        if low is not None:
            notes.append(f"{low:,} to {high:,}" if high is not None else f"from {low:,}")
    text = _DEFAULT.sub(" [default: ", (option.help or "").replace("`", ""))
    return f"{text} [{'; '.join(notes)}]" if notes else text


def _roff(text: str) -> str:
    """Return text of which nothing is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
