# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels in the forms in which distributions ship them, unpacked within bounds.

A kernel is packed with gzip, xz or zstd, or is an EFI zboot image with one of these inside. What a
file declares is checked before anything is unpacked, what it holds while it is.
"""

import importlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pvlock.errors import ImageError
from pvlock.extras import remedy
from pvlock.image import linux
from pvlock.image.guest import Data

MOST_BYTES = 256 << 20
"""More than any kernel unpacks to."""
_MOST_WINDOW = 128 << 20
"""How far back a packed kernel may refer: what `xz` and `zstd -22` in the kernel's build use."""
_CHUNK = 1 << 20
_HEAD = 64

# Linux, drivers/firmware/efi/libstub/zboot-header.S: where the payload is, its size, its form.
_ZBOOT = struct.Struct("<2s2x4sII8x32s")
_ZBOOT_IMAGE_TYPE = b"zimg"
_SIZE = struct.Struct("<I")
_MAGICS = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ZBOOT_FORMS = {"gzip": "gzip", "xzkern": "xz", "xz": "xz", "zstd22": "zstd", "zstd": "zstd"}
"""The kernel names a form by the rule of its build that makes it."""

# What liblzma says of a filter that it does not know.
_XZ_OPTIONS = "unsupported options"


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Broken(Exception):
    """A stream that is no whole one; the text says why."""


@dataclass(frozen=True)
class _Payload:
    """Where the packed bytes are, their `form`, what people call the whole, its declared size."""

    form: str
    what: str
    start: int
    end: int
    declared: int | None


def is_packed(head: bytes) -> bool:
    """Tell from the first 64 bytes of a file whether unpack() may know it."""
    return _magic(head) is not None or _is_zboot(head)


def unpack(data: Data, name: str) -> bytes:
    """Return what is packed in `data`, of which is_packed() is true.

    Raises ImageError, which begins with `name` and the form, and OSError.
    """
    payload = _zboot(data, name) if _is_zboot(data[:_HEAD]) else _plain(data)
    try:
        return bytes(_unpacked(data, payload))
    except _Broken as error:
        raise ImageError(f"{name}: {payload.what} {error}") from error


def _magic(head: bytes) -> str | None:
    return next((form for magic, form in _MAGICS.items() if head.startswith(magic)), None)


def _is_zboot(head: bytes) -> bool:
    return head[:2] == b"MZ" and head[4:8] == _ZBOOT_IMAGE_TYPE


def _plain(data: Data) -> _Payload:
    form = _magic(data[:_HEAD])
    assert form
    return _Payload(form, f"a file packed with {form}", 0, len(data), None)


def _zboot(data: Data, name: str) -> _Payload:
    try:
        _, _, start, size, named = _ZBOOT.unpack(data[: _ZBOOT.size])
    except struct.error:
        raise ImageError(f"{name}: an EFI zboot kernel is cut off within its header") from None
    word = named.split(b"\0")[0].decode("ascii", "replace")
    form = _ZBOOT_FORMS.get(word)
    if form is None:
        shown = word if word and word.isascii() and word.isprintable() else "?"
        raise ImageError(
            f"{name}: an EFI zboot kernel packed with {shown}; pvlock unpacks gzip, xz and zstd"
        )
    what = f"an EFI zboot kernel packed with {form}"
    # gzip ends with the size of what is in it; behind the others, the kernel's build puts it.
    end = start + size
    declared_at = end - _SIZE.size if form == "gzip" else end
    needed = declared_at + _SIZE.size
    if needed > len(data):
        raise ImageError(f"{name}: {what} is cut off: {len(data)} bytes of {needed}")
    if start < _ZBOOT.size or size < _SIZE.size:
        raise ImageError(f"{name}: {what} is broken: its payload is {size} bytes at {start}")
    (declared,) = _SIZE.unpack(data[declared_at:needed])
    if declared > MOST_BYTES:
        raise ImageError(f"{name}: {what} declares {declared} bytes, {_too_many()}")
    return _Payload(form, what, start, end, declared)


def _too_many() -> str:
    return f"more than the {MOST_BYTES >> 20} MiB that a kernel may have"


def _unpacked(data: Data, payload: _Payload) -> bytearray:
    """Return what is in `payload`. Raises _Broken as soon as it cannot be a kernel."""
    out = bytearray()
    declared = payload.declared
    for part in _parts(data, payload):
        first = len(out) < _HEAD
        out += part
        if first and len(out) >= _HEAD:
            _check_kernel(out)
        if declared is not None and len(out) > declared:
            raise _Broken(f"holds more than it declares, {declared} bytes")
        if len(out) > MOST_BYTES:
            raise _Broken(f"holds {_too_many()}")
    if declared is not None and len(out) < declared:
        raise _Broken(f"holds {len(out)} bytes, but declares {declared}")
    _check_kernel(out)
    return out


def _check_kernel(unpacked: bytearray) -> None:
    head = bytes(unpacked[:_HEAD])
    if not linux.is_image(head) and not is_packed(head):
        raise _Broken("holds no Linux arm64 kernel")


def _parts(data: Data, payload: _Payload) -> Iterator[bytes]:
    stream, errors = _STREAMS[payload.form]()
    caught: _Errors = (*errors, EOFError, MemoryError)
    try:
        for start in range(payload.start, payload.end, _CHUNK):
            packed = data[start : min(start + _CHUNK, payload.end)]
            full = True
            while full and not stream.eof:
                part = stream.decompress(packed, _CHUNK)
                packed, full = b"", len(part) == _CHUNK
                yield part
            if stream.eof:  # what may follow is a signature
                return
    except caught as error:
        reason = " ".join(str(error).split()) or "not enough memory"
        if _XZ_OPTIONS in reason:
            reason += "; the filter for ARM64 code needs liblzma 5.4 or newer (xz-utils)"
        raise _Broken(f"is broken: {reason}") from error
    raise _Broken(f"is cut off after {payload.end - payload.start} bytes")


class _Gzip:
    """zlib keeps what it has not looked at; here the next call gets it."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


_Errors = tuple[type[Exception], ...]


def _gzip() -> tuple[_Stream, _Errors]:
    return _Gzip(), (zlib.error,)


def _xz() -> tuple[_Stream, _Errors]:
    try:
        import lzma
    except ImportError as error:
        raise _Broken("needs Python's lzma module, which this Python was built without") from error
    # Its decoder finds the filters by itself, those too that Python has no name for.
    memory = _MOST_WINDOW + (8 << 20)
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memory), (lzma.LZMAError,)


def _zstd() -> tuple[_Stream, _Errors]:
    try:
        zstd = importlib.import_module("compression.zstd")  # since Python 3.14
    except ImportError:
        try:
            zstd = importlib.import_module("backports.zstd")
        except ImportError as error:
            raise _Broken(
                f"needs backports.zstd, which is not installed: {remedy('zstd')}"
            ) from error
    window = {zstd.DecompressionParameter.window_log_max: _MOST_WINDOW.bit_length() - 1}
    return zstd.ZstdDecompressor(options=window), (zstd.ZstdError,)


_STREAMS: dict[str, Callable[[], tuple[_Stream, _Errors]]] = {
    "gzip": _gzip,
    "xz": _xz,
    "zstd": _zstd,
}
