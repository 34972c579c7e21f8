# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions with Debian's own kernel on the emulator: its console by a script, by `pvlock run`."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from command_line import ENVIRONMENT, PVLOCK, Done
from pvlock.errors import LabError
from pvlock.kernel import fetch

PATIENCE_S: Final = 500
"""What no session may take, on a busy machine."""

Session = Callable[..., subprocess.Popen[str]]


def ended(process: subprocess.Popen[str]) -> Done:
    """Wait for a session to end."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert "Traceback" not in out + err
    return Done(process.returncode, out, err)


@pytest.fixture(scope="session")
def kernel() -> fetch.Kernel:
    """Debian's kernel and an initrd of busybox, from the cache or else from the archive."""
    try:
        return fetch.get("trixie", "cloud-arm64", fetch.default_folder(), None, lambda _text: None)
    except LabError as error:
        pytest.skip(f"needs Debian's kernel: {error}")


@pytest.fixture
def session(kernel: fetch.Kernel, tmp_path: Path) -> Session:
    """Return a function that starts a session, which types what `script` says."""

    def start(script: str, *options: str, name: str = "session") -> subprocess.Popen[str]:
        keys = tmp_path / f"{name}.input"
        keys.write_text(script)
        return subprocess.Popen(
            [
                *(*PVLOCK, "run", "--engine", "emulator", "--kernel", str(kernel.kernel)),
                *("--initrd", str(kernel.initrd), "--append", "console=ttyAMA0"),
                *("--input", str(keys), "--json", str(tmp_path / f"{name}.json"), *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )  # fmt: skip

    return start
