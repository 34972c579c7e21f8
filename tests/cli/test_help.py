# SPDX-License-Identifier: GPL-2.0-or-later
"""The help of every command: an example that works, units, defaults; pages and completion."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from asm import ROOT
from command_line import ENVIRONMENT, complaint, pvlock
from pvlock.cli import cli
from pvlock.cli.manual import EXAMPLES, metavar, pages
from pvlock.extras import remedy, requirements

MAN = ROOT / "man"


def commands(
    command: click.Command, words: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], click.Command]]:
    """Return all commands with the words that call them, groups too."""
    found = [(words, command)]
    if isinstance(command, click.Group):
        context = click.Context(command, info_name="pvlock")
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += commands(inner, (*words, name))
    return found


ALL = commands(cli)
PROGRAM = [sys.executable, str(ROOT / "bin" / "pvlock")]


def ends(words: tuple[str, ...]) -> str:
    return " ".join(words) or "pvlock"


@pytest.mark.parametrize(("words", "command"), ALL, ids=[ends(words) for words, _ in ALL])
def test_options_have_help_units_and_limits(words: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        where = f"{ends(words)} {option.opts[-1]}"
        assert option.help, where
        if option.is_flag:
            continue
        assert metavar(option) not in ("INTEGER", "FLOAT"), where
        seconds = re.search(r"second|after this time|how long", option.help, re.IGNORECASE)
        if seconds and isinstance(option.type, (click.IntRange, click.FloatRange)):
            assert metavar(option) == "SECONDS", where


@pytest.mark.parametrize("name", [ends(words) for words, _ in ALL if words])
def test_each_command_has_an_example_in_its_help(name: str) -> None:
    assert EXAMPLES[name]
    help_ = pvlock(*name.split(), "--help").out
    for command, what in EXAMPLES[name]:
        assert f"  {what}\n    {command}\n" in help_


@pytest.mark.parametrize("line", sorted({line for e in EXAMPLES.values() for line, _ in e}))
def test_examples_are_command_lines(line: str, tmp_path: Path) -> None:
    """Each is read to its end by the command that it calls, with no option that is not known."""
    program, *words = shlex.split(line)
    assert program == "pvlock"
    command: click.Command = cli
    context = click.Context(cli, info_name="pvlock")
    while isinstance(command, click.Group):
        inner = command.get_command(context, words.pop(0))
        assert inner is not None
        command = inner
        if isinstance(command, click.Group) and not words:
            return
    assert command.make_context("pvlock", words).params is not None


# -- manual pages --


def test_manual_pages_are_current() -> None:
    made = pages(cli)
    if os.environ.get("PVLOCK_UPDATE"):
        for name, text in made.items():
            (MAN / name).write_text(text, encoding="utf-8")
    assert {path.name: path.read_text(encoding="utf-8") for path in MAN.iterdir()} == made


@pytest.mark.parametrize("name", sorted(pages(cli)))
def test_manual_pages_are_pages(name: str) -> None:
    """What begins with a dot is a request that man(7) has; all else is text."""
    lines = (MAN / name).read_text(encoding="utf-8").splitlines()
    requests = {line.split()[0] for line in lines if line.startswith((".", "'"))}
    assert requests <= {'.\\"', ".TH", ".SH", ".PP", ".TP", ".B", ".BR", ".nf", ".fi"}
    sections = [line[4:] for line in lines if line.startswith(".SH ")]
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert "EXIT STATUS" in sections
    if man := shutil.which("man"):
        done = subprocess.run(
            [man, "--warnings=all", "-l", str(MAN / name)], capture_output=True, text=True,
            env=os.environ | {"MANPAGER": "cat", "LC_ALL": "C.UTF-8"}, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


# -- completion --


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", "data/bash-completion/completions/pvlock"),
        ("zsh", "data/zsh/site-functions/_pvlock"),
        ("fish", "config/fish/completions/pvlock.fish"),
    ],
)
def test_completion_is_one_command(
    shell: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "SHELL", f"/usr/bin/{shell}")
    monkeypatch.setitem(ENVIRONMENT, "XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setitem(ENVIRONMENT, "XDG_CONFIG_HOME", str(tmp_path / "config"))
    done = pvlock("completion")
    assert done.status == 0, done.err
    script = (tmp_path / place).read_text(encoding="utf-8")
    assert str(tmp_path / place) in done.err
    assert script == pvlock("completion", shell, "--print").out
    assert "pvlock" in script


def test_an_unknown_shell_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "SHELL", "/bin/dash")
    assert "pvlock completion bash|zsh|fish" in complaint(pvlock("completion"))


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("pvlock ch", "check"),
        ("pvlock run --eng", "--engine"),
        ("pvlock run --engine em", "emulator"),
        ("pvlock kernel fe", "fetch"),
        ("pvlock sweep --host-sch", "--host-scheduler"),
    ],
)
def test_bash_completes(typed: str, wanted: str, tmp_path: Path) -> None:
    """A real bash reads the script that was written, and is asked as Tab asks it."""
    bash = shutil.which("bash")
    assert bash
    script = tmp_path / "completion"
    script.write_text(pvlock("completion", "bash", "--print").out)
    (tmp_path / "pvlock").write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    (tmp_path / "pvlock").chmod(0o755)
    words = shlex.split(typed)
    asked = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); "
        f"COMP_CWORD={len(words) - 1}; _pvlock_completion pvlock; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = ENVIRONMENT | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "-c", asked], capture_output=True, text=True, env=environment, check=False
    )
    assert wanted in done.stdout.split(), done.stderr


# -- remedies --


def test_a_remedy_names_what_an_extra_stands_for() -> None:
    assert [re.split(r"[>=]", name)[0] for name in requirements("trace")] == ["numpy", "perfetto"]
    assert re.search(r"pip install 'numpy>=[\d.]+' 'perfetto>=[\d.]+'$", remedy("trace"))


def test_all_is_all_the_other_extras() -> None:
    others = ("guest", "trace", "plot", "dask", "html", "parquet", "prometheus", "zstd")
    assert set(requirements("all")) == {name for extra in others for name in requirements(extra)}
