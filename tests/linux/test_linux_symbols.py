# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbols read out of Debian's Image are those that the kernel says it has, once it runs."""

import hashlib
import re

from linux.conftest import Session, ended
from pvlock import image, linux_image
from pvlock.kernel import fetch

SCRIPT = r"""
wait "~ # "
type "grep -v '\\[' /proc/kallsyms | sha256sum; grep -c . /proc/kallsyms; echo do''ne\n"
wait "\ndone\r\n"
type "poweroff -f\n"
"""


def test_symbols_are_what_the_kernel_says(session: Session, kernel: fetch.Kernel) -> None:
    with image.opened(kernel.kernel) as guest:
        data = linux_image.kernel_bytes(guest)
    found = linux_image.read_symbols(data, "vmlinuz")
    lines = "".join(f"{address:016x} {kind} {name}\n" for address, kind, name in found.all)
    done = ended(session(SCRIPT))
    sums = re.findall(r"([0-9a-f]{64})  -", done.out)
    assert sums == [hashlib.sha256(lines.encode()).hexdigest()], done
