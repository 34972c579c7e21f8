# SPDX-License-Identifier: GPL-2.0-or-later
"""The conformance guest, and the cases it knows.

The list of cases is read from the guest's binary (guest/conformance/cases.h), and nowhere repeated.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources

from pvlock.errors import ConfigError

_MARK = b"pvlock conformance cases\n"
_ANSWERS_ITSELF = "the host's kernel answers ARCH_FEATURES itself"

HOST_DECIDES: dict[str, dict[str, str]] = {
    "kvm": {
        "discovery-order": _ANSWERS_ITSELF,
        "arch-features": _ANSWERS_ITSELF,
        "arch-features-unset": _ANSWERS_ITSELF,
        "arch-features-itself": _ANSWERS_ITSELF,
        "uid": "the host's kernel has a UID of its own",
    }
}
"""The cases that the host's stock kernel decides, whatever user space wants, and why; by the name
of the engine."""


@dataclass(frozen=True)
class Case:
    """One case: the clause of SPECIFICATION.md that it tests, and the tag of that clause.

    `needs` are names from guest/conformance/cases.h, such as PVLOCK or SMP. On a machine that
    lacks one of them the case is skipped. `what` says what the case asserts.
    """

    clause: str
    tag: str
    name: str
    needs: frozenset[str]
    what: str


def binary(kind: str) -> bytes:
    """Return the guest as "Image" (Linux arm64 boot protocol) or as "elf".

    Raises ConfigError if the guest has not been compiled.
    """
    file = resources.files("pvlock.conformance") / f"guest.{kind}"
    if not file.is_file():
        raise ConfigError("the conformance guest is not compiled: run python build_native.py")
    return file.read_bytes()


@cache
def guest_cases() -> tuple[Case, ...]:
    """Return the cases of the guest, in the order in which it runs them.

    >>> case = next(case for case in guest_cases() if case.name == "own-flag")
    >>> case.clause, case.tag
    ('6.2', 'document')
    """
    data = binary("Image")
    start = data.index(_MARK) + len(_MARK)
    text = data[start : data.index(b"\0", start)].decode("ascii")
    found = []
    for line in text.splitlines():
        clause, tag, name, needs, what = line.split("\t")
        words = frozenset(needs.split(" | ")) - {"ANY"}
        found.append(Case(clause, tag, name, words, what))
    return tuple(found)


def select(cases: Iterable[Case], patterns: Collection[str]) -> list[Case]:
    """Return the cases whose name or clause one of the patterns matches; `*` and `?` are wild.

    Raises ConfigError for a pattern that matches nothing.

    >>> {case.clause for case in select(guest_cases(), ["features-*"])}
    {'3.7'}
    """
    known = list(cases)
    for pattern in patterns:
        if not any(_matches(case, pattern) for case in known):
            raise ConfigError(f"no case or clause is called {pattern!r}: see pvlock check --list")
    return [case for case in known if any(_matches(case, pattern) for pattern in patterns)]


def _matches(case: Case, pattern: str) -> bool:
    return fnmatchcase(case.name, pattern) or fnmatchcase(case.clause, pattern)
