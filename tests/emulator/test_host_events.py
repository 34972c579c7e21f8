# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's scheduler did: one list of numbers for Python, C and the wire."""

import re
import struct
from pathlib import Path

import pytest

from pvlock import Machine
from pvlock.engines.contract import (
    SWITCH,
    HostEvent,
    Ready,
    Recording,
    Switch,
    pack,
    switches_in,
    unpack,
)
from pvlock.errors import GuestStalled
from pvlock.memory_map import RAM_BASE

SOURCE = Path(__file__).resolve().parents[2] / "bpf" / "switches.bpf.c"
CODES = {"u64": "q", "u32": "i", "unsigned short": "H"}
"""What a C type of the record is to struct.Struct; Python reads the first two as signed."""
SLEEP = struct.pack("<2I", 0xD503207F, 0x17FFFFFF)  # WFI; B .-4


def c_body(keyword: str) -> str:
    """Return what is between the braces of the first definition that begins with `keyword`."""
    found = re.search(rf"^{keyword} \{{(.*?)\}};", SOURCE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, keyword
    return re.sub(r"/\*.*?\*/", "", found[1])


def test_the_program_in_the_kernel_has_the_same_numbers() -> None:
    numbers = dict(re.findall(r"(\w+)\s*=\s*(\d+)", c_body("enum")))
    # A kernel knows no directed yield and no script.
    assert set(numbers) == {"IN", "SLICE", "WFI", "OFF", "READY"}
    for name, number in numbers.items():
        assert HostEvent[name] == int(number), name


def test_the_program_in_the_kernel_writes_the_same_record() -> None:
    fields = re.findall(r"^\s*([\w ]+?) (\w+);", c_body("struct record"), re.MULTILINE)
    assert [name for _, name in fields] == ["time_ns", "vcpu", "cpu", "what"]
    assert "<" + "".join(CODES[kind] for kind, _ in fields) == SWITCH.format


def test_the_numbers_stay_as_they_are_and_leave_no_gap() -> None:
    """A trace that is being recorded indexes a table with them."""
    assert list(HostEvent) == list(range(7))
    assert [event.name for event in HostEvent] == [
        "IN", "SLICE", "YIELD", "WFI", "OFF", "SCRIPT", "READY",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (HostEvent.IN, None),
        (HostEvent.SLICE, "slice"),
        (HostEvent.YIELD, "yield"),
        (HostEvent.WFI, "wfi"),
        (HostEvent.OFF, "off"),
        (HostEvent.SCRIPT, "script"),
    ],
)
def test_a_switch_says_why_in_a_word(event: HostEvent, reason: str | None) -> None:
    assert Switch(1, 0, 0, event).reason == reason


def test_records_come_back_as_they_were_packed() -> None:
    records: list[Switch | Ready] = [
        Switch(7 * event, event, 2, event) for event in HostEvent if event is not HostEvent.READY
    ]
    records[3:3] = [Ready(1 << 40, 122)]
    packed = b"".join(map(pack, records))
    assert unpack(packed) == records
    assert switches_in(packed) == [record for record in records if isinstance(record, Switch)]


@pytest.mark.parametrize("packed", [b"?", SWITCH.pack(0, 0, 0, 7), SWITCH.pack(0, 0, 0, 65_535)])
def test_nonsense_is_no_record(packed: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(packed)


def test_a_vcpu_that_gets_ready_is_recorded_and_is_no_switch() -> None:
    """The other engine's answer is the same: tests/kvm/test_trace.py."""
    with Machine(2, 1, engine="emulator", record=True) as machine:
        machine.memory.write(RAM_BASE, SLEEP, "code")
        for vcpu in machine.vcpus:
            vcpu.start(RAM_BASE)
        with pytest.raises(GuestStalled):
            machine.run(1_000_000)
        switches = machine.switches()
        assert isinstance(machine.engine, Recording)
        records = unpack(machine.engine.take_switches())
    assert {record.vcpu for record in records if isinstance(record, Ready)} == {0, 1}
    assert [record for record in records if isinstance(record, Switch)] == switches
    assert {switch.event for switch in switches} == {HostEvent.IN, HostEvent.WFI}
