# SPDX-License-Identifier: GPL-2.0-or-later
"""Files: read when their bytes are wanted, written whole or not at all."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock import files
from pvlock.errors import ConfigError, OutputError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@given(st.binary(max_size=40), st.none() | st.integers(-50, 50), st.none() | st.integers(-50, 50))
def test_slices_are_those_of_the_bytes(data: bytes, start: int | None, stop: int | None) -> None:
    fd = os.memfd_create("test")
    with os.fdopen(fd, "r+b", buffering=0) as file:
        file.write(data)
        lazy = files.FileBytes(file, len(data))
        assert lazy[start:stop] == data[start:stop]
        assert len(lazy) == len(data)
        with pytest.raises(ValueError, match="step"):
            lazy[::2]


def test_a_file_is_read_into_a_window(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "file").write_bytes(data)
    window = memoryview(bytearray(len(data)))
    with files.contents(tmp_path / "file") as lazy:
        assert isinstance(lazy, files.FileBytes)
        lazy.read_into(window)
    assert window == data


def test_a_file_that_became_shorter_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    with files.contents(tmp_path / "file") as lazy:
        os.truncate(tmp_path / "file", 99)
        assert isinstance(lazy, files.FileBytes)
        with pytest.raises(OSError, match="became shorter"):
            lazy.read_into(memoryview(bytearray(100)))


def test_a_pipe_is_read_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"guest" * 20_000,))
    writer.start()
    with files.contents(tmp_path / "pipe") as data:
        assert data == b"guest" * 20_000
    writer.join()


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "out") as file:
        file.write_text("half")
        _ = 1 / 0
    with (
        pytest.raises(OutputError, match="who: No space"),
        files.replacing(tmp_path / "out", "who"),
    ):
        Path("/dev/full").write_text("x")
    assert (tmp_path / "out").read_text() == "before"
    assert names(tmp_path) == ["out"]
    with files.replacing(tmp_path / "out") as file:
        file.write_text("after")
    assert (tmp_path / "out").read_text() == "after"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == ["out"]


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    files.refuse_unwritable(tmp_path / "pipe", "who")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    with files.replacing(tmp_path / "pipe") as file:
        file.write_text("through it")
    reader.join()
    assert read == ["through it"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "Is a directory"),
        ("no/such/file", "No such file or directory"),
        ("file/below", "Not a directory"),
        ("/proc/x", "No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_refused_early(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        files.refuse_unwritable(tmp_path / path, "who")
    assert str(caught.value) == f"who: {reason}"
    assert names(tmp_path) == ["file"]
