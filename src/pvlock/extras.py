# SPDX-License-Identifier: GPL-2.0-or-later
"""Libraries that only some commands need, installed with an extra of the package."""

import importlib
from typing import Any

from pvlock.errors import ConfigError


def load_extra(module: str, extra: str, needed_for: str) -> Any:
    """Import an optional library. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{needed_for} needs {package}, which is not installed: pip install 'pvlock[{extra}]'"
        ) from error
