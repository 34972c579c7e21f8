# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples in the docstrings of traces and findings run, and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import pvlock.explain
import pvlock.trace
from pvlock.explain.findings import find
from pvlock.trace.attribution import attribute
from pvlock.trace.events import Events
from pvlock.trace.perfetto import read
from pvlock.trace.table import table

MODULES = [
    name
    for package in (pvlock.trace, pvlock.explain)
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
FINDER = doctest.DocTestFinder()
EXAMPLES = {
    test.name: test
    for name in MODULES
    for test in FINDER.find(importlib.import_module(name))
    if test.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_prints_what_it_says(name: str) -> None:
    printed: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    result = runner.run(EXAMPLES[name], out=printed.append)
    assert result.attempted
    assert not result.failed, "".join(printed)


@pytest.mark.parametrize("public", [Events, Events.name_of, attribute, find, read, table])
def test_what_people_script_has_an_example(public: type) -> None:
    assert f"{public.__module__}.{public.__qualname__}" in EXAMPLES
