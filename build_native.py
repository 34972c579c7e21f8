# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles the C half of pvlock: guests for AArch64, BPF programs, and the emulator's helper.

pip runs this file as hatchling's build hook; `python build_native.py` runs it by hand. It uses the
compiler in the PyPI package ziglang, so it needs no toolchain of the system.
"""

import importlib.util
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as Hook
except ModuleNotFoundError:  # run by hand, in an environment that has no hatchling
    Hook: Any = object  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parent
GUEST = ROOT / "guest"
BPF = ROOT / "bpf"
OUT = ROOT / "src" / "pvlock"
ZIG_CC = [sys.executable, "-m", "ziglang", "cc"]
WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
GUEST_FLAGS = [
    *("-target", "aarch64-freestanding-none", "-mcpu=generic-neon-fp_armv8"),
    # No floating point, no unaligned access (it would fault with the MMU off), inline atomics.
    *("-mgeneral-regs-only", "-mstrict-align", "-mno-outline-atomics"),
    *("-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-sanitize=all", "-nostdlib"),
    *("-O2", "-g0", "-I", str(GUEST / "include")),
    *("-static", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096", "-Wl,-z,norelro"),
]

GLIBC = "2.28"
"""The oldest glibc that the helper runs with; the tag of a wheel says the same."""
WHEEL_FOR = "PVLOCK_WHEEL_FOR"
"""The environment variable that names the machine of a wheel: x86_64 or aarch64."""
TRACED = ["-DPVLOCK_TRACE"]
HINTED = ["-DPVLOCK_HINT"]
ELF_EXECUTABLE = 2
"""The e_type of an ELF file that has a fixed address."""


def build_guest(sources: list[Path], output: Path, flags: list[str] | None = None) -> None:
    """Compile and link one guest.

    Raises CalledProcessError if that fails; the compiler has then said why on stderr.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [*ZIG_CC, *WARNINGS, *GUEST_FLAGS, *(flags or []), "-T", str(GUEST / "guest.ld")]
    subprocess.run([*command, *map(str, sources), "-o", str(output)], check=True)


def library_sources() -> list[Path]:
    """The freestanding library that every guest is linked with."""
    return sorted((GUEST / "lib").glob("*.[cS]"))


def trace_sources() -> list[Path]:
    """The files that a guest needs as well if it is compiled with TRACED."""
    return sorted((GUEST / "trace").glob("*.c"))


def build_guests() -> None:
    """Build every guest/payloads/NAME.c with the harness into src/pvlock/guests/NAME.elf.

    A second file, NAME.traced.elf, records events, and a third, NAME.hinted.elf, tells the
    hypervisor whom it waits for. So NAME.elf has no instruction that is there for either.
    """
    harness = GUEST / "harness" / "workload.c"
    for source in sorted((GUEST / "payloads").glob("*.c")):
        sources = [source, harness, *library_sources()]
        build_guest(sources, OUT / "guests" / f"{source.stem}.elf")
        build_guest(
            [*sources, *trace_sources()], OUT / "guests" / f"{source.stem}.traced.elf", TRACED
        )
        build_guest(
            [*sources, GUEST / "hint" / "hint.c"],
            OUT / "guests" / f"{source.stem}.hinted.elf",
            HINTED,
        )


def build_fuzzer() -> None:
    """Build the hostile guest of guest/fuzz/ into src/pvlock/fuzz/guest.elf."""
    sources = sorted((GUEST / "fuzz").glob("*.[cS]"))
    build_guest([*sources, *library_sources()], OUT / "fuzz" / "guest.elf")


def build_conformance() -> None:
    """Build guest/conformance/, position-independent, as ELF file and as Linux Image."""
    folder = GUEST / "conformance"
    elf = OUT / "conformance" / "guest.elf"
    flags = [flag for flag in GUEST_FLAGS if flag not in ("-static", "-fno-pic")]
    command = [*ZIG_CC, *WARNINGS, *flags, "-fpie", "-pie", "-T", str(folder / "conformance.ld")]
    # Of the library it takes only what runs on any machine.
    sources = [*sorted(folder.glob("*.[cS]")), GUEST / "lib" / "cstring.c"]
    elf.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*command, *map(str, sources), "-o", str(elf)], check=True)
    data = bytearray(elf.read_bytes())
    # The linker makes a shared object. But the guest relocates itself, and its ELF file names an
    # address, so that loaders should take it for an executable.
    struct.pack_into("<H", data, 16, ELF_EXECUTABLE)
    elf.write_bytes(data)
    image = bytearray()
    start, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for header in range(start, start + 56 * count, 56):
        offset, address, _, size = struct.unpack_from("<4Q", data, header + 8)
        image += bytes(address - len(image)) + data[offset : offset + size]
    elf.with_suffix(".Image").write_bytes(image)


def build_loads() -> None:
    """Build linux/loads/, the first process of a Linux guest, with musl: it needs no library."""
    output = OUT / "loads" / "loads.elf"
    command = [*ZIG_CC, "-target", "aarch64-linux-musl", "-static", *WARNINGS]
    command += ["-O2", "-g0", "-s", "-fno-sanitize=all"]
    sources = map(str, sorted((ROOT / "linux" / "loads").glob("*.c")))
    subprocess.run([*command, *sources, "-o", str(output)], check=True)


def build_bpf(source: Path, output: Path) -> None:
    """Compile one BPF object with its types (-g), by which libbpf adapts it to the kernel."""
    flags = ["-target", "bpfel-freestanding", "-O2", "-g", f"-ffile-prefix-map={ROOT}=."]
    command = [*ZIG_CC, *WARNINGS, *flags, "-I", str(BPF)]
    subprocess.run([*command, "-c", str(source), "-o", str(output)], check=True)


def build_publisher() -> None:
    """Build the programs that publish `preempted` on KVM, record switches, and watch VCPUs."""
    for name in ("publisher", "switches"):
        build_bpf(BPF / f"{name}.bpf.c", OUT / "engines" / "kvm" / f"{name}.bpf.o")
    build_bpf(BPF / "top.bpf.c", OUT / "top" / "top.bpf.o")


def build_helper(machine: str, output: Path) -> None:
    """Build native/ for a `machine`, with the headers in the Python package of Unicorn."""
    spec = importlib.util.find_spec("unicorn")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("build_native: Unicorn's headers are missing: pip install unicorn==2.1.4")
    include = Path(spec.submodule_search_locations[0]) / "include"
    mac = sys.platform == "darwin"
    # For an old glibc, so that a wheel built here runs elsewhere. It is not linked with libunicorn,
    # which the emulator has loaded before it loads this library.
    target = ["-target", f"{machine}-linux-gnu.{GLIBC}"] if _has_glibc() else []
    link = ["-Wl,-undefined,dynamic_lookup"] if mac else []
    command = [*ZIG_CC, *target, *WARNINGS, "-O2", "-g0", "-s", "-shared", "-fPIC"]
    command += ["-fomit-frame-pointer"]
    command += ["-fvisibility=hidden", "-fno-sanitize=all", *link, "-I", str(include)]
    sources = map(str, sorted((ROOT / "native").glob("*.c")))
    subprocess.run([*command, *sources, "-o", str(output)], check=True)


def this_machine() -> str:
    """Return the name of this host's processor, as Linux has it."""
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())


def own_helper() -> Path:
    """Return where the helper for this host is."""
    return OUT / "engines" / "emulator" / f"libvcpu.{'dylib' if sys.platform == 'darwin' else 'so'}"


def build_everything() -> None:
    """Build all that runs here or in a guest, and say what is being built."""
    for what, build in (
        ("the guests", build_guests),
        ("the hostile guest", build_fuzzer),
        ("the conformance guest", build_conformance),
        ("the loads of Linux", build_loads),
        ("the BPF programs", build_publisher),
        ("the emulator's helper", lambda: build_helper(this_machine(), own_helper())),
    ):
        print(f"pvlock: compiling {what}", flush=True)
        build()


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


class CustomBuildHook(Hook):  # type: ignore[type-arg]
    """hatchling calls this before it packs the wheel: compile, and tag it for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build everything (also for an editable install, whose `version` is "editable")."""
        if self.target_name != "wheel":
            return
        build_everything()
        machine = os.environ.get(WHEEL_FOR) or this_machine()
        helper = own_helper()
        if machine != this_machine():
            # Beside the working tree, whose own helper stays.
            helper = ROOT / "build" / machine / "libvcpu.so"
            helper.parent.mkdir(parents=True, exist_ok=True)
            build_helper(machine, helper)
        if version != "editable":
            place = f"pvlock/engines/emulator/{helper.name}"
            build_data["force_include"][str(helper)] = place
            # There, pvlock.kernel.series finds it where it is.
            build_data["force_include"][str(ROOT / "linux")] = "pvlock/kernel/linux"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag(machine)}"


def _platform_tag(machine: str) -> str:
    """Return the platform as an index takes it: manylinux, by the glibc that is needed."""
    if _has_glibc():
        return f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
    from packaging.tags import sys_tags

    return next(sys_tags()).platform


if __name__ == "__main__":
    build_everything()
