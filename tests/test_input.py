# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock run --input FILE`: a session with a guest that is a part of the run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asm import assemble
from pvlock import Machine, SystemEvent, image
from pvlock.cli import guest_run
from pvlock.errors import GuestStalled, InputError
from pvlock.keyboard import Keyboard, parse
from test_boot import linux
from test_cli import Done, complaint, pvlock

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
ASLEEP = """
    // The interrupt of the console wakes VCPU 0: enabled in the GIC and in the PL011.
    mov x2, #0x09000000
    ldr x3, =0x08000000
    mov w1, #0x12
    str w1, [x3]
    mov w1, #2
    str w1, [x3, #0x104]
    str w1, [x3, #0x84]
    ldr x4, =0x080a0000
    str wzr, [x4, #0x14]
    mov x1, #1
    msr s3_0_c12_c12_7, x1
    mov x1, #0xf0
    msr s3_0_c4_c6_0, x1
    mov w1, #0x10
    str w1, [x2, #0x38]
    mov w1, #'>'
    str w1, [x2]
1:  wfi
    ldr w1, [x2, #0x18]
    tbnz w1, #4, 1b
    ldr w1, [x2]
    str w1, [x2]
    ldr w0, =0x84000008
    hvc #0
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


def test_what_is_typed_wakes_a_guest_that_nothing_else_would() -> None:
    seen, event = play(image.parse(assemble(ASLEEP), "asleep"), 'wait ">"\ntype "k"')
    assert (seen, event) == (b">k", SystemEvent.OFF)


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


LINES = "".join(f'wait ">"\ntype "{word}\\n"\n' for word in ("one", "two", "three", "four"))


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
