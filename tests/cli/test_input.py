# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run --input FILE`: a session with a guest that is a part of the run."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from asm import assemble
from command_line import Done, complaint, pvlock
from pvlock import Machine, SystemEvent, image
from pvlock.cli import guest_run
from pvlock.cli.terminal import Terminal
from pvlock.engines.contract import Counter, Live, Usage
from pvlock.errors import GuestStalled, InputError
from pvlock.keyboard import Keyboard, parse

# It echoes what it reads, and behind each line prints the low byte of the counter, as two of 16
# letters. "q" turns it off, "r" resets it.
ECHO = """
    mov x2, #0x09000000
prompt:
    mov w1, #'>'
    str w1, [x2]
read:
    ldr w1, [x2, #0x18]
    tbnz w1, #4, read
    ldr w1, [x2]
    str w1, [x2]
    cmp w1, #'q'
    b.eq off
    cmp w1, #'r'
    b.eq reset
    cmp w1, #10
    b.ne read
    isb
    mrs x3, cntvct_el0
    ubfx w1, w3, #4, #4
    add w1, w1, #'A'
    str w1, [x2]
    and w1, w3, #15
    add w1, w1, #'A'
    str w1, [x2]
    b prompt
off:
    ldr w0, =0x84000008
    hvc #0
reset:
    ldr w0, =0x84000009
    hvc #0
"""
SLEEP = """
    mov x2, #0x09000000
    mov w1, #'>'
    str w1, [x2]
1:  wfi
    b 1b
"""


def play(
    guest: image.Image, script: str, limit_ns: int | None = None
) -> tuple[bytes, SystemEvent | None]:
    seen = bytearray()

    def create(output: guest_run.Output) -> Machine:
        return Machine(1, engine="emulator", output=output)

    keys = Keyboard(parse(script, "s"))
    event, _ = guest_run.run(create, guest, None, seen.extend, limit_ns, keyboard=keys)
    return bytes(seen), event


def linux(code: str) -> image.Image:
    """A Linux Image whose kernel is `code`."""
    (body,) = (part.data for part in image.parse(assemble(code), "tiny").segments)
    return image.Image("tiny", image.Kind.LINUX, 0, (image.Segment(0, body, len(body)),), 2 << 20)


def echo() -> image.Image:
    return image.parse(assemble(ECHO), "echo")


def test_a_session() -> None:
    seen, event = play(echo(), 'wait ">"\ntype "ab\\n"\nwait ">"\ntype "q"')
    assert event is SystemEvent.OFF
    assert seen.startswith(b">ab\n")
    assert seen.endswith(b">q")
    assert len(seen) == 8


def test_a_session_goes_on_after_a_reboot() -> None:
    seen, event = play(linux(ECHO), 'wait ">"\ntype "r"\nwait ">"\ntype "q"')
    assert event is SystemEvent.OFF
    assert seen == b">r>q"


def test_time_goes_on_over_reboots() -> None:
    script = 'wait ">"\ntype "r"\nwait "never" within 35ms'
    with pytest.raises(InputError, match=r"s:3: the guest did not print \"never\" within 0.035 s"):
        play(linux(ECHO), script, 200_000_000)


def test_words_that_never_come() -> None:
    with pytest.raises(InputError) as caught:
        play(echo(), 'wait ">"\ntype "ab\\n"\nwait "login:" within 5ms', 100_000_000)
    assert str(caught.value).startswith(
        's:3: the guest did not print "login:" within 0.005 s; its last lines:\n  >ab\n  '
    )


def test_a_guest_that_ends_first() -> None:
    with pytest.raises(InputError, match=r"^s:3: the guest was off before \"login:\" was printed"):
        play(echo(), 'wait ">"\ntype "q"\nwait "login:"')


def test_a_run_whose_time_is_up_first() -> None:
    with pytest.raises(InputError, match=r"^s:1: its time was up before \"login:\" was printed"):
        play(echo(), 'wait "login:"', 5_000_000)


def test_a_guest_that_sleeps_for_ever() -> None:
    guest = image.parse(assemble(SLEEP), "sleep")
    with pytest.raises(InputError, match=r"^s:1: the guest fell asleep for ever before \"x\" was"):
        play(guest, 'wait "x"')
    with pytest.raises(GuestStalled):
        play(guest, 'wait ">"')


class Sleeper:
    """What run() uses of a machine whose guest sleeps until something is typed."""

    def __init__(self, output: guest_run.Output, answers: bool) -> None:
        self.engine = SimpleNamespace(step_ns=0)
        self.console = self
        self._output, self._answers = output, answers
        self._typed = b""
        self._printed = False

    def __enter__(self) -> "Sleeper":
        return self

    def __exit__(self, *_args: object) -> None:
        pass

    def load(self, *_args: object) -> None:
        pass

    def usage(self) -> Usage:
        return Usage(1234, 0, ())

    def receive(self, data: bytes) -> int:
        self._typed += data
        return 0

    def run(self, _until_ns: int) -> SystemEvent | None:
        if not self._printed:
            self._printed = True
            self._output(b">")
        if not (self._typed and self._answers):
            raise GuestStalled("asleep")
        self._output(self._typed)
        return SystemEvent.OFF


def test_what_is_typed_wakes_a_guest_that_nothing_else_would() -> None:
    def run(answers: bool, script: str) -> bytes:
        seen = bytearray()

        def create(output: guest_run.Output) -> Machine:
            return cast(Machine, Sleeper(output, answers))

        keys = Keyboard(parse(script, "s"))
        guest_run.run(create, echo(), None, seen.extend, None, keyboard=keys)
        return bytes(seen)

    assert run(True, 'wait ">"\ntype "k"\nwait "k"') == b">k"
    with pytest.raises(InputError, match=r"^s:3: the guest fell asleep for ever before \"k\""):
        run(False, 'wait ">"\ntype "k"\nwait "k"')
    with pytest.raises(GuestStalled):
        run(False, 'wait ">"\ntype "k"')


class LiveEngine:
    """What makes an engine Live."""

    counter = Counter(10**9)
    skew_ns, ring_events, lost_switches, collect = 0, 2, (), None

    def take_switches(self) -> bytes:
        return b""


class LiveMachine(Sleeper):
    """A machine in the host's time, whose guest prints and reads while run() goes on."""

    def __init__(self, output: guest_run.Output, answers: bool) -> None:
        super().__init__(output, answers)
        self.engine = LiveEngine()  # type: ignore[assignment]
        self.runs = 0

    def run(self, until_ns: int) -> SystemEvent | None:
        self.runs += 1
        if not self._printed:
            self._printed = True
            for word in (b">", b"login:"):
                self._output(word)
        if self._typed and self._answers:
            self._output(self._typed)
            return SystemEvent.OFF
        time.sleep(0.01)
        return None


def test_in_the_host_s_time_it_types_at_once_and_is_patient_by_the_clock() -> None:
    machines: list[LiveMachine] = []

    def run(answers: bool, script: str) -> bytes:
        seen = bytearray()

        def create(output: guest_run.Output) -> Machine:
            machines.append(LiveMachine(output, answers))
            assert isinstance(machines[-1].engine, Live)
            return cast(Machine, machines[-1])

        keys = Keyboard(parse(script, "s"))
        guest_run.run(create, echo(), None, seen.extend, 10**12, keyboard=keys)
        return bytes(seen)

    script = 'wait "login:"\ntype "k"\nwait "k" within 100s'
    assert run(True, script) == b">login:k"
    assert machines[0].runs == 1
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"^s:3: the guest did not print \"k\" within 2 s"):
        run(False, script.replace("100s", "2s"))
    assert time.monotonic() - begin >= 2
    assert machines[1].runs > 1


def test_whoever_is_at_the_terminal_does_not_type_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, into = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(out))
    os.write(into, b"typed")
    os.close(into)
    path = tmp_path / "screen"
    with path.open("wb") as screen:
        terminal = Terminal(screen)
        with terminal.attached(None):
            terminal.output(b"shown")
    assert path.read_bytes() == b"shown"
    assert sys.stdin.read() == "typed"


# -- the command --


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., Done]:
    guest = tmp_path / "echo.elf"
    guest.write_bytes(assemble(ECHO))

    def run(script: str, *more: str) -> Done:
        path = tmp_path / "keys"
        path.write_text(script)
        engine = ("--engine", "emulator", "--vcpus", "1", "--pcpus", "1")
        return pvlock("run", "--kernel", str(guest), *engine, "--input", str(path), *more)

    return run


LINES = "".join(f'wait ">"\ntype "{word}\\n"\n' for word in ("one", "two", "six", "ten"))


def test_a_session_repeats_to_the_byte(session: Callable[..., Done], tmp_path: Path) -> None:
    results = []
    for seed in (1, 1, 2):
        path = tmp_path / "out.json"
        script = f'{LINES}wait ">"\ntype "q"\n'
        done = session(script, "--json", str(path), "--seed", str(seed))
        assert done.status == 0, done.err
        results.append((done.out, path.read_bytes()))
    assert results[0] == results[1]
    # Another seed starts at another time, which the guest prints.
    assert results[0][0] != results[2][0]
    assert json.loads(results[0][1])["event"] == "off"


def test_errors_are_short(session: Callable[..., Done], tmp_path: Path) -> None:
    done = session('wait "a"\nexpect "b"\n')
    assert done.status == 2
    assert complaint(done) == (
        f'pvlock: {tmp_path}/keys:2: is neither wait "TEXT" [within TIME] nor type "TEXT"'
    )
    done = session('wait "never" within 1ms')
    assert done.status == 1
    assert done.out == ">"
    assert done.err.splitlines()[1:] == [
        f'pvlock: {tmp_path}/keys:1: the guest did not print "never" within 0.001 s; '
        "its last lines:",
        "  >",
    ]
    done = pvlock("run", "mutex", "--input", str(tmp_path / "keys"))
    assert done.status == 2
    assert complaint(done).endswith("--input is for a guest file; mutex is a bundled workload")
    done = pvlock(
        "run", "--engine", "emulator", str(tmp_path / "echo.elf"), "--input", str(tmp_path / "no")
    )
    assert complaint(done) == f"pvlock: {tmp_path}/no: No such file or directory"
