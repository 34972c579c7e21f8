# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as files: CSV, Parquet and JSON for programs, Markdown for people.

Equal results give equal bytes. A file is written whole or not at all.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pvlock import report
from pvlock.extras import load_extra
from pvlock.files import refuse_unwritable, replacing
from pvlock.sweep.results import CellResult, Row, cell_row, group_row, grouped, summary


def check(path: Path, option: str) -> None:
    """Refuse a file early if it could not be written later. Raises ConfigError."""
    refuse_unwritable(path, f"{option} {path}", tuple(FORMATS))
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
    facts = report.document("sweep", {"groups": groups, "cells": cells})
    file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _parquet(file: Path, results: Sequence[CellResult]) -> None:
    arrow = load_extra("pyarrow", "parquet", str(file))
    rows = [cell_row(result) for result in results]
    schema = arrow.schema([(name, _arrow_type(arrow, rows, name)) for name in rows[0]])
    table = arrow.Table.from_pylist(rows, schema=schema)
    load_extra("pyarrow.parquet", "parquet", str(file)).write_table(table, file)


def _arrow_type(arrow: Any, rows: Sequence[Row], column: str) -> Any:
    """Return the type of a column's values; that of a float if it has none."""
    kind = next((type(row[column]) for row in rows if row[column] is not None), float)
    return {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}[kind]


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
"""The functions that write a file, by the end of its name."""
