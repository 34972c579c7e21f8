# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own kernel, unmodified, on the emulator: more VCPUs than CPUs, from boot to its end."""

import hashlib
import json
import re
from pathlib import Path

from command_line import Done
from linux.conftest import Session, ended

OVERCOMMITTED = ("--vcpus", "4", "--pcpus", "2")
# Four processes compute at once, each another sum. The quotes keep the echo of what is typed from
# being taken for what is printed.
WORK = r"""
wait "~ # "
type "for i in 1 2 3 4; do seq $i 3000 | sha256sum & done; wait; echo do''ne\n"
wait "\ndone\r\n"
wait "~ # "
type "poweroff -f\n"
"""
HOTPLUG = r"""
wait "~ # "
type "for i in 1 2 3 4; do while :; do :; done & done\n"
wait "~ # "
type "cd /sys/devices/system/cpu; for i in 1 2; do for c in 3 1 2; do echo 0 >cpu$c/online; "
type "done; cat online; for c in 1 2 3; do echo 1 >cpu$c/online; done; cat online; done; "
type "echo 0 >cpu0/online; cat online; echo 1 >cpu0/online; nproc; cd /; echo do''ne\n"
wait "\ndone\r\n"
wait "~ # "
type "reboot -f\n"
wait "reboot: Restarting system"
wait "Booting Linux on physical CPU 0x0000000000"
wait "~ # "
type "echo c >/proc/sysrq-trigger\n"
wait "the kernel does not come back"
"""


def lines(done: Done) -> list[str]:
    return [line.rstrip("\r") for line in done.out.splitlines()]


def test_a_session_repeats_to_the_byte(session: Session, tmp_path: Path) -> None:
    running = {
        name: session(WORK, *OVERCOMMITTED, "--seed", seed, name=name)
        for name, seed in (("first", "1"), ("second", "1"), ("other", "2"))
    }
    done = {name: ended(process) for name, process in running.items()}
    first = lines(done["first"])
    assert any(line.startswith("Linux 6.12") and "CPUs: 4." in line for line in first)
    assert any(line.endswith("smp: Brought up 1 node, 4 CPUs") for line in first)
    assert any(line.endswith("reboot: Power down") for line in first)
    sums = {
        hashlib.sha256("".join(f"{n}\n" for n in range(begin, 3001)).encode()).hexdigest()
        for begin in (1, 2, 3, 4)
    }
    for one in done.values():
        assert one.status == 0, one
        found = [line.removesuffix("  -") for line in lines(one) if line.endswith("  -")]
        assert len(found) == 4
        assert set(found) == sums
    results = {name: (tmp_path / f"{name}.json").read_bytes() for name in done}
    assert done["first"] == done["second"]
    assert results["first"] == results["second"]
    usage = {name: json.loads(result)["usage"] for name, result in results.items()}
    assert usage["first"] != usage["other"]
    assert done["first"].out != done["other"].out


def test_cpus_go_and_come_and_the_machine_boots_again(session: Session) -> None:
    done = ended(session(HOTPLUG, *OVERCOMMITTED))
    seen = [line for line in lines(done) if re.fullmatch(r"[0-9-]+", line)]
    assert seen == ["0", "0-3", "0", "0-3", "1-3", "4"], done
    assert done.out.count("Booting Linux on physical CPU") == 2
    # The panic of the kernel that was booted again.
    assert done.status == 1
    panic = "Kernel panic - not syncing: sysrq triggered crash"
    assert f"pvlock: the guest gave up: {panic}; its last lines:\n" in done.err
    assert done.err.rstrip().endswith(f"---[ end {panic} ]---")


def test_without_a_first_process_the_kernel_panics(session: Session) -> None:
    done = ended(session('wait "~ # "', "--append", "console=ttyAMA0 quiet rdinit=/none"))
    assert done.status == 1
    assert "pvlock: the guest gave up: Kernel panic - not syncing: VFS: Unable to mount" in done.err


def test_words_that_never_come(session: Session) -> None:
    script = 'wait "Linux version"\nwait "login:" within 200ms\ntype "root\\n"\n'
    done = ended(session(script, *OVERCOMMITTED))
    assert done.status == 1
    assert 'session.input:2: the guest did not print "login:" within 0.2 s; its last' in done.err
    # The lines of the console are those that it showed last.
    last = [line.strip() for line in done.err.partition("its last lines:\n")[2].splitlines()]
    assert len(last) > 5
    assert [line.strip() for line in lines(done) if line][-len(last) :] == last


def test_more_vcpus_than_the_kernel_takes(session: Session) -> None:
    """The kernel leaves the others off, and says so; the script ends after the guest does."""
    script = 'wait "~ # "\ntype "nproc; poweroff -f\\n"\nwait "still there"\n'
    done = ended(session(script, *OVERCOMMITTED, "--append", "console=ttyAMA0 nr_cpus=2"))
    assert "2" in lines(done)
    assert any(line.endswith("smp: Brought up 1 node, 2 CPUs") for line in lines(done))
    assert done.status == 1
    assert 'session.input:3: the guest was off before "still there" was printed' in done.err
