# SPDX-License-Identifier: GPL-2.0-or-later
"""What the KVM engine requires of its host, and the question by which each thing is found.

A requirement may depend on those before it. We ask the host itself, and conclude nothing from a
version number: where a kernel cannot be asked for a thing, we do the thing, on a VM that never
runs.
"""

import contextlib
import errno
import mmap
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pvlock import abi
from pvlock.engines.kvm import bpf, ioctl
from pvlock.engines.kvm.publisher import NEEDS, OBJECT, Need, Publisher, not_permitted
from pvlock.engines.kvm.vm import ipa_bits, open_kvm, supported
from pvlock.errors import EngineError, EngineUnavailable

_LINUX = "use Linux 6.4 or newer"
_NO_FILTER = "the kernel cannot forward hypercalls to user space"
_ABSENT = frozenset(
    (errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.ENOTTY, errno.ENXIO, errno.EOPNOTSUPP)
)
"""How a kernel says that it has no such thing. Other errors do not say whether it has."""


class Opened(contextlib.ExitStack):
    """What one question opened and later ones use. All is closed after the last question."""

    kvm: int | None = None
    vm: int | None = None
    may_use_bpf = True

    def keep(self, fd: int) -> int:
        """Close `fd` after the last question; return it."""
        self.callback(os.close, fd)
        return fd

    def need_vm(self) -> int:
        """Return the VM to ask; raises EngineError where there is none."""
        if self.vm is None:
            raise EngineError("there is no VM to ask")
        return self.vm


@dataclass(frozen=True)
class Requirement:
    """One thing that the engine requires, unless it is not `needed`.

    `ask` returns why the answer is yes, and raises EngineUnavailable for no. Other errors
    (EngineError, OSError) mean "cannot tell".
    """

    what: str
    ask: Callable[[Opened], str]
    needed: bool = True


def _no(because: str, remedy: str) -> EngineUnavailable:
    return EngineUnavailable("kvm", because, remedy)


@contextlib.contextmanager
def _absent(because: str, remedy: str = _LINUX) -> Iterator[None]:
    """Raise EngineUnavailable when the kernel says that it has no such thing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        raise _no(f"{because} ({error.strerror})", remedy) from error


# -- KVM --


def _architecture(host: Opened) -> str:
    machine = platform.machine()
    if machine != "aarch64":
        remedy = "use pvlock lab, a virtual arm64 host, or --engine emulator"
        raise _no(f"this CPU is {machine}, not 64-bit arm64", remedy)
    if sys.maxsize < 1 << 32:
        raise _no("this Python is a 32-bit program", "use a 64-bit Python")
    return "64-bit, little-endian"


def _device(host: Opened) -> str:
    host.kvm = host.keep(open_kvm())
    return f"{ioctl.PATH} opens, API version {ioctl.API_VERSION}"


def _vm(host: Opened) -> str:
    if platform.machine() != "aarch64":
        raise EngineError("a KVM of another architecture cannot be asked")
    if host.kvm is None:
        raise EngineError("there is no KVM to ask")
    with _absent("KVM refuses a VM", "use a CPU and a kernel that have arm64 KVM"):
        host.vm = host.keep(ioctl.call(host.kvm, ioctl.CREATE_VM, ipa_bits(host.kvm)))
    return f"KVM made one, of up to {supported(host.vm, ioctl.CAP_MAX_VCPUS)} VCPUs"


def _gic(host: Opened) -> str:
    device = ioctl.CreateDevice(ioctl.DEV_TYPE_ARM_VGIC_V3, 0, ioctl.CREATE_DEVICE_TEST)
    with _absent("KVM has no GICv3 for its guests", "use a host whose CPUs have a GICv3"):
        ioctl.call(host.need_vm(), ioctl.CREATE_DEVICE, device)
    return "KVM has one for its guests"


def _capability(what: str, name: str, number: int) -> Requirement:
    def ask(host: Opened) -> str:
        if not supported(host.need_vm(), number):
            raise _no(f"the kernel has no KVM_CAP_{name}", _LINUX)
        return f"the kernel has KVM_CAP_{name}"

    return Requirement(what, ask)


def _filter(host: Opened) -> str:
    argument = ioctl.device_attr(ioctl.VM_SMCCC_CTRL, ioctl.VM_SMCCC_FILTER)
    with _absent(_NO_FILTER):
        ioctl.call(host.need_vm(), ioctl.HAS_DEVICE_ATTR, argument)
    return "the kernel can forward hypercalls to user space"


def _forwarded(base: int, count: int, kept: str, remedy: str) -> Callable[[Opened], str]:
    def ask(host: Opened) -> str:
        wanted = ioctl.SmcccFilter(base, count, ioctl.SMCCC_FILTER_FWD_TO_USER)
        argument = ioctl.device_attr(ioctl.VM_SMCCC_CTRL, ioctl.VM_SMCCC_FILTER, wanted)
        try:
            with _absent(_NO_FILTER):
                ioctl.call(host.need_vm(), ioctl.SET_DEVICE_ATTR, argument)
        except FileExistsError as error:
            raise _no(f"the kernel {kept}", remedy) from error
        return "the kernel forwards it" if count == 1 else "the kernel forwards them"

    return ask


def _stolen_time(host: Opened) -> str:
    if not supported(host.need_vm(), ioctl.CAP_STEAL_TIME):
        raise _no("KVM does not keep it", "use a kernel with CONFIG_SCHEDSTATS, as Debian's")
    return "KVM keeps it"


# -- BPF --


def _libbpf(host: Opened) -> str:
    return f"version {bpf.version()}"


def _kernel_has(need: Need) -> Callable[[Opened], str]:
    def ask(host: Opened) -> str:
        try:
            with _absent(f"the kernel has no {need.what}", need.remedy):
                there = need.there()
        except PermissionError as error:
            host.may_use_bpf = False
            raise not_permitted() from error
        if there:
            return "the kernel has it"
        if not host.may_use_bpf:  # then libbpf may take a refusal for an absence
            raise EngineError("this process may not use BPF")
        raise _no(f"the kernel has no {need.what}", need.remedy)

    return ask


def _publisher(host: Opened) -> str:
    if not OBJECT.exists():
        raise _no(f"{OBJECT} is missing", "install pvlock with pip, which compiles it")
    for policy in abi.Policy:
        try:
            Publisher(1, policy).close()
        except bpf.LoadError as error:
            raise _no(str(error), "report it") from error
    return "loaded, attached, and removed again"


# -- any host --


def _page_size(host: Opened) -> str:
    return f"{mmap.PAGESIZE >> 10} KiB; any will do"


def _cpus(host: Opened) -> str:
    return f"this process may use {len(os.sched_getaffinity(0))} of {os.cpu_count()}"


REQUIREMENTS = (
    Requirement("arm64 CPU", _architecture),
    Requirement("page size", _page_size),
    Requirement("host CPUs", _cpus),
    Requirement("KVM", _device),
    Requirement("VM", _vm),
    Requirement("GICv3", _gic),
    _capability("PSCI 0.2", "ARM_PSCI_0_2", ioctl.CAP_ARM_PSCI_0_2),
    _capability("read-only memory slots", "READONLY_MEM", ioctl.CAP_READONLY_MEM),
    _capability("stores without syndrome", "ARM_NISV_TO_USER", ioctl.CAP_ARM_NISV_TO_USER),
    _capability("injected aborts", "ARM_INJECT_EXT_DABT", ioctl.CAP_ARM_INJECT_EXT_DABT),
    _capability("immediate exit", "IMMEDIATE_EXIT", ioctl.CAP_IMMEDIATE_EXIT),
    Requirement("SMCCC filter", _filter),
    Requirement(
        "PV-lock's two calls",
        _forwarded(abi.PV_LOCK_FEATURES, 2, "keeps them for itself", "use a kernel that does not"),
    ),
    Requirement("libbpf", _libbpf),
    *(Requirement(need.what, _kernel_has(need)) for need in NEEDS),
    Requirement("publisher of `preempted`", _publisher),
    Requirement("stolen time", _stolen_time, needed=False),
    # KVM has kept Arm's architecture calls to itself ever since it has had a filter: commit
    # 821d935c87bc (Linux 6.4) reserves their range.
    Requirement(
        "SMCCC_ARCH_FEATURES",
        _forwarded(
            abi.SMCCC_ARCH_FEATURES,
            1,
            "answers it itself, and knows no PV-lock",
            "none needed: guests find PV-lock by the device tree (SPECIFICATION.md, clause 4.3)",
        ),
        needed=False,
    ),
)
"""All that the engine uses. What it can do without comes last."""
