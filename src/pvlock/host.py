# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of a simulated host, and how a field of a description says what it is.

Each field of Host carries its default, its limits, its unit, its help text and the name of its
option. The command line's options, the axes of a sweep, the keywords of Machine and what the kvm
engine refuses are made from these fields. So a new cost or knob is one more field here, and the
code that obeys it (docs/architecture.md says where else one stands that C obeys).

>>> Host(slice_ns=10)
Traceback (most recent call last):
    ...
pvlock.errors.ConfigError: slice_ns: 10 is not between 1000 ns and 1152921504606846976 ns
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pvlock import hint
from pvlock.abi import Policy
from pvlock.duration import HOUR_NS, nanoseconds, text_of
from pvlock.errors import ConfigError
from pvlock.memory_map import MAX_VCPUS

LONGEST_NS = 1 << 60
"""The longest time in ns that a machine can count."""
_MOST_NS = 1_000_000
"""The largest quantum, and the largest cost."""
_KNOB, _SIMULATED = "knob", "simulated"


@dataclass(frozen=True)
class Knob:
    """What a field of a description is: the name of its option, and the values that it may have.

    `words` are the values by name, for a field that is a choice. Other fields are whole numbers
    from `low` to `high`, and times in ns where `is_time`.

    >>> Knob("slice", "Time slice.", 1_000, 10_000, is_time=True).parse("2us")
    2000
    """

    option: str
    help: str
    low: int = 0
    high: int = HOUR_NS
    is_time: bool = False
    words: Mapping[str, Any] | None = None

    def checked(self, value: Any) -> Any:
        """Return `value`; raises ValueError, whose text says what is wrong with it.

        A choice is returned as the field has it: the text "preempted" as Policy.PREEMPTED.
        """
        if self.words is None:
            return self._within(value, self.high)
        for known in self.words.values():
            if value == known:
                return known
        raise ValueError(f"not one of: {', '.join(self.words)}")

    def parse(self, value: object) -> Any:
        """Return the value that a person wrote as `value`, a text or (TOML) a number.

        A time that is written is not longer than an hour. Raises ValueError as checked() does.
        """
        if self.words is not None:
            if not isinstance(value, str) or value not in self.words:
                raise ValueError(f"not one of: {', '.join(self.words)}")
            return self.words[value]
        if self.is_time:
            # A number has no unit, so it is not a time.
            ns = nanoseconds(value if isinstance(value, str) else "")
            if not self.low <= ns <= min(self.high, HOUR_NS):
                raise ValueError(f"not between {self.limits().replace(' to ', ' and ')}")
            return ns
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(self._wanted(self.high))
        return self._within(value, self.high)

    def text(self, value: Any) -> str:
        """Return `value` as parse() takes it: 3ms, trap, 8."""
        if self.words is not None:
            return next(word for word, known in self.words.items() if known == value)
        return text_of(value) if self.is_time else str(value)

    def limits(self) -> str:
        """Return the smallest and the largest value that may be written; empty for a choice."""
        if self.words is not None:
            return ""
        high = min(self.high, HOUR_NS) if self.is_time else self.high
        return f"{self.text(self.low)} to {self.text(high)}"

    def _within(self, value: int, high: int) -> int:
        if not self.low <= value <= high:
            raise ValueError(self._wanted(high))
        return value

    def _wanted(self, high: int) -> str:
        if self.is_time:
            return f"not between {self.low} ns and {high} ns"
        return f"not a whole number from {self.low} to {high}"


def number(option: str, help: str, low: int, high: int) -> dict[str, Any]:
    """Return the metadata of a field that is a whole number."""
    return {_KNOB: Knob(option, help, low, high)}


def time(
    option: str, help: str, low: int = 0, high: int = HOUR_NS, *, simulated: bool = False
) -> dict[str, Any]:
    """Return the metadata of a field that is a time in ns; `simulated` as for simulated_only()."""
    return {_KNOB: Knob(option, help, low, high, is_time=True), _SIMULATED: simulated}


def choice(
    option: str, help: str, words: Mapping[str, Any], *, simulated: bool = False
) -> dict[str, Any]:
    """Return the metadata of a field that has one of the values of `words`."""
    return {_KNOB: Knob(option, help, words=words), _SIMULATED: simulated}


SIMULATED: Mapping[str, Any] = {_SIMULATED: True}
"""The metadata of a field that only a simulated host has, and that is not a knob."""


def knobs(description: type) -> Mapping[str, Knob]:
    """Return the knobs of the dataclass `description` by the names of their fields.

    >>> knobs(Host)["exit_ns"].option
    'exit-cost'
    """
    return _knobs(description)


@functools.cache  # every Host that is made asks
def _knobs(description: Any) -> Mapping[str, Knob]:
    return {f.name: f.metadata[_KNOB] for f in fields(description) if _KNOB in f.metadata}


def simulated_only(description: type) -> Mapping[str, Any]:
    """Return the fields that only a simulated host has, with their defaults.

    A real host (the kvm engine) has slices and costs of its own, which nobody can set.

    >>> "slice_ns" in simulated_only(Host), "policy" in simulated_only(Host)
    (True, False)
    """
    return {f.name: f.default for f in fields(description) if f.metadata.get(_SIMULATED)}


@dataclass(frozen=True, kw_only=True)
class Host:
    """The host that a machine runs on, as far as it can be chosen; times are ns of guest time.

    Raises ConfigError for a value outside its limits. A description that has more fields than the
    host's (contract.EngineConfig, workload.Settings) is a subclass.

    >>> Host(vcpus=2, policy="preempted").keywords()["policy"]
    <Policy.PREEMPTED: 'preempted'>
    """

    vcpus: int = field(default=8, metadata=number("vcpus", "VCPUs of the guest.", 1, MAX_VCPUS))
    pcpus: int = field(default=4, metadata=number("pcpus", "CPUs that they share.", 1, MAX_VCPUS))
    slice_ns: int = field(
        default=3_000_000,
        metadata=time(
            "slice", "Time slice of the host's scheduler.", 1_000, LONGEST_NS, simulated=True
        ),
    )
    quantum_ns: int = field(
        default=1_000,
        metadata=time(
            "quantum", "How finely the simulated CPUs are interleaved.", 10, _MOST_NS,
            simulated=True,
        ),
    )  # fmt: skip
    policy: Policy = field(
        default=Policy.SCHEDULED_OUT,
        metadata=choice(
            "policy",
            "When a VCPU counts as preempted: off its CPU, or only if it could have gone on.",
            {policy.value: policy for policy in Policy},
        ),
    )
    seed: int = field(
        default=1,
        metadata=number("seed", "What chance there is: when VCPUs start.", 0, 2**63 - 1),
    )
    trap_wfe: bool | Literal["always"] = field(
        default=True,
        metadata=choice(
            "wfe",
            "Does WFE give the CPU to a preempted VCPU: if VCPUs waited when this one got its CPU "
            "(trap, as on KVM), never, or always?",
            {"trap": True, "notrap": False, "always": "always"},
            simulated=True,
        ),
    )
    exit_ns: int = field(
        default=1_000,
        metadata=time(
            "exit-cost", "What leaving the guest costs it.", 100, _MOST_NS, simulated=True
        ),
    )
    switch_ns: int = field(
        default=3_000,
        metadata=time(
            "switch-cost", "What putting another VCPU on a CPU costs.", 0, _MOST_NS, simulated=True
        ),
    )
    pauth: bool = field(
        default=False,
        metadata=choice(
            "pauth",
            "Is pointer authentication offered? Kernels that use it run slower then.",
            {"off": False, "on": True},
            simulated=True,
        ),
    )

    scheduler: Literal["fifo", "eevdf"] = field(
        default="fifo",
        metadata=choice(
            "host-scheduler",
            "The host's scheduler: one queue for all CPUs, or one for each as in Linux 6.12.",
            {"fifo": "fifo", "eevdf": "eevdf"},
            simulated=True,
        ),
    )
    yield_woken: bool = field(
        default=False,
        metadata=choice(
            "yield-woken",
            "May WFE also give the CPU to a VCPU that has just woken, as on KVM?",
            {"off": False, "on": True},
            simulated=True,
        ),
    )
    yield_filter: bool = field(
        default=False,
        metadata=choice(
            "yield-filter",
            "Does a WFE of the guest's kernel pass over VCPUs preempted in user space, as on KVM?",
            {"off": False, "on": True},
            simulated=True,
        ),
    )

    hint: Literal["off", "after", "instead"] = field(
        default="off",
        metadata=choice(
            "hint",
            "Does a waiter tell the host whom to run: after a while, and instead of sleeping?",
            {word: word for word in (hint.OFF, hint.AFTER, hint.INSTEAD)},
            simulated=True,
        ),
    )

    def __post_init__(self) -> None:
        """Check every field that has limits, also those of a subclass."""
        for name, knob in knobs(type(self)).items():
            value = getattr(self, name)
            try:
                checked = knob.checked(value)
            except ValueError as error:
                raise ConfigError(f"{name}: {value!r} is {error}") from None
            if checked is not value:
                object.__setattr__(self, name, checked)

    def keywords(self) -> dict[str, Any]:
        """Return the host's own fields by name, as the keywords of Machine."""
        return {f.name: getattr(self, f.name) for f in fields(Host)}


def without_simulated(facts: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return `facts` of a run without the fields of Host that a host of `engine` does not have."""
    absent = simulated_only(Host) if engine == "kvm" else {}
    return {name: value for name, value in facts.items() if name not in absent}
