# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the KVM chapter of docs/tutorial.md as it stands: the command, then what is typed."""

import shlex
import shutil
import subprocess
import sys

import pytest

from console import Console, block
from pvlock.lab import tools


def test_the_tutorial_s_linux_chapter() -> None:
    for name in tools.NAMES:
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    program, *arguments = shlex.split(block("lab"))
    assert program == "pvlock"
    with subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as process:
        try:
            console = Console(process)
            console.repeat(block("lab session"))
            console.say("poweroff")
            console.expect("pvlock: guest off after")
            assert process.wait(60) == 0
        finally:
            process.kill()
