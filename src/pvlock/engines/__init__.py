# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine runs a machine's VCPUs. Engines are opened by name, and imported only then."""

import os

from pvlock.engines.contract import Opener
from pvlock.errors import ConfigError

NAMES = ("auto", "emulator", "kvm")
VARIABLE = "PVLOCK_ENGINE"
"""The environment variable that says what `auto` stands for."""

EMULATED_CPUS = "PVLOCK_EMULATED_CPUS"
"""The environment variable that the lab sets: the CPUs of this host are emulated, too."""


def cpus_are_emulated() -> bool:
    """Say whether time means nothing on this host, since somebody emulates its CPUs."""
    return bool(os.environ.get(EMULATED_CPUS))


def named() -> str | None:
    """Return the engine that VARIABLE names, or None if it names none. Raises ConfigError."""
    name = os.environ.get(VARIABLE, "")
    if name and name not in NAMES:
        raise ConfigError(f"{VARIABLE}: {_unknown(name)}")
    return None if name in ("", "auto") else name


def choose(name: str) -> str:
    """Return the engine that `name` stands for.

    `auto` stands for the engine that VARIABLE names. Without VARIABLE it stands for KVM where the
    host has all that KVM needs, and for the emulator elsewhere. Raises EngineUnavailable where an
    engine was named and cannot run (no other takes its place), ConfigError for an unknown name.

    >>> choose("emulator")
    'emulator'
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

    The host is not asked whether it has what `kvm` needs. If the machine cannot be made, require()
    finds out why.
    """
    if name == "kvm" or choose(name) == "kvm":
        from pvlock.engines.kvm.engine import KvmEngine

        return KvmEngine
    from pvlock.engines.emulator.engine import EmulatorEngine

    return EmulatorEngine


def require(name: str) -> None:
    """Raise EngineUnavailable if the host lacks what a machine on the engine `name` needs.

    Call it when a machine could not be made. To ask before would take longer than to make it.
    """
    if name == "kvm":
        from pvlock.engines.kvm import probe

        probe.require()
