# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles of Debian's own kernel: the same session, and call stacks that can be."""

import json
import re
from pathlib import Path

from command_line import pvlock
from linux.conftest import Session, ended
from pvlock import image, linux_image
from pvlock.kernel import fetch
from pvlock.profile import Profiler, spinning

SCRIPT = r"""
wait "~ # "
type "for i in 1 2 3 4; do while echo $i; do :; done >/dev/null & done; sleep 1; poweroff -f\n"
"""
MACHINE = ("--vcpus", "4", "--pcpus", "2")


def test_a_profile_changes_nothing(session: Session, tmp_path: Path) -> None:
    folded = tmp_path / "out.folded"
    options = ("--profile", str(folded), "--profile-period", "49999ns")
    plain, profiled = (
        session(SCRIPT, *MACHINE, *more, name=name)
        for name, more in (("plain", ()), ("profiled", options))
    )
    without, done = ended(plain), ended(profiled)
    assert done.status == 0, done
    assert done.out == without.out
    results = {
        name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "profiled")
    }
    shares = results["profiled"].pop("profile")
    assert results["plain"] == results["profiled"]

    stacks = {
        tuple(stack.split(";")): int(points)
        for stack, points in re.findall(r"^(.*) (\d+)$", folded.read_text(), re.M)
    }
    points, running = sum(stacks.values()), results["plain"]["usage"]["vcpus"]
    assert abs(points - sum(one["running_ns"] for one in running) / 49999) < points / 100
    assert shares["kinds"]["no VCPU"]["points"] == shares["total"] - points
    assert "CPU time" in done.err
    # A system call: from the program through the vector and its handler to the function.
    calls = [s for s in stacks if "__arm64_sys_write_[k]" in s]
    assert calls
    for stack in calls:
        assert stack[:3] == ("[user]", "el0t_64_sync_[k]", "el0t_64_sync_handler_[k]")
        assert "ksys_write_[k]" in stack or stack[-1] == "__arm64_sys_write_[k]"
    # Kernel threads begin where threads begin; interrupts come on top of what they interrupt.
    threads = {s[0] for s in stacks if "kthread_[k]" in s}
    assert threads <= {"ret_from_fork_[k]", "kthread_[k]"}
    assert any("el0t_64_irq_[k]" in s or "el1h_64_irq_[k]" in s for s in stacks)
    rootless = [s for s in stacks if s[0] not in ROOTS]
    assert sum(stacks[s] for s in rootless) < points / 50, sorted(rootless)[:20]


ROOTS = {
    "[user]", "ret_from_fork_[k]", "__primary_switched_[k]", "__secondary_switched_[k]",
    "primary_entry_[k]", "secondary_entry_[k]", "__primary_switch_[k]", "[module]",
}  # fmt: skip


def test_where_the_queue_is_said_by_code_and_symbols(kernel: fetch.Kernel) -> None:
    with image.opened(kernel.kernel) as guest:
        data = linux_image.kernel_bytes(guest)
    symbols = linux_image.read_symbols(data, "vmlinuz")
    others = linux_image.Symbols(symbols.text, [s for s in symbols.all if s.name != "osq_node"])
    assert spinning.queue_nodes(data, others) == symbols["osq_node"]
    found = Profiler.open(kernel.kernel).sampling
    assert found.queue == symbols["osq_node"]
    assert found.user_registers == 304


def test_a_full_disk_costs_the_file_and_not_the_table(kernel: fetch.Kernel, tmp_path: Path) -> None:
    full, good = tmp_path / "full.folded", tmp_path / "out.json"
    full.symlink_to("/dev/full")
    options = ("--engine", "emulator", "--kernel", str(kernel.kernel), "--duration", "20ms")
    done = pvlock("run", *options, "--profile", str(full))
    assert done.status == 1
    assert "rest of the kernel" in done.err
    assert done.err.splitlines()[-1] == (f"pvlock: --profile {full}: No space left on device"), (
        done.err
    )
    done = pvlock("run", *options, "--profile", str(good))
    assert done.err.splitlines()[-1].endswith("still running after 20 ms (--duration)")
    assert json.loads(good.read_text())["kind"] == "profile"
