# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock doctor --report`: one file about this host, for somebody who has no such host.

docs/kvm.md says what it holds.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvlock import __version__, report, workload
from pvlock.files import replacing

SECONDS = 300
"""What one step may take. It is ended after that, and the report says so."""
_CPU_FACTS = ("model name", "CPU implementer", "CPU part", "CPU variant", "CPU revision")
_HOME = re.compile(re.escape(str(Path.home())))


@dataclass(frozen=True)
class Step:
    """A command of pvlock whose output goes into the report; `name` is that of its file."""

    name: str
    arguments: tuple[str, ...]


def steps(engine: str, kernel: Path | None, initrd: Path | None) -> Iterator[Step]:
    """Yield what is run on `engine`; Linux only where there is a `kernel` to boot."""
    yield Step("doctor.json", ("doctor", "--json", "-"))
    yield Step("check.json", ("check", "--engine", engine, "--format", "json"))
    for guest in workload.names():
        yield Step(
            f"run-{guest}.json",
            ("run", guest, "--engine", engine, "--duration", "50ms", "--json", "-"),
        )
    yield Step("top.json", ("top", "--once", "--json"))
    if kernel is not None and initrd is not None:
        yield Step(
            "boot.txt",
            ("run", "--engine", engine, "--kernel", str(kernel), "--initrd", str(initrd),
             "--append", "console=ttyAMA0 panic=-1", "--vcpus", "2", "--pcpus", "2",
             "--duration", "20s"),
        )  # fmt: skip


def write(path: Path, todo: list[Step], say: Callable[[str], None]) -> None:
    """Run all steps and write `path`, a ZIP file, whole or not at all. Raises OutputError."""
    index: list[dict[str, Any]] = []
    with replacing(path, f"--report {path}") as temporary, zipfile.ZipFile(
        temporary, "w", zipfile.ZIP_DEFLATED
    ) as archive:  # fmt: skip
        for number, step in enumerate(todo, 1):
            say(f"{number} of {len(todo)}: pvlock {' '.join(step.arguments[:2])} ...")
            started = time.monotonic()
            status, out, err = _run(step)
            archive.writestr(step.name, _anonymous(out))
            archive.writestr(f"{step.name}.err", _anonymous(err))
            index.append(
                {
                    "file": step.name,
                    "arguments": [_anonymous(each) for each in step.arguments],
                    "status": status,
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
        facts = report.document("host-report", {"host": host_facts(), "steps": index})
        archive.writestr("index.json", json.dumps(facts, indent=2) + "\n")


def host_facts() -> dict[str, Any]:
    """Return what matters of this host. Its name, its users and its addresses do not."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    pairs = (line.partition(":")[::2] for line in lines)
    cpus = sorted({f"{k.strip()}: {v.strip()}" for k, v in pairs if k.strip() in _CPU_FACTS})
    return {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cpus": os.cpu_count() or 0,
        "usable_cpus": len(os.sched_getaffinity(0)),
        "cpu_facts": cpus,
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "pvlock": __version__,
        "root": os.geteuid() == 0,
    }


def _run(step: Step) -> tuple[int | None, str, str]:
    """Return the status of a step (None: it took too long), and what it wrote."""
    command = [sys.executable, "-m", "pvlock", *step.arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as late:
        return None, _text(late.stdout), _text(late.stderr)
    return done.returncode, _text(done.stdout), _text(done.stderr)


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _anonymous(text: str) -> str:
    """Take the user's folder out of paths, and the host's name out of everything."""
    name = platform.node()
    text = _HOME.sub("~", text) if str(Path.home()) != "/" else text
    return re.sub(rf"\b{re.escape(name)}\b", "HOST", text) if len(name) > 2 else text
