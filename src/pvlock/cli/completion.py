# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock completion`: the part of the command line that lets shells complete its words."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from pvlock.cli.shared import say
from pvlock.errors import ConfigError
from pvlock.files import replacing

SHELLS = ("bash", "zsh", "fish")
_PROGRAM, _VARIABLE = "pvlock", "_PVLOCK_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--print", "printed", is_flag=True, help="Print the script, and install nothing.")
def completion(shell: str | None, printed: bool) -> None:
    """Let Tab complete commands, options and their values, from the next shell on.

    SHELL is the one that you use, if it is not named. Writes one file in your home.
    """
    shell = shell or _used()
    script = _script(shell)
    if printed:
        print(script, end="")
        return
    path = _place(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: {error.strerror}") from error
    with replacing(path) as file:
        file.write_text(script, encoding="utf-8")
    say(f"wrote {path}; it counts from the next {shell} on")
    if shell == "zsh":
        say(f"~/.zshrc needs, before compinit: fpath+=({path.parent})")
    elif shell == "bash":
        say("bash reads it if the package bash-completion is installed")


def _used() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise ConfigError(f"which shell is it? Say pvlock completion {'|'.join(SHELLS)}")
    return name


def _script(shell: str) -> str:
    from pvlock.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli, {}, _PROGRAM, _VARIABLE).source() + "\n"


def _place(shell: str) -> Path:
    """Return where the shell looks for it."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / _PROGRAM,
        "zsh": data / "zsh" / "site-functions" / f"_{_PROGRAM}",
        "fish": config / "fish" / "completions" / f"{_PROGRAM}.fish",
    }[shell]
