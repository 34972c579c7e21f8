# SPDX-License-Identifier: GPL-2.0-or-later
"""The flattened device tree that tells a guest its machine (SPECIFICATION.md, section 8)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from pvlock import abi
from pvlock.errors import ConfigError
from pvlock.memory_map import GICR_STRIDE

with warnings.catch_warnings():
    # Python 3.12 and newer warn of this library's escape sequences when they compile it.
    warnings.simplefilter("ignore", SyntaxWarning)
    import fdt

UART_SPI = 1

_VERSION = 17
_GIC_PHANDLE = 1
_CLOCK_PHANDLE = 2
_SPI, _PPI = 0, 1
_LEVEL_HIGH = 4
_FIRST_PPI = 16

Value = int | str | list[int] | list[str] | None


@dataclass(frozen=True)
class Board:
    """What the device tree says of the machine. Addresses are IPAs, and sizes are in bytes.

    The timers are interrupt IDs (PPIs are 16 to 31). `pvlock_base` is None when PV-lock is off,
    `trace_base` when the machine is not traced.
    """

    vcpus: int
    ram_base: int
    ram_size: int
    gicd_base: int
    gicd_size: int
    gicr_base: int
    gicr_size: int
    uart_base: int
    uart_size: int = 0x1000
    uart_clock_hz: int = 24_000_000
    pvlock_base: int | None = None
    pvlock_size: int = 0
    trace_base: int | None = None
    trace_size: int = 0
    bootargs: str = ""
    rng_seed: tuple[int, ...] = ()
    initrd_start: int | None = None
    initrd_end: int | None = None
    timer_secure: int = 29
    timer_physical: int = 30
    timer_virtual: int = 27
    timer_hypervisor: int = 26


def build(board: Board) -> bytes:
    """Return the device tree blob of `board`; the caller places it 8-byte aligned.

    Raises ConfigError for a board that no device tree can describe.

    >>> ram, gic, uart = (0x4000_0000, 64 << 20), (0x800_0000, 0x1_0000), 0x900_0000
    >>> blob = build(Board(1, *ram, *gic, 0x80a_0000, 0x2_0000, uart, bootargs="quiet"))
    >>> blob[:4].hex(), int.from_bytes(blob[4:8], "big") == len(blob)
    ('d00dfeed', True)
    """
    _check(board)
    # A list of entries for this tree alone: the library's default is one that all trees share.
    tree = fdt.FDT(entries=[])
    root = tree.root
    _set(root, "compatible", "linux,dummy-virt")
    _set(root, "model", "pvlock")
    _set(root, "#address-cells", 2)
    _set(root, "#size-cells", 2)
    _set(root, "interrupt-parent", _GIC_PHANDLE)
    uart = f"pl011@{board.uart_base:x}"
    nodes = [_chosen(board, uart), _cpus(board.vcpus), _psci(), _memory(board)]
    if board.pvlock_base is not None or board.trace_base is not None:
        nodes.append(_reserved(board))
    nodes += [_gic(board), _timer(board), _clock(board), _uart(board, uart)]
    for node in nodes:
        root.append(node)
    return bytes(tree.to_dtb(version=_VERSION))


def _check(board: Board) -> None:
    if not 1 <= board.vcpus <= abi.VCPU_LIMIT:
        raise ConfigError(f"{board.vcpus} VCPUs are not in 1..{abi.VCPU_LIMIT}")
    if board.gicr_size < board.vcpus * GICR_STRIDE:
        raise ConfigError(f"the GIC redistributors of {board.vcpus} VCPUs do not fit their region")
    if not (board.bootargs.isascii() and board.bootargs.isprintable()):
        raise ConfigError("the boot arguments are not printable ASCII")
    if (board.initrd_start is None) != (board.initrd_end is None):
        raise ConfigError("an initrd needs both its start and its end")
    timers = (board.timer_secure, board.timer_physical, board.timer_virtual, board.timer_hypervisor)
    if not all(_FIRST_PPI <= timer < 32 for timer in timers):
        raise ConfigError(f"the timer interrupts {timers} are not all PPIs, 16 to 31")
    ranges = {
        "RAM": (board.ram_base, board.ram_size),
        "GIC distributor": (board.gicd_base, board.gicd_size),
        "GIC redistributor": (board.gicr_base, board.gicr_size),
        "UART": (board.uart_base, board.uart_size),
    }
    if board.pvlock_base is not None:
        ranges["PV-lock"] = (board.pvlock_base, board.pvlock_size)
    if board.trace_base is not None:
        ranges["trace"] = (board.trace_base, board.trace_size)
    end, before = 0, ""
    for name, (base, size) in sorted(ranges.items(), key=lambda item: item[1]):
        if base < 0 or size < 1 or base + size > 2**64:
            raise ConfigError(f"{name} region {base:#x}, {size:#x} bytes: empty or out of range")
        if base < end:
            raise ConfigError(f"the {name} region at {base:#x} overlaps the {before} region")
        end, before = base + size, name


def _set(node: fdt.Node, name: str, value: Value = None) -> None:
    node.set_property(name, value)


def _pairs(*values: int) -> list[int]:
    """Return each 64-bit value as two cells, as #address-cells and #size-cells promise."""
    return [cell for value in values for cell in (value >> 32, value & 0xFFFF_FFFF)]


def _node(name: str, properties: Sequence[tuple[str, Value]]) -> fdt.Node:
    node = fdt.Node(name)
    for key, value in properties:
        _set(node, key, value)
    return node


def _chosen(board: Board, uart: str) -> fdt.Node:
    node = _node("chosen", [("stdout-path", f"/{uart}")])
    if board.bootargs:
        _set(node, "bootargs", board.bootargs)
    if board.rng_seed:
        _set(node, "rng-seed", list(board.rng_seed))
    if board.initrd_start is not None and board.initrd_end is not None:
        _set(node, "linux,initrd-start", _pairs(board.initrd_start))
        _set(node, "linux,initrd-end", _pairs(board.initrd_end))
    return node


def _cpus(vcpus: int) -> fdt.Node:
    # One address cell is enough: only Aff3 would need a second, and it is always zero.
    cpus = _node("cpus", [("#address-cells", 1), ("#size-cells", 0)])
    for vcpu in range(vcpus):
        reg = abi.affinity(vcpu)
        properties: list[tuple[str, Value]] = [
            ("device_type", "cpu"),
            ("compatible", "arm,armv8"),
            ("reg", reg),
            ("enable-method", "psci"),
        ]
        # Not by append(): it looks for a node of the same name, which is quadratic in VCPUs.
        child = _node(f"cpu@{reg:x}", properties)
        child.set_parent(cpus)
        cpus.nodes.append(child)
    return cpus


def _psci() -> fdt.Node:
    return _node("psci", [("compatible", ["arm,psci-1.0", "arm,psci-0.2"]), ("method", "hvc")])


def _memory(board: Board) -> fdt.Node:
    reg = _pairs(board.ram_base, board.ram_size)
    if board.pvlock_base is not None:
        reg += _pairs(board.pvlock_base, board.pvlock_size)
    if board.trace_base is not None:
        reg += _pairs(board.trace_base, board.trace_size)
    return _node(f"memory@{board.ram_base:x}", [("device_type", "memory"), ("reg", reg)])


def _reserved(board: Board) -> fdt.Node:
    node = _node("reserved-memory", [("#address-cells", 2), ("#size-cells", 2), ("ranges", None)])
    for name, compatible, base, size in (
        ("pvlock", abi.DT_COMPATIBLE, board.pvlock_base, board.pvlock_size),
        ("trace", abi.DT_TRACE_COMPATIBLE, board.trace_base, board.trace_size),
    ):
        if base is not None:
            properties: list[tuple[str, Value]] = [
                ("compatible", compatible),
                ("reg", _pairs(base, size)),
                ("no-map", None),
            ]
            node.append(_node(f"{name}@{base:x}", properties))
    return node


def _gic(board: Board) -> fdt.Node:
    reg = _pairs(board.gicd_base, board.gicd_size, board.gicr_base, board.gicr_size)
    properties: list[tuple[str, Value]] = [
        ("compatible", "arm,gic-v3"),
        ("#interrupt-cells", 3),
        ("interrupt-controller", None),
        ("#address-cells", 2),
        ("#size-cells", 2),
        ("ranges", None),
        ("reg", reg),
        ("phandle", _GIC_PHANDLE),
    ]
    return _node(f"intc@{board.gicd_base:x}", properties)


def _timer(board: Board) -> fdt.Node:
    # The binding fixes this order.
    timers = (board.timer_secure, board.timer_physical, board.timer_virtual, board.timer_hypervisor)
    interrupts = [cell for timer in timers for cell in (_PPI, timer - _FIRST_PPI, _LEVEL_HIGH)]
    properties: list[tuple[str, Value]] = [
        ("compatible", "arm,armv8-timer"),
        ("interrupts", interrupts),
        ("always-on", None),
    ]
    return _node("timer", properties)


def _clock(board: Board) -> fdt.Node:
    properties: list[tuple[str, Value]] = [
        ("compatible", "fixed-clock"),
        ("#clock-cells", 0),
        ("clock-frequency", board.uart_clock_hz),
        ("clock-output-names", "apb-pclk"),
        ("phandle", _CLOCK_PHANDLE),
    ]
    return _node("apb-pclk", properties)


def _uart(board: Board, name: str) -> fdt.Node:
    properties: list[tuple[str, Value]] = [
        ("compatible", ["arm,pl011", "arm,primecell"]),
        ("reg", _pairs(board.uart_base, board.uart_size)),
        ("interrupts", [_SPI, UART_SPI, _LEVEL_HIGH]),
        ("clocks", [_CLOCK_PHANDLE, _CLOCK_PHANDLE]),
        ("clock-names", ["uartclk", "apb_pclk"]),
    ]
    return _node(name, properties)
