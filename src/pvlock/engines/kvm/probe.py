# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks this host for all that the KVM engine needs: yes, no or cannot tell, and why."""

import contextlib
import enum
import functools
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from pvlock.engines.kvm.requirements import REQUIREMENTS, Opened, Requirement
from pvlock.errors import EngineUnavailable, PvlockError


class State(enum.StrEnum):
    """The answer to a question about this host."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Finding:
    """Whether the host has `what`, `because` of what, and the `remedy` if it has not.

    The engine can do without it unless it is `needed`.
    """

    what: str
    state: State
    because: str
    remedy: str
    needed: bool


def findings() -> list[Finding]:
    """Ask everything; whatever the answers are, nothing is raised."""
    with contextlib.closing(_answers()) as answers:
        return list(answers)


def first_missing(answers: Iterable[Finding]) -> Finding | None:
    """Return the first thing that the engine needs and that is not known to be there."""
    return next((each for each in answers if each.needed and each.state is not State.YES), None)


@functools.cache  # a cache keeps no exception, so only "everything is there" is remembered
def require() -> None:
    """Raise EngineUnavailable for the first thing not known to be there, and ask no further."""
    with contextlib.closing(_answers()) as answers:
        missing = first_missing(answers)
    if missing is None:
        return
    because = missing.because
    if missing.state is State.UNKNOWN:
        because = f"cannot tell whether this host has {missing.what}: {because}"
    raise EngineUnavailable("kvm", because, missing.remedy or "use --engine emulator")


def usable() -> bool:
    """Tell whether everything that the KVM engine needs is there."""
    try:
        require()
    except EngineUnavailable:
        return False
    return True


def _answers() -> Generator[Finding, None, None]:
    with Opened() as host:
        for requirement in REQUIREMENTS:
            yield _answer(requirement, host)


def _answer(requirement: Requirement, host: Opened) -> Finding:
    try:
        state, because, remedy = State.YES, requirement.ask(host), ""
    except EngineUnavailable as error:
        state, because, remedy = State.NO, error.capability, error.remedy
    except (PvlockError, OSError) as error:
        because = getattr(error, "strerror", None) or str(error)
        state, remedy = State.UNKNOWN, ""
    return Finding(requirement.what, state, because, remedy, requirement.needed)
