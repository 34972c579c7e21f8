# SPDX-License-Identifier: GPL-2.0-or-later
"""image.py: what loads, where it goes, and one ImageError for everything that does not."""

import struct
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pvlock.errors import ImageError
from pvlock.image import Image, Kind, Segment, load, parse, raw
from pvlock.memory import GuestMemory, MemorySlot

RAM, RAM_SIZE = 0x4000_0000, 0x40_0000
REGION, REGION_SIZE = RAM + RAM_SIZE, 0x1000
CODE = struct.pack("<I", 0xD503201F) * 4
EHDR, PHDR = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3


def phdr(
    paddr: int,
    filesz: int = len(CODE),
    memsz: int | None = None,
    *,
    kind: int = PT_LOAD,
    offset: int = 0x200,
    vaddr: int | None = None,
    align: int = 0x1000,
) -> bytes:
    vaddr, memsz = paddr if vaddr is None else vaddr, filesz if memsz is None else memsz
    return PHDR.pack(kind, 5, offset, vaddr, paddr, filesz, memsz, align)


def elf(
    headers: Sequence[bytes] = (phdr(RAM),),
    entry: int = RAM,
    *,
    kind: int = ET_EXEC,
    machine: int = 183,
    ident: bytes = b"\x7fELF\2\1\1",
    content: bytes = CODE,
    phentsize: int = PHDR.size,
    count: int | None = None,
) -> bytes:
    number = len(headers) if count is None else count
    head = EHDR.pack(
        ident, kind, machine, 1, entry, EHDR.size, 0, 0, EHDR.size, phentsize, number, 64, 0, 0
    )
    return (head + b"".join(headers)).ljust(0x200, b"\0") + content


def dynamic(*tags: tuple[int, int]) -> bytes:
    """Return a position-independent file whose dynamic section holds `tags`."""
    table = b"".join(struct.pack("<qQ", *tag) for tag in (*tags, (0, 0), (1, 1)))
    headers = [phdr(0), phdr(0, len(table), kind=PT_DYNAMIC, offset=0x210)]
    return elf(headers, 0, kind=ET_DYN, content=CODE + table)


def linux(text_offset: int = 0, image_size: int = 0x2000, flags: int = 0xA) -> bytes:
    header = struct.pack(
        "<IIQQQ24s4sI", 0x91005A4D, 0, text_offset, image_size, flags, b"", b"ARM\x64", 0
    )
    return header + b"\x11" * 0x1000


@pytest.fixture
def memory() -> GuestMemory:
    memory = GuestMemory()
    for name, base, size in (("ram", RAM, RAM_SIZE), ("pvlock", REGION, REGION_SIZE)):
        buffer = memoryview(bytearray(b"\xa5" * size))
        memory.add(MemorySlot(base, size, name, buffer, readonly=name == "pvlock"))
    return memory


def test_elf_executable(memory: GuestMemory) -> None:
    image = parse(elf([phdr(RAM + 0x1000, memsz=0x100)], RAM + 0x1004), "guest")
    segment = Segment(RAM + 0x1000, CODE, 0x100)
    assert image == Image("guest", Kind.ELF_EXEC, RAM + 0x1004, (segment,))
    loaded = load(image, memory, RAM)
    assert (loaded.entry, loaded.start, loaded.end) == (RAM + 0x1004, RAM + 0x1000, RAM + 0x1100)
    expected = b"\xa5" * 16 + CODE + bytes(0x100 - len(CODE)) + b"\xa5" * 16
    assert memory.read(RAM + 0xFF0, 0x120, "test") == expected


def test_entry_is_physical(memory: GuestMemory) -> None:
    high = 0xFFFF_8000_0000_0000
    image = parse(elf([phdr(RAM, vaddr=high)], high + 8), "guest")
    assert load(image, memory, RAM).entry == RAM + 8


def test_position_independent_elf(memory: GuestMemory) -> None:
    image = parse(dynamic((8, 0), (7, 0x1234)), "guest")
    assert image.kind is Kind.ELF_DYN
    assert load(image, memory, RAM + 0x2000).entry == RAM + 0x2000
    assert memory.read(RAM + 0x2000, len(CODE), "test") == CODE
    with pytest.raises(ImageError, match="not aligned to 0x1000"):
        load(image, memory, RAM + 0x800)


def test_position_independent_elf_linked_in_ram_stays_there(memory: GuestMemory) -> None:
    image = parse(elf([phdr(RAM + 0x1000)], RAM + 0x1004, kind=ET_DYN), "guest")
    loaded = load(image, memory, RAM)
    assert (loaded.entry, loaded.start) == (RAM + 0x1004, RAM + 0x1000)
    assert memory.read(RAM + 0x1000, len(CODE), "test") == CODE


def test_zeroed_memory_may_name_any_place_in_the_file(memory: GuestMemory) -> None:
    image = parse(elf([phdr(RAM), phdr(RAM + 0x1000, 0, 0x40, offset=0x10_0000)]), "guest")
    load(image, memory, RAM)
    assert memory.read(RAM + 0x1000, 0x41, "test") == bytes(0x40) + b"\xa5"


def test_raw_binary(memory: GuestMemory) -> None:
    image = raw(CODE, "u-boot.bin", RAM + 0x8_0000)
    loaded = load(image, memory, RAM)
    assert (loaded.entry, loaded.end) == (RAM + 0x8_0000, RAM + 0x8_0000 + len(CODE))
    assert memory.read(loaded.entry, len(CODE), "test") == CODE


@pytest.mark.parametrize(
    ("data", "at", "message"),
    [
        (b"", RAM, "outside every loaded segment"),
        (CODE, RAM + 2, "not 4-byte aligned"),
        (CODE, 2**64 - 4, "beyond the 64-bit"),
    ],
)
def test_raw_binary_is_refused(data: bytes, at: int, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        raw(data, "file", at)


def test_segments_without_memory_are_skipped() -> None:
    headers = [phdr(RAM), phdr(0, 0, 0)]
    assert len(parse(elf(headers), "guest").segments) == 1


def test_linux_image(memory: GuestMemory) -> None:
    data = linux(text_offset=0x8_0000)
    image = parse(data, "Image")
    assert image.kind is Kind.LINUX
    loaded = load(image, memory, RAM)
    assert (loaded.entry, loaded.end) == (RAM + 0x8_0000, RAM + 0x8_2000)
    stored = memory.read(RAM + 0x8_0000, 0x2001, "test")
    assert stored == data.ljust(0x2000, b"\0") + b"\xa5"


def test_linux_image_before_3_17(memory: GuestMemory) -> None:
    image = parse(linux(text_offset=0x0000_0800_0000_0000, image_size=0), "Image")
    assert load(image, memory, RAM).entry == RAM + 0x8_0000


def test_linux_image_needs_2_mib_alignment(memory: GuestMemory) -> None:
    with pytest.raises(ImageError, match="not aligned to 0x200000"):
        load(parse(linux(), "Image"), memory, RAM + 0x1000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"#!/bin/sh\n", "neither an ELF file nor a Linux arm64 kernel"),
        (linux()[:60], "cut off"),
        (linux(flags=1), "big-endian Linux Image"),
        (linux(text_offset=1), "not 4-byte aligned"),
        (linux(text_offset=2**64 - 64), "beyond the 64-bit"),
        (b"\x7fELF", "broken ELF file"),
        (elf()[:40], "broken ELF file"),
        (elf(ident=b"\x7fELF\1\1\1"), "32-bit ELF file"),
        (elf(ident=b"\x7fELF\2\2\1"), "big-endian ELF file"),
        (elf(ident=b"\x7fELF\3\1\1"), "broken ELF file"),
        (elf(machine=62), "for EM_X86_64"),
        (elf(machine=0xABCD), "for 43981"),
        (elf(kind=ET_REL), "ET_REL"),
        (elf([]), "without a segment"),
        (elf([phdr(RAM, 0, 0)]), "without a segment"),
        (elf(phentsize=32), "program headers of 32 bytes"),
        (elf(count=60), "cut off within its program headers"),
        (elf(count=0xFFFF), "65535 program headers"),
        (elf([phdr(RAM, offset=0x208)]), "cut off within the segment"),
        (elf([phdr(RAM, offset=2**64 - 1)]), "cut off within the segment"),
        (elf([phdr(RAM, 2**64 - 1)]), "cut off within the segment"),
        (elf([phdr(RAM, memsz=8)]), "larger than its memory"),
        (elf([phdr(RAM), phdr(RAM + 8)]), "overlaps another"),
        (elf([phdr(RAM), phdr(2**64 - 8)]), "beyond the 64-bit"),
        (elf(entry=RAM - 4), "entry 0x3ffffffc is outside"),
        (elf(entry=RAM + len(CODE)), "outside every loaded segment"),
        (elf([phdr(RAM, memsz=0x1000)], RAM + 0x800), "outside every loaded segment"),
        (elf(entry=RAM + 2), "not 4-byte aligned"),
        (elf([phdr(RAM), phdr(0, kind=PT_INTERP)]), "dynamic loader"),
        (dynamic((1, 5)), "shared libraries"),
        (dynamic((8, 24)), "dynamic relocations"),
        (dynamic((35, 8)), "dynamic relocations"),
    ],
)
def test_parse_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        parse(data, "some file")
    assert str(caught.value).startswith("some file: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([phdr(RAM), phdr(REGION)], "overlaps memory slot pvlock"),
        ([phdr(RAM, memsz=RAM_SIZE + 1)], "overlaps memory slot pvlock"),
        ([phdr(RAM, memsz=2**63)], "overlaps memory slot pvlock"),
        ([phdr(RAM), phdr(REGION + REGION_SIZE)], "outside RAM, 0x40000000 to 0x40400000"),
        ([phdr(RAM), phdr(0)], "outside RAM"),
        ([phdr(RAM), phdr(RAM - 8)], "overlaps another"),
    ],
)
def test_load_refuses_and_writes_nothing(
    memory: GuestMemory, headers: list[bytes], message: str
) -> None:
    before = memory.read(RAM, RAM_SIZE, "test")
    with pytest.raises(ImageError, match=message):
        load(parse(elf(headers), "guest"), memory, RAM)
    assert memory.read(RAM, RAM_SIZE, "test") == before


@pytest.mark.parametrize("ram_base", [0, REGION, 2**64, -1])
def test_load_needs_ram(memory: GuestMemory, ram_base: int) -> None:
    with pytest.raises(ImageError, match="no RAM at"):
        load(parse(elf(), "guest"), memory, ram_base)


SEEDS = [elf(), elf([phdr(RAM), phdr(RAM + 0x1000, memsz=0x40)]), dynamic((8, 0)), linux()[:0x100]]
mutations = st.lists(st.tuples(st.integers(0, 0x2FF), st.integers(0, 255)), max_size=8)


def try_all(data: bytes) -> None:
    """Parse and load `data` into a small machine; only ImageError may come of it."""
    memory = GuestMemory()
    memory.add(MemorySlot(RAM, 0x1000, "ram", memoryview(bytearray(0x1000))))
    try:
        load(parse(data, "fuzz"), memory, RAM)
    except ImageError as error:
        assert "\n" not in str(error)


@given(st.sampled_from(SEEDS), mutations, st.integers(0, 0x300))
@example(SEEDS[0], [(56, 0xFF), (57, 0xFF)], 0x300)
@example(SEEDS[0], [(5, 3)], 0x300)
@example(SEEDS[0], [(32, 0xFF), (39, 0xFF)], 0x300)
def test_mutated_files(seed: bytes, changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(seed)
    for offset, value in changes:
        data[offset % len(data)] = value
    try_all(bytes(data[:length]))


@given(st.binary(max_size=512), st.sampled_from([b"", b"\x7fELF", b"\x7fELF\2\1\1", b"MZ"]))
def test_random_bytes(data: bytes, prefix: bytes) -> None:
    try_all(prefix + data)


@given(st.tuples(*[st.integers(0, 2**64 - 1)] * 6), st.integers(0, 2**32 - 1))
def test_hostile_program_headers(fields: tuple[int, ...], kind: int) -> None:
    try_all(elf([phdr(RAM), PHDR.pack(kind % 4, 5, *fields)]))


def efi_image(stated: int) -> bytes:
    """A Linux Image whose EFI header says that its one section ends at `stated`."""
    header = struct.pack("<2s2xIQQQ24s4sI", b"MZ", 0, 0, 0x10000, 0b1010, b"", b"ARM\x64", 64)
    pe = struct.pack("<4sHH12xHH", b"PE\0\0", 0xAA64, 1, 8, 0) + bytes(8)
    section = struct.pack("<8s8xII16x", b".text", stated - 512, 512)
    return (header + pe + section).ljust(4096, b"\0")


def test_a_linux_image_is_as_long_as_its_efi_header_says() -> None:
    assert parse(efi_image(4096), "Image").kind is Kind.LINUX
    with pytest.raises(ImageError, match="Image: is cut off: 4096 bytes of 4097"):
        parse(efi_image(4097), "Image")
    with pytest.raises(ImageError, match="Image: is cut off within its header"):
        parse(efi_image(4096)[:90], "Image")
