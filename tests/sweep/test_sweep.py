# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock sweep` does each run once, gives the same bytes whatever happens, and tells failures."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from asm import ROOT, assemble
from frail import ABORTS_UNICORN
from pvlock import workload
from pvlock.abi import Policy
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.errors import ConfigError, PvlockError
from pvlock.extras import remedy
from pvlock.sweep import files, fingerprint
from pvlock.sweep.cache import Cache, default_folder
from pvlock.sweep.executors import DaskExecutor, LocalExecutor
from pvlock.sweep.plan import Estimate, Plan
from pvlock.sweep.results import CellResult, collect
from pvlock.sweep.run import Failure, Measurement, Outcome, Run, execute, runs_of
from pvlock.workload import Settings

ENVIRONMENT: Final = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    "PYTHONUNBUFFERED": "1",
}
PATIENCE_S: Final = 120
CELL: Final = Settings(guest="idle", vcpus=2, pcpus=1, duration_ns=300_000, slice_ns=100_000)
AXES: Final = ["--guest=idle", "--vcpus=1,2", "--pcpus=1", "--slice=100us", "--duration=300us"]
GRID: Final = [*AXES, "--seeds=3"]
RUNS_OF_GRID: Final = 3 * 4  # with and without PV-lock, 1 and 2 VCPUs; baselines are among them


def pvlock(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pvlock", *arguments],
        capture_output=True, text=True, env=ENVIRONMENT | (env or {}), timeout=PATIENCE_S,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def measurement(throughput: float = 1000.0) -> Measurement:
    return Measurement(1, throughput, 1.0, 0.1, 1, 2, 3, 4, 5, 6)


class Fake:
    """An executor that needs no machine. It does the last job first, and remembers what it did."""

    def __init__(self, outcome: Callable[[Run], Outcome] = lambda run: measurement()) -> None:
        self.outcome, self.did = outcome, list[Run]()

    def run(self, jobs: Sequence[tuple[Run, str]]) -> Any:
        for run, _ in reversed(jobs):
            self.did.append(run)
            yield run, self.outcome(run)


def carried_out(cells: list[Settings], cache: Cache, executor: Any) -> list[CellResult]:
    plan = Plan(cells, cache)
    plan.carry_out(executor, lambda _run, _outcome: None)
    assert not plan.missing
    return collect(cells, plan.outcomes)


# ---- what a cell needs, and what is kept ----


def test_cells_share_their_runs() -> None:
    one, two = (runs_of(replace(CELL, vcpus=v, pcpus=4)) for v in (8, 12))
    assert one["baseline"] == two["baseline"]
    assert one["baseline"] == runs_of(replace(CELL, vcpus=4, pcpus=4))["with"]
    assert len({one["without"], one["with"], two["without"], two["with"]}) == 4


def test_only_runs_with_pvlock_depend_on_the_policy() -> None:
    one, two = (runs_of(replace(CELL, policy=policy)) for policy in Policy)
    assert one["without"] == two["without"]
    assert one["with"] != two["with"]
    assert one["baseline"] != two["baseline"]


def test_shared_runs_are_what_the_cells_own_would_be() -> None:
    """Runs that runs_of() takes for equal are equal in all that guest and machine report."""
    cell = Settings(vcpus=4, pcpus=2, duration_ns=1_000_000, slice_ns=200_000)
    for name, run in runs_of(replace(cell, policy=Policy.PREEMPTED)).items():
        own = workload.run(name, replace(cell, policy=Policy.PREEMPTED))
        assert own == workload.run("with" if run.pvlock else "without", run.settings)


def test_a_key_names_everything_that_decides_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(True, CELL)
    keys = {Cache(tmp_path).key(run), Cache(tmp_path).key(replace(run, pvlock=False))}
    others = {
        "guest": "mutex", "vcpus": 3, "pcpus": 2, "duration_ns": 5_000, "slice_ns": 5_000,
        "quantum_ns": 10, "policy": Policy.PREEMPTED, "engine": "other", "cs_ns": 1, "think_ns": 1,
        "seed": 2, "trap_wfe": False, "exit_ns": 100, "switch_ns": 1, "pauth": True,
        "scheduler": "eevdf", "yield_woken": True, "yield_filter": True, "hint": "after",
    }  # fmt: skip
    assert set(others) >= {f for f in Settings.__dataclass_fields__ if f != "engine"}
    for field, value in others.items():
        changed = replace(CELL, **{field: value})  # type: ignore[arg-type]
        keys.add(Cache(tmp_path).key(Run(True, changed)))
    assert len(keys) == 2 + len(others)
    assert Cache(tmp_path).key(Run(True, replace(CELL))) in keys
    monkeypatch.setattr(fingerprint, "of_code", lambda guest: "other code")
    assert Cache(tmp_path).key(run) not in keys


def test_the_fingerprint_is_of_guest_helper_and_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return fingerprint.of_code("idle")

    monkeypatch.setattr(fingerprint, "_PACKAGE", tmp_path)
    seen = [written("machine.py", "a"), written("machine.py", "b"), written("e/libvcpu.so", "c")]
    assert len({*seen, fingerprint.of_code("mutex")}) == 4
    assert written("cli/run.py", "d") == written("sweep/plan.py", "e") == seen[-1]


def test_what_is_kept_comes_back_exactly(tmp_path: Path) -> None:
    cache, run = Cache(tmp_path / "a" / "b"), Run(True, CELL)
    assert cache.get(run) is None
    cache.put(run, measurement(1 / 3))
    assert Cache(cache.folder).get(run) == measurement(1 / 3)
    assert [p.name for p in cache.folder.rglob("*") if p.is_file()] == [f"{cache.key(run)}.json"]


@pytest.mark.parametrize("spoilt", ["", "{", "[]", '{"result": {}}', '{"result": null}', "\xff"])
def test_a_file_that_is_not_whole_is_no_result(tmp_path: Path, spoilt: str) -> None:
    cache, run = Cache(tmp_path), Run(True, CELL)
    cache.put(run, measurement())
    whole = cache.path(run).read_text()
    for text in (spoilt, whole[:-20], whole.replace("1000.0", '"1000.0"')):
        cache.path(run).write_bytes(text.encode("latin-1"))
        assert cache.get(run) is None


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "pvlock" / "sweep"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert default_folder() == Path.home() / ".cache" / "pvlock" / "sweep"


def test_a_cache_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cache"):
        Cache(tmp_path / "file" / "below")


# ---- doing it ----


def test_no_run_is_done_twice(tmp_path: Path) -> None:
    cells = [replace(CELL, vcpus=v, policy=p) for v in (1, 2) for p in Policy]
    first, second, third = Fake(), Fake(), Fake()
    carried_out(cells, Cache(tmp_path), first)
    assert len(first.did) == len(set(first.did)) == 2 + 2 * 2
    carried_out(cells, Cache(tmp_path), second)
    assert not second.did
    carried_out([*cells, replace(CELL, vcpus=3)], Cache(tmp_path), third)
    assert len(third.did) == 2


def test_failures_are_not_kept_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    cells = [replace(CELL, seed=seed) for seed in (1, 2, 3)]
    bad = Fake(lambda run: Failure("no") if run.settings.seed == 2 else measurement())
    results = carried_out(cells, Cache(tmp_path), bad)
    assert [result.error for result in results] == ["", "without: no; with: no; baseline: no", ""]
    again = Fake()
    assert not any(r.error for r in carried_out(cells, Cache(tmp_path), again))
    assert {run.settings.seed for run in again.did} == {2}


def test_a_worker_that_dies_fails_its_cell_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker really dies, of an instruction that aborts Unicorn."""
    killer = assemble(f".inst {ABORTS_UNICORN:#x}")
    known = workload.image_of
    monkeypatch.setattr(EmulatorEngine, "worker", "frail")
    monkeypatch.setattr(
        workload,
        "image_of",
        lambda name, *_args, **_options: killer if name == "killer" else known(name),
    )
    cells = [replace(CELL, guest=guest) for guest in ("killer", "idle")]
    died, fine = carried_out(cells, Cache(tmp_path), LocalExecutor(2))
    assert "WorkerDied" in died.error
    assert "SIGABRT" in died.error
    assert (died.gain, died.kept) == (None, None)
    assert not fine.error
    assert fine.gain == pytest.approx(1, abs=0.02)


def test_changed_code_does_not_answer_for_the_old() -> None:
    outcome = execute(Run(True, CELL), "0" * 64)
    assert isinstance(outcome, Failure)
    assert "changed" in outcome.reason


def test_what_is_cancelled_has_no_outcome() -> None:
    assert execute(Run(True, CELL), fingerprint.of_code("idle"), lambda: True) is None


def test_leaving_early_keeps_what_is_done(tmp_path: Path) -> None:
    def stop(_run: Run, _outcome: Outcome) -> None:
        raise KeyboardInterrupt

    cells = [replace(CELL, seed=seed) for seed in range(1, 30)]
    plan = Plan(cells, Cache(tmp_path))
    needed = len(plan.missing)
    with pytest.raises(KeyboardInterrupt):
        plan.carry_out(LocalExecutor(2), stop)
    assert len(Plan(cells, Cache(tmp_path)).missing) == needed - 1


def test_the_estimate_goes_by_what_runs_cost() -> None:
    now = 100.0
    runs = [Run(True, replace(CELL, vcpus=4, pcpus=4, duration_ns=d)) for d in (10**6, 10**8)]
    estimate = Estimate(runs, lambda: now)
    assert (estimate.share, estimate.seconds_left) == (0, None)
    estimate.add(runs[0])
    now += 24
    assert estimate.seconds_left == pytest.approx(24 * 420 / 24)
    estimate.add(runs[1])
    assert (estimate.share, estimate.seconds_left) == (1, 0)


# ---- the same bytes, whoever did it ----


def test_killed_half_way_and_started_again(tmp_path: Path) -> None:
    """A sweep is killed when some runs are done. The second one does only the others."""

    def sweep(name: str) -> list[str]:
        outputs = [arg for end in ("csv", "json") for arg in ("--out", f"{tmp_path}/{name}.{end}")]
        return ["sweep", *GRID, "--jobs", "1", "--cache", str(tmp_path / name), *outputs]

    whole = pvlock(*sweep("whole"))
    assert whole.returncode == 0, whole.stderr

    command = [sys.executable, "-m", "pvlock", *sweep("killed")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while len(list((tmp_path / "killed").glob("*/*.json"))) < RUNS_OF_GRID // 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.csv").exists()
    done = len(list((tmp_path / "killed").glob("*/*.json")))
    assert RUNS_OF_GRID // 2 <= done < RUNS_OF_GRID

    again = pvlock(*sweep("killed"))
    assert again.returncode == 0, again.stderr
    assert f"need {RUNS_OF_GRID} runs; {done} are known" in again.stderr
    assert again.stdout == whole.stdout
    for end in ("csv", "json"):
        assert (tmp_path / f"killed.{end}").read_bytes() == (tmp_path / f"whole.{end}").read_bytes()


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = ["sweep", *AXES, "--seeds=1000", "--cache", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "pvlock", *arguments], env=ENVIRONMENT, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while not list(tmp_path.glob("*/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    # A terminal signals the whole group, so the emulators get the signal too.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert not out
    assert "runs are done and kept. The same command goes on from there." in err
    assert "Traceback" not in err
    assert "failed" not in err


def test_dask_gives_the_same_bytes(tmp_path: Path) -> None:
    """There are a scheduler and three workers. Only the run that kills a worker fails."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        outputs = {}
        for name, where in (("local", []), ("dask", ["--scheduler", cluster.scheduler_address])):
            out = tmp_path / f"{name}.csv"
            done = pvlock(
                "sweep", *GRID, *where, "--cache", str(tmp_path / name), "--out", str(out)
            )
            assert done.returncode == 0, done.stderr
            outputs[name] = out.read_bytes(), done.stdout
        assert outputs["dask"] == outputs["local"]

        broken = Run(True, replace(CELL, guest="nonesuch"))
        executor = DaskExecutor(cluster.scheduler_address)
        jobs = [(run, fingerprint.of_code("idle")) for run in (broken, Run(True, CELL))]
        outcomes = dict(executor.run(jobs))
        assert isinstance(outcomes[broken], Failure)
        assert isinstance(outcomes[Run(True, CELL)], Measurement)


def test_a_dask_worker_that_dies_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    from pvlock.sweep import executors

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        executor = DaskExecutor(cluster.scheduler_address)
        monkeypatch.setattr(executors, "execute", _kill_the_worker_of_seed_2)
        runs = [Run(True, replace(CELL, seed=seed)) for seed in (1, 2, 3)]
        outcomes = dict(executor.run([(run, "code") for run in runs]))
    assert [isinstance(outcomes[run], Failure) for run in runs] == [False, True, False]
    assert outcomes[runs[1]] == Failure("KilledWorker: every Dask worker that tried it died")


def _kill_the_worker_of_seed_2(run: Run, _code: str) -> Outcome:
    if run.settings.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return measurement()


@pytest.mark.parametrize(
    ("address", "status", "text"),
    [
        ("nonsense", 2, "not an address such as tcp://host:8786"),
        ("udp://127.0.0.1:1", 2, "not an address such as tcp://host:8786"),
        ("tcp://127.0.0.1:1", 1, "Connection refused"),
    ],
)
def test_a_scheduler_that_is_not_there_is_one_line(
    tmp_path: Path, address: str, status: int, text: str
) -> None:
    pytest.importorskip("distributed")
    done = pvlock("sweep", *GRID, "--scheduler", address, "--cache", str(tmp_path))
    assert done.returncode == status
    counted, complaint = done.stderr.splitlines()
    assert counted == f"pvlock: 6 cells need {RUNS_OF_GRID} runs; 0 are known"
    assert complaint.startswith(f"pvlock: --scheduler {address}: ")
    assert text in complaint


# ---- the command line ----


def test_every_cell_is_a_row_with_all_that_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "cells.csv"
    done = pvlock("sweep", *GRID, "--cache", str(tmp_path / "cache"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["vcpus"], row["seed"]) for row in rows] == [(v, s) for v in "12" for s in "123"]
    for row in rows:
        own = workload.run("with", replace(CELL, vcpus=int(row["vcpus"]), seed=int(row["seed"])))
        assert own is not None
        assert float(row["with_throughput"]) == own.throughput
        assert int(row["with_switches"]) == own.usage.switches
        gain = float(row["with_throughput"]) / float(row["without_throughput"])
        assert float(row["gain"]) == gain
        assert row["error"] == ""
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "vcpus"
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert "guest idle" in lines[-1]
    assert "3 seeds" in lines[-1]


def test_failed_cells_are_rows_and_an_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pvlock.cli.sweep import sweep

    real = workload.run

    def run(name: str, settings: Settings, **kwargs: Any) -> Any:
        if settings.seed == 2 and name == "with":
            raise PvlockError("it is\nbroken")
        return real(name, settings, **kwargs)

    monkeypatch.setattr(workload, "run", run)
    out = tmp_path / "cells.json"
    with pytest.raises(SystemExit, match="1"):
        sweep([*GRID, "--cache", str(tmp_path / "cache"), "--out", str(out)], standalone_mode=False)
    facts = json.loads(out.read_text())
    errors = [cell["error"] for cell in facts["cells"]]
    assert [bool(error) for error in errors] == [False, True, False] * 2
    assert errors[1] == "with: PvlockError: it is broken; baseline: PvlockError: it is broken"
    assert facts["cells"][1]["with_throughput"] is None
    assert facts["cells"][1]["without_throughput"] > 0
    assert [group["failed"] for group in facts["groups"]] == [1, 1]
    captured = capsys.readouterr()
    assert "2 of 6 cells failed" in captured.err
    assert "1 failed" in captured.out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--guest", "rwlock"], "guest: 'rwlock' is not one of: idle, "),
        (["--vcpus", "4,many"], "vcpus: 'many' is not a whole number from 1 to 512"),
        (["--slice", "3"], "slice: 3 is not a time such as"),
        (["no-such-file.toml"], "no-such-file.toml: No such file or directory"),
        (["--seeds", "10000", "--vcpus", ",".join(map(str, range(1, 20)))], "is the limit"),
        (["--out", "cells.xlsx"], "the name must end in .csv or .parquet or .json or .md"),
        (["--out", "no/such/folder/cells.csv"], "No such file or directory"),
        (["--figure", "gain.gif"], "the name must end in .png or .svg"),
    ],
)
def test_nonsense_is_one_line_and_status_2(arguments: list[str], text: str) -> None:
    done = pvlock("sweep", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("distributed", ["--scheduler", "tcp://127.0.0.1:1"], "dask"),
        ("matplotlib", ["--figure", "gain.png"], "plot"),
        ("pyarrow", ["--out", "cells.parquet"], "parquet"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(
    tmp_path: Path, module: str, arguments: list[str], extra: str
) -> None:
    (tmp_path / f"{module}.py").write_text("raise ModuleNotFoundError")
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    done = pvlock("sweep", *GRID, *arguments, "--cache", str(tmp_path), env={"PYTHONPATH": path})
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert f"{module}, which is not installed: {remedy(extra)}" in last


# ---- files and pictures ----


def results() -> list[CellResult]:
    """Return made-up results: gains, losses, no effects, failures and nothing at all."""
    found = []
    for guest, factor in (("mutex", 3.0), ("rwsem", 0.7), ("idle", 1.0)):
        for vcpus in (4, 8):
            for seed in (1, 2, 3):
                cell = replace(CELL, guest=guest, vcpus=vcpus, pcpus=4, seed=seed)
                with_ = measurement(1000 * factor * (1 + seed / 100))
                runs: dict[str, Outcome] = {
                    "without": measurement(1000.0), "with": with_, "baseline": measurement(2000.0)
                }  # fmt: skip
                found.append(CellResult(cell, runs))
    dead = dict.fromkeys(workload.RUNS, Failure("died"))
    found.append(CellResult(replace(CELL, guest="dead", vcpus=4, pcpus=4), dead))
    never = dict.fromkeys(workload.RUNS, measurement(0.0))
    found.append(CellResult(replace(CELL, guest="never", vcpus=4, pcpus=4), never))
    return found


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.parquet", "x.md"])
def test_the_same_results_are_the_same_bytes(tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    files.write(tmp_path / name, results())
    once = (tmp_path / name).read_bytes()
    files.write(tmp_path / name, results())
    assert (tmp_path / name).read_bytes() == once
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parquet_says_what_csv_says(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for end in ("csv", "parquet"):
        files.write(tmp_path / f"x.{end}", results())
    with (tmp_path / "x.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == expected


def test_losses_and_no_effects_are_shown_like_gains(tmp_path: Path) -> None:
    files.write(tmp_path / "x.md", results())
    lines = (tmp_path / "x.md").read_text().splitlines()
    verdicts = [line.split("|")[-2].strip() for line in lines[4:]]
    assert verdicts == [
        *("gain", "gain", "loss", "loss", "gain", "gain", "failed", "no acquisitions")
    ]
    assert "x0.714 (0.707–0.721)" in lines[6]


def test_pictures_are_drawn_one_for_each_policy(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from pvlock.sweep import figures

    both = [*results(), *(replace_policy(result) for result in results())]
    for draw, name in ((figures.heat_maps, "gain"), (figures.bars, "bars")):
        paths = draw([tmp_path / f"{name}.png", tmp_path / f"{name}.svg"], both)
        assert [path.name for path in paths] == [
            f"{name}-{policy.value}{end}" for end in (".png", ".svg") for policy in Policy
        ]
        once = [path.read_bytes() for path in paths]
        assert once[0].startswith(b"\x89PNG")
        assert b"<svg" in once[2]
        assert all(len(picture) > 10_000 for picture in once)
        draw([tmp_path / f"{name}.png", tmp_path / f"{name}.svg"], both)
        assert [path.read_bytes() for path in paths] == once


def test_pictures_split_by_what_shares_a_place_only(tmp_path: Path) -> None:
    """A longer slice has a panel of its own, or a picture named after it."""
    pytest.importorskip("matplotlib")
    from pvlock.sweep import figures

    both = results()
    for result in results():
        longer = replace(result.cell, slice_ns=10_000_000, duration_ns=30_000_000)
        both.append(replace(result, cell=longer))
    assert [path.name for path in figures.heat_maps([tmp_path / "x.svg"], both)] == ["x.svg"]
    paths = figures.bars([tmp_path / "x.svg"], both)
    assert [path.name for path in paths] == ["x-100us.svg", "x-10ms.svg"]


def replace_policy(result: CellResult) -> CellResult:
    return replace(result, cell=replace(result.cell, policy=Policy.PREEMPTED))
