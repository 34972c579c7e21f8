# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's header restates the ABI on its own; here both are held against each other."""

import re
import subprocess
from pathlib import Path

import build_native

from asm import ROOT
from pvlock import abi
from pvlock.trace.events import Flag, Kind
from pvlock.trace.rings import EVENT

INCLUDE = ROOT / "guest" / "include"
HEADER = (INCLUDE / "pvlock.h").read_text()
TRACE = (INCLUDE / "pvlock_trace.h").read_text()
EVENT_OFFSETS = [0, 8, 16, 20]
"""Of time, object, kind and other."""


def test_numbers_equal_abi() -> None:
    found = dict(re.findall(r"^#define (PV_\w+) (0x\w+)$", HEADER, re.MULTILINE))
    assert {name: int(value, 16) for name, value in found.items()} == {
        "PV_LOCK_FEATURES": abi.PV_LOCK_FEATURES,
        "PV_LOCK_PREEMPTED": abi.PV_LOCK_PREEMPTED,
    }


def test_uid_equals_abi() -> None:
    (words,) = re.findall(r"^#define PVLOCK_UID (.+)$", HEADER, re.MULTILINE)
    assert tuple(int(word, 16) for word in words.split(",")) == abi.uid_words()


def test_compatible_equals_abi() -> None:
    assert re.findall(r'PVLOCK_COMPATIBLE "(.+)"', HEADER) == [abi.DT_COMPATIBLE]


def test_structure_has_its_size_and_offset() -> None:
    body = re.search(r"struct pvlock_vcpu_state \{(.*?)\};", HEADER, re.DOTALL)
    assert body
    fields = re.findall(r"(unsigned long long|unsigned char) (\w+)(?:\[(\d+)\])?;", body[1])
    widths = {"unsigned long long": 8, "unsigned char": 1}
    sizes = [(name, widths[kind] * int(count or 1)) for kind, name, count in fields]
    assert sizes[0] == ("preempted", 8)
    assert abi.PREEMPTED_OFFSET == 0
    assert sum(size for _, size in sizes) == abi.STRUCTURE_SIZE


def test_any_guest_may_include_it() -> None:
    for header in (HEADER, TRACE):
        assert "GPL-2.0-or-later OR MIT" in header.splitlines()[0]
        assert not re.search("^#include", header, re.MULTILINE)


def test_trace_numbers_equal_abi(tmp_path: Path) -> None:
    (body,) = re.findall(r"enum pvlock_trace_kind \{(.*?)\};", TRACE, re.DOTALL)
    names = set(re.findall(r"PVLOCK_(TRACE_\w+) =", body))
    names |= set(re.findall(r"^#define PVLOCK_(TRACE_\w+) \(?-?\d", TRACE, re.MULTILINE))
    ours = {Kind.LOST, Kind.ABANDONED}  # no guest records these
    kinds = {f"TRACE_{kind.name}" for kind in Kind if kind >= Kind.CONTENDED and kind not in ours}
    assert names == kinds | {"TRACE_SHARED", "TRACE_NOBODY", "TRACE_NAMES"}
    holds([f"PVLOCK_{name} == {getattr(abi, name)}" for name in sorted(names)], tmp_path)
    assert all(getattr(abi, f"TRACE_{kind.name}", kind) == kind for kind in Kind)
    assert abi.TRACE_SHARED >> 8 == Flag.SHARED
    assert re.findall(r'TRACE_COMPATIBLE "(.+)"', TRACE) == [abi.DT_TRACE_COMPATIBLE]


def test_trace_layout(tmp_path: Path) -> None:
    offsets = {
        ("region", "rings"): abi.TRACE_RINGS_OFFSET,
        ("region", "stride"): abi.TRACE_STRIDE_OFFSET,
        ("region", "vcpus"): abi.TRACE_VCPUS_OFFSET,
        ("region", "named"): abi.TRACE_NAMED_OFFSET,
        ("region", "names"): abi.TRACE_NAMES_OFFSET,
        ("ring", "written"): abi.TRACE_RING_WRITTEN_OFFSET,
        ("ring", "mask"): abi.TRACE_RING_MASK_OFFSET,
        ("ring", "events"): abi.TRACE_RING_EVENTS_OFFSET,
        **{("event", name): at for name, at in zip(EVENT.names or (), EVENT_OFFSETS, strict=True)},
    }
    sizes = {
        "region": abi.TRACE_HEAD_SIZE,
        "name": abi.TRACE_NAME_SIZE,
        "event": abi.TRACE_EVENT_SIZE,
    }
    holds(
        [f"offsetof(struct pvlock_trace_{a}, {b}) == {at}" for (a, b), at in offsets.items()]
        + [f"sizeof(struct pvlock_trace_{name}) == {size}" for name, size in sizes.items()],
        tmp_path,
    )
    assert EVENT.itemsize == abi.TRACE_EVENT_SIZE
    assert [field[1] for field in (EVENT.fields or {}).values()] == EVENT_OFFSETS


def holds(facts: list[str], folder: Path) -> None:
    """Let the compiler check facts about the header, included alone, with traces and without."""
    lines = ["#include <stddef.h>", '#include "pvlock_trace.h"']
    lines += [f'_Static_assert({fact}, "{fact}");' for fact in facts]
    source = folder / "facts.c"
    source.write_text("\n".join(lines) + "\n")
    for flags in ([], build_native.TRACED):
        command = [*build_native.ZIG_CC, *build_native.WARNINGS, *flags, "-I", str(INCLUDE)]
        command += ["-target", "aarch64-freestanding-none", "-c", str(source)]
        subprocess.run([*command, "-o", str(source.with_suffix(".o"))], check=True)
