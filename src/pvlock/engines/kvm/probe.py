# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host has of all that the KVM engine needs: yes, no, or cannot tell; and why.

Each question is put to the host itself; nothing is concluded from a version number.
"""

import contextlib
import enum
import errno
import functools
import mmap
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pvlock import abi
from pvlock.engines.kvm import bpf, ioctl
from pvlock.engines.kvm.publisher import OBJECT, Publisher
from pvlock.engines.kvm.vm import open_kvm, supported
from pvlock.errors import EngineError, EngineUnavailable

_NONE = "there is none: pvlock lab is a virtual host that has it, and --engine emulator needs none"
_KERNEL_CONFIG = "take a kernel with CONFIG_{}, as Debian's"
_BPF_PERMISSION = "run pvlock as root of the host, or with the capabilities CAP_BPF and CAP_PERFMON"

_ABSENT = frozenset(
    (errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.ENOTTY, errno.ENXIO, errno.EOPNOTSUPP)
)
"""How a kernel says that it has no such thing. Any other error tells nothing about the host."""


class State(enum.StrEnum):
    """The answer to a question about this host."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Finding:
    """`what` was asked for, whether it is there, `because` of what, and the `remedy` if not.

    The engine does without what is not `needed`.
    """

    what: str
    state: State
    because: str
    remedy: str = ""
    needed: bool = True


def findings() -> list[Finding]:
    """Ask everything."""
    with contextlib.closing(_answers()) as answers:
        return list(answers)


def first_missing(answers: Iterator[Finding]) -> Finding | None:
    """Return the first thing that the engine needs and that is not known to be there."""
    return next((each for each in answers if each.needed and each.state is not State.YES), None)


@functools.cache  # which keeps no exception: only that everything was there
def require() -> None:
    """Raise EngineUnavailable for the first thing that is not known to be there."""
    with contextlib.closing(_answers()) as answers:
        missing = first_missing(answers)
    if missing is None:
        return
    if missing.state is State.NO:
        raise EngineUnavailable("kvm", missing.because, missing.remedy)
    raise EngineUnavailable(
        "kvm", f"cannot tell about {missing.what}: {missing.because}", missing.remedy
    )


def usable() -> bool:
    """Tell whether everything that the KVM engine needs is there; asks no more than it must."""
    try:
        require()
    except EngineUnavailable:
        return False
    return True


class _Host:
    """What several questions need, opened for the first of them."""

    def __init__(self) -> None:
        self._fds = contextlib.ExitStack()
        self._vm: int | None = None

    def close(self) -> None:
        self._fds.close()

    def keep(self, fd: int) -> int:
        """Close `fd` when all questions have been asked."""
        self._fds.callback(os.close, fd)
        return fd

    @property
    def vm(self) -> int:
        """A VM to ask; raises EngineError as long as there is none."""
        if self._vm is None:
            raise EngineError("there is no VM to ask")
        return self._vm

    def create_vm(self) -> int:
        """Create the VM that `vm` returns."""
        kvm = self.keep(open_kvm())
        self._vm = self.keep(ioctl.call(kvm, ioctl.CREATE_VM, 0))
        return self._vm


@dataclass(frozen=True)
class _Question:
    """`ask` returns why the answer is yes, raises EngineUnavailable for no.

    Any other EngineError or OSError: cannot tell.
    """

    what: str
    ask: Callable[[_Host], str]
    needed: bool = True

    def answer(self, host: _Host) -> Finding:
        try:
            state, because, remedy = State.YES, self.ask(host), ""
        except EngineUnavailable as error:
            state, because, remedy = State.NO, error.capability, error.remedy
        except EngineError as error:
            state, because, remedy = State.UNKNOWN, str(error), ""
        except OSError as error:
            state, because, remedy = State.UNKNOWN, error.strerror or str(error), ""
        return Finding(self.what, state, because, remedy, self.needed)


def _answers() -> Iterator[Finding]:
    host = _Host()
    try:
        for question in _QUESTIONS:
            yield question.answer(host)
    finally:
        host.close()


def _no(because: str, remedy: str) -> EngineUnavailable:
    return EngineUnavailable("kvm", because, remedy)
