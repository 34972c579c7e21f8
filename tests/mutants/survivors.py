# SPDX-License-Identifier: GPL-2.0-or-later
"""The derived mutants that nothing notices, and why that need not be (survivors.toml)."""

import tomllib
from pathlib import Path

_FILE = Path(__file__).with_name("survivors.toml")
_TABLES: dict[str, dict[str, str]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))

REASONS = _TABLES["reasons"]
"""Each reason, as docs/mutants.md has it."""
SURVIVORS = _TABLES["emulator"]
"""Of the emulator's Python: the reason, by the mutant's words."""
OF_THE_PUBLISHER = _TABLES["publisher"]
"""Of bpf/publisher.bpf.c."""
