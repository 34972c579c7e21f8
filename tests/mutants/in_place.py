# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts a derived mutant in the place of its module, in every process of a machine.

The emulator's worker process runs this module: python -m mutants.in_place SOCKET-FD.
"""

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from unittest import mock

from mutants import derive

VARIABLE = "PVLOCK_TEST_DERIVED"
"""MODULE:PLACE:VARIANT, as derive.Derived has them."""


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, module: str, place: int, variant: int) -> None:
        self._module, self._place, self._variant = module, place, variant

    def get_source(self, fullname: str) -> str:
        return derive.source(fullname)

    def get_code(self, fullname: str) -> CodeType:
        tree = derive.changed(fullname, self._place, self._variant)
        return compile(tree, fullname, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, loader: _Loader) -> None:
        self._module, self._loader = module, loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_loader(fullname, self._loader)


def install() -> None:
    """From now on the module that VARIABLE names is imported as the mutant."""
    module, place, variant = os.environ[VARIABLE].split(":")
    derive.source(module)  # from its own file, which cannot be found any more then
    assert module not in sys.modules
    sys.meta_path.insert(0, _Finder(module, _Loader(module, int(place), int(variant))))


def main() -> None:
    """Run the worker; the first mistake that the audit finds ends it, as no more are needed."""
    install()
    from pvlock.engines.emulator import audit, worker
    from pvlock.errors import EngineError

    note = audit.AuditedVm._note

    def stop(self: audit.AuditedVm, what: str, vcpu: int, found: int, wanted: int) -> None:
        note(self, what, vcpu, found, wanted)
        raise EngineError(f"every-switch or every-wait: {self.audit().mistakes[0]}")

    with mock.patch.object(audit.AuditedVm, "_note", stop):
        worker.main()


if __name__ == "__main__":
    main()
