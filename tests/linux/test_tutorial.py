# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the chapter of docs/tutorial.md about Linux on the emulator as it stands."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import ENVIRONMENT
from console import TUTORIAL, Console, block
from linux.conftest import PATIENCE_S
from pvlock.kernel import fetch

Environment = dict[str, str]


def numbers(first: int) -> bytes:
    """What `seq` prints."""
    return "".join(f"{n}\n" for n in range(first, 3001)).encode()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pvlock` is on the path, as after the installation."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "pvlock"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pvlock "$@"\n')
    program.chmod(0o755)
    return ENVIRONMENT | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(
    kernel: fetch.Kernel, environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where `pvlock kernel fetch` has put the kernel, out of the cache that `kernel` has filled."""
    folder = tmp_path_factory.mktemp("clone")
    subprocess.run(
        ["sh", "-e", "-c", block("linux fetch")], cwd=folder, env=environment, check=True
    )
    assert (folder / "vmlinuz").read_bytes() == kernel.kernel.read_bytes()
    return folder


@pytest.fixture
def console(folder: Path, environment: Environment) -> Iterator[Console]:
    with subprocess.Popen(
        ["sh", "-c", f"exec {block('linux')}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as process:
        try:
            yield Console(process)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_what_is_typed_is_answered_so(console: Console) -> None:
    console.repeat(block("linux session"))
    console.say("poweroff -f")
    console.expect("pvlock: guest off after")


def test_a_session_typed_by_script_repeats(folder: Path, environment: Environment) -> None:
    script = re.search(
        r"<!-- file: (cpus.input) -->\n```text\n(.*?)```", TUTORIAL.read_text(), re.S
    )
    assert script
    (folder / script[1]).write_text(script[2])
    done = subprocess.run(
        ["sh", "-e", "-c", block("linux twice")],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert done.stdout == "the same to the byte\n"
    assert done.stderr.count("pvlock: guest off after") == 2
    text = (folder / "first.txt").read_text()
    sums = {hashlib.sha256(numbers(first)).hexdigest() for first in (1, 2, 3, 4)}
    # The jobs print while the next line is echoed: what they print may begin within it.
    assert set(re.findall(r"([0-9a-f]{64})  -", text)) == sums
