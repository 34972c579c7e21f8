# SPDX-License-Identifier: GPL-2.0-or-later
"""Which loads there are. The folder linux/loads/ has their programs, each with its theory."""

from dataclasses import dataclass

from pvlock.errors import ConfigError


@dataclass(frozen=True)
class Test:
    """A test of UnixBench that a load stands for.

    `reference` is what the machine did that UnixBench calls 10 (a SPARCstation 20-61), in
    UnixBench's unit; an operation of the load a second is `scale` of these units.
    """

    name: str
    reference: float
    scale: float = 1.0


@dataclass(frozen=True)
class Load:
    """A load: its name, what an operation is, and the test of UnixBench that it stands for."""

    name: str
    operation: str
    test: Test | None = None
    busybox: bool = False
    """Does it run programs of busybox?"""
    times: int = 1
    """How many times as long as other loads it takes, since an operation is long."""


_KIB = 1024
_MINUTE = 60


def _copy(size: int, reference: float, blocks: int) -> Load:
    test = Test(f"File Copy {size} bufsize {blocks} maxblocks", reference, size / _KIB)
    return Load(f"fscopy{size}", f"{size} bytes copied between two files of all", test)


LOADS = (
    Load("execl", "a process replaced by itself", Test("Execl Throughput", 43.0), times=2),
    _copy(256, 1655.0, 500),
    _copy(1024, 3960.0, 2000),
    _copy(4096, 5800.0, 8000),
    Load("fscopy256-ext4", "the same on ext4 in RAM, 256 bytes"),
    Load("fscopy1024-ext4", "the same on ext4 in RAM, 1024 bytes"),
    Load("fscopy4096-ext4", "the same on ext4 in RAM, 4096 bytes"),
    Load("fscopy1024-own", "1024 bytes copied between two files of one's own"),
    Load("pipe", "512 bytes through a pipe of one's own", Test("Pipe Throughput", 12440.0)),
    Load(
        "context",
        "a number handed to another process and back",
        Test("Pipe-based Context Switching", 4000.0),
    ),
    Load("spawn", "a child made and awaited", Test("Process Creation", 126.0)),
    Load("syscall", "five system calls", Test("System Call Overhead", 15000.0)),
    Load(
        "shell1",
        "a shell script",
        Test("Shell Scripts (1 concurrent)", 42.4, _MINUTE),
        busybox=True,
        times=3,
    ),
    Load(
        "shell8",
        "a shell script, eight at once",
        Test("Shell Scripts (8 concurrent)", 6.0, _MINUTE / 8),
        busybox=True,
        times=6,
    ),
    Load("mmap", "64 KiB mapped and unmapped by a thread"),
    Load("fault", "the same, each page touched"),
    Load("create", "a file made and removed in one folder"),
    Load("rename", "a file renamed to and fro in one folder"),
    Load("futex", "a lock of user space taken and released"),
    Load("messaging", "a message from one process of a group to another"),
    Load("build", "a file compiled, or what a kernel sees of that"),
)
BY_NAME = {load.name: load for load in LOADS}
GROUPS = {"fscopy": tuple(name for name in BY_NAME if name.startswith("fscopy"))}
"""Names for several loads."""
DEFAULT = ("create", "mmap", "fscopy1024", "execl", "context")
"""What runs if no load is named: it takes a minute or two."""


def parse(text: str) -> tuple[str, ...]:
    """Return the names of the loads in a list with commas, each once. Raises ConfigError.

    >>> parse("mmap,fscopy1024,mmap")
    ('mmap', 'fscopy1024')
    """
    found: list[str] = []
    for word in text.split(","):
        name = word.strip()
        if name != "all" and name not in GROUPS and name not in BY_NAME:
            known = ", ".join((*BY_NAME, *GROUPS, "all"))
            raise ConfigError(f"no load is called {name!r}; there are: {known}")
        found += BY_NAME if name == "all" else GROUPS.get(name, (name,))
    return tuple(dict.fromkeys(found))
