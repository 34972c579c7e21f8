# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest files: ELF executables and Linux arm64 `Image`s, from bytes to guest memory.

Whatever the bytes are, the only exception is ImageError.
"""

import contextlib
import enum
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pvlock.errors import ImageError
from pvlock.files import FileBytes, contents
from pvlock.memory import GuestMemory, MemorySlot

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import Segment as ElfSegment

_IPA_LIMIT = 2**64
_INSTRUCTION = 4

# Linux, Documentation/arch/arm64/booting.rst.
_LINUX_HEADER = struct.Struct("<IIQQQ24s4sI")
_LINUX_MAGIC = b"ARM\x64"
_LINUX_ALIGNMENT = 2 << 20
_LINUX_BIG_ENDIAN = 1
# Kernels before 3.17 (commit a2c1d73b94ed) leave image_size 0, and their text_offset is of unknown
# endianness.
_LINUX_OLD_TEXT_OFFSET = 0x8_0000

# An Image is an EFI application too, and only that header says how long the file is.
_PE_OFFSET = 60
_PE_HEADER = struct.Struct("<4sHH12xHH")
_PE_SECTION = struct.Struct("<8s8xII16x")

_PROGRAM_HEADER_SIZE = 56
# As in Linux's own loader: the table may take 64 KiB, which bounds the work a hostile file causes.
_PROGRAM_HEADERS_MAX = 0x1_0000 // _PROGRAM_HEADER_SIZE
_DT_NEEDED = 1
# PLTRELSZ, RELASZ, RELSZ, RELRSZ: the bytes that tables of dynamic relocations take.
_DT_RELOCATION_SIZES = (2, 8, 18, 35)


class Kind(enum.Enum):
    """What a guest file is; the value is its name for people."""

    ELF_EXEC = "ELF executable"
    ELF_DYN = "position-independent ELF executable"
    LINUX = "Linux Image"


Data = bytes | FileBytes
"""A guest file or a part of it, in memory or, since a kernel is large, still in its file."""


class Segment(NamedTuple):
    """`data` goes to `ipa`; zeros follow until `memsize` bytes are filled."""

    ipa: int
    data: Data
    memsize: int


@dataclass(frozen=True)
class Image:
    """A guest file, checked as far as that goes without a machine.

    `entry` and the segments' addresses are IPAs if `kind` is ELF_EXEC. Otherwise they count from
    the start of RAM, which must be a multiple of `alignment` bytes.
    """

    name: str
    kind: Kind
    entry: int
    segments: tuple[Segment, ...]
    alignment: int = 1


@dataclass(frozen=True)
class Loaded:
    """Where a guest is: its `entry`, its first IPA (`start`) and its last + 1 (`end`)."""

    entry: int
    start: int
    end: int


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image]:
    """Open a guest file; the image can be loaded until the block ends. Raises ImageError."""
    with contextlib.ExitStack() as stack:
        try:
            data = stack.enter_context(contents(path))
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from error
        yield parse(data, str(path))


def parse(data: Data, name: str) -> Image:
    """Read the guest file `data`; `name` is for messages. Raises ImageError, and nothing else.

    >>> parse(b"\\x1f\\x8b", "Image.gz")
    Traceback (most recent call last):
    pvlock.errors.ImageError: Image.gz: compressed with gzip; unpack it with gunzip first
    >>> from pvlock.workload import image_of
    >>> image = parse(image_of("mutex"), "mutex")
    >>> image.kind.value, hex(image.entry)
    ('ELF executable', '0x40200000')
    """
    try:
        image = _parse(data, name)
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror}") from error
    except struct.error:
        raise ImageError(f"{name}: became shorter while it was read") from None
    _check_layout(image)
    return image


def _parse(data: Data, name: str) -> Image:
    if data[:4] == b"\x7fELF":
        try:
            return _parse_elf(data[:], name)
        except ImageError:
            raise
        # The library's own errors, and what a hostile header makes it run into.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{name}: broken ELF file: {reason}") from error
    if data[56:60] == _LINUX_MAGIC:
        return _parse_linux(data, name)
    raise ImageError(f"{name}: {_guess(data)}")


def load(image: Image, memory: GuestMemory, ram_base: int) -> Loaded:
    """Write `image` into the RAM slot that holds `ram_base`; zero the rest of its segments.

    Raises ImageError when a segment is not wholly in that slot, and then writes nothing.

    >>> from pvlock.memory import anonymous_slot
    >>> memory = GuestMemory()
    >>> memory.add(anonymous_slot(0x4000_0000, 0x1000, "ram"))
    >>> loop = Segment(0x4000_0000, bytes.fromhex("00000014"), 4)  # B .
    >>> load(Image("loop", Kind.ELF_EXEC, 0x4000_0000, (loop,)), memory, 0x4000_0000)
    Loaded(entry=1073741824, start=1073741824, end=1073741828)
    >>> memory.close()
    """
    base = 0 if image.kind is Kind.ELF_EXEC else ram_base
    if base % image.alignment:
        raise ImageError(
            f"{image.name}: RAM at {ram_base:#x} is not aligned to {image.alignment:#x} bytes"
        )
    ram = memory.slot_of(ram_base, 1)
    if ram is None or ram.readonly:
        raise ImageError(f"{image.name}: there is no RAM at {ram_base:#x}")
    for segment in image.segments:
        _check_fits(image.name, base + segment.ipa, segment.memsize, memory, ram)
    for ipa, data, memsize in image.segments:
        if data:
            with memory.view(base + ipa, len(data), image.name) as window:
                _copy(data, window, image.name)
        if memsize > len(data):
            memory.zero(base + ipa + len(data), memsize - len(data), image.name)
    start = min(segment.ipa for segment in image.segments)
    end = max(segment.ipa + segment.memsize for segment in image.segments)
    return Loaded(base + image.entry, base + start, base + end)


def _copy(data: Data, window: memoryview, name: str) -> None:
    if isinstance(data, bytes):
        window[:] = data
        return
    try:
        data.read_into(window)
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror}") from error


def _check_fits(name: str, ipa: int, size: int, memory: GuestMemory, ram: MemorySlot) -> None:
    if memory.slot_of(ipa, size) is ram:
        return
    what = f"{name}: segment at {ipa:#x}, {size:#x} bytes,"
    for slot in memory.slots:
        if slot is not ram and ipa < slot.end and slot.base < ipa + size:
            raise ImageError(f"{what} overlaps memory slot {slot.name}")
    raise ImageError(f"{what} is outside RAM, {ram.base:#x} to {ram.end:#x}")


def _check_layout(image: Image) -> None:
    end = 0
    for segment in sorted(image.segments, key=lambda segment: segment.ipa):
        if segment.ipa < end:
            raise ImageError(f"{image.name}: segment at {segment.ipa:#x} overlaps another")
        end = segment.ipa + segment.memsize
    if end > _IPA_LIMIT:
        raise ImageError(f"{image.name}: a segment ends beyond the 64-bit address space")
    # Only bytes from the file can be instructions: zeroed memory holds none.
    if not any(s.ipa <= image.entry <= s.ipa + len(s.data) - _INSTRUCTION for s in image.segments):
        raise ImageError(f"{image.name}: entry {image.entry:#x} is outside every loaded segment")
    if image.entry % _INSTRUCTION:
        raise ImageError(f"{image.name}: entry {image.entry:#x} is not 4-byte aligned")


def _guess(data: Data) -> str:
    if data[:2] == b"\x1f\x8b":
        return "compressed with gzip; unpack it with gunzip first"
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return "an EFI zboot kernel, compressed; build or extract the plain arm64 Image"
    if not data:
        return "an empty file"
    return "neither an ELF file nor a Linux arm64 Image"


def _parse_linux(data: Data, name: str) -> Image:
    if len(data) < _LINUX_HEADER.size:
        raise ImageError(f"{name}: Linux Image header is cut off after {len(data)} bytes")
    _, _, text_offset, image_size, flags, *_ = _LINUX_HEADER.unpack(data[: _LINUX_HEADER.size])
    if image_size == 0:
        text_offset = _LINUX_OLD_TEXT_OFFSET
    elif flags & _LINUX_BIG_ENDIAN:
        raise ImageError(f"{name}: a big-endian Linux Image; only little-endian guests run")
    if data[:2] == b"MZ":
        _check_whole(data, name)
    segment = Segment(text_offset, data, max(image_size, len(data)))
    return Image(name, Kind.LINUX, text_offset, (segment,), _LINUX_ALIGNMENT)


def _check_whole(data: Data, name: str) -> None:
    """Refuse an Image that ends before its own EFI header says. One without header is accepted."""
    try:
        (at,) = struct.unpack("<I", data[_PE_OFFSET : _PE_OFFSET + 4])
        magic, _, sections, optional, _ = _PE_HEADER.unpack(data[at : at + _PE_HEADER.size])
        if magic != b"PE\0\0":
            return
        at += _PE_HEADER.size + optional
        table = data[at : at + sections * _PE_SECTION.size]
        for section in range(sections):
            _, size, offset = _PE_SECTION.unpack_from(table, section * _PE_SECTION.size)
            if offset + size > len(data):
                raise ImageError(f"{name}: is cut off: {len(data)} bytes of {offset + size}")
    except struct.error:
        raise ImageError(f"{name}: is cut off within its header") from None


def _parse_elf(data: bytes, name: str) -> Image:
    # The library is large, and a Linux Image does not need it.
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(data))
    if elf.elfclass != 64:
        raise ImageError(f"{name}: a {elf.elfclass}-bit ELF file; only 64-bit guests run")
    if not elf.little_endian:
        raise ImageError(f"{name}: a big-endian ELF file; only little-endian guests run")
    if elf["e_machine"] != "EM_AARCH64":
        raise ImageError(f"{name}: an ELF file for {elf['e_machine']}, not for EM_AARCH64")
    kinds = {"ET_EXEC": Kind.ELF_EXEC, "ET_DYN": Kind.ELF_DYN}
    kind = kinds.get(elf["e_type"])
    if kind is None:
        raise ImageError(f"{name}: an ELF file of type {elf['e_type']}, not an executable")
    loads: list[ElfSegment] = []
    for header in _program_headers(elf, data, name):
        _refuse_loader(header, name)
        if header["p_type"] == "PT_LOAD" and header["p_memsz"]:
            loads.append(header)
    if not loads:
        raise ImageError(f"{name}: an ELF file without a segment to load")
    segments = tuple(Segment(s["p_paddr"], s.data(), s["p_memsz"]) for s in loads)
    alignment = max(1, *(s["p_align"] for s in loads)) if kind is Kind.ELF_DYN else 1
    return Image(name, kind, _physical_entry(elf["e_entry"], loads), segments, alignment)


def _program_headers(elf: "ELFFile", data: bytes, name: str) -> "list[ElfSegment]":
    # All ranges are checked here, so that later reads stay within the file.
    start, count = elf["e_phoff"], elf["e_phnum"]
    if count and elf["e_phentsize"] != _PROGRAM_HEADER_SIZE:
        raise ImageError(f"{name}: program headers of {elf['e_phentsize']} bytes, not 56")
    if count > _PROGRAM_HEADERS_MAX:
        raise ImageError(f"{name}: {count} program headers, more than {_PROGRAM_HEADERS_MAX}")
    if start + count * _PROGRAM_HEADER_SIZE > len(data):
        raise ImageError(f"{name}: cut off within its program headers")
    headers = [elf.get_segment(index) for index in range(count)]
    for header in headers:
        if header["p_type"] not in ("PT_LOAD", "PT_DYNAMIC"):
            continue
        if header["p_offset"] + header["p_filesz"] > len(data):
            raise ImageError(f"{name}: cut off within the segment at {header['p_paddr']:#x}")
        if header["p_filesz"] > header["p_memsz"]:
            raise ImageError(f"{name}: segment at {header['p_paddr']:#x} is larger than its memory")
    return headers


def _refuse_loader(header: "ElfSegment", name: str) -> None:
    """Refuse a file that needs a dynamic loader, since a guest has none."""
    if header["p_type"] == "PT_INTERP":
        raise ImageError(f"{name}: needs a dynamic loader; link it statically")
    if header["p_type"] != "PT_DYNAMIC":
        return
    table = header.data()
    for tag, value in struct.iter_unpack("<qQ", table[: len(table) // 16 * 16]):
        if tag == 0:
            return
        if tag == _DT_NEEDED:
            raise ImageError(f"{name}: needs shared libraries; link it statically")
        if tag in _DT_RELOCATION_SIZES and value:
            raise ImageError(f"{name}: has dynamic relocations; link it at a fixed address")


def _physical_entry(entry: int, loads: "list[ElfSegment]") -> int:
    # e_entry is a virtual address, but a guest starts with its MMU off.
    for segment in loads:
        if 0 <= entry - segment["p_vaddr"] < segment["p_memsz"]:
            return int(entry - segment["p_vaddr"] + segment["p_paddr"])
    return entry
