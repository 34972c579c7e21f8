# SPDX-License-Identifier: GPL-2.0-or-later
"""The console's UART as a driver uses it: bytes both ways, and its interrupt line."""

from hypothesis import given
from hypothesis import strategies as st

from pvlock.pl011 import DR, FR, ICR, IMSC, MIS, RIS, Console

TXFE, RXFE, RECEIVED, SENT, TIMEOUT = 1 << 7, 1 << 4, 1 << 4, 1 << 5, 1 << 6


def test_bytes_go_out_as_they_come() -> None:
    sent: list[bytes] = []
    console = Console(sent.append, limit=3)
    for byte in b"hello":
        assert console.read(FR, 4) == TXFE | RXFE
        console.write(DR, 4, byte | 0xF00)
    assert sent == [b"h", b"e", b"l", b"l", b"o"]
    assert console.text == "hel"


def test_what_is_typed_is_read_in_order() -> None:
    console = Console()
    console.receive(b"ab")
    console.receive(b"c")
    read = b""
    while not console.read(FR, 4) & RXFE:
        read += bytes([console.read(DR, 4)])
    assert read == b"abc"
    assert console.read(DR, 4) == 0


def test_the_line_is_up_while_something_unmasked_is_raised() -> None:
    levels: list[bool] = []
    console = Console(line=levels.append)
    console.receive(b"x")
    assert levels == []  # masked
    console.write(IMSC, 4, RECEIVED | TIMEOUT)
    assert levels == [True]
    assert console.read(RIS, 4) == RECEIVED | TIMEOUT | SENT
    assert console.read(MIS, 4) == RECEIVED | TIMEOUT
    console.write(ICR, 4, 0x7FF)
    assert levels == [True]  # there is still a byte to read
    assert console.read(DR, 4) == ord("x")
    assert levels == [True, False]
    console.write(IMSC, 4, SENT)
    assert levels == [True, False, True]
    console.write(IMSC, 4, 0)
    assert levels == [True, False, True, False]


def test_identification() -> None:
    console = Console()
    assert [console.read(0xFE0 + 4 * n, 4) for n in range(8)] == [
        *(0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
    ]


class Guest:
    """What a guest reads: from the page it was shown, or else from the device."""

    def __init__(self) -> None:
        self.page: bytes | None = None
        self.exits = 0
        self.console = Console(show=self.show)

    def show(self, page: bytes | None) -> None:
        assert (page is None) != (self.page is None), "shown twice, or hidden twice"
        self.page = page

    def read(self, offset: int) -> int:
        if self.page is not None:
            return int.from_bytes(self.page[offset : offset + 4], "little")
        self.exits += 1
        return self.console.read(offset, 4)


def test_the_page_says_what_the_device_says() -> None:
    guest = Guest()
    for offset in (0x24, 0x28, 0x2C, 0x30, IMSC):
        guest.console.write(offset, 4, 0x100 + offset)
    while guest.page is None:
        guest.read(FR)
    for register in range(0, 0x1000, 4):
        assert guest.read(register) == guest.console.read(register, 4), hex(register)


def test_a_guest_that_looks_again_and_again_reads_by_itself() -> None:
    guest = Guest()
    for _ in range(1000):
        assert guest.read(FR) == TXFE | RXFE
        guest.console.write(DR, 4, 0x41)
    assert guest.exits < 20
    guest.console.write(IMSC, 4, 0)  # as it was
    assert guest.page is not None
    guest.console.write(IMSC, 4, 1)
    assert guest.page is None
    assert guest.read(IMSC) == 1


def test_what_is_typed_is_not_missed_by_a_guest_that_reads_by_itself() -> None:
    guest = Guest()
    while guest.page is None:
        guest.read(FR)
    guest.console.receive(b"q")
    assert guest.page is None
    for _ in range(100):
        assert not guest.read(FR) & RXFE
    assert guest.page is None
    assert guest.read(DR) == ord("q")
    assert guest.read(FR) & RXFE


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 0xFFF), st.sampled_from((1, 2, 4, 8)),
            st.integers(0, 2**64 - 1),
        )
    )
)  # fmt: skip
def test_the_console_takes_any_access(accesses: list[tuple[bool, int, int, int]]) -> None:
    console = Console(limit=16)
    for is_write, offset, size, value in accesses:
        if is_write:
            console.write(offset, size, value)
        else:
            assert 0 <= console.read(offset, size) < 2**64
    assert len(console.text.encode("utf-8", "replace")) <= 3 * 16


def test_it_is_enabled_as_a_reset_leaves_it() -> None:
    console = Console()
    assert console.read(0x30, 4) == 0x300  # CR: TXE, RXE
    assert console.read(0x34, 4) == 0x12  # IFLS
