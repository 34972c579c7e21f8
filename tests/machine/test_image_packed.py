# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels in the forms of distributions: each is made here, opened, damaged, and made a bomb."""

import gzip
import lzma
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from kernels import header, kernel, xz, zboot, zboot_of, zst
from pvlock import Machine
from pvlock.errors import ImageError
from pvlock.extras import remedy
from pvlock.image import Kind, check_granule, opened, packed, parse

ARM64_FILTER = 0x0A
UNKNOWN_FILTER = 0x3E


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": xz,
    "zstd": zst,
    "zboot gzip": lambda data: zboot_of("gzip", data),
    "zboot xzkern": lambda data: zboot_of("xzkern", data),
    "zboot zstd22": lambda data: zboot_of("zstd22", data),
    "zboot zstd": lambda data: zboot_of("zstd", data),
    "zboot in gzip": lambda data: gzip.compress(zboot_of("zstd", data)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0x1000, 1 << 20, (3 << 20) + 5])
def test_each_form_is_the_kernel_that_was_packed(form: str, size: int, tmp_path: Path) -> None:
    plain = kernel(size)
    path = tmp_path / "vmlinuz"
    path.write_bytes(FORMS[form](plain))
    with opened(path) as image:
        assert image.kind is Kind.LINUX
        assert image.name == str(path)
        (segment,) = image.segments
        assert segment.data[:] == plain
        assert segment.memsize == 4 << 20


def test_a_gzip_file_may_be_followed_by_a_signature() -> None:
    (segment,) = parse(gzip.compress(kernel()) + b"signature", "vmlinuz").segments
    assert segment.data == kernel()


def with_filter(number: int, data: bytes) -> bytes:
    """An xz file whose data went through filter `number`, which did not change a byte of them."""

    def padded(part: bytes) -> bytes:
        return part + bytes(-len(part) % 4)

    def number_of(value: int) -> bytes:
        out = bytearray()
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    def checked(part: bytes) -> bytes:
        return part + struct.pack("<I", zlib.crc32(part))

    flags = b"\0\1"
    raw = lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    filters = bytes([1, number, 0, lzma.FILTER_LZMA2, 1, 22])
    block_header = padded(b"\0" + filters)
    block_header = checked(bytes([len(block_header) // 4]) + block_header[1:])
    block = padded(raw) + struct.pack("<I", zlib.crc32(data))
    unpadded = number_of(len(block_header) + len(raw) + 4)
    index = checked(padded(b"\0" + number_of(1) + unpadded + number_of(len(data))))
    end = struct.pack("<I", len(index) // 4 - 1) + flags
    footer = struct.pack("<I", zlib.crc32(end)) + end + b"YZ"
    return b"\xfd7zXZ\0" + checked(flags) + block_header + block + index + footer


def without_branches(size: int) -> bytes:
    """A kernel in which the filter for ARM64 finds nothing: no BL and no ADRP."""
    return header(image_size=4 << 20).ljust(size, b"\x11")


def test_xz_with_the_filter_for_arm64() -> None:
    plain = without_branches(1 << 20)
    data = zboot("xzkern", with_filter(ARM64_FILTER, plain), len(plain))
    try:
        (segment,) = parse(data, "vmlinuz").segments
    except ImageError as error:
        # An older liblzma: then it must say so, as with a filter that nobody has.
        assert "liblzma 5.4" in str(error)
        assert not liblzma_has_arm64()
    else:
        assert segment.data == plain


def liblzma_has_arm64() -> bool:
    try:
        return lzma.decompress(with_filter(ARM64_FILTER, bytes(64))) == bytes(64)
    except lzma.LZMAError:
        return False


def refused(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        parse(data, "vmlinuz")
    text = str(caught.value)
    assert text.startswith("vmlinuz: ")
    assert "\n" not in text
    return text.removeprefix("vmlinuz: ")


def test_a_filter_that_liblzma_does_not_have() -> None:
    assert refused(with_filter(UNKNOWN_FILTER, without_branches(4096))) == (
        "a file packed with xz is broken: Invalid or unsupported options; "
        "the filter for ARM64 code needs liblzma 5.4 or newer (xz-utils)"
    )


@pytest.mark.parametrize(
    ("modules", "form", "message"),
    [
        (("compression", "compression.zstd", "backports.zstd"), "zstd",
         f"needs backports.zstd, which is not installed: {remedy('zstd')}"),
        (("lzma",), "xz", "needs Python's lzma module, which this Python was built without"),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...], form: str, message: str
) -> None:
    data = {"zstd": zboot_of("zstd22", kernel()), "xz": zboot_of("xzkern", kernel())}[form]
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    assert refused(data) == f"an EFI zboot kernel packed with {form} {message}"


@pytest.mark.parametrize("name", ["lz4", "lzo", "lzma", "", "\x1b[31m"])
def test_other_forms_are_named(name: str) -> None:
    shown = name if name and name.isprintable() else "?"
    assert refused(zboot(name, b"x" * 100, 100)) == (
        f"an EFI zboot kernel packed with {shown}; pvlock unpacks gzip, xz and zstd"
    )


@pytest.mark.parametrize("form", ["gzip", "xz", "zstd"])
def test_a_file_cut_short(form: str) -> None:
    data = FORMS[form](kernel())
    for size in (20, len(data) // 2, len(data) - 1):
        assert refused(data[:size]) == f"a file packed with {form} is cut off after {size} bytes"


@pytest.mark.parametrize("name", ["gzip", "xzkern", "zstd22"])
def test_a_zboot_kernel_cut_short(name: str) -> None:
    form = {"xzkern": "xz", "zstd22": "zstd"}.get(name, name)
    data = zboot_of(name, kernel())[:-512]
    for size in (100, len(data) // 2, len(data) - 1):
        assert refused(data[:size]) == (
            f"an EFI zboot kernel packed with {form} is cut off: {size} bytes of {len(data)}"
        )
    assert refused(data[:40]) == "an EFI zboot kernel is cut off within its header"


@pytest.mark.parametrize("name", ["gzip", "xzkern", "zstd22"])
def test_a_payload_cut_short(name: str) -> None:
    packed_kernel = {"gzip": gzip.compress, "xzkern": xz, "zstd22": zst}[name](kernel())
    half = packed_kernel[: len(packed_kernel) // 2]
    if name == "gzip":
        half += struct.pack("<I", len(kernel()))
    assert f"is cut off after {len(half)} bytes" in refused(zboot(name, half, len(kernel())))


@pytest.mark.parametrize("form", ["gzip", "xz", "zstd"])
def test_a_damaged_stream(form: str) -> None:
    data = bytearray(FORMS[form](kernel()))
    data[len(data) // 2] ^= 0x55
    assert refused(bytes(data)).startswith(f"a file packed with {form} is broken: ")


@pytest.mark.parametrize("form", ["gzip", "xz", "zstd"])
@pytest.mark.parametrize("size", [0, 10, 4096])
def test_what_is_packed_is_no_kernel(form: str, size: int) -> None:
    assert refused(FORMS[form](bytes(size))) == (
        f"a file packed with {form} holds no Linux arm64 kernel"
    )


def test_a_payload_is_what_it_declares() -> None:
    plain = kernel()
    what = "an EFI zboot kernel packed with zstd"
    for declared in (0, 100, len(plain) - 1):
        assert refused(zboot("zstd22", zst(plain), declared)) == (
            f"{what} holds more than it declares, {declared} bytes"
        )
    assert refused(zboot("zstd22", zst(plain), len(plain) + 1)) == (
        f"{what} holds {len(plain)} bytes, but declares {len(plain) + 1}"
    )


def test_a_payload_that_declares_too_much_is_not_even_looked_at() -> None:
    size = packed.MOST_BYTES + 1
    assert refused(zboot("zstd22", b"nonsense", size)) == (
        f"an EFI zboot kernel packed with zstd declares {size} bytes, "
        "more than the 256 MiB that a kernel may have"
    )
    lying = gzip.compress(kernel())[:-4] + struct.pack("<I", 0xFFFF_FFFF)
    assert "declares 4294967295 bytes" in refused(zboot("gzip", lying))


@pytest.mark.parametrize("layers", [3, 5])
def test_packed_too_often(layers: int) -> None:
    data = kernel()
    for _ in range(layers):
        data = gzip.compress(data)
    assert refused(data) == "packed more than 2 times"


def bomb(form: str, size: int) -> bytes:
    """A kernel's header, and then nothing but zeros, `size` bytes in all, well packed."""
    head, zeros = kernel(4096), bytes(1 << 20)
    if form == "gzip":
        packer: Any = zlib.compressobj(9, wbits=31)
    elif form == "xz":
        packer = lzma.LZMACompressor(check=lzma.CHECK_CRC32, preset=0)
    else:
        packer = zstd.ZstdCompressor(1)
    parts = [packer.compress(head)]
    parts += [packer.compress(zeros) for _ in range(size >> 20)]
    return b"".join((*parts, packer.flush()))


@pytest.mark.parametrize("form", ["gzip", "xz", "zstd"])
def test_a_bomb(form: str) -> None:
    data = bomb(form, 400 << 20)
    tracemalloc.start()
    message = refused(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message == (
        f"a file packed with {form} holds more than the 256 MiB that a kernel may have"
    )
    assert peak < packed.MOST_BYTES * 1.25 + (16 << 20)


@pytest.mark.parametrize("name", ["gzip", "xzkern", "zstd22"])
def test_a_bomb_that_declares_little(name: str) -> None:
    data = bomb({"xzkern": "xz", "zstd22": "zstd"}.get(name, name), 64 << 20)
    if name == "gzip":
        data = data[:-4] + struct.pack("<I", 8 << 20)
    tracemalloc.start()
    message = refused(zboot(name, data, 8 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message.endswith(f"holds more than it declares, {8 << 20} bytes")
    assert peak < 24 << 20


def test_a_window_that_is_too_large() -> None:
    huge = {"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}
    data = lzma.compress(kernel(), check=lzma.CHECK_CRC32, filters=[huge])
    assert refused(data) == "a file packed with xz is broken: Memory usage limit exceeded"
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 28}
    packer = zstd.ZstdCompressor(options=options)
    assert "a file packed with zstd is broken: " in refused(
        packer.compress(kernel()) + packer.flush()
    )


SMALL = without_branches(2048)
SEEDS = [make(SMALL) for make in FORMS.values()] + [with_filter(ARM64_FILTER, SMALL)]
mutations = st.lists(st.tuples(st.integers(0, 1 << 13), st.integers(0, 255)), max_size=6)


@given(st.sampled_from(SEEDS), mutations, st.one_of(st.none(), st.integers(0, 1 << 13)))
def test_mutated_files(seed: bytes, changes: list[tuple[int, int]], length: int | None) -> None:
    data = bytearray(seed)
    for offset, value in changes:
        # Most of a zboot kernel is the space between its header and its payload.
        offset %= len(data)
        data[offset % 80 if data[:2] == b"MZ" and offset < 0x1000 else offset] = value
    try:
        image = parse(bytes(data[:length]), "fuzz")
    except ImageError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("fuzz: ")
    else:
        assert sum(len(segment.data) for segment in image.segments) <= packed.MOST_BYTES


@given(
    st.sampled_from(["gzip", "xzkern", "zstd22", "lz4"]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=200),
)
def test_hostile_zboot_headers(form: str, offset: int, size: int, rest: bytes) -> None:
    head = struct.pack("<4s4sII8x32s", b"MZ\0\0", b"zimg", offset, size, form.encode())
    with pytest.raises(ImageError, match=r"^fuzz: an EFI zboot kernel"):
        parse(head + rest, "fuzz")


@given(st.sampled_from([b"\x1f\x8b\x08\0", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]), st.binary())
def test_random_streams(magic: bytes, rest: bytes) -> None:
    with pytest.raises(ImageError, match=r"^fuzz: a file packed with"):
        parse(magic + rest, "fuzz")


# -- the size of pages --


@pytest.mark.parametrize(
    ("flags", "expected"), [(0, None), (0b010, 4096), (0b100, 16384), (0b1110, 65536)]
)
def test_page_size(flags: int, expected: int | None) -> None:
    assert parse(kernel(0x1000, flags=flags), "Image").page_size == expected


@pytest.mark.parametrize(
    ("page_size", "mmfr0", "has"),
    [
        (16 << 10, 0x0000_1124, "4 KiB and 64 KiB"),
        (64 << 10, 0x0F10_1124, "4 KiB and 16 KiB"),
        (64 << 10, 0xFF00_1124, "none"),
        (4 << 10, 0xF020_1124, "16 KiB and 64 KiB"),
    ],
)
def test_a_granule_that_the_cpu_does_not_have(page_size: int, mmfr0: int, has: str) -> None:
    flags = {4 << 10: 0b010, 16 << 10: 0b100, 64 << 10: 0b110}[page_size]
    image = parse(kernel(0x1000, flags=flags), "Image")
    with pytest.raises(ImageError) as caught:
        check_granule(image, mmfr0)
    assert str(caught.value) == (
        f"Image: a kernel with pages of {page_size >> 10} KiB, a granule that this CPU does not "
        f"have; it has {has}"
    )


@pytest.mark.parametrize("flags", [0, 0b010, 0b110])
def test_a_granule_that_the_cpu_has(flags: int) -> None:
    check_granule(parse(kernel(0x1000, flags=flags), "Image"), 0x0000_1124)


@pytest.mark.parametrize("flags", [0b010, 0b100, 0b110])
def test_the_emulator_s_cpu_has_all_granules(flags: int) -> None:
    with Machine(1, engine="emulator") as machine:
        machine.load(kernel(0x1000, flags=flags))


def test_an_initrd_larger_than_memory_says_what_is_needed() -> None:
    size = 7 << 20
    message = (
        "an initrd of 7.0 MiB does not fit into RAM of 8.0 MiB beside a kernel of 4.0 MiB: "
        "give it 14 MiB (--memory)"
    )
    with Machine(1, engine="emulator", ram_size=8 << 20) as machine:
        with pytest.raises(ImageError) as caught:
            machine.load(kernel(0x1000), bytes(size))
        assert str(caught.value) == message
    with Machine(1, engine="emulator", ram_size=14 << 20) as machine:
        machine.load(kernel(0x1000), bytes(size))
