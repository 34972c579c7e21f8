# SPDX-License-Identifier: GPL-2.0-or-later
"""fdt.py: what is written is what the library's parser reads back, for any board."""

from dataclasses import replace

import fdt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock import abi
from pvlock.errors import ConfigError
from pvlock.fdt import Board, build
from pvlock.memory_map import GICR_STRIDE

BOARD = Board(
    vcpus=3,
    ram_base=0x4000_0000,
    ram_size=64 << 20,
    gicd_base=0x800_0000,
    gicd_size=0x1_0000,
    gicr_base=0x1000_0000,
    gicr_size=3 * GICR_STRIDE,
    uart_base=0x900_0000,
    pvlock_base=0x3000_0000,
    pvlock_size=0x1000,
    bootargs="console=ttyAMA0",
    initrd_start=0x4100_0000,
    initrd_end=0x4200_0000,
)
PVLOCK_NODE = "/reserved-memory/pvlock@30000000"


def parse(board: Board) -> fdt.FDT:
    # The parser appends reservations to a list that it shares between trees.
    tree = fdt.parse_dtb(build(board))
    assert tree.entries == []
    return tree


def value(tree: fdt.FDT, path: str, name: str) -> list[int] | list[str]:
    found = tree.get_property(name, path)
    assert found is not None, f"{path} has no {name}"
    return list(found.data)


def u64s(tree: fdt.FDT, path: str, name: str) -> list[int]:
    cells = [int(cell) for cell in value(tree, path, name)]
    assert len(cells) % 2 == 0
    return [cells[i] << 32 | cells[i + 1] for i in range(0, len(cells), 2)]


def test_header() -> None:
    blob = build(BOARD)
    header = [int.from_bytes(blob[i : i + 4], "big") for i in range(0, 40, 4)]
    assert header[0] == 0xD00D_FEED
    assert header[1] == len(blob)
    assert header[5:8] == [17, 16, 0]


def test_root() -> None:
    tree = parse(BOARD)
    assert value(tree, "/", "#address-cells") == [2]
    assert value(tree, "/", "#size-cells") == [2]
    assert value(tree, "/", "interrupt-parent") == value(tree, "/intc@8000000", "phandle")


def test_chosen() -> None:
    tree = parse(BOARD)
    assert value(tree, "/chosen", "bootargs") == ["console=ttyAMA0"]
    assert value(tree, "/chosen", "stdout-path") == ["/pl011@9000000"]
    assert u64s(tree, "/chosen", "linux,initrd-start") == [0x4100_0000]
    assert u64s(tree, "/chosen", "linux,initrd-end") == [0x4200_0000]
    bare = parse(replace(BOARD, bootargs="", initrd_start=None, initrd_end=None))
    assert [p.name for p in bare.get_node("/chosen").props] == ["stdout-path"]


def test_cpus() -> None:
    count = 33
    tree = parse(replace(BOARD, vcpus=count, gicr_size=count * GICR_STRIDE))
    assert value(tree, "/cpus", "#address-cells") == [1]
    assert value(tree, "/cpus", "#size-cells") == [0]
    nodes = tree.get_node("/cpus").nodes
    assert [int(node.get_property("reg").value) for node in nodes] == [
        abi.affinity(vcpu) for vcpu in range(count)
    ]
    assert [node.name for node in nodes][15:18] == ["cpu@f", "cpu@100", "cpu@101"]
    for node in nodes:
        assert node.get_property("enable-method").value == "psci"
        assert node.get_property("device_type").value == "cpu"


def test_psci() -> None:
    tree = parse(BOARD)
    assert value(tree, "/psci", "compatible") == ["arm,psci-1.0", "arm,psci-0.2"]
    assert value(tree, "/psci", "method") == ["hvc"]


def test_memory_lists_the_region() -> None:
    reg = u64s(parse(BOARD), "/memory@40000000", "reg")
    assert reg == [0x4000_0000, 64 << 20, 0x3000_0000, 0x1000]


def test_reserved_memory() -> None:
    tree = parse(BOARD)
    assert tree.exist_property("ranges", "/reserved-memory")
    assert value(tree, PVLOCK_NODE, "compatible") == ["pvlock,preempted-v1"]
    assert u64s(tree, PVLOCK_NODE, "reg") == [0x3000_0000, 0x1000]
    assert tree.exist_property("no-map", PVLOCK_NODE)


def test_without_pvlock() -> None:
    tree = parse(replace(BOARD, pvlock_base=None, pvlock_size=0))
    assert not tree.exist_node("/reserved-memory")
    assert u64s(tree, "/memory@40000000", "reg") == [0x4000_0000, 64 << 20]


def test_trace() -> None:
    traced = replace(BOARD, trace_base=0x2000_0000, trace_size=0x2000)
    for board, pvlock in ((traced, True), (replace(traced, pvlock_base=None), False)):
        tree = parse(board)
        node = "/reserved-memory/trace@20000000"
        assert value(tree, node, "compatible") == [abi.DT_TRACE_COMPATIBLE]
        assert u64s(tree, node, "reg") == [0x2000_0000, 0x2000]
        assert tree.exist_property("no-map", node)
        assert u64s(tree, "/memory@40000000", "reg")[-2:] == [0x2000_0000, 0x2000]
        assert tree.exist_node(PVLOCK_NODE) is pvlock
    assert not parse(BOARD).exist_node("/reserved-memory/trace@20000000")


def test_gic() -> None:
    tree = parse(BOARD)
    assert value(tree, "/intc@8000000", "compatible") == ["arm,gic-v3"]
    assert u64s(tree, "/intc@8000000", "reg") == [
        0x800_0000,
        0x1_0000,
        0x1000_0000,
        3 * GICR_STRIDE,
    ]
    assert value(tree, "/intc@8000000", "#interrupt-cells") == [3]
    assert tree.exist_property("interrupt-controller", "/intc@8000000")


def test_timer_interrupts_in_the_order_of_the_binding() -> None:
    secure, physical, virtual, hypervisor = [1, 13, 4], [1, 14, 4], [1, 11, 4], [1, 10, 4]
    found = value(parse(BOARD), "/timer", "interrupts")
    assert found == secure + physical + virtual + hypervisor


def test_uart() -> None:
    tree = parse(BOARD)
    assert value(tree, "/pl011@9000000", "compatible") == ["arm,pl011", "arm,primecell"]
    assert u64s(tree, "/pl011@9000000", "reg") == [0x900_0000, 0x1000]
    assert value(tree, "/pl011@9000000", "interrupts") == [0, 1, 4]
    assert value(tree, "/pl011@9000000", "clocks") == value(tree, "/apb-pclk", "phandle") * 2
    assert value(tree, "/pl011@9000000", "clock-names") == ["uartclk", "apb_pclk"]


@given(
    vcpus=st.integers(1, 64),
    ram=st.integers(1, 2**40).map(lambda n: n * 4096),
    bootargs=st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    base=st.integers(0, 2**30).map(lambda n: 2**63 + n * 4096),
    size=st.integers(1, 2**20).map(lambda n: n * 4096),
)
def test_round_trip(vcpus: int, ram: int, bootargs: str, base: int, size: int) -> None:
    board = replace(
        BOARD,
        vcpus=vcpus,
        gicr_size=vcpus * GICR_STRIDE,
        ram_size=ram,
        bootargs=bootargs,
        pvlock_base=base,
        pvlock_size=size,
    )
    tree = parse(board)
    assert build(board) == build(board)
    assert len(tree.get_node("/cpus").nodes) == vcpus
    assert u64s(tree, "/memory@40000000", "reg") == [board.ram_base, ram, base, size]
    assert u64s(tree, f"/reserved-memory/pvlock@{base:x}", "reg") == [base, size]
    if bootargs:
        assert value(tree, "/chosen", "bootargs") == [bootargs]
    else:
        assert not tree.exist_property("bootargs", "/chosen")


@pytest.mark.parametrize(
    ("board", "message"),
    [
        (replace(BOARD, vcpus=0), "VCPUs"),
        (replace(BOARD, vcpus=4), "redistributors"),
        (replace(BOARD, bootargs="a\nb"), "boot arguments"),
        (replace(BOARD, bootargs="\0"), "boot arguments"),
        (replace(BOARD, bootargs="ä"), "boot arguments"),
        (replace(BOARD, initrd_end=None), "initrd"),
        (replace(BOARD, timer_virtual=15), "PPIs"),
        (replace(BOARD, timer_hypervisor=32), "PPIs"),
        (replace(BOARD, ram_size=0), "RAM region"),
        (replace(BOARD, ram_base=-4096), "RAM region"),
        (replace(BOARD, ram_size=2**64), "RAM region"),
        (replace(BOARD, pvlock_base=0x4000_0000), "overlaps"),
        (replace(BOARD, uart_base=0x800_0000), "overlaps"),
    ],
)
def test_refusals(board: Board, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(board)
