# SPDX-License-Identifier: GPL-2.0-or-later
"""No global of the conformance guest can be taken for one of the guests' library."""

import struct

from pvlock import workload
from pvlock.conformance.cases import binary

SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
SYMTAB, GLOBAL = 2, 1

SHARED = {"main", "_start", "memset", "memcpy"}
"""Names that a linker, a boot loader or a compiler expects in every program."""
LAYOUT = {"text_end", "rela_start", "rela_end", "bss_start", "bss_end", "elf_base", "image_size"}
"""What conformance.ld defines."""


def globals_of(elf: bytes) -> set[str]:
    """Return the names of the global symbols that an ELF file defines."""
    (start,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    sections = [SECTION.unpack_from(elf, start + size * i) for i in range(count)]
    names = set()
    for section in sections:
        if section[1] != SYMTAB:
            continue
        strings = sections[section[6]][4]
        for name, info, _, where, _, _ in SYMBOL.iter_unpack(elf[section[4] :][: section[5]]):
            if info >> 4 == GLOBAL and where:
                end = elf.index(0, strings + name)
                names.add(elf[strings + name : end].decode())
    return names


def test_globals_of_the_conformance_guest_have_a_prefix() -> None:
    found = globals_of(binary("elf"))
    assert {"conf_gic_init", "case_conduit"} | SHARED | LAYOUT <= found
    others = {name for name in found if not name.startswith(("conf_", "case_"))}
    assert others == SHARED | LAYOUT


def test_globals_of_the_library_have_none() -> None:
    found = globals_of(workload.image_of("mutex"))
    assert {"gic_init", "payload_lock"} | SHARED <= found
    assert not {name for name in found if name.startswith(("conf_", "case_"))}
