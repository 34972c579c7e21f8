# SPDX-License-Identifier: GPL-2.0-or-later
"""Engines: what runs a machine's VCPUs. They are opened by name, and only then imported."""

import os

from pvlock.engines.contract import Opener
from pvlock.errors import ConfigError

NAMES = ("auto", "emulator", "kvm")
VARIABLE = "PVLOCK_ENGINE"
"""The environment variable that says what `auto` stands for."""


def named() -> str | None:
    """Return the engine that VARIABLE names, None for none. Raises ConfigError."""
    name = os.environ.get(VARIABLE, "")
    if name and name not in NAMES:
        raise ConfigError(f"{VARIABLE}: {_unknown(name)}")
    return None if name in ("", "auto") else name


def choose(name: str) -> str:
    """Return the engine that `name` stands for.

    `auto` takes the one that VARIABLE names; else KVM only where all it needs is there. Raises
    EngineUnavailable, never falling back to another engine, and ConfigError for a name that no
    engine has.
    """
    if name not in NAMES:
        raise ConfigError(_unknown(name))
    if name == "auto":
        name = named() or name
    if name == "emulator":
        return name
    from pvlock.engines.kvm import probe

    if name == "kvm":
        probe.require()
        return name
    return "kvm" if probe.usable() else "emulator"


def _unknown(name: str) -> str:
    return f"no engine is called {name!r}; there are {', '.join(NAMES)}"


def opener(name: str) -> Opener:
    """Return what opens the engine called `name`; raises as choose().

    For `kvm` the host is asked nothing: where KVM then fails, require() says why.
    """
    if name == "kvm" or choose(name) == "kvm":
        from pvlock.engines.kvm.engine import KvmEngine

        return KvmEngine
    from pvlock.engines.emulator.engine import EmulatorEngine

    return EmulatorEngine


def require(name: str) -> None:
    """Raise EngineUnavailable if the host lacks what a machine on the engine `name` needs.

    For a machine that could not be made: to ask first would take longer than to make it.
    """
    if name == "kvm":
        from pvlock.engines.kvm import probe

        probe.require()
