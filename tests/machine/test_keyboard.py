# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed input by script: what is read, when what is typed, and what is said when it is not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvlock import keyboard
from pvlock.errors import ConfigError, InputError
from pvlock.keyboard import Command, Keyboard, Script, parse

SECOND = 10**9


def test_a_script() -> None:
    text = r"""
# a comment, and an empty line

wait "~ # "
type "echo \"a\\b\"\t\x41\n"   # what is typed
  wait "a # b" within 1.5s
wait "ä\e[6n"#
"""
    assert parse(text, "s") == Script(
        "s",
        (
            Command(4, '"~ # "', b"~ # ", 60 * SECOND),
            Command(5, r'"echo \"a\\b\"\t\x41\n"', b'echo "a\\b"\tA\n', None),
            Command(6, '"a # b"', b"a # b", 3 * SECOND // 2),
            Command(7, r'"ä\e[6n"', "ä\x1b[6n".encode(), 60 * SECOND),
        ),
    )


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n", "   \t\r\n"])
def test_a_script_without_a_command(text: str) -> None:
    assert parse(text, "s").commands == ()


NEITHER = 's:2: is neither wait "TEXT" [within TIME] nor type "TEXT"'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("wait", NEITHER),
        ("wait login:", NEITHER),
        ('wait "a', NEITHER),
        (r'wait "a\"', NEITHER),
        ('wait "a" "b"', NEITHER),
        ('type"a"', NEITHER),
        ('type "a" within 1s', NEITHER),
        ('wait "a" within', NEITHER),
        ('wait "a" within 1 s', NEITHER),
        ('Wait "a"', NEITHER),
        ('expect "a"', NEITHER),
        ('wait ""', "s:2: the text is empty"),
        ('type ""', "s:2: the text is empty"),
        (r'type "\q"', r's:2: "\q" has a backslash that is none of \n \r \t \e \xHH \" \\'),
        (r'type "\x4"', r's:2: "\x4" has a backslash that is none of \n \r \t \e \xHH \" \\'),
        ('wait "a" within 5x', "s:2: within 5x: is not a time such as 100ms, 2us or 1.5s"),
        ('wait "a" within 3601s', "s:2: within 3601s: is not more than 0 and at most an hour"),
        ('wait "a" within 0s', "s:2: within 0s: is not more than 0 and at most an hour"),
    ],
)
def test_a_line_that_makes_no_sense(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"# first\n{line}\n", "s")
    assert str(caught.value) == message


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "boot.txt"
    with pytest.raises(ConfigError, match=r"boot\.txt: No such file"):
        keyboard.read(path)
    path.write_bytes(b'type "a\xff"')
    with pytest.raises(ConfigError, match=r"boot\.txt: not UTF-8 text, from byte 7 on"):
        keyboard.read(path)
    path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        keyboard.read(path)
    path.write_text('wait "a"\n')
    assert keyboard.read(path) == parse('wait "a"', str(path))
    path.write_text('wait "a"\r\ntype "b"\r\n')
    assert [command.text for command in keyboard.read(path).commands] == [b"a", b"b"]


def player(text: str) -> Keyboard:
    return Keyboard(parse(text, "s"))


def test_a_session() -> None:
    keys = player('wait "# "\ntype "ls\\n"\ntype "id\\n"\nwait "# "\ntype "off\\n"\nwait "down"')
    assert keys.due(0) == b""
    keys.saw(b"hello\r\n/ #")
    assert keys.due(1) == b""
    keys.saw(b" ")
    assert keys.due(2) == b"ls\nid\n"
    assert keys.due(3) == b""
    keys.saw(b"ls\nbin\n/ # ")
    assert keys.due(4) == b"off\n"
    keys.saw(b"Power down\r\n")
    keys.finish("the guest was off")
    assert keys.due(5) == b""
    assert keys.deadline_ns is None


def test_what_is_typed_first_needs_no_wait() -> None:
    assert player('type "a"').due(0) == b"a"


def test_words_are_found_once_and_in_order() -> None:
    keys = player('wait "a"\nwait "a"\nwait "b"\ntype "x"')
    keys.saw(b"ba")
    assert keys.due(0) == b""
    keys.saw(b"a")
    assert keys.due(1) == b""
    keys.saw(b"b")
    assert keys.due(2) == b"x"


def test_words_that_do_not_come_in_time() -> None:
    keys = player('wait "up"\ntype "x"\nwait "login:" within 2s')
    keys.saw(b"up\n")
    assert keys.deadline_ns is None
    assert keys.due(5 * SECOND) == b"x"
    assert keys.deadline_ns == 7 * SECOND
    keys.saw(b"starting \x1b[1mall\x1b[0m\r\nlog")
    assert keys.due(7 * SECOND - 1) == b""
    with pytest.raises(InputError) as caught:
        keys.due(7 * SECOND)
    assert str(caught.value) == (
        's:3: the guest did not print "login:" within 2 s; its last lines:\n'
        "  up\n  starting ?[1mall?[0m\n  log"
    )
    assert caught.value.last_lines == ("up", "starting ?[1mall?[0m", "log")


def test_patience_begins_when_a_wait_is_its_turn() -> None:
    keys = player('wait "a" within 10s\nwait "b" within 1s')
    assert keys.due(0) == b""
    keys.saw(b"a")
    assert keys.due(9 * SECOND) == b""
    assert keys.deadline_ns == 10 * SECOND
    with pytest.raises(InputError, match=r'^s:2: the guest did not print "b" within 1 s'):
        keys.due(10 * SECOND)


def test_a_guest_that_prints_nothing() -> None:
    keys = player('wait "a"')
    assert keys.due(0) == b""
    with pytest.raises(InputError) as caught:
        keys.due(keyboard.PATIENCE_NS)
    assert str(caught.value) == ('s:1: the guest did not print "a" within 60 s; it printed nothing')


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('wait "b"', 's:1: the guest was off before "b" was printed'),
        ('wait "a"\n\ntype "x\\n"', 's:3: the guest was off before "x\\n" was typed'),
        ('wait "a"\nwait "a"', 's:2: the guest was off before "a" was printed'),
    ],
)
def test_a_guest_that_ends_first(script: str, message: str) -> None:
    keys = player(script)
    keys.saw(b"a\n")
    with pytest.raises(InputError) as caught:
        keys.finish("the guest was off")
    assert str(caught.value) == f"{message}; its last lines:\n  a"


def test_only_the_last_lines_are_kept() -> None:
    keys = player('wait "never"')
    for number in range(100):
        keys.saw(b"line %d\n" % number)
    keys.saw(b"x" * 5000)
    with pytest.raises(InputError) as caught:
        keys.finish("it was over")
    assert len(caught.value.last_lines) == 12
    assert caught.value.last_lines[-2:] == ("line 99", "x" * 1024)


words = st.binary(min_size=1, max_size=4)


@given(st.lists(words, max_size=6), st.binary(max_size=40), st.lists(st.integers(1, 8)))
def test_it_does_not_matter_how_the_console_is_cut(
    texts: list[bytes], printed: bytes, cuts: list[int]
) -> None:
    """A session is a function of the bytes, not of how many of them come at once."""
    commands = [
        command
        for number, text in enumerate(texts)
        for command in (
            Command(number, "", text, keyboard.PATIENCE_NS),
            Command(number, "", bytes([number]), None),
        )
    ]
    script = Script("s", tuple(commands))
    expected, rest = b"", printed
    for number, text in enumerate(texts):
        _, found, rest = rest.partition(text)
        if not found:
            break
        expected += bytes([number])
    keys = Keyboard(script)
    typed, at = keys.due(0), 0
    for cut in [*cuts, len(printed)]:
        keys.saw(printed[at : at + cut])
        typed += keys.due(0)
        at += cut
    assert typed == expected
    if len(expected) == len(texts):
        keys.finish("it was over")
    else:
        with pytest.raises(InputError):
            keys.finish("it was over")


@given(st.text(max_size=80))
def test_any_script(text: str) -> None:
    try:
        script = parse(text, "s")
    except ConfigError as error:
        assert str(error).startswith("s:")
        assert "\n" not in str(error)
    else:
        assert len(script.commands) <= text.count("\n") + 1


@given(st.binary(min_size=1, max_size=30))
def test_every_byte_can_be_written(text: bytes) -> None:
    quoted = "".join(f"\\x{byte:02x}" for byte in text)
    (command,) = parse(f'type "{quoted}"', "s").commands
    assert command.text == text
