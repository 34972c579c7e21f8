# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples in the docstrings of what people script."""

import doctest
import importlib

import pytest

MODULES = {
    "pvlock.abi": 2,
    "pvlock.attribute": 1,
    "pvlock.conformance.cases": 2,
    "pvlock.conformance.outcome": 1,
    "pvlock.conformance.render": 1,
    "pvlock.conformance.runner": 1,
    "pvlock.conformance.schedule": 1,
    "pvlock.conformance.tap": 1,
    "pvlock.conformance.userspace": 1,
    "pvlock.duration": 1,
    "pvlock.engines": 1,
    "pvlock.engines.contract": 1,
    "pvlock.fdt": 1,
    "pvlock.host": 5,
    "pvlock.hypercall": 1,
    "pvlock.image": 2,
    "pvlock.machine": 2,
    "pvlock.memory": 1,
    "pvlock.pl011": 1,
    "pvlock.region": 3,
    "pvlock.report": 1,
    "pvlock.sweep.grid": 2,
    "pvlock.sweep.results": 2,
    "pvlock.workload": 3,
}
"""The modules that have examples, and how many docstrings of each at least."""


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert len(tests) >= MODULES[name]
    for test in tests:
        said: list[str] = []
        failed, _ = doctest.DocTestRunner().run(test, out=said.append)
        assert not failed, "".join(said)
