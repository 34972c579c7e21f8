# SPDX-License-Identifier: GPL-2.0-or-later
"""Files, options and calls that make no sense: each is one typed error, and no machine is lost."""

import contextlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from asm import words
from hostile import BRANCH_TO_SELF, MS, run
from pvlock import memory_map
from pvlock.engines.contract import Placement
from pvlock.errors import ConfigError, ImageError, StateError
from pvlock.image import Image, Kind, Segment
from pvlock.machine import Machine
from pvlock.workload import image_of

pytestmark = pytest.mark.usefixtures("bounded")


def segment_at(ipa: int, memsize: int = 16) -> Image:
    return Image("hostile", Kind.ELF_EXEC, ipa, (Segment(ipa, bytes(16), memsize),))


@pytest.mark.parametrize(
    "guest",
    [
        b"",
        b"#!/bin/sh\necho no guest\n",
        bytes(4096),
        b"\x7fELF",
        b"\x7fELF" + bytes(4096),
        Path(sys.executable).read_bytes(),
        image_of("mutex")[:100],
        image_of("mutex")[:5000],
        segment_at(memory_map.RAM_BASE - 0x1000),
        segment_at(memory_map.RAM_BASE + memory_map.RAM_SIZE),
        segment_at(memory_map.RAM_BASE, memory_map.RAM_SIZE + 1),
        segment_at(memory_map.RAM_BASE + memory_map.RAM_SIZE - 4096),
        segment_at(memory_map.PVLOCK_BASE),
        segment_at(memory_map.UART_BASE),
        segment_at(0),
        segment_at(2**64 - 16),
        "/nonexistent/guest.elf",
        "/",
    ],
    ids=[
        *("empty", "script", "zeros", "magic", "magic-and-zeros", "for-this-host"),
        *("headers-cut", "segments-cut", "before-ram", "after-ram", "larger-than-ram"),
        *("over-the-device-tree", "in-the-region", "in-a-device", "at-zero", "at-the-end"),
        *("missing", "directory"),
    ],
)
def test_what_is_no_guest_is_an_image_error(guest: bytes | Image | str) -> None:
    with Machine() as machine:
        with pytest.raises(ImageError) as raised:
            machine.load(guest)
        assert "\n" not in str(raised.value)
        # The machine is as it was before: another guest can be loaded and run.
        machine.load(words(BRANCH_TO_SELF))
        assert machine.run(MS) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_guest_with_random_damage_loads_or_is_an_image_error(seed: int) -> None:
    source = random.Random(seed)
    damaged = bytearray(image_of("mutex"))
    for _ in range(source.randrange(1, 8)):
        damaged[source.randrange(64 + 2 * 56)] = source.randrange(256)
    with contextlib.suppress(ImageError):
        run(bytes(damaged), until_ns=MS, vcpus=2)


@pytest.mark.parametrize(
    "options",
    [
        {"vcpus": 0},
        {"vcpus": -1},
        {"vcpus": 10_000},
        {"vcpus": memory_map.MAX_VCPUS + 1},
        {"pcpus": 0},
        {"pcpus": 10_000},
        {"slice_ns": -3},
        {"slice_ns": 0},
        {"slice_ns": 1 << 80},
        {"quantum_ns": -1},
        {"quantum_ns": 0},
        {"exit_ns": -1},
        {"switch_ns": -1},
        {"ram_size": 0},
        {"ram_size": -(2 << 20)},
        {"ram_size": (64 << 20) + 1},
        {"ram_size": 1 << 50},
        {"engine": "nonesuch"},
        {"bootargs": "x" * 100_000},
        {"bootargs": "a\0b"},
        {"bootargs": "ü"},
        {"script": [Placement(-1, 0, 0)]},
        {"script": [Placement(0, 1, 0)]},
        {"script": [Placement(0, -1, 0)]},
        {"script": [Placement(0, 0, 1)]},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_a_config_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        Machine(**options)
    assert "\n" not in str(raised.value)


def test_calls_that_make_no_sense_are_typed_errors() -> None:
    with Machine() as machine:
        with pytest.raises(ConfigError):
            machine.run(-1)
        with pytest.raises(ConfigError):
            machine.run(1 << 70)
        for name in ("x31", "nonesuch", "", "X0"):
            with pytest.raises(ConfigError):
                machine.vcpus[0].get(name)
            with pytest.raises(ConfigError):
                machine.vcpus[0].set(name, 0)
        machine.vcpus[0].set("x0", -1)
        assert machine.vcpus[0].get("x0") == 2**64 - 1
        machine.load(words(BRANCH_TO_SELF))
        with pytest.raises(StateError):
            machine.load(words(BRANCH_TO_SELF))
    with pytest.raises(StateError):
        machine.run(MS)
    machine.close()
