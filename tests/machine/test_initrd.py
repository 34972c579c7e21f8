# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial RAM disks: whole ones pass, others are an ImageError that names the file."""

import bz2
import gzip
import io
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock.cli import initrd
from pvlock.errors import ImageError
from pvlock.lab import cpio


def archive() -> bytes:
    file = io.BytesIO()
    writer = cpio.Writer(file)
    writer.add("etc/motd", b"hello" * 100)
    writer.link("init", "/bin/sh")
    writer.close()
    return file.getvalue()


PACKED = {
    "cpio": archive(),
    "gzip": gzip.compress(archive()),
    "bzip2": bz2.compress(archive()),
    "xz": lzma.compress(archive()),
    "lzma": lzma.compress(archive(), format=lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("kind", PACKED)
def test_whole(kind: str) -> None:
    initrd.check(PACKED[kind], "disk")
    initrd.check(PACKED[kind] + bytes(512), "disk")  # padded, as boot loaders do


@pytest.mark.parametrize("kind", PACKED)
def test_cut_off(kind: str) -> None:
    data = PACKED[kind]
    for length in (len(data) // 2, len(data) // 3, 20):
        with pytest.raises(ImageError, match=r"^disk: .*(cut off|breaks off|broken)"):
            initrd.check(data[:length], "disk")


@pytest.mark.parametrize("field", [slice(54, 62), slice(94, 102)])
def test_sizes_below_nothing(field: slice) -> None:
    """The way back to the same entry, for ever."""
    data = bytearray(archive())
    data[field] = b"-0000070"
    with pytest.raises(ImageError, match="breaks off"):
        initrd.check(bytes(data), "disk")


@pytest.mark.parametrize("magic", [b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\x89LZO"])
def test_what_only_a_kernel_unpacks_is_believed(magic: bytes) -> None:
    initrd.check(magic + bytes(100), "disk")


def test_nothing() -> None:
    with pytest.raises(ImageError, match=r"^disk: an empty file; an initrd is what the kernel unp"):
        initrd.check(b"", "disk")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (bytes(0x438) + b"\x53\xef" + bytes(100), "an ext2, ext3 or ext4 file system"),
        (b"hsqs" + bytes(100), "a squashfs file system"),
        (b"\x7fELF", "an ELF file"),
        (b"hello", "nothing that is known here"),
    ],
)
def test_what_is_no_archive_is_the_kernels_to_judge(data: bytes, what: str, tmp_path: Path) -> None:
    disk, told = tmp_path / "disk", list[str]()
    disk.write_bytes(data)
    assert initrd.read(disk, told.append) == data
    assert told == [f"{disk}: no cpio archive; it looks like {what}, and is the kernel's to judge"]


def test_nothing_is_said_of_an_archive(tmp_path: Path) -> None:
    disk, told = tmp_path / "disk", list[str]()
    disk.write_bytes(PACKED["gzip"])
    assert initrd.read(disk, told.append) == PACKED["gzip"]
    assert told == []


@given(
    st.sampled_from([b"", b"070701", b"\x1f\x8b\x08\x00", b"BZh9", b"\xfd7zXZ\0", b"\x5d\0\0"]),
    st.binary(max_size=300),
)
def test_any_bytes(magic: bytes, data: bytes) -> None:
    try:
        initrd.check(magic + data, "disk")
    except ImageError as error:
        assert str(error).startswith("disk: ")
        assert "\n" not in str(error)
