# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbols of a Linux Image: out of its kallsyms, or from a System.map that belongs to it."""

import contextlib
import random
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvlock import image, linux_image
from pvlock.errors import MissingSymbols, OtherKernel, SymbolsError
from symbol_tables import TEXT, Layout, symbols, system_map
from symbol_tables import image as make_image

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
LAYOUT = st.sampled_from(LAYOUTS)
NAMES = st.text("abcxyzABC_.0123456789", min_size=1, max_size=200)


def offsets_of(data: bytes) -> list[tuple[int, str, str]]:
    found = linux_image.read_symbols(data, "kernel")
    assert found.text == TEXT
    return [(address - TEXT, kind, name) for address, kind, name in found.all]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("number", [257, 512, 513, 2000])
@pytest.mark.parametrize("relocated", [False, True], ids=["linked", "relocated"])
def test_all_symbols_are_found(layout: Layout, number: int, relocated: bool) -> None:
    table = symbols(number)
    assert offsets_of(make_image(table, layout, relocated=relocated)) == table


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), NAMES), min_size=1, max_size=40), st.integers(), LAYOUT
)
def test_any_names_are_found(names: list[tuple[int, str]], seed: int, layout: Layout) -> None:
    order, at, table = random.Random(seed), 0, []
    for step, name in order.choices(names, k=400):
        table.append((at, "tTdB"[step], name))
        at += 4 * step
    assert offsets_of(make_image(table, layout)) == table


def test_what_is_at_an_address() -> None:
    found = linux_image.read_symbols(make_image(symbols()), "kernel")
    assert found["function_7"] == TEXT + 0x1000 + 7 * 64
    assert found.at(found["function_7"] + 12) == ("function_7", 12)
    assert found.functions("function_7") == [range(TEXT + 0x11C0, TEXT + 0x1200)]
    assert found.at(TEXT - 1) is None
    assert found.get("function") is None
    assert "function_7" in found


def test_an_image_without_kallsyms() -> None:
    with pytest.raises(MissingSymbols, match=r"^vmlinuz: has no kallsyms .*; give its System.map$"):
        linux_image.read_symbols(bytes(1 << 16), "vmlinuz")


def test_a_guest_that_is_no_linux_has_no_kallsyms() -> None:
    from pvlock.workload import image_of

    with pytest.raises(MissingSymbols, match="mutex: ELF executable, not a Linux Image"):
        linux_image.kernel_bytes(image.parse(image_of("mutex"), "mutex"))


def test_a_system_map(tmp_path: Path) -> None:
    table, path = symbols(), tmp_path / "System.map"
    path.write_text(system_map(table))
    found = linux_image.read_symbols(make_image(table), "vmlinuz", path)
    assert found["function_7"] == TEXT + 0x11C0
    assert found["linux_banner"] == TEXT + 0x200


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("80100000 B _end", "80100008 B _end", "its kernel has 0x100008 bytes, the Image 0x100000"),
        ("80000200 D linux_b", "80000208 D linux_b", "the kernel's version is not where it says"),
        ("800011c0 T function_7", "800011c4 T function_7", "function_7 is at 0xffff8000800011c4"),
    ],
)
def test_a_system_map_of_another_kernel(tmp_path: Path, old: str, new: str, why: str) -> None:
    path = tmp_path / "System.map"
    text = system_map(symbols())
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(OtherKernel, match=re.escape(why)) as caught:
        linux_image.read_symbols(make_image(symbols()), "vmlinuz", path)
    assert str(caught.value).startswith(f"{path}: is of another kernel than vmlinuz: ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ffffffffffffffff B The real System.map is in a package\n", "line 1 is not one of"),
        ("ffff800080000000 T _text\n", "has no symbols _text and _end"),
        ("", "has no symbols _text and _end"),
    ],
)
def test_a_file_that_is_no_system_map(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "System.map"
    path.write_text(text)
    with pytest.raises(MissingSymbols, match=why):
        linux_image.read_symbols(make_image(symbols()), "vmlinuz", path)


def test_a_system_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingSymbols, match="No such file or directory"):
        linux_image.read_symbols(make_image(symbols()), "vmlinuz", tmp_path / "System.map")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_spoilt_bytes_raise_nothing_else(data: st.DataObject) -> None:
    layout = data.draw(LAYOUT)
    spoilt = bytearray(make_image(symbols(300), layout, relocated=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0x2000, len(spoilt) - 1))
        spoilt[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(spoilt)))
    for part in (spoilt, spoilt[:end]):
        with contextlib.suppress(SymbolsError):
            assert len(linux_image.read_symbols(bytes(part), "kernel")) <= 300


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_system_map(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "System.map"
    path.write_bytes(text)
    with pytest.raises(SymbolsError):
        linux_image.read_symbols(make_image(symbols(300)), "kernel", path)
