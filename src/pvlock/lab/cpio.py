# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives that a Linux kernel unpacks as its first root file system: cpio, format "newc".

The kernel's Documentation/driver-api/early-userspace/buffer-format.rst describes them. Archives
can be put one behind the other; a file in a later one replaces that of an earlier one.
"""

import stat
from typing import IO

_TRAILER = "TRAILER!!!"


class Writer:
    """Writes an archive to `file`, entry by entry. Equal entries give equal bytes.

    Everything belongs to root. Names are relative to the root, without a leading slash.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._inode = file, 0
        self._folders: set[str] = set()

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder, and those above it that are missing; once, however often it is called."""
        name = name.strip("/")
        if name in self._folders or name in ("", "."):
            return
        self.folder(name.rpartition("/")[0])
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | mode, b"", 0)

    def add(self, name: str, data: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        """Add a regular file; `mtime` is in seconds since 1970."""
        self._in_folder(name, stat.S_IFREG | mode, data, mtime)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._in_folder(name, stat.S_IFLNK | 0o777, target.encode(), 0)

    def close(self) -> None:
        """Write the end of the archive, padded so that another may follow. The file stays open."""
        self._inode = -1
        self._entry(_TRAILER, 0, b"", 0)

    def _in_folder(self, name: str, mode: int, data: bytes, mtime: int) -> None:
        name = name.strip("/")
        self.folder(name.rpartition("/")[0])
        self._entry(name, mode, data, mtime)

    def _entry(self, name: str, mode: int, data: bytes, mtime: int) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # Inode, mode, owner, group, links, time, size, device, its own device, name, no checksum.
        fields = (self._inode, mode, 0, 0, links, mtime, len(data), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % (field & 0xFFFFFFFF) for field in fields)
        self._file.write(_padded(header + path))
        self._file.write(_padded(data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
