# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of the host: its limits, and all that is made from its fields."""

import csv
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import click
import pytest

from asm import ROOT, assemble
from pvlock import Machine, Policy, host, image
from pvlock.cli.knob_options import knob_options
from pvlock.engines.contract import EngineConfig
from pvlock.errors import ConfigError
from pvlock.host import Host, knobs, simulated_only, without_simulated
from pvlock.sweep.grid import axes_of
from pvlock.workload import Settings

WORKLOAD_ONLY: Final = {"guest", "engine", "duration_ns", "cs_ns", "think_ns"}
PATIENCE_S: Final = 120


def pvlock(
    *arguments: str | Path, source: Path = ROOT / "src"
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "pvlock", *arguments],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(source), "COLUMNS": "200"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refusal(*arguments: str | Path) -> str:
    """Return the one line in which `pvlock run` refuses its options, before it runs anything."""
    done = pvlock("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Usage", "Try "))]
    (line,) = filter(None, lines)
    return line.removeprefix("Error: ")


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    path = tmp_path / "guest.elf"
    path.write_bytes(assemble("off"))
    return path


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    """A Linux Image that turns its machine off."""
    (code,) = (part.data for part in image.parse(assemble("off"), "tiny").segments)
    jump = 0x1400_0000 | 64 // 4
    header = struct.pack("<II6Q4sI", jump, 0, 0, 0x1000, 0xA, 0, 0, 0, b"ARM\x64", 0)
    path = tmp_path / "Image"
    path.write_bytes(header + code[:])
    return path


# ---- one more field ----


@dataclass(frozen=True, kw_only=True)
class Larger(Host):
    """The description of a host with one more cost."""

    tlb_ns: int = field(default=200, metadata=host.time("tlb-cost", "What a TLBI costs.", 0, 5_000))


def test_one_more_field_is_an_option_and_an_axis() -> None:
    @click.command()
    @knob_options(Larger)
    def command(**_options: Any) -> None:
        pass

    (option,) = (param for param in command.params if param.name == "tlb_ns")
    assert option.opts == ["--tlb-cost"]
    assert option.type.convert("2us", None, None) == 2_000
    with pytest.raises(click.UsageError, match="not between 0ns and 5us"):
        option.type.convert("6us", None, None)
    assert [param.name for param in command.params] == [f.name for f in fields(Larger)]

    axis = axes_of(Larger)[-1]
    assert (axis.name, axis.field, axis.default, axis.column) == (
        *("tlb-cost", "tlb_ns", "200ns", "tlb_ns"),
    )
    assert axis.parse("2us") == 2_000
    with pytest.raises(ValueError, match="not between 0ns and 5us"):
        axis.parse("6us")
    with pytest.raises(ConfigError, match="tlb_ns: 5001 is not between 0 ns and 5000 ns"):
        Larger(tlb_ns=5_001)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a copy of the package, in which host.py has one more line."""
    copy = tmp_path / "source"
    shutil.copytree(ROOT / "src" / "pvlock", copy / "pvlock")
    module = copy / "pvlock" / "host.py"
    line = (
        '    tlb_ns: int = field(default=200, metadata=time("tlb-cost", "A TLBI.", simulated=True))'
    )
    marker = "    switch_ns: int = field("
    text = module.read_text()
    assert text.count(marker) == 1
    module.write_text(text.replace(marker, f"{line}\n{marker}"))
    return copy


def test_a_new_cost_is_one_line_in_one_file(package: Path, tmp_path: Path) -> None:
    for command in ("run", "sweep"):
        text = " ".join(pvlock(command, "--help", source=package).stdout.split())
        assert "--tlb-cost" in text and "A TLBI. [default: 200ns" in text
    run = ["--vcpus", "2", "--pcpus", "1", "--duration", "1ms", "--engine", "emulator"]
    done = pvlock("run", "idle", *run, "--tlb-cost", "1us", "--json", "-", source=package)
    assert json.loads(done.stdout)["tlb_ns"] == 1_000
    sweep = [*run[:6], "--tlb-cost", "1us,300ns", "--seeds", "1", "--cache", str(tmp_path / "c")]
    done = pvlock("sweep", "--guest", "idle", *sweep, "--out", tmp_path / "o.csv", source=package)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "o.csv").open() as file:
        assert [row["tlb_ns"] for row in csv.DictReader(file)] == ["1000", "300"]
    code = (
        "from pvlock import Machine\n"
        "from pvlock.engines.contract import EngineConfig\n"
        "from pvlock.errors import ConfigError\n"
        "from pvlock.host import simulated_only\n"
        "Machine(engine='emulator', tlb_ns=7).close()\n"
        "assert 'tlb_ns' in simulated_only(EngineConfig)\n"
        "try: Machine(engine='emulator', tlb_ns=-1)\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(package)},
    )  # fmt: skip
    assert done.stdout == "tlb_ns: -1 is not between 0 ns and 3600000000000 ns\n", done.stderr


# ---- what contains the description ----


def test_settings_are_a_workload_and_a_host() -> None:
    assert {f.name for f in fields(Settings)} - {f.name for f in fields(Host)} == WORKLOAD_ONLY
    ours = {f.name for f in fields(EngineConfig)} - {f.name for f in fields(Host)}
    assert ours == {"script", "record", "coalesced", "audit"}
    assert Settings(slice_ns=5_000).keywords() == Host(slice_ns=5_000).keywords()


def test_the_order_of_the_settings_in_files_is_what_it_was() -> None:
    assert list(Settings().facts()) == [
        *("guest", "vcpus", "pcpus", "duration_ns", "slice_ns", "quantum_ns", "policy", "engine"),
        *("cs_ns", "think_ns", "seed", "trap_wfe", "exit_ns", "switch_ns", "pauth"),
        *("scheduler", "yield_woken", "yield_filter", "hint"),
    ]


def test_every_field_of_the_host_has_a_knob_whose_text_comes_back() -> None:
    assert set(knobs(Host)) == {f.name for f in fields(Host)}
    for name, knob in knobs(Settings).items():
        default = getattr(Settings, name)
        text = knob.text(default)
        assert knob.parse(text if knob.is_time or knob.words else int(text)) == default
        assert knob.help.endswith((".", "?"))
    assert len({knob.option for knob in knobs(Settings).values()}) == len(knobs(Settings))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("vcpus", 0, "0 is not a whole number from 1 to 512"),
        ("vcpus", 513, "513 is not a whole number from 1 to 512"),
        ("pcpus", -1, "-1 is not a whole number from 1 to 512"),
        ("slice_ns", 999, "999 is not between 1000 ns and"),
        ("quantum_ns", 9, "9 is not between 10 ns and 1000000 ns"),
        ("quantum_ns", 1_000_001, "1000001 is not between 10 ns and 1000000 ns"),
        ("exit_ns", 99, "99 is not between 100 ns"),
        ("switch_ns", -1, "-1 is not between 0 ns"),
        ("seed", -1, "-1 is not a whole number from 0 to"),
        ("policy", "never", "'never' is not one of: scheduled-out, preempted"),
        ("trap_wfe", "trap", "'trap' is not one of: trap, notrap, always"),
    ],
)
def test_limits_hold_for_a_machine_and_for_settings(name: str, value: Any, complaint: str) -> None:
    for make in (Host, Settings, Machine):
        with pytest.raises(ConfigError) as caught:
            make(**{name: value})
        assert str(caught.value).startswith(f"{name}: {complaint}")


def test_a_machine_knows_no_other_keyword() -> None:
    with pytest.raises(TypeError, match="slice"):
        Machine(slice=1_000)


def test_a_policy_may_be_given_by_its_name() -> None:
    assert Host(policy="preempted").policy is Policy.PREEMPTED  # type: ignore[arg-type]


def test_what_only_a_simulated_host_has() -> None:
    simulated = {
        *("slice_ns", "quantum_ns", "trap_wfe", "exit_ns", "switch_ns", "pauth"),
        *("scheduler", "yield_woken", "yield_filter", "hint"),
    }
    assert set(simulated_only(Host)) == simulated
    assert set(simulated_only(EngineConfig)) == simulated | {"script", "audit"}
    facts = Settings().facts()
    assert without_simulated(facts, "emulator") == facts
    assert set(facts) - set(without_simulated(facts, "kvm")) == simulated


# ---- guest files ----


HEAD: Final = ["format", "kind", "version"]
HOST: Final = [*(f.name for f in fields(Host))]


def test_the_json_of_an_elf_file_has_what_applies_to_it(elf: Path) -> None:
    facts = json.loads(pvlock("run", elf, "--engine", "emulator", "--json", "-").stdout)
    assert list(facts) == [
        *HEAD,
        "guest",
        *HOST,
        "duration_ns",
        "engine",
        "pvlock",
        "event",
        "usage",
    ]
    assert facts["guest"] == str(elf)
    assert (facts["duration_ns"], facts["policy"]) == (100_000_000, "scheduled-out")


@pytest.mark.parametrize("limit", [None, "20ms"])
def test_the_json_of_a_linux_image_has_a_duration_only_where_it_was_given(
    linux: Path, limit: str | None
) -> None:
    options = ["--duration", limit] if limit else []
    done = pvlock("run", linux, "--engine", "emulator", *options, "--json", "-")
    facts = json.loads(done.stdout)
    duration = ["duration_ns"] if limit else []
    assert list(facts) == [*HEAD, "guest", *HOST, *duration, "engine", "pvlock", "event", "usage"]
    assert facts.get("duration_ns") == (20_000_000 if limit else None)
    assert (facts["policy"], facts["event"]) == ("preempted", "off")


def test_the_policy_that_is_asked_for_counts_for_a_linux_image_too(linux: Path) -> None:
    done = pvlock("run", linux, "--engine", "emulator", "--policy", "scheduled-out", "--json", "-")
    assert json.loads(done.stdout)["policy"] == "scheduled-out"


@pytest.mark.parametrize("option", [["--cs", "2us"], ["--think", "1us"]])
def test_a_file_has_no_option_of_a_workload(option: list[str], elf: Path, linux: Path) -> None:
    assert refusal(elf, *option) == f"{option[0]} is for a bundled workload; {elf} is an ELF file"
    assert refusal("--kernel", linux, *option) == (
        f"{option[0]} is for a bundled workload; {linux} is a Linux Image"
    )


@pytest.mark.parametrize("option", [["--initrd", "/nonexistent"], ["--no-reboot"]])
def test_an_elf_file_has_no_option_of_linux(option: list[str], elf: Path) -> None:
    assert refusal(elf, *option) == f"{option[0]} is for a Linux Image; {elf} is an ELF file"
    assert refusal("idle", *option) == (
        f"{option[0]} is for a Linux Image; idle is a bundled workload"
    )


@pytest.mark.parametrize("option", [["--append", ""], ["--no-pvlock"], ["--memory", "64"]])
def test_a_workload_has_no_option_of_a_file(option: list[str]) -> None:
    assert (
        refusal("idle", *option) == f"{option[0]} is for a guest file; idle is a bundled workload"
    )


def test_options_that_suit_a_file_are_taken(linux: Path, elf: Path) -> None:
    for guest, options in (
        (elf, ["--append", "x=1", "--memory", "32", "--no-pvlock", "--duration", "1ms"]),
        (linux, ["--append", "quiet", "--memory", "32", "--no-pvlock", "--no-reboot"]),
    ):
        done = pvlock("run", guest, "--engine", "emulator", *options)
        assert done.returncode == 0, done.stderr
