# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots Linux by pvlock and by QEMU, in turns, on a host with KVM; or by pvlock many times.

It measures the time from the start of the VMM to the kernel's first byte on the console, and to the
shell's prompt; and the VMM's largest resident memory. Both boot the same kernel and initrd with the
same arguments, CPUs and memory. --lab does this in the lab, on a machine that is no arm64 host.
--write makes the table a section of docs/benchmarks.md.

--boots N boots pvlock's guest N times in a row, types poweroff each time, and looks for what is
left behind.
"""

import argparse
import os
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROMPT = b"~ # "
APPEND = "console=ttyAMA0"
SECONDS = 300
TITLE = "Linux, from the start of the VMM"
WHAT = """Written by benchmarks/boot.py: Debian's kernel and a busybox initrd, 2 VCPUs, 512 MiB, on
the lab's virtual arm64 host, where every instruction is emulated. Only the ratios mean anything
there, and they say little of silicon: starting Python is dear where all code is emulated, and so is
each exit. Of the time to the first byte, 4 s are the guest's kernel, whoever runs it: the lab's CPU
has no FEAT_EVT, so KVM emulates each of 89,000 reads of CTR_EL0, most of them for the functions
that ftrace makes ready. Median (range) over the turns."""


@dataclass(frozen=True)
class Boot:
    """Seconds from the start of the VMM, and its peak memory in MiB."""

    first_byte: float
    prompt: float
    end: float
    peak_mib: float


def pvlock(arguments: argparse.Namespace) -> list[str]:
    return [
        *(sys.executable, "-m", "pvlock", "run", "--engine", "kvm"),
        *("--kernel", str(arguments.kernel), "--initrd", str(arguments.initrd)),
        *("--append", arguments.append, "--vcpus", str(arguments.vcpus)),
        *("--memory", str(arguments.memory)),
    ]


def qemu(arguments: argparse.Namespace) -> list[str]:
    return [
        *("qemu-system-aarch64", "-M", "virt,gic-version=3", "-accel", "kvm", "-cpu", "host"),
        *("-smp", str(arguments.vcpus), "-m", str(arguments.memory), "-nographic", "-nic", "none"),
        *("-kernel", str(arguments.kernel), "-initrd", str(arguments.initrd)),
        *("-append", arguments.append),
    ]


def boot(command: list[str], is_first: Callable[[bytes], bool]) -> Boot:
    """Run a VMM to the prompt, power off, and wait for its end. Raises SystemExit if it fails."""
    begin = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    assert process.stdin is not None and process.stdout is not None
    text, first, prompt = b"", 0.0, 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = begin + SECONDS - time.monotonic()
            if left <= 0 or not selector.select(left):
                process.kill()
                sys.exit(f"{command[0]}: too late: ...{text[-2000:].decode(errors='replace')}")
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                break
            text += data
            now = time.monotonic() - begin
            if not first and is_first(text):
                first = now
            if not prompt and PROMPT in text:
                prompt = now
                process.stdin.write(b"poweroff\n")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdin.close()
    process.stdout.close()
    if process.returncode or not prompt:
        sys.exit(f"{command[0]}: {process.returncode}: {text[-2000:].decode(errors='replace')}")
    return Boot(first, prompt, time.monotonic() - begin, usage.ru_maxrss / 1024)


def after_own_line(text: bytes) -> bool:
    """Tell whether the guest has printed: pvlock's own first line says which engine it takes."""
    return bool(text.partition(b"pvlock ")[2].partition(b"\n")[2])


def in_lab(arguments: argparse.Namespace) -> None:
    command = ["python3", Path(__file__).name, f"--turns={arguments.turns}"]
    command += [f"--boots={arguments.boots}"] if arguments.boots else []
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pvlock", "lab", "--package", "qemu-system-arm"),
            *("--timeout", str(SECONDS * (arguments.boots or 2 * arguments.turns))),
            *("--exec", "--add", __file__, "--", *command),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(done.stdout, end="")
    if arguments.write:
        import document  # it is not in the lab

        document.write(TITLE, f"{WHAT}\n\n{done.stdout}")


def compare(arguments: argparse.Namespace) -> None:
    turns: list[tuple[Boot, Boot]] = []
    for turn in range(arguments.turns):
        ours = boot(pvlock(arguments), after_own_line)
        theirs = boot(qemu(arguments), bool)
        turns.append((ours, theirs))
        print(f"turn {turn + 1}: pvlock {ours}, QEMU {theirs}", file=sys.stderr, flush=True)
    print("| | pvlock | QEMU | pvlock / QEMU |")
    print("|---|---|---|---|")
    for name, unit in (("first_byte", "s"), ("prompt", "s"), ("end", "s"), ("peak_mib", "MiB")):
        pairs = [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in turns]
        mine, other, ratio = (
            shown([pair[0] for pair in pairs]),
            shown([pair[1] for pair in pairs]),
            shown([pair[0] / pair[1] for pair in pairs]),
        )
        print(f"| {name.replace('_', ' ')} ({unit}) | {mine} | {other} | {ratio} |")


def shown(values: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def repeat(arguments: argparse.Namespace) -> None:
    before = left_behind()
    times = []
    for number in range(1, arguments.boots + 1):
        times.append(boot(pvlock(arguments), after_own_line).end)
        print(f"boot {number}: {times[-1]:.1f} s", file=sys.stderr, flush=True)
    time.sleep(2)  # the kernel frees BPF objects when it has time
    print(f"{len(times)} boots, none failed; {shown(times)} s each")
    for name, count in left_behind().items():
        print(f"{name}: {before[name]} before, {count} after")


def left_behind() -> dict[str, int]:
    """Count what a VMM could leave on a host."""
    from pvlock.engines.kvm.bpf import libbpf

    counts = {
        "processes": sum(name.name.isdigit() for name in Path("/proc").iterdir()),
        "files in /tmp": sum(1 for _ in Path("/tmp").iterdir()),
    }
    import ctypes

    for kind in ("prog", "map", "link"):
        number, count = ctypes.c_uint32(0), 0
        following = getattr(libbpf(), f"bpf_{kind}_get_next_id")
        while following(number, ctypes.byref(number)) == 0:
            count += 1
        counts[f"BPF {kind}s"] = count
    return counts


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", type=Path, default=Path("/guest/Image"))
    parser.add_argument("--initrd", type=Path, default=Path("/guest/initrd"))
    parser.add_argument("--append", default=APPEND)
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=512, metavar="MIB")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--boots", type=int)
    parser.add_argument("--lab", action="store_true")
    parser.add_argument("--write", action="store_true", help="only with --lab")
    arguments = parser.parse_args()
    if arguments.lab:
        in_lab(arguments)
    elif arguments.boots:
        repeat(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
