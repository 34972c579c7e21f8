# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests that are made for QEMU's virt board take for granted of the machine."""

from pathlib import Path

import fdt
import pytest

from asm import assemble
from command_line import complaint, pvlock
from fragments import GIC_ON, SETUP, TELLING_VECTOR
from hostile import MS, run
from pvlock import image, memory_map
from pvlock.engines.contract import SystemEvent
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")

UART_SPI = 1 << memory_map.UART_INTERRUPT - 32


@pytest.mark.parametrize("vcpus", [1, 123, 124, 512])
def test_redistributors_are_where_that_board_has_them_as_far_as_they_fit(vcpus: int) -> None:
    base, end = memory_map.gicr_base(vcpus), memory_map.gicr_base(vcpus) + vcpus * 0x2_0000
    assert base == (0x080A_0000 if vcpus <= 123 else 0x1000_0000)
    assert end <= memory_map.UART_BASE or base > memory_map.UART_BASE
    assert end <= memory_map.TRACE_BASE


def test_the_last_redistributor_below_the_uart_answers() -> None:
    guest = """
	set x1, 0x080a0000 + 122 * 0x20000
	ldr x2, [x1, #8]		// GICR_TYPER
	off
"""
    end = run(assemble(guest), vcpus=123, registers=("x2",))
    assert end.registers["x2"] >> 8 & 0xFFFF == 122
    assert end.registers["x2"] >> 4 & 1  # the last one


def test_a_copy_of_the_device_tree_is_where_ram_begins() -> None:
    with Machine(1, engine="emulator", bootargs="hello") as machine:
        machine.load(assemble("off"))
        copy = machine.memory.read(memory_map.RAM_BASE, 0x4000, "test")
        assert fdt.parse_dtb(copy).get_property("bootargs", "/chosen").value == "hello"
        given = machine.vcpus[0].get("x0")
        size = int.from_bytes(copy[4:8], "big")
        assert machine.memory.read(given, size, "test") == copy[:size]


def test_a_copy_of_the_device_tree_is_not_where_the_guest_is() -> None:
    code = image.Segment(memory_map.RAM_BASE + 0x100, b"\x1f\x20\x03\xd5" * 4, 16)
    guest = image.Image("low", image.Kind.ELF_EXEC, code.ipa, (code,))
    with Machine(1, engine="emulator") as machine:
        machine.load(guest)
        assert machine.memory.read(memory_map.RAM_BASE, 0x100, "test") == bytes(0x100)
        assert machine.memory.read(code.ipa, 16, "test") == code.data


def test_the_uart_interrupts_and_shows_it_in_the_distributor() -> None:
    """The transmit interrupt is raised as soon as it is not masked; nobody has enabled the SPI."""
    guest = f"""
	set x1, {memory_map.UART_BASE}
	set x3, {memory_map.GICD_BASE}
	ldr w4, [x3, #0x204]		// GICD_ISPENDR1
	mov w2, #1 << 5
	str w2, [x1, #0x38]		// UARTIMSC
	ldr w5, [x1, #0x40]		// UARTMIS
	ldr w6, [x3, #0x204]
	str wzr, [x1, #0x38]
	ldr w7, [x3, #0x204]
	off
"""
    end = run(assemble(guest), registers=("x4", "x5", "x6", "x7"))
    assert end.registers == {"x4": 0, "x5": 1 << 5, "x6": UART_SPI, "x7": 0}


def test_a_guest_that_sleeps_is_woken_by_what_is_typed() -> None:
    guest = SETUP + GIC_ON + f"""
	set x1, {memory_map.GICD_BASE}
	mov w2, #{UART_SPI}
	str w2, [x1, #0x84]		// GICD_IGROUPR1
	str w2, [x1, #0x104]		// GICD_ISENABLER1
	set x1, {memory_map.UART_BASE}
	mov w2, #1 << 4
	str w2, [x1, #0x38]
	wfi
	mrs x4, s3_0_c12_c12_0		// ICC_IAR1_EL1
	ldr w3, [x1]			// UARTDR
	off
""" + TELLING_VECTOR  # fmt: skip
    with Machine(1, engine="emulator") as machine:
        machine.load(assemble(guest))
        machine.vcpus[0].set("x0", 0)
        machine.console.receive(b"k")
        assert machine.run(5 * MS) is SystemEvent.OFF
        assert machine.vcpus[0].get("x3") == ord("k")
        assert machine.vcpus[0].get("x4") == memory_map.UART_INTERRUPT


def raw_binary(code: str) -> bytes:
    (body,) = (part.data for part in image.parse(assemble(code), "tiny").segments)
    assert isinstance(body, bytes)
    return body


PRINTS = "set x1, 0x09000000\nmov w2, #'r'\nstrb w2, [x1]\nadr x3, _start\noff"


def test_a_raw_binary_runs_where_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "u-boot.bin"
    file.write_bytes(raw_binary(PRINTS))
    command = ["run", str(file), "--engine", "emulator", "--vcpus", "1"]
    done = pvlock(*command, "--load-address", "0x40080000")
    assert (done.status, done.out) == (0, "r")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "a raw binary needs --load-address"),
        (["--load-address", "here"], "'here' is no address, such as 0x40080000"),
        (["--load-address", "0x40080002"], "not 4-byte aligned"),
        (["--load-address", "0"], "is outside RAM"),
    ],
)
def test_a_raw_binary_that_cannot_run_is_one_line(
    options: list[str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "u-boot.bin"
    file.write_bytes(raw_binary(PRINTS))
    command = ["run", str(file), "--engine", "emulator", "--vcpus", "1", *options]
    assert message in complaint(pvlock(*command))
