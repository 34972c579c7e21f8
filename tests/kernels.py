# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux kernels for tests: headers with something behind them, packed as distributions do."""

import gzip
import lzma
import random
import struct
import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def header(image_size: int = 0x2000, flags: int = 0b1010) -> bytes:
    """The 64 bytes at the start of an arm64 Image."""
    return struct.pack("<IIQQQ24s4sI", 0x91005A4D, 0, 0, image_size, flags, b"", b"ARM\x64", 0)


def kernel(size: int = 3 << 20, image_size: int = 4 << 20, flags: int = 0b1010) -> bytes:
    """An Image of `size` bytes, some of which hardly compress."""
    noise = random.Random(size).randbytes(min(size // 4, 1 << 20))
    return (header(image_size=image_size, flags=flags) + noise).ljust(size, b"\x1f")


def xz(data: bytes) -> bytes:
    return lzma.compress(data, check=lzma.CHECK_CRC32)


def zst(data: bytes) -> bytes:
    # The program zstd, with which kernels are packed, adds a checksum.
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: 9, parameter.checksum_flag: 1}
    return bytes(zstd.compress(data, options=options))


def zboot(form: str, payload: bytes, declared: int | None = None, offset: int = 0x1000) -> bytes:
    """An EFI zboot kernel, as drivers/firmware/efi/libstub/zboot-header.S in Linux lays it out."""
    head = struct.pack(
        "<4s4sII8x32sII", b"MZ\0\0", b"zimg", offset, len(payload), form.encode(), 0x818223CD, 64
    )
    tail = b"" if declared is None else struct.pack("<I", declared)
    return head.ljust(offset, b"\0") + payload + tail + bytes(512)


def zboot_of(form: str, data: bytes) -> bytes:
    if form == "gzip":
        return zboot(form, gzip.compress(data))
    return zboot(form, (xz if form.startswith("xz") else zst)(data), len(data))
