# SPDX-License-Identifier: GPL-2.0-or-later
"""A fuzz case: a machine, and the seed of its guest. A file keeps a case that found something."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pvlock.abi import Policy
from pvlock.errors import ConfigError

FORMAT = 1
_VCPUS = (1, 2, 3, 4, 6, 8, 12, 17)
"""With 17 VCPUs, the last one has Aff1 = 1."""
_SLICES_NS = (5_000, 20_000, 100_000, 1_000_000)
_QUANTA_NS = (100, 1_000, 1_000, 5_000)
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class Case:
    """A machine, and how many `operations` its guest does on VCPU 0.

    The other VCPUs do as many as they can meanwhile. Times are ns of guest time. The guest and the
    scheduler have the same `seed`.
    """

    seed: int
    operations: int
    vcpus: int
    pcpus: int
    policy: Policy = Policy.SCHEDULED_OUT
    slice_ns: int = 100_000
    quantum_ns: int = 1_000
    trap_wfe: bool = True
    exit_ns: int = 1_000
    pvlock: bool = True
    engine: str = "emulator"


def draw(seed: int, operations: int, engine: str = "emulator") -> Case:
    """Return the case that belongs to `seed`, the same one on every host."""
    choice = random.Random(f"pvlock fuzz {seed}")
    vcpus = choice.choice(_VCPUS)
    return Case(
        seed,
        operations,
        vcpus,
        choice.randint(1, vcpus),
        choice.choice(tuple(Policy)),
        choice.choice(_SLICES_NS),
        choice.choice(_QUANTA_NS),
        choice.random() < 0.5,
        choice.choice((100, 1_000)),
        choice.random() < 15 / 16,
        engine,
    )


def save(folder: Path, case: Case, problems: Sequence[str]) -> Path:
    """Write the case and its problems into a file in `folder`; return the path of the file.

    Raises ConfigError if the file cannot be written.
    """
    path = folder / f"seed-{case.seed}.json"
    content = {"pvlock-fuzz": FORMAT, "case": asdict(case), "problems": list(problems)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return path


def load(path: Path) -> Case:
    """Read the case in a file that `save` wrote. Raises ConfigError for anything else."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST_FILE))
        if content["pvlock-fuzz"] != FORMAT:
            raise ValueError
        return _case(content["case"])
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ConfigError(f"{path}: not a fuzz case of this version of pvlock") from None


def _case(raw: dict[str, Any]) -> Case:
    """Return `raw` as a Case, or raise what load() expects.

    Only types are checked here: Machine checks the values.
    """
    if set(raw) != {field.name for field in fields(Case)}:
        raise ValueError
    for field in fields(Case):
        wanted = str if field.name == "policy" else field.type
        if type(raw[field.name]) is not wanted:
            raise TypeError
    if raw["seed"] < 0 or raw["operations"] < 1:
        raise ValueError
    return Case(**{**raw, "policy": Policy(raw["policy"])})
