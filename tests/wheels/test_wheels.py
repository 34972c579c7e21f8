# SPDX-License-Identifier: GPL-2.0-or-later
"""Wheels for x86_64 and aarch64: built here, installed where nothing else of pvlock is."""

import io
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from build_native import GLIBC, WHEEL_FOR, this_machine
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from packaging.utils import parse_wheel_filename

from asm import ROOT
from command_line import pvlock
from pvlock.cli import cli
from pvlock.cli.manual import pages
from pvlock.conformance.cases import binary

MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
SECONDS = 500
HELPER = "pvlock/engines/emulator/libvcpu.so"
PARTS = (
    "bin", "bpf", "guest", "linux", "man", "native", "src", "LICENSES",
    "LICENSE", "README.md", "build_native.py", "pyproject.toml",
)  # fmt: skip
# What pvlock needs, for another machine, with no index there; pip itself is a wheel that runs.
PLATFORMS = ["manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64"]


def run(*command: str, cwd: Path, **more: str) -> str:
    """Run a command that must succeed, without this pvlock on the path; return what it printed."""
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels by their machine, built of a copy of the clone: what is in use stays as it is."""
    folder = tmp_path_factory.mktemp("wheels")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    found = {}
    for machine in MACHINES:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", f"out-{machine}"]
        run(*build, cwd=folder, **{WHEEL_FOR: machine})
        (found[machine],) = (folder / f"out-{machine}").iterdir()
    return found


@pytest.mark.parametrize("machine", MACHINES)
def test_a_wheel_is_what_its_name_says(machine: str, wheels: dict[str, Path]) -> None:
    """An index takes manylinux tags only, and pip believes them."""
    name, _, _, tags = parse_wheel_filename(wheels[machine].name)
    assert name == "pvlock"
    assert [str(tag) for tag in tags] == [f"py3-none-manylinux_{GLIBC.replace('.', '_')}_{machine}"]
    with zipfile.ZipFile(wheels[machine]) as wheel:
        elf = ELFFile(io.BytesIO(wheel.read(HELPER)))
        assert elf["e_machine"] == MACHINES[machine]
        needed = elf.get_section_by_name(".gnu.version_r")
        assert isinstance(needed, GNUVerNeedSection)
        versions = {aux.name for _, entries in needed.iter_versions() for aux in entries}
        numbers = [tuple(map(int, v.removeprefix("GLIBC_").split("."))) for v in versions]
        assert max(numbers) <= tuple(map(int, GLIBC.split(".")))
        dynamic = elf.get_section_by_name(".dynamic")
        assert isinstance(dynamic, DynamicSection)
        libraries = {getattr(tag, "needed", "") for tag in dynamic.iter_tags("DT_NEEDED")}
        # Some of those that each manylinux system has.
        loaders = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
        assert libraries <= loaders | {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_wheel_has_everything(machine: str, wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels[machine]) as wheel:
        names = wheel.namelist()
        assert len(names) == len(set(names))
        assert wheel.read("pvlock/conformance/guest.Image") == binary("Image")
        data = next(name.partition("/")[0] for name in names if ".data/" in name)
        manuals = {n.rpartition("/")[2] for n in names if n.startswith(f"{data}/data/share/man")}
        assert manuals == set(pages(cli))
        script = wheel.getinfo(f"{data}/scripts/pvlock")
        assert stat.S_IMODE(script.external_attr >> 16) & 0o111 == 0o111
        assert wheel.read(script).startswith(b"#!python\n")
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        facts = Parser().parsestr(wheel.read(metadata).decode())
        assert set(facts.get_all("Provides-Extra") or ()) >= {"guest", "trace", "plot", "dask"}
        assert "all" in (facts.get_all("Provides-Extra") or ())


def test_who_has_only_the_wheel(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Install it, do the main job, write the guest, explain a trace."""
    wheel = wheels[this_machine()]
    run(sys.executable, "-m", "venv", "v", cwd=tmp_path)
    run("v/bin/pip", "install", "-q", f"{wheel}[trace]", cwd=tmp_path)
    out = run("v/bin/pvlock", "run", "--duration", "2ms", "--trace", "t", cwd=tmp_path)
    assert re.search(r"^acquisitions per second( +[\d,]+){3}$", out, re.MULTILINE)
    assert "next: pvlock explain t.without" in out
    assert "of all waiting was for VCPUs" in run("v/bin/pvlock", "explain", "t.without",
                                                 cwd=tmp_path)  # fmt: skip
    run("v/bin/pvlock", "check", "--image", "guest.Image", cwd=tmp_path)
    assert (tmp_path / "guest.Image").read_bytes() == binary("Image")
    assert (tmp_path / "v/share/man/man1/pvlock.1").exists()
    # A remedy names the libraries: no index need know this wheel.
    done = subprocess.run(
        ["v/bin/pvlock", "sweep", "--figure", "a.png"], cwd=tmp_path, capture_output=True,
        text=True, timeout=SECONDS, check=False,
        env={n: v for n, v in os.environ.items() if n != "PYTHONPATH"},
    )  # fmt: skip
    assert re.search(r"needs matplotlib, .*v/bin/pip install 'matplotlib>=[\d.]+'\n", done.stderr)


@pytest.mark.skipif(
    shutil.which("qemu-system-aarch64") is None or shutil.which("mmdebstrap") is None,
    reason="the lab needs QEMU and mmdebstrap",
)
def test_the_wheel_for_the_other_machine(wheels: dict[str, Path], tmp_path: Path) -> None:
    """In the lab, an arm64 Debian without a network: into a bare environment, by pip's wheel."""
    if this_machine() == "aarch64":
        pytest.skip("aarch64 is this machine, and there is no lab of x86_64")
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(wheels["aarch64"], folder)
    download = [sys.executable, "-m", "pip", "download", "-q", "-d", "files"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    run(*download, "--only-binary=:all:", *platforms, "--python-version", "3.13",
        f"files/{wheels['aarch64'].name}", cwd=tmp_path)  # fmt: skip
    run(*download, "--no-deps", "pip", cwd=tmp_path)
    commands = (
        "python3 -m venv --without-pip v",
        "v/bin/python $(echo files/pip-*.whl)/pip install -q --no-compile --no-index"
        " --find-links files pvlock",
        "v/bin/pvlock run idle --engine emulator --vcpus 2 --pcpus 1 --duration 200us",
        "v/bin/pvlock check --image guest.Image",
        "cp guest.Image /out/",
    )
    (tmp_path / "out").mkdir()
    done = pvlock(
        "lab", "--add", str(folder), "--out", "out", "--exec", "--", "sh", "-e", "-c",
        "\n".join(commands), cwd=tmp_path, seconds=SECONDS,
    )  # fmt: skip
    assert done.status == 0, done.err[-2000:]
    assert re.search(r"^acquisitions per second( +[\d,]+){3}\s*$", done.out, re.MULTILINE)
    assert (tmp_path / "out" / "guest.Image").read_bytes() == binary("Image")
