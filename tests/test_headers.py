# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's header restates the ABI on its own; here both are held against each other."""

import re
from pathlib import Path

from pvlock import abi

HEADER = (Path(__file__).parent.parent / "guest" / "include" / "pvlock.h").read_text()


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
    assert "GPL-2.0-or-later OR MIT" in HEADER.splitlines()[0]
