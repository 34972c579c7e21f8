# SPDX-License-Identifier: GPL-2.0-or-later
"""Python restates structures of native/emulator.h: any field that differs is an error at start."""

import ctypes as c
import re
from pathlib import Path

import pytest

from pvlock import Machine
from pvlock.engines.emulator import libunicorn, vcpu
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.errors import EngineError

SOURCE = Path(__file__).resolve().parents[2] / "native" / "emulator.h"
TABLE = SOURCE.with_name("layout.c")
SWAPPED_WORKER = """\
import ctypes
from pvlock.engines.emulator import vcpu, worker

names = {"far": "ipa", "ipa": "far"}
fields = [(names.get(name, name), kind) for name, kind in vcpu.VcpuState._fields_]
swapped = type("Swapped", (ctypes.Structure,), {"_fields_": fields})
vcpu.STRUCTURES["vcpu"] = swapped
worker.main()
"""


def with_swapped(structure: type[c.Structure], one: str, other: str) -> type[c.Structure]:
    """Return the structure again, the names of two of its fields exchanged."""
    names = {one: other, other: one}
    fields = [(names.get(name, name), kind) for name, kind in structure._fields_]  # type: ignore[misc]
    return type("Swapped", (c.Structure,), {"_fields_": fields})


def test_every_field_is_where_c_has_it() -> None:
    vcpu.check_layout()
    assert libunicorn.native_layout()["vcpu.pc"] == (24, 8)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("vcpu", "far", "ipa"),
        ("vcpu", "line", "flush"),
        ("vcpu", "block", "flags"),
        ("vm", "can_yield", "exit_ns"),
        ("cpu", "now", "deadline"),
        ("timer", "ctl", "cval"),
        ("tlbi", "value", "reg"),
    ],
)
def test_two_fields_that_are_swapped(
    name: str, one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their structure has the size that it should have."""
    swapped = with_swapped(vcpu.STRUCTURES[name], one, other)
    assert c.sizeof(swapped) == c.sizeof(vcpu.STRUCTURES[name])
    monkeypatch.setitem(vcpu.STRUCTURES, name, swapped)
    with pytest.raises(EngineError, match=rf"version of pvlock \({name}\.{other}: \d+ bytes at"):
        vcpu.check_layout()


def test_a_field_that_only_one_side_has(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = libunicorn.native_layout()
    monkeypatch.setattr(libunicorn, "native_layout", lambda: layout | {"vcpu.more": (17_000, 4)})
    with pytest.raises(EngineError, match=r"\(vcpu\.more: 4 bytes at 17000 in C, nothing in Py"):
        vcpu.check_layout()
    del layout["vm.running"]
    with pytest.raises(EngineError, match=r"\(vm\.running: nothing in C, 8 bytes at \d+ in Python"):
        vcpu.check_layout()


def test_a_machine_does_not_start_with_two_fields_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swapped_worker.py").write_text(SWAPPED_WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(EmulatorEngine, "worker", "swapped_worker")
    with pytest.raises(EngineError) as caught:
        Machine(1, engine="emulator")
    there, here = libunicorn.native_layout()["vcpu.ipa"], libunicorn.native_layout()["vcpu.far"]
    assert str(caught.value) == (
        f"libvcpu is of another version of pvlock (vcpu.ipa: 8 bytes at {there[0]} in C, "
        f"8 bytes at {here[0]} in Python): reinstall pvlock"
    )


def test_a_library_without_the_table_is_of_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(c, "CDLL", lambda _path: object())
    with pytest.raises(EngineError, match=r"another version of pvlock \(it has no vm_create\(\)\)"):
        libunicorn.libvcpu.__wrapped__()


def source() -> str:
    """Return native/emulator.h without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", SOURCE.read_text(), flags=re.DOTALL)


def test_exits_have_the_numbers_that_c_gives_them() -> None:
    body = re.search(r"^enum exit_reason \{(.*?)\};", source(), re.DOTALL | re.MULTILINE)
    assert body
    names = re.findall(r"\bEXIT_(\w+)", body[1])
    assert "=" not in body[1]
    assert names == [*(reason.name for reason in vcpu.Exit), "REASONS"]
    assert list(vcpu.Exit) == list(range(len(vcpu.Exit)))


def test_the_table_in_c_names_every_field() -> None:
    """A field that is missing in it would not be compared."""
    text = source()
    for name in vcpu.STRUCTURES:
        body = re.search(rf"^struct {name} \{{(.*?)^\}};", text, re.DOTALL | re.MULTILINE)
        assert body, name
        declared = [
            re.sub(r"[*\s]|\[\w+\]", "", word)
            for line in body[1].split(";")
            if line.strip()
            for word in re.sub(r"^\s*(const |struct )*\w+\s", "", line).split(",")
        ]
        listed = re.findall(rf"FIELD\({name}, (\w+)\)", TABLE.read_text())
        assert declared == listed
