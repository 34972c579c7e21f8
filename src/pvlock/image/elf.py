# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF executables, which need no loader, from bytes to segments."""

import io
import struct
from typing import TYPE_CHECKING

from pvlock.errors import ImageError
from pvlock.image.guest import Image, Kind, Segment

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import Segment as ElfSegment

MAGIC = b"\x7fELF"
_PROGRAM_HEADER_SIZE = 56
# As in Linux's own loader: the table may take 64 KiB, which bounds the work a hostile file causes.
_PROGRAM_HEADERS_MAX = 0x1_0000 // _PROGRAM_HEADER_SIZE
_DT_NEEDED = 1
# PLTRELSZ, RELASZ, RELSZ, RELRSZ: the bytes that tables of dynamic relocations take.
_DT_RELOCATION_SIZES = (2, 8, 18, 35)


def parse(data: bytes, name: str) -> Image:
    """Read an ELF file; `name` is for messages. Raises ImageError, and nothing else."""
    try:
        return _parse(data, name)
    except ImageError:
        raise
    # The library's own errors, and what a hostile header makes it run into.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: broken ELF file: {reason}") from error


def _parse(data: bytes, name: str) -> Image:
    # A large library, which a Linux Image does not need.
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
    # All ranges are checked here, so that reading them later stays within the file.
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
        # Memory that is only zeroed may name any place in the file: nothing is read there.
        if header["p_filesz"] and header["p_offset"] + header["p_filesz"] > len(data):
            raise ImageError(f"{name}: cut off within the segment at {header['p_paddr']:#x}")
        if header["p_filesz"] > header["p_memsz"]:
            raise ImageError(f"{name}: segment at {header['p_paddr']:#x} is larger than its memory")
    return headers


def _refuse_loader(header: "ElfSegment", name: str) -> None:
    """Refuse what only a dynamic loader could run: there is none below a guest."""
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
            raise ImageError(
                f"{name}: has dynamic relocations; link it at a fixed address, or, if it relocates "
                "itself, make it a raw binary (objcopy -O binary) for --load-address"
            )


def _physical_entry(entry: int, loads: "list[ElfSegment]") -> int:
    # e_entry is a virtual address, but a guest starts with its MMU off.
    for segment in loads:
        if 0 <= entry - segment["p_vaddr"] < segment["p_memsz"]:
            return int(entry - segment["p_vaddr"] + segment["p_paddr"])
    return entry
