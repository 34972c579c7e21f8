# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a guest file: reboots, panics, and the user's terminal; without a kernel of others."""

import os
import pty
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm import assemble
from pvlock import Machine, SystemEvent, image
from pvlock.cli import guest_run
from pvlock.cli.terminal import Pace, Terminal
from pvlock.errors import GuestPanicked, ImageError

PANIC = b"""[    1.0] Run /init as init process\r
[    1.1] Kernel panic - not syncing: No working init found.\r
[    1.2] CPU: 0 UID: 0 PID: 1 Comm: swapper/0\r
[    1.3] Call trace:\r
[    1.4]  panic+0x168/0x370\r
[    1.5] ---[ end Kernel panic - not syncing: No working init found. ]---\r
"""


def test_a_panic_is_an_error_with_the_last_lines() -> None:
    seen = bytearray()
    watch = guest_run.PanicWatch(seen.extend)
    with pytest.raises(GuestPanicked) as caught:
        for byte in PANIC:
            watch(bytes([byte]))
    assert bytes(seen) == PANIC
    assert caught.value.reason == "Kernel panic - not syncing: No working init found."
    assert len(caught.value.last_lines) == 6
    assert str(caught.value).splitlines()[1].strip() == "[    1.0] Run /init as init process"


def test_a_panic_that_ends_in_a_reset_is_an_error_too() -> None:
    watch = guest_run.PanicWatch(lambda _data: None)
    watch.check()
    watch(PANIC[: PANIC.index(b"[    1.5]")])
    with pytest.raises(GuestPanicked, match="No working init found"):
        watch.check()


@given(st.lists(st.binary(max_size=3000), max_size=10))
def test_any_console(chunks: list[bytes]) -> None:
    seen = bytearray()
    watch = guest_run.PanicWatch(seen.extend)
    try:
        for chunk in chunks:
            watch(chunk)
    except GuestPanicked:
        assert b"Kernel panic" in b"".join(chunks)
    else:
        assert bytes(seen) == b"".join(chunks)


def linux(code: str) -> image.Image:
    """A Linux Image whose kernel is `code`, and which counts its boots on the console."""
    (body,) = (part.data for part in image.parse(assemble(code), "tiny").segments)
    return image.Image("tiny", image.Kind.LINUX, 0, (image.Segment(0, body, len(body)),), 2 << 20)


RESET = """
    mov w1, #0x42
    mov x2, #0x09000000
    str w1, [x2]
    ldr w0, =0x84000009
    hvc #0
"""


def test_a_linux_guest_that_resets_boots_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machines: list[Machine] = []

    def create(output: guest_run.Output) -> Machine:
        if len(machines) == 3:
            raise KeyboardInterrupt
        machines.append(Machine(1, engine="emulator", output=output))
        return machines[-1]

    seen = bytearray()
    with pytest.raises(KeyboardInterrupt):
        guest_run.run(create, linux(RESET), None, seen.extend, None)
    assert bytes(seen) == b"BBB"


@pytest.mark.parametrize("kind", [image.Kind.LINUX, image.Kind.ELF_EXEC])
def test_a_reset_ends_the_run_of_others(kind: image.Kind) -> None:
    guest = linux(RESET) if kind is image.Kind.LINUX else image.parse(assemble(RESET), "tiny")
    seen = bytearray()
    event, usage = guest_run.run(
        lambda output: Machine(1, engine="emulator", output=output),
        guest, None, seen.extend, None, reboot=False,
    )  # fmt: skip
    assert event is SystemEvent.RESET
    assert bytes(seen) == b"B"
    assert usage.time_ns > 0


def test_a_limit_counts_over_reboots() -> None:
    slow = "1: mrs x0, cntvct_el0\n ldr x1, =1000000\n cmp x0, x1\n b.lo 1b\n" + RESET
    boots: list[Machine] = []

    def create(output: guest_run.Output) -> Machine:
        boots.append(Machine(1, engine="emulator", output=output))
        return boots[-1]

    event, _ = guest_run.run(create, linux(slow), None, lambda _data: None, 3_500_000)
    assert event is None
    assert len(boots) == 4


SLEEP_A_SECOND = """
    mov x0, #(15 << 4 | 1 << 2)     // the event stream: an event each 65 us
    msr cntkctl_el1, x0
    set x1, 1000000000
1:  wfe
    mrs x0, cntvct_el0
    cmp x0, x1
    b.lo 1b
    off
"""


def test_a_guest_before_whom_somebody_sits_is_as_slow_as_the_clock(tmp_path: Path) -> None:
    (segment,) = linux(SLEEP_A_SECOND).segments
    image_file = tmp_path / "Image"
    header = struct.pack("<IIQQQ24s4sI", 0x14000010, 0, 0, 4096, 0, bytes(24), b"ARM\x64", 0)
    image_file.write_bytes(header + segment.data[:])
    command = [sys.executable, "-m", "pvlock", "run", "--engine", "emulator", str(image_file)]
    user, ours = pty.openpty()
    began = time.monotonic()
    done = subprocess.run(command, stdin=ours, capture_output=True, timeout=120, check=True)
    assert time.monotonic() - began >= 1
    assert b"guest off after 1" in done.stderr
    os.close(user)
    os.close(ours)


def test_a_slow_guest_does_not_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [0], list[float]()
    monkeypatch.setattr("pvlock.cli.terminal.time.monotonic_ns", lambda: clock[0])
    monkeypatch.setattr("pvlock.cli.terminal.time.sleep", slept.append)
    pace = Pace()
    for real_ns, guest_ns, early_s in ((5, 1, 0), (6, 4, 2e-9), (9, 5, 0), (9, 6, 1e-9)):
        clock[0] = real_ns
        pace(guest_ns)
        assert sum(slept) == pytest.approx(early_s)
        slept.clear()


def test_an_initrd_lies_below_the_device_tree_which_names_it() -> None:
    import fdt

    disk = b"070701" + bytes(10_000)
    with Machine(1, engine="emulator", ram_size=16 << 20) as machine:
        machine.load(linux(RESET), disk)
        tree = fdt.parse_dtb(machine.memory.read(machine.vcpus[0].get("x0"), 0x4000, "test"))
        chosen = tree.get_node("chosen")
        start, end = (
            high << 32 | low
            for high, low in (
                chosen.get_property(f"linux,initrd-{name}").data for name in ("start", "end")
            )
        )
        assert end - start == len(disk)
        assert machine.memory.read(start, len(disk), "test") == disk
        assert start % 4096 == 0 and end <= machine.vcpus[0].get("x0")


def test_an_initrd_that_does_not_fit() -> None:
    with (
        Machine(1, engine="emulator", ram_size=8 << 20) as machine,
        pytest.raises(ImageError, match=r"an initrd of 6.0 MiB does not fit into RAM of"),
    ):
        machine.load(linux(RESET), bytes(6 << 20))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Put a terminal in place of the standard input; return its two ends, the user's first."""
    user, ours = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(ours, closefd=False))
    return user, ours


@pytest.fixture
def nowhere() -> Iterator[Terminal]:
    with Path(os.devnull).open("wb") as screen:
        yield Terminal(screen)


def kept(received: bytearray) -> Callable[[bytes], int]:
    def receive(data: bytes) -> int:
        received.extend(data)
        return 0

    return receive


def wait_for(received: bytearray, expected: bytes) -> None:
    deadline = time.monotonic() + 20
    while bytes(received) != expected:
        assert time.monotonic() < deadline, bytes(received)
        time.sleep(0.01)


def test_what_is_typed_goes_to_the_guest(typed: tuple[int, int], nowhere: Terminal) -> None:
    received = bytearray()
    with nowhere.attached(kept(received)):
        os.write(typed[0], b"ls\x03\r\x01\x01\x01b")
        wait_for(received, b"ls\x03\r\x01\x01b")


def test_ctrl_a_x_is_an_interrupt(typed: tuple[int, int], nowhere: Terminal) -> None:
    received = bytearray()
    with pytest.raises(KeyboardInterrupt), nowhere.attached(kept(received)):
        os.write(typed[0], b"ls\x01x")
        threading.Event().wait(20)
    assert bytes(received) == b"ls"


def test_the_terminal_is_left_as_it_was(typed: tuple[int, int], nowhere: Terminal) -> None:
    import termios

    before = termios.tcgetattr(typed[1])
    with nowhere.attached(lambda _data: 0):
        assert not termios.tcgetattr(typed[1])[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert termios.tcgetattr(typed[1]) == before


def test_output_is_shown_without_a_line_end(typed: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "screen"
    with path.open("wb") as screen:
        terminal = Terminal(screen)
        with terminal.attached(lambda _data: 0):
            terminal.output(b"~ # ")
            deadline = time.monotonic() + 20
            while path.read_bytes() != b"~ # ":
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_the_end_of_the_input_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, nowhere: Terminal
) -> None:
    out, into = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(out))
    received = bytearray()
    with nowhere.attached(kept(received)):
        os.write(into, b"q\x01x")
        os.close(into)
        wait_for(received, b"q\x01x")
        time.sleep(0.1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_types_waits_for_a_guest_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch, nowhere: Terminal
) -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)
    monkeypatch.setattr(sys, "stdin", os.fdopen(out))
    reads = threading.Event()
    unread = bytearray()

    def receive(data: bytes) -> int:
        unread.extend(data)
        if reads.is_set():
            unread.clear()
        return len(unread)

    def type_for(seconds: float) -> int:
        typed, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                typed += os.write(into, bytes(4096))
            except BlockingIOError:
                time.sleep(0.01)
        return typed

    with nowhere.attached(receive):
        assert type_for(0.5) < 300_000
        assert len(unread) < 100_000
        reads.set()
        deadline = time.monotonic() + 20
        while not type_for(0.1):
            assert time.monotonic() < deadline
    os.close(into)


def test_a_guest_that_prints_waits_for_a_reader_and_can_be_abandoned() -> None:
    out, into = os.pipe()
    with os.fdopen(into, "wb") as screen:
        terminal = Terminal(screen)

        def print_much() -> None:
            for _ in range(9999):
                terminal.output(bytes(64))

        printing = threading.Thread(target=print_much)
        printing.start()
        printed = b""
        while len(printed) < 4096:  # it prints as fast as the host lets it
            printed += os.read(out, 4096 - len(printed))
        assert printed == bytes(4096)
        printing.join(0.3)
        assert printing.is_alive()
        terminal.abandon()
        printing.join(20)
        assert not printing.is_alive()
        terminal.flush()
    os.close(out)


def test_nobody_will_ever_read() -> None:
    out, into = os.pipe()
    os.close(out)
    with os.fdopen(into, "wb") as screen:
        terminal = Terminal(screen)
        terminal.output(b"x")
        with pytest.raises(BrokenPipeError):
            terminal.flush()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals, tmp_path: Path) -> None:
    import termios

    image_file = tmp_path / "Image"
    spin = 0x14000000  # B .
    image_file.write_bytes(struct.pack("<IIQQQ24s4sI", spin, 0, 0, 64, 0, bytes(24), b"ARM\x64", 0))
    user, ours = pty.openpty()
    before = termios.tcgetattr(ours)
    process = subprocess.Popen(
        [sys.executable, "-m", "pvlock", "run", "--engine", "emulator", "--kernel", image_file],
        stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while termios.tcgetattr(ours)[3] & termios.ECHO:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert termios.tcgetattr(ours) == before
    os.close(user)
    os.close(ours)
