# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of mutants, and how one is switched on."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from pvlock.abi import Policy
from pvlock.engines.emulator.engine import EmulatorEngine

VARIABLE = "PVLOCK_TEST_MUTANT"
"""Tells worker.py, in the emulator's worker process, which mutant it is."""

Patch = Callable[[Any, str, Any], None]
"""Replace an attribute of a class or module, as setattr does."""


@dataclass(frozen=True)
class Mutant:
    """`what` is wrong, against `clause`; the cases `caught_by` each fail on it under `policy`.

    `change` replaces what has to be replaced, in the process that `in_worker` says.
    """

    name: str
    clause: str
    what: str
    caught_by: tuple[str, ...]
    policy: Policy
    in_worker: bool
    change: Callable[[Patch], None]


MUTANTS: dict[str, Mutant] = {}


def mutant(
    clause: str,
    what: str,
    *caught_by: str,
    policy: Policy = Policy.SCHEDULED_OUT,
    in_worker: bool = False,
) -> Callable[[Any], Any]:
    """Enter a function that applies a Patch into the list, under its own name."""

    def enter(change: Callable[[Patch], None]) -> Callable[[Patch], None]:
        name = change.__name__.replace("_", "-")
        assert name not in MUTANTS
        MUTANTS[name] = Mutant(name, clause, what, caught_by, policy, in_worker, change)
        return change

    return enter


@contextlib.contextmanager
def switched_on(name: str) -> Iterator[None]:
    """Machines that are made here are this mutant."""
    chosen = MUTANTS[name]
    with contextlib.ExitStack() as stack:
        if chosen.in_worker:
            stack.enter_context(mock.patch.object(EmulatorEngine, "worker", "mutants.worker"))
            stack.enter_context(mock.patch.dict(os.environ, {VARIABLE: name}))
        else:
            chosen.change(
                lambda owner, attribute, value: stack.enter_context(
                    mock.patch.object(owner, attribute, value)
                )
            )
        yield


def load() -> None:
    """Fill the list."""
    from mutants import attribute, calls, flags, memory, paths, stolen  # noqa: F401 - importing enters them
