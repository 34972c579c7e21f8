# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF program needs of a kernel, and why one did not load it."""

import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass

from pvlock.engines.kvm import bpf

_TRACE_ITER = 28  # linux/bpf.h
NOT_PERMITTED = (
    "this process may not load BPF programs; run it as root, or with CAP_BPF and CAP_PERFMON"
)


@dataclass(frozen=True)
class Need:
    """What a kernel must have: `there` asks it, and may raise OSError."""

    what: str
    there: Callable[[], bool]
    remedy: str


NEEDS = (
    Need(
        "type information of the kernel (BTF)",
        bpf.BTF.exists,
        "use a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's",
    ),
    Need(
        "the tracepoint sched_switch",
        lambda: bpf.has_attach_point("sched_switch", bpf.TRACE_RAW_TP),
        "use a kernel with CONFIG_BPF_EVENTS, as Debian's",
    ),
    Need(
        "BPF iterators over tasks",
        lambda: bpf.has_attach_point("task", _TRACE_ITER),
        "use Linux 5.8 or newer",
    ),
    Need(
        "BPF task storage",
        lambda: bpf.has_map_type(bpf.MAP_TYPE_TASK_STORAGE),
        "use Linux 5.11 or newer",
    ),
)
"""Each is to be asked for alone; libbpf and the right to use it apart."""


def why_not(error: bpf.LoadError) -> str:
    """Say in a line why this host did not load the program, and what would help."""
    if error.errno == errno.EPERM:
        return NOT_PERMITTED
    for need in NEEDS:
        with contextlib.suppress(OSError):  # it cannot tell
            if not need.there():
                return f"this kernel has not {need.what}; {need.remedy}"
    return str(error)
