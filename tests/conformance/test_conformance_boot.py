# SPDX-License-Identifier: GPL-2.0-or-later
"""The conformance guest boots wherever a VMM puts it, and reads any device tree."""

import random
import struct
from collections.abc import Callable
from typing import Any

import fdt
import pytest

from pvlock import Machine, SystemEvent
from pvlock.conformance.cases import binary
from pvlock.conformance.tap import Log, parse
from pvlock.errors import GuestStalled, PvlockError
from pvlock.image import Loaded
from pvlock.memory_map import UART_BASE

ONE = "cases=discovery-order"
LIMIT_NS = 600_000_000
Edit = Callable[[fdt.FDT], None]
UART = f"/pl011@{UART_BASE:x}"


def edit_tree(machine: Machine, edit: Callable[[bytes], bytes]) -> None:
    """Give a loaded machine another device tree in place of its own."""
    at = machine.vcpus[0].get("x0")
    size = int.from_bytes(machine.memory.read(at + 4, 4, "test"), "big")
    machine.memory.write(at, edit(machine.memory.read(at, size, "test")), "test")


class Edited(Machine):
    """A machine with another device tree, whose console can be a 16550 instead of a PL011."""

    def __init__(self, *args: Any, edit: Edit, shift: int = 0, **options: Any) -> None:
        self._edit, self._shift = edit, shift
        self.sizes: set[int] = set()
        self.sent = bytearray()
        super().__init__(*args, **options)

    def load(self, *args: Any, **options: Any) -> Loaded:
        loaded = super().load(*args, **options)
        edit_tree(self, self._rebuilt)
        return loaded

    def _rebuilt(self, data: bytes) -> bytes:
        tree = fdt.parse_dtb(data)
        self._edit(tree)
        return bytes(tree.to_dtb(version=17))

    def mmio_read(self, vcpu: int, ipa: int, size: int) -> int | None:
        if ipa == UART_BASE + (5 << self._shift):
            self.sizes.add(size)
            return 0x60
        return super().mmio_read(vcpu, ipa, size)

    def mmio_write(self, vcpu: int, ipa: int, size: int, value: int) -> bool:
        if ipa == UART_BASE:
            self.sizes.add(size)
            self.sent.append(value & 0xFF)
        return super().mmio_write(vcpu, ipa, size, value)


def play(machine: Machine, image: bytes | None = None) -> Log:
    machine.load(image or binary("Image"))
    assert machine.run(LIMIT_NS) is SystemEvent.OFF, machine.console.text
    return parse(machine.console.text)


def edited(edit: Edit, bootargs: str = ONE, vcpus: int = 2, shift: int = 0) -> tuple[Log, Edited]:
    with Edited(vcpus, edit=edit, shift=shift, bootargs=bootargs) as machine:
        log = play(machine)
        assert bytes(machine.sent).decode() == machine.console.text
        return log, machine


@pytest.mark.parametrize("offset", [0, 0x1000, 0x20_0000, 0x20_F000, 0x130_1000])
def test_any_page(offset: int) -> None:
    """The guest runs on any page, as a boot loader may place it that respects nothing but pages."""
    image = bytearray(binary("Image"))
    struct.pack_into("<Q", image, 8, offset)
    with Machine(2, bootargs="cases=3.*,6.2 observe=1") as machine:
        log = play(machine, bytes(image))
        assert {outcome.verdict for outcome in log.outcomes} == {"ok", "skipped"}
        assert log.interface == "present"


def test_elf_file() -> None:
    with Machine(1, bootargs=ONE) as machine:
        loaded = machine.load(binary("elf"))
        assert loaded.entry == loaded.start == 0x4020_0000
        assert machine.run(LIMIT_NS) is SystemEvent.OFF
        assert parse(machine.console.text).interface == "present"


def test_both_formats_hold_the_same() -> None:
    """The Image's header says how much memory the guest takes, which is what the ELF file says."""
    image, elf = binary("Image"), binary("elf")
    assert image[56:60] == b"ARM\x64"
    assert struct.unpack_from("<QQQ", image, 8)[0] == 0
    headers = [struct.unpack_from("<6Q", elf, 72 + 56 * i) for i in range(2)]
    memory = {virtual: (physical, size) for _, virtual, physical, _, size, _ in headers}
    assert sum(memory[max(memory)]) - 0x4020_0000 == struct.unpack_from("<Q", image, 16)[0]
    for offset, virtual, physical, filesize, _, _ in headers:
        assert physical - virtual == 0x4020_0000
        assert elf[offset : offset + filesize] == image[virtual : virtual + filesize]


def test_only_relative_relocations() -> None:
    """conf_head.S knows no other kind."""
    elf = binary("elf")
    (start,) = struct.unpack_from("<Q", elf, 40)
    entry_size, count = struct.unpack_from("<HH", elf, 58)
    kinds = set()
    for index in range(count):
        header = struct.unpack_from("<IIQQQQIIQQ", elf, start + index * entry_size)
        if header[1] == 4:
            table = elf[header[4] : header[4] + header[5]]
            kinds |= {info & 0xFFFF_FFFF for _, info, _ in struct.iter_unpack("<QQq", table)}
    assert kinds == {1027}


def test_every_cpu_is_there() -> None:
    with Machine(40, 8, bootargs="cases=affinity,layout,distinct,never-started") as machine:
        machine.load(binary("Image"))
        assert machine.run(20 * LIMIT_NS) is SystemEvent.OFF
        log = parse(machine.console.text)
        assert [outcome.verdict for outcome in log.outcomes] == ["ok"] * 4
        assert {outcome.evidence["vcpus"] for outcome in log.outcomes} == {40}


def _without_stdout(tree: fdt.FDT) -> None:
    tree.remove_property("stdout-path", "/chosen")


def _by_alias(tree: fdt.FDT) -> None:
    tree.set_property("stdout-path", "serial7:115200n8", "/chosen")
    tree.add_item(fdt.Node("aliases"))
    tree.set_property("serial7", UART, "/aliases")


def _second_uart(tree: fdt.FDT) -> None:
    """Add, before the console, a UART that would abort and a disabled one."""
    for name, status in (("pl011@f000000", "okay"), ("pl011@f001000", "disabled")):
        node = fdt.Node(name)
        node.set_property("compatible", ["arm,pl011", "arm,primecell"])
        node.set_property("status", status)
        node.set_property("reg", [0, int(name[6:], 16), 0, 0x1000])
        node.set_parent(tree.root)
        tree.root.nodes.insert(0, node)


def _only_disabled_before(tree: fdt.FDT) -> None:
    _second_uart(tree)
    _without_stdout(tree)
    tree.remove_node("pl011@f000000", "/")


@pytest.mark.parametrize("edit", [_without_stdout, _by_alias, _second_uart, _only_disabled_before])
def test_console_is_found(edit: Edit) -> None:
    log, _ = edited(edit)
    assert log.interface == "present"


@pytest.mark.parametrize(
    ("shift", "width", "given"), [(0, 1, False), (0, 1, True), (2, 4, True), (1, 2, True)]
)
def test_16550(shift: int, width: int, given: bool) -> None:
    """A 16550 has byte registers in kvmtool and Firecracker, and wider ones on boards."""

    def edit(tree: fdt.FDT) -> None:
        tree.set_property("compatible", "ns16550a", UART)
        if given:
            tree.set_property("reg-shift", shift, UART)
            tree.set_property("reg-io-width", width, UART)

    log, machine = edited(edit, shift=shift)
    assert "16550" in log.facts["machine"]
    assert machine.sizes == {width}


def test_one_cell_each() -> None:
    """#address-cells and #size-cells are 1, with 64-bit regions and devices behind a bus."""

    def edit(tree: fdt.FDT) -> None:
        tree.set_property("#address-cells", 1, "/")
        tree.set_property("#size-cells", 1, "/")
        for node in tree.root.nodes:
            if node.name.startswith(("memory@", "pl011@", "intc@")):
                cells = list(node.get_property("reg").data)
                assert not any(cells[::2])
                node.set_property("reg", cells[1::2])
        # Below this node two cells remain. A bus without translation must not change them.
        assert tree.get_property("#address-cells", "/reserved-memory").value == 2

    log, _ = edited(edit, "cases=in-memory,node,affinity")
    assert [outcome.verdict for outcome in log.outcomes] == ["ok"] * 3


def _bus(tree: fdt.FDT, ranges: list[int], reg: list[int]) -> None:
    bus = fdt.Node("bus")
    bus.set_property("compatible", "simple-bus")
    bus.set_property("#address-cells", 1)
    bus.set_property("#size-cells", 1)
    bus.set_property("ranges", ranges)
    uart = tree.get_node(UART).copy()
    uart.set_name("serial@100")
    uart.set_property("reg", reg)
    bus.append(uart)
    tree.remove_node(UART[1:], "/")
    tree.add_item(bus)
    tree.set_property("stdout-path", "/bus/serial@100", "/chosen")


def test_bus_ranges() -> None:
    log, _ = edited(lambda t: _bus(t, [0x0, 0, 0x800_0000, 0x10, 0x100, 0, UART_BASE, 0x1000],
                                   [0x100, 0x1000]))  # fmt: skip
    assert log.interface == "present"


def test_affinity_with_two_cells() -> None:
    def edit(tree: fdt.FDT) -> None:
        tree.set_property("#address-cells", 2, "/cpus")
        for node in tree.get_node("/cpus").nodes:
            node.set_property("reg", [0, node.get_property("reg").value])

    log, _ = edited(edit, "cases=affinity", vcpus=20)
    assert log.outcomes[0].evidence["vcpus"] == 20


def test_only_the_document() -> None:
    """A hypervisor that does not know our binding can be judged by what the document asks for."""

    def edit(tree: fdt.FDT) -> None:
        tree.remove_node("reserved-memory", "/")

    log, _ = edited(edit, "profile=document observe=5 live=5")
    assert log.facts["policy"] == "scheduled-out (inferred)"
    assert {o.case.name for o in log.outcomes if o.verdict == "skipped"} == {
        "preempted-unset",  # the address is set
        "preempted-reads-1",  # two VCPUs on two CPUs
        "yielding-reads-1",
        "time-is-stolen",
        "watch",  # no boot argument
        "no-time",
    }
    assert {o.verdict for o in log.outcomes} == {"ok", "skipped"}
    assert not {o.case.tag for o in log.outcomes} & {"series", "pvlock"}


@pytest.mark.parametrize("policy", ["scheduled-out", "preempted"])
def test_the_policy_is_inferred(policy: str) -> None:
    with Machine(2, policy=policy, bootargs="cases=off-vcpu") as machine:
        assert play(machine).facts["policy"] == f"{policy} (inferred)"


@pytest.mark.parametrize(
    ("bootargs", "names"),
    [
        ("cases=3.7", "features-preempted features-itself features-others features-unset"),
        ("cases=features-*,!*itself,!features-unset", "features-preempted features-others"),
        ("cases=!*", ""),
        ("quiet cases=st?re-zva nosmp", "store-zva"),
        ("profile=series cases=3.8", "preempted-unset address zero-after-call zeroed-by-call"),
        ("profile=document cases=3.8", "preempted-unset address"),
        ("xcases=3.7 cases=no-such", ""),
    ],
)
def test_boot_arguments_select(bootargs: str, names: str) -> None:
    with Machine(1, bootargs=bootargs) as machine:
        assert [outcome.case.name for outcome in play(machine).outcomes] == names.split()


def test_no_conduit_is_said() -> None:
    def edit(tree: fdt.FDT) -> None:
        tree.remove_node("psci", "/")

    with Edited(1, edit=edit) as machine:
        machine.load(binary("Image"))
        with pytest.raises(GuestStalled):  # without PSCI there is no way to turn the machine off
            machine.run(LIMIT_NS)
        assert "Bail out! the device tree names no PSCI conduit" in machine.console.text


@pytest.mark.parametrize("seed", range(12))
def test_damaged_device_trees(seed: int) -> None:
    """Whatever the tree says, the guest turns the machine off, or has nothing left to do."""
    chance = random.Random(seed)

    def damage(tree: bytes) -> bytes:
        data = bytearray(tree)
        for _ in range(chance.choice((1, 4, 32))):
            data[chance.randrange(len(data))] = chance.choice(
                (0, 1, 0x7F, 0xFF, chance.getrandbits(8))
            )
        kept = chance.choice((len(data), chance.randrange(8, len(data))))
        return bytes(data[:kept]) + bytes(len(data) - kept)

    with Machine(2, bootargs=ONE) as machine:
        machine.load(binary("Image"))
        edit_tree(machine, damage)
        try:
            ended = machine.run(6_000_000_000) is not None
        except PvlockError:
            ended = True
        assert ended, machine.console.text
