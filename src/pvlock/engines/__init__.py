# SPDX-License-Identifier: GPL-2.0-or-later
"""Engines: what runs a machine's VCPUs. They are opened by name, and only then imported."""

from pvlock.engines.contract import Opener
from pvlock.errors import ConfigError, EngineUnavailable

NAMES = ("auto", "emulator", "kvm")


def choose(name: str) -> str:
    """Return the engine that `name` stands for; `auto` takes the best that this host can run.

    Raises EngineUnavailable, never falling back to another engine, and ConfigError for a name that
    no engine has.
    """
    if name == "kvm":
        raise EngineUnavailable(
            "kvm", "not in this release of pvlock yet", "use --engine emulator, which runs anywhere"
        )
    if name not in NAMES:
        raise ConfigError(f"no engine is called {name!r}; there are {', '.join(NAMES)}")
    return "emulator"


def opener(name: str) -> Opener:
    """Return what opens the engine called `name`; raises as choose()."""
    choose(name)
    from pvlock.engines.emulator.engine import EmulatorEngine

    return EmulatorEngine
