# SPDX-License-Identifier: GPL-2.0-or-later
"""pvlock: the PV-lock interface for KVM/arm64, running on an emulated machine or on KVM.

`Machine` is the API to script against; the names below are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvlock.abi import Policy
    from pvlock.engines.contract import Placement, SystemEvent
    from pvlock.machine import Machine, Vcpu

__all__ = ["Machine", "Placement", "Policy", "SystemEvent", "Vcpu"]
__version__ = "0.1.0"

_HOME = {
    "Machine": "pvlock.machine",
    "Placement": "pvlock.engines.contract",
    "Policy": "pvlock.abi",
    "SystemEvent": "pvlock.engines.contract",
    "Vcpu": "pvlock.machine",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
