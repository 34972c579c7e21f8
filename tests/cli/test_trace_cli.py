# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run --trace` as its user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kernels
from command_line import ENVIRONMENT, complaint, pvlock
from pvlock.extras import remedy
from pvlock.trace import perfetto
from pvlock.trace.events import Kind
from pvlock.workload import image_of

SHORT = ["--engine", "emulator", "--duration", "2ms", "--slice", "200us"]


def test_a_workload_leaves_two_traces(tmp_path: Path) -> None:
    done = pvlock("run", "ticket", *SHORT, "--trace", "t.pftrace", "--json", "t.json", cwd=tmp_path)
    assert done.status == 0, done.err
    names = {"t.with.pftrace", "t.without.pftrace"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"t.json"}
    figures = json.loads((tmp_path / "t.json").read_text())
    for name in ("without", "with"):
        events = perfetto.read(tmp_path / f"t.{name}.pftrace")
        size = f"trace: t.{name}.pftrace, {len(events):,} events, "
        assert any(line.startswith(size) for line in done.out.splitlines())
        assert events.settings["pvlock"] is (name == "with")
        assert (events.settings["guest"], events.settings["run"]) == ("ticket", name)
        acquired = int((events.kind == Kind.ACQUIRED).sum())
        counts = figures["runs"][name]["per_vcpu"]
        assert acquired == sum(vcpu["acquisitions"] for vcpu in counts)
        assert events.end >= figures["runs"][name]["time_ns"]


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    traces = []
    for name in ("a", "b"):
        assert pvlock("run", "mutex", *SHORT, "--trace", name, cwd=tmp_path).status == 0
        traces.append([(tmp_path / f"{name}.{run}").read_bytes() for run in ("with", "without")])
    assert traces[0] == traces[1]


def test_a_file_leaves_one_trace(tmp_path: Path) -> None:
    guest = tmp_path / "guest.elf"
    for traced in (True, False):
        guest.write_bytes(image_of("mutex", traced))
        done = pvlock(
            "run", "./guest.elf", *SHORT[:2], "--duration", "50ms", "--append", "duration=1000000",
            "--trace", "one", cwd=tmp_path,
        )  # fmt: skip
        assert done.status == 0, done.err
        events = perfetto.read(tmp_path / "one")
        assert events.locks() is traced
        assert ("the guest recorded no locks" in done.err) is not traced
        assert "trace" not in done.out


def test_a_file_that_goes_on_is_traced_up_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "guest.elf").write_bytes(image_of("mutex", trace=True))
    done = pvlock("run", "./guest.elf", *SHORT[:4], "--append", "duration=90000000",
                  "--trace", "one", cwd=tmp_path)  # fmt: skip
    assert done.status == 1
    assert "still running after 2 ms" in done.err
    assert perfetto.read(tmp_path / "one").end == 2_000_000


@pytest.mark.parametrize("target", ["nowhere/t", ".", "file/t", "t", "t" * 300])
def test_where_nothing_can_be_written_nothing_runs(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "t.with").mkdir()
    done = pvlock("run", "mutex", *SHORT, "--trace", target, cwd=tmp_path)
    assert done.status == 2
    assert "--trace" in complaint(done)


def test_without_its_libraries_one_line_says_what_to_install(tmp_path: Path) -> None:
    """A machine without the extra: the modules are there, but may not be found."""
    code = (
        "import sys; sys.modules['{}'] = None; sys.argv = ['pvlock', 'run', 'mutex', '--trace', "
        "'t', '--engine', 'emulator']; from pvlock.cli import main; main()"
    )
    for module in ("numpy", "perfetto"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(module)],
            capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        lines = [line for line in done.stderr.splitlines() if line]
        assert len(lines) == 1
        assert module in lines[0]
        assert lines[0].endswith(remedy("trace"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_traces_is_loaded_without_one() -> None:
    code = (
        "import sys; from pvlock import workload; workload.run('idle', workload.Settings("
        "duration_ns=100000, engine='emulator'), ); "
        "sys.exit(any(name in sys.modules for name in ('numpy', 'perfetto', 'pvlock.trace')))"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


def test_a_kernel_without_symbols_has_no_trace(tmp_path: Path) -> None:
    """And the map of another kernel, or one for nothing, is refused, too; nothing is written."""
    (tmp_path / "Image").write_bytes(kernels.kernel())
    (tmp_path / "map").write_text("ffff800080000000 T _text\n" * 20)
    run = ["run", "--engine", "emulator", "--kernel", "Image"]
    before = set(tmp_path.iterdir())
    for options, wanted in (
        (["--trace", "t"], "Image: has no kallsyms"),
        (["--trace", "t", "--system-map", "map"], "map: "),
        (["--trace", "t", "--system-map", "nothing"], "nothing: No such file"),
        (["--system-map", "map"], "--system-map is for --profile, --trace or --html"),
    ):
        done = pvlock(*run, *options, cwd=tmp_path)
        assert done.status != 0
        assert wanted in done.err.splitlines()[-1], done.err
    assert set(tmp_path.iterdir()) == before
