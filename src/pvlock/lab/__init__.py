# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual arm64 host with a stock kernel, on which the KVM engine runs without such hardware."""

from pathlib import Path

_COMMAND = Path("/lab/command")


def inside() -> bool:
    """Tell whether this is the lab: a host whose processor is emulated, so that no time counts."""
    return _COMMAND.exists()
