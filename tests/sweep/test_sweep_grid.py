# SPDX-License-Identifier: GPL-2.0-or-later
"""Grids by files and by options are the same, and nonsense is a ConfigError of one line."""

import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asm import ROOT
from pvlock.abi import Policy
from pvlock.errors import ConfigError
from pvlock.sweep.grid import AXES, MAX_CELLS, SEEDS, cells
from pvlock.workload import Settings, names

TIMES = st.sampled_from(["1ms", "3ms", "10ms", "2us", "1.5ms", "20 µs", "700000ns"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "guest": st.sampled_from(names()),
    "vcpus": st.integers(1, 512),
    "pcpus": st.integers(1, 512),
    "slice": TIMES,
    "cs": TIMES,
    "think": TIMES,
    "policy": st.sampled_from([policy.value for policy in Policy]),
    "wfe": st.sampled_from(["trap", "notrap"]),
    "duration": TIMES,
    "exit-cost": st.sampled_from(["100ns", "1us"]),
}
GRIDS = st.fixed_dictionaries(
    {}, optional={name: st.lists(v, min_size=1, max_size=3) for name, v in VALUES.items()}
)
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]))
    | TIMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ab"), inner),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grids")


def toml(value: Any) -> str:
    """Return a value as TOML. TOML has no None, so that gives nonsense for the parser."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def written(folder: Path, text: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(text, encoding="utf-8")
    return path


def document(grid: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in grid.items())


def refused(path: Path | None, options: dict[str, list[str]], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cells(path, options)
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)


def test_nothing_said_is_the_defaults() -> None:
    expected = [Settings(duration_ns=30_000_000, seed=seed) for seed in range(1, 6)]
    assert cells(None, {}) == expected


def test_the_product_of_all_axes_each_cell_once() -> None:
    options = {"vcpus": ["4,8", "4"], "slice": ["1ms", "1000us,3ms"], "seeds": ["2"]}
    found = [(cell.vcpus, cell.slice_ns // 1_000_000, cell.seed) for cell in cells(None, options)]
    assert found == [(v, s, seed) for v in (4, 8) for s in (1, 3) for seed in (1, 2)]


@given(grid=GRIDS, seeds=st.integers(1, 3))
def test_a_file_and_options_say_the_same(folder: Path, grid: dict[str, Any], seeds: int) -> None:
    options = {name: [",".join(map(str, values))] for name, values in grid.items()}
    found = cells(None, options | {"seeds": [str(seeds)]})
    assert found == cells(written(folder, document(grid | {"seeds": seeds})), {})
    assert found == cells(written(folder, ""), options | {"seeds": [str(seeds)]})
    assert len(found) == len(set(found)) > 0


@given(grid=GRIDS, override=GRIDS)
def test_options_override_the_file(
    folder: Path, grid: dict[str, Any], override: dict[str, Any]
) -> None:
    options = {name: [str(value) for value in values] for name, values in override.items()}
    both = cells(written(folder, document(grid)), options)
    assert both == cells(written(folder, document(grid | override)), {})


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from([axis.name for axis in (*AXES, SEEDS)] + ["grid", "other"]), value=JUNK)
def test_a_file_is_a_grid_or_refused_in_one_line(folder: Path, key: str, value: Any) -> None:
    path = written(folder, f"{key} = {toml(value)}\n")
    try:
        found = cells(path, {})
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert found
        assert key != "other"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_grid_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "bytes.toml"
    path.write_bytes(content)
    try:
        assert cells(path, {})
    except ConfigError as error:
        assert "\n" not in str(error)


@given(name=st.sampled_from([axis.name for axis in (*AXES, SEEDS)]), text=st.text(max_size=20))
def test_any_text_of_an_option_is_a_grid_or_refused(name: str, text: str) -> None:
    try:
        assert cells(None, {name: [text]})
    except ConfigError as error:
        assert "\n" not in str(error)


def test_tables_add_up_and_share_what_stands_above(folder: Path) -> None:
    text = 'vcpus = 4\nseeds = 1\n[[grid]]\ncs = "2us"\n[[grid]]\ncs = "9us"\nvcpus = [4, 8]\n'
    found = [(cell.cs_ns, cell.vcpus) for cell in cells(written(folder, text), {})]
    assert found == [(2_000, 4), (9_000, 4), (9_000, 8)]
    # An option overrides all tables, which then have cells in common.
    found = [(c.cs_ns, c.vcpus) for c in cells(written(folder, text), {"cs": ["1us"]})]
    assert found == [(1_000, 4), (1_000, 8)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vcpu = 8", "unknown key 'vcpu'; there are: guest, vcpus,"),
        ("[[grid]]\nnested = 1", "unknown key 'nested'"),
        ("[grid]\ncs = '2us'", "write [[grid]] tables"),
        ("grid = []", "the grid is empty"),
        ("vcpus = []", "vcpus: an empty list, so the grid is empty"),
        ("vcpus = '8'", "vcpus: '8' is not a whole number from 1 to 512"),
        ("vcpus = 8.0", "vcpus: 8.0 is not a whole number"),
        ("vcpus = true", "vcpus: True is not a whole number"),
        ("vcpus = 513", "vcpus: 513 is not a whole number"),
        ("vcpus = [[8]]", "vcpus: [8] is not a whole number"),
        ("slice = 3", "slice: 3 is not a time such as 100ms, 2us or 1.5s"),
        ("slice = '1e3ms'", "slice: '1e3ms' is not a time"),
        ("slice = '1ns'", "slice: '1ns' is not between 1us and 3600s"),
        ("duration = '2000h'", "is not a time"),
        ("duration = '999999999999s'", "is not between"),
        ("policy = 'sometimes'", "not one of: scheduled-out, preempted"),
        ("guest = ['mutex', 'rwlock']", "guest: 'rwlock' is not one of: idle, mutex"),
        ("seeds = [1, 2]", "seeds: give one number, how many"),
        ("seeds = 0", "seeds: 0 is not a whole number"),
        ("seeds = 10000\nvcpus = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]", f"{MAX_CELLS} is the limit"),
        ("vcpus = ", "not a TOML file"),
    ],
)
def test_nonsense_in_a_file(folder: Path, text: str, complaint: str) -> None:
    refused(written(folder, text), {}, complaint)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vcpus = " + "[" * 8_000, "too deep in one another"),
        ("vcpus" + ".x" * 4_000 + " = 1", "vcpus: what is there is not a whole number"),
        ("vcpus = 0x" + "f" * 6_000, "vcpus: what is there is not a whole number"),
        ("vcpus = [[0x" + "f" * 6_000 + "]]", "vcpus: what is there is not a whole number"),
        ("vcpus = " + "9" * 6_000, "not a TOML file: "),
        ("x." * 8_000 + "x = 1", "unknown key 'x'"),
        ("x." * 100_000 + "x = 1", "longer than 16 KiB"),
        ("vcpus = 8\n" + "#" * (16 << 10), "longer than 16 KiB"),
    ],
    ids=["nested", "nested-keys", "hexadecimal", "in-a-list", "decimal", "dots", "long", "comment"],
)
def test_files_made_to_be_hard_to_read(folder: Path, text: str, complaint: str) -> None:
    refused(written(folder, text), {}, complaint)


def test_a_file_as_long_as_may_be(folder: Path) -> None:
    text = "seeds = 2\n#"
    assert len(cells(written(folder, text.ljust(16 << 10, "-")), {})) == 2


def test_a_file_that_is_not_there(folder: Path) -> None:
    refused(folder / "nothing.toml", {}, "nothing.toml: No such file or directory")
    refused(folder, {}, "Is a directory")


def test_the_grid_of_the_results_has_all_that_was_asked_for() -> None:
    path = ROOT / "docs" / "results.toml"
    found = cells(path, {})
    guests = tomllib.loads(path.read_text(encoding="utf-8"))["guest"]
    wanted = itertools.product(guests, (1, 2, 3), (1, 3, 10), (2_000, 20_000), Policy, range(1, 11))
    assert set(wanted) == {
        (c.guest, c.vcpus // c.pcpus, c.slice_ns // 10**6, c.cs_ns, c.policy, c.seed)
        for c in found
        if c.trap_wfe
    }
    assert any(not cell.trap_wfe for cell in found)
