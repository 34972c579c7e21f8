# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's side: its first root file system, and what its first process says.

linux/loads/init.c documents the lines; Reader reads them as they come.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path

from pvlock.errors import EngineError
from pvlock.lab import cpio

PROGRAM = Path(__file__).with_name("loads.elf")
_SAYS = "loads: "
_APPLETS = ("sh", "sort", "od", "grep", "tee", "wc", "rm")
_LAST_LINES = 3
_LONGEST_TAIL = 4096


def initrd(busybox: bytes | None) -> bytes:
    """Return the root file system: the loads' program, and busybox if it is given."""
    buffer = io.BytesIO()
    archive = cpio.Writer(buffer)
    for name in ("dev", "proc", "run", "sys"):
        archive.folder(name)
    archive.add("bin/loads", PROGRAM.read_bytes(), 0o755)
    archive.link("init", "bin/loads")
    if busybox is not None:
        archive.add("bin/busybox", busybox, 0o755)
        for name in _APPLETS:
            archive.link(f"bin/{name}", "busybox")
    archive.close()
    return buffer.getvalue()


def bootargs(loads: tuple[str, ...], warmup_ns: int, duration_ns: int) -> str:
    """Return the kernel's command line."""
    return (
        # After a panic Linux resets the machine at once, and the run ends.
        "console=ttyAMA0 quiet panic=-1 ramdisk_size=16384"
        f" loads={','.join(loads)} warmup={warmup_ns} duration={duration_ns}"
    )


@dataclass(frozen=True)
class Counted:
    """What the copies of a load did in `duration_ns`: operations of each."""

    duration_ns: int
    operations: tuple[int, ...]

    @property
    def throughput(self) -> float:
        """Operations per second of guest time, all copies together."""
        return sum(self.operations) * 1e9 / self.duration_ns

    @property
    def fairness(self) -> float:
        """Operations of the copy with the fewest, as a share of those of the one with most."""
        return min(self.operations) / max(max(self.operations), 1)


@dataclass
class Reader:
    """Takes the console's bytes, and keeps what the first process says of the loads.

    `pvlock` is whether the kernel uses PV-lock, None until it has said so. `refused` has why a load
    cannot run in this kernel. `begun` are the loads that have begun.
    """

    pvlock: bool | None = None
    counted: dict[str, Counted] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    ended: bool = False
    lines: int = 0
    _rest: bytes = b""
    _tail: list[str] = field(default_factory=list)

    def __call__(self, data: bytes) -> None:
        """Take what the guest has printed next. Raises EngineError when it says that it failed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LONGEST_TAIL:]
        for raw in lines:
            line = raw.decode("utf-8", "replace").strip()
            if line:
                self.lines += 1
                self._tail = [*self._tail, line][-_LAST_LINES:]
                if line.startswith(_SAYS):
                    self._take(line.removeprefix(_SAYS).split(" "))

    @property
    def where(self) -> str:
        """Where the guest is, for an error's text."""
        last = self._tail[-1] if self._tail else "nothing"
        return f"load {self.begun[-1]}" if self.begun else f"before any load; last line: {last}"

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._tail)

    def _take(self, words: list[str]) -> None:
        match words:
            case ["pvlock", state]:
                self.pvlock = state == "present"
            case ["begin", name]:
                self.begun.append(name)
            case ["refused", name, *why]:
                self.refused[name] = " ".join(why)
            case ["result", name, *numbers]:
                self._count(name, numbers)
            case ["failed", name, *why]:
                raise EngineError(f"load {name} {' '.join(why)}")
            case ["end"]:
                self.ended = True
            case _:
                raise EngineError(f"the guest says what nobody understands: {' '.join(words)}")

    def _count(self, name: str, numbers: list[str]) -> None:
        try:
            duration, *operations = map(int, numbers)
        except ValueError:
            duration, operations = 0, []
        if duration <= 0 or not operations:
            raise EngineError(f"load {name}: its result is not whole")
        self.counted[name] = Counted(duration, tuple(operations))
