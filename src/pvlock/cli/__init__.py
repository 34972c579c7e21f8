# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: the only place that prints and exits. Each command has a module of its name.

shared.Status has the exit statuses.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

import click

from pvlock import __version__
from pvlock.cli.manual import epilog
from pvlock.cli.screen import let_anything_be_printed
from pvlock.cli.shared import Status
from pvlock.errors import ConfigError, EngineUnavailable, PvlockError

_COMMANDS = {
    "check": "Judge a hypervisor, ours or another's.",
    "completion": "Let a shell complete pvlock's words.",
    "doctor": "Say what this host can run, and what it lacks.",
    "explain": "Say who waited for whom in a trace.",
    "export": "Serve where VCPUs' time goes to Prometheus.",
    "fuzz": "Run hostile guests.",
    "kernel": "Get a Linux kernel to boot.",
    "lab": "Run a command on a virtual arm64 host.",
    "record": "Record the switches of this host's VCPUs as a trace.",
    "run": "Run a guest, and show what PV-lock buys.",
    "sweep": "Run a grid of workloads.",
    "top": "Show where the time of this host's VCPUs goes.",
}


class _Commands(click.Group):
    """A group that imports a command when it is asked for: what starts a guest starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(_COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command is for."""
        with formatter.section("Commands"):
            formatter.write_dl([*_COMMANDS.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None where there is none of this name."""
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"pvlock.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        _add_examples(cmd_name, command)
        return command


def _add_examples(name: str, command: click.Command) -> None:
    command.epilog = epilog(name)
    if isinstance(command, click.Group):
        for inner, each in command.commands.items():
            _add_examples(f"{name} {inner}", each)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pvlock")
def cli() -> None:
    """PV-lock for KVM/arm64: is that VCPU running, or has it been preempted?

    Begin with `pvlock run` and `pvlock doctor`. Times are written with a unit, as 100ms, 2us or
    1.5s.
    """


def main(interruptible: bool = True) -> None:
    """Run the command line; every failure is a line, or a few, and a non-zero exit status.

    `interruptible` says that Ctrl-C interrupts it; else it is ignored, or somebody else's.
    """
    _open_what_is_closed()
    let_anything_be_printed(sys.stdout, sys.stderr)
    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli(prog_name=_program(), standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("pvlock: interrupted", file=sys.stderr)
        sys.exit(Status.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        _forget_output()
        sys.exit(Status.FAILED)
    except OSError as error:
        _forget_output()
        what = f"{error.filename}: " if error.filename else ""
        print(f"pvlock: {what}{error.strerror or error}", file=sys.stderr)
        sys.exit(Status.FAILED)
    except PvlockError as error:
        kvm = isinstance(error, EngineUnavailable) and error.engine == "kvm"
        more = "; pvlock doctor tells more" if kvm else ""
        print(f"pvlock: {error}{more}", file=sys.stderr)
        sys.exit(Status.USAGE if isinstance(error, ConfigError) else Status.FAILED)


def _program() -> str:
    """Return what the user typed, for lines about the usage; "pvlock" for its completion."""
    return "python -m pvlock" if Path(sys.argv[0]).name == "__main__.py" else "pvlock"


def _open_what_is_closed() -> None:
    """Let a standard stream that is closed be empty: else the next file would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _forget_output() -> None:
    """Let Python not try again, at its end, to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
