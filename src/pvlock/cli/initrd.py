# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial RAM disks, as far as they can be judged before a kernel unpacks them.

The kernel notices a broken one too, but late, and often in words about something else.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pvlock.errors import ImageError

_GZIP = 16 + zlib.MAX_WBITS
_CPIO_MAGIC = (b"070701", b"070702")
_CPIO_HEADER = 110
_CPIO_SIZE = slice(54, 62)
_CPIO_NAME_SIZE = slice(94, 102)
_CPIO_END = b"TRAILER!!!"
_CHUNK = 1 << 20
# What only the kernel can unpack here: the file is believed from its first bytes.
_BELIEVED = (b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\x89LZO")

_LOOKS = (
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"\x45\x3d\xcd\x28", "a cramfs file system"),
    (0, b"-rom1fs-", "a romfs file system"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x101, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "an ELF file"),
    (0, b"PK\x03\x04", "a zip archive"),
)
"""What an initrd may be that is no cpio archive: where, what, and what for people."""


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def read(path: str | Path, warn: Callable[[str], None]) -> bytes:
    """Return what is in the file `path`. Raises ImageError as check(), or if it cannot be read.

    `warn` is told of a file that is no archive: the kernel may know what to do with it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    if not check(data, str(path)):
        warn(f"{path}: no cpio archive; it looks like {_look(data)}, and is the kernel's to judge")
    return data


def check(data: bytes, name: str) -> bool:
    """Whether `data` is an archive that Linux unpacks: cpio, compressed or not.

    gzip, bzip2, xz and lzma are unpacked, a cpio archive is walked through to its end; zstd, lz4
    and lzo are recognised and no more. Raises ImageError for one that is broken or cut off, and for
    an empty file.
    """
    if data.startswith(_BELIEVED):
        return True
    if data.startswith(_CPIO_MAGIC):
        _check_cpio(data, name)
        return True
    unpackers: dict[bytes, tuple[str, Callable[[], _Unpacker]]] = {
        b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(_GZIP)),
        b"BZh": ("bzip2", bz2.BZ2Decompressor),
        b"\xfd7zXZ\0": ("xz", lzma.LZMADecompressor),
        b"\x5d\0\0": ("lzma", lzma.LZMADecompressor),
    }
    for magic, (kind, unpacker) in unpackers.items():
        if data.startswith(magic):
            _check_packed(data, name, kind, unpacker())
            return True
    if not data:
        raise ImageError(f"{name}: an empty file; an initrd is what the kernel unpacks")
    return False


def _look(data: bytes) -> str:
    for at, magic, what in _LOOKS:
        if data.startswith(magic, at):
            return what
    return "nothing that is known here"


def _check_packed(data: bytes, name: str, kind: str, unpacker: _Unpacker) -> None:
    try:
        for start in range(0, len(data), _CHUNK):
            unpacker.decompress(data[start : start + _CHUNK])
            if unpacker.eof:  # another archive may follow it, which Linux permits
                return
    except (OSError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ImageError(f"{name}: a broken {kind} file: {error}") from error
    raise ImageError(f"{name}: a {kind} file that is cut off after {len(data)} bytes")


def _check_cpio(data: bytes, name: str) -> None:
    at = 0
    while data[at : at + 6] in _CPIO_MAGIC:
        header = data[at : at + _CPIO_HEADER]
        try:
            size, named = int(header[_CPIO_SIZE], 16), int(header[_CPIO_NAME_SIZE], 16)
        except ValueError:
            break
        if size < 0 or named < 0:
            break
        body = _aligned(at + _CPIO_HEADER + named)
        if data.startswith(_CPIO_END, at + _CPIO_HEADER):
            return
        at = _aligned(body + size)
    raise ImageError(f"{name}: a cpio archive that breaks off after {min(at, len(data))} bytes")


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3
