# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as files: CSV, Parquet and JSON for programs, Markdown for people.

The same results are the same bytes. A file is written whole or not at all.
"""

import contextlib
import csv
import importlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pvlock import __version__
from pvlock.errors import ConfigError
from pvlock.sweep.results import CellResult, Row, cell_row, group_row, grouped, summary


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write that becomes `path` when the block ends well. Raises ConfigError."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            yield Path(name)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def load_extra(module: str, extra: str, needed_for: str) -> Any:
    """Import an optional library. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{needed_for} needs {package}, which is not installed: pip install 'pvlock[{extra}]'"
        ) from error


def check(path: Path, option: str, suffixes: Sequence[str]) -> None:
    """Refuse early a file that could not be written later. Raises ConfigError."""
    if path.suffix not in suffixes:
        raise ConfigError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: cannot be written there")
    if path.suffix == ".parquet":
        load_extra("pyarrow.parquet", "parquet", f"{option} {path}")


def write(path: Path, results: Sequence[CellResult]) -> None:
    """Write results in the format that the name of `path` says. Raises ConfigError."""
    with replacing(path) as file:
        FORMATS[path.suffix](file, results)


def _csv(file: Path, results: Sequence[CellResult]) -> None:
    rows = [cell_row(result) for result in results]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue(), encoding="utf-8")


def _json(file: Path, results: Sequence[CellResult]) -> None:
    groups = [group_row(group) for group in grouped(results)]
    cells = [cell_row(result) for result in results]
    facts = {"pvlock": __version__, "groups": groups, "cells": cells}
    file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _parquet(file: Path, results: Sequence[CellResult]) -> None:
    arrow = load_extra("pyarrow", "parquet", str(file))
    rows = [cell_row(result) for result in results]
    schema = arrow.schema([(name, _arrow_type(arrow, rows, name)) for name in rows[0]])
    table = arrow.Table.from_pylist(rows, schema=schema)
    load_extra("pyarrow.parquet", "parquet", str(file)).write_table(table, file)


def _arrow_type(arrow: Any, rows: Sequence[Row], column: str) -> Any:
    """The type of a column: of its values, as far as there are any."""
    kinds = {type(row[column]) for row in rows} - {type(None)}
    return {str: arrow.string(), int: arrow.int64()}.get(*kinds, arrow.float64())


def _markdown(file: Path, results: Sequence[CellResult]) -> None:
    common, titles, lines = summary(grouped(results))
    table = [titles, ["---"] * len(titles), *lines]
    text = "".join(f"| {' | '.join(line)} |\n" for line in table)
    file.write_text(f"In all: {common}.\n\n{text}", encoding="utf-8")


FORMATS: dict[str, Callable[[Path, Sequence[CellResult]], None]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".json": _json,
    ".md": _markdown,
}
"""What writes a file, by the end of its name."""
