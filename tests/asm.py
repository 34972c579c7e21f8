# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for tests: assembled from text with the project's own compiler, or from bare words."""

import functools
import hashlib
import importlib.util
import os
import struct
import tempfile
from pathlib import Path
from typing import Any, Final

from pvlock.image import Image, Kind, Segment

ROOT: Final = Path(__file__).resolve().parent.parent
ENTRY: Final = 0x4020_0000
"""Where every guest of these tests begins: guest.ld puts it there."""

_CACHE = ROOT / ".pytest_cache" / "pvlock-asm"
# `set` gives a register a number, `off` ends the machine, `to_el0` goes on at EL0; X1 is lost.
_PROLOGUE = """\
.arch armv8.5-a
.macro set reg, value
	movz \\reg, #((\\value) & 0xffff)
	movk \\reg, #(((\\value) >> 16) & 0xffff), lsl #16
	movk \\reg, #(((\\value) >> 32) & 0xffff), lsl #32
	movk \\reg, #(((\\value) >> 48) & 0xffff), lsl #48
.endm
.macro off
	set x0, 0x84000008
	hvc #0
	b .
.endm
.macro to_el0
	adr x1, 99f
	msr elr_el1, x1
	msr spsr_el1, xzr
	eret
99:
.endm
.section .text.start, "ax"
.global _start
_start:
"""


def assemble(text: str) -> bytes:
    """Return an AArch64 ELF file of `text`, which begins at `_start` (ENTRY) in AArch64 assembly.

    `set REGISTER, NUMBER`, `off` (PSCI SYSTEM_OFF) and `to_el0` are macros. Kept under
    .pytest_cache, by content, so assembled once.
    """
    source = _PROLOGUE + text + "\n"
    linker = (ROOT / "guest" / "guest.ld").read_bytes()
    name = hashlib.sha256(linker + source.encode()).hexdigest()
    kept = _CACHE / f"{name}.elf"
    if kept.exists():
        return kept.read_bytes()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        path = Path(folder, "guest.S")
        path.write_text(source)
        output = Path(folder, "guest.elf")
        _build().build_guest([path], output)
        output.replace(kept)
    return kept.read_bytes()


def words(*instructions: int) -> Image:
    """Return a guest of these instruction words at ENTRY; no compiler needed."""
    return data(struct.pack(f"<{len(instructions)}I", *instructions))


def data(code: bytes) -> Image:
    """Return a guest of these bytes at ENTRY."""
    return Image("words", Kind.ELF_EXEC, ENTRY, (Segment(ENTRY, code, len(code)),))


def children() -> set[int]:
    """Return the emulator's workers that this process started, and zombies of any kind.

    Other libraries keep helpers of their own (multiprocessing's resource tracker): not our concern.
    """
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        ours = fields[0] == "Z" or b"emulator.worker" in command
        if int(fields[1]) == os.getpid() and ours:
            found.add(int(stat.parent.name))
    return found


@functools.cache
def _build() -> Any:
    """Return build_native.py, which is no module of the package, as a module."""
    spec = importlib.util.spec_from_file_location("build_native", ROOT / "build_native.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
