# SPDX-License-Identifier: GPL-2.0-or-later
"""What Perfetto's own trace_processor makes of traces: arrows, nesting, and no errors."""

import io
import re

import pytest

from asm import ROOT
from profiles import AT, packed, profile
from pvlock import workload
from pvlock.profile import perfetto as profile_file
from pvlock.trace import perfetto
from pvlock.trace.drawing import draw
from pvlock.trace.events import Events
from trace_processor import Row, ask

ERRORS = "select name, value from stats where severity != 'info' and value > 0"
FLOWS = """select source.name, source_track.name, sink.name, sink_track.name,
    sink.ts - source.ts from flow
    join slice source on flow.slice_out = source.id
    join slice sink on flow.slice_in = sink.id
    join track source_track on source.track_id = source_track.id
    join track sink_track on sink.track_id = sink_track.id"""
NESTED = "select count(*) from slice where depth > 0 and name != 'delayed'"
UNFINISHED = "select count(*) from slice where dur < 0"
SLICES = "select count(*) from slice where name != 'delayed'"


def traced(guest: str) -> Events:
    plan = workload.Settings(
        guest, duration_ns=10_000_000, slice_ns=1_000_000, trap_wfe=False, engine="emulator"
    )
    result = workload.run("without", plan, trace=True)
    assert result is not None
    assert result.events is not None
    return result.events


def written(events: Events) -> bytes:
    file = io.BytesIO()
    perfetto.write(file, events)
    return file.getvalue()


@pytest.mark.parametrize("guest", ["mutex", "rwsem", "qspinlock"])
def test_arrows_lead_from_preemptions_to_waits(guest: str) -> None:
    events = traced(guest)
    drawn = draw(events)
    errors, flows, nested, unfinished, slices = ask(
        written(events), ERRORS, FLOWS, NESTED, UNFINISHED, SLICES
    )
    assert errors == []
    assert nested == unfinished == [(0,)]
    assert slices == [(len(drawn.slices),)]
    assert len(drawn.arrows) > 5
    assert len(flows) == len(drawn.arrows)
    for source, source_track, sink, sink_track, ns in flows:
        assert source in ("preempted", "preempted (yield)", "blocked", "ready", "off")
        assert re.fullmatch(r"VCPU \d", source_track)
        assert sink == "delayed"
        assert re.fullmatch(r"VCPU \d waits", sink_track)
        assert ns > 0


def test_samples_of_a_profile_are_read() -> None:
    found = profile(
        packed(0, 0, [AT["osq_lock"] + 8, AT["vfs_read"] + 16, 0x1234], user=1, points=3),
        packed(300, 1, [0x4444], user=1),
    )
    file = io.BytesIO()
    profile_file.write(file, found)
    innermost = """select thread.name, frame.name, count(*), min(ts) from perf_sample
        join thread using (utid)
        join stack_profile_callsite site on perf_sample.callsite_id = site.id
        join stack_profile_frame frame on site.frame_id = frame.id
        group by 1, 2 order by 1"""
    depth = "select max(depth) from stack_profile_callsite"
    errors, samples, deepest = ask(file.getvalue(), ERRORS, innermost, depth)
    assert errors == []
    assert samples == [("VCPU 0", "osq_lock", 3, 0), ("VCPU 1", "[user]", 1, 300)]
    assert deepest == [(2,)]


def documented() -> list[str]:
    text = (ROOT / "docs" / "trace.md").read_text(encoding="utf-8")
    return re.findall(r"```sql\n(.*?)```", text, re.DOTALL)


def test_the_queries_of_the_document_have_answers() -> None:
    queries = documented()
    assert queries
    answers: list[list[Row]] = ask(written(traced("mutex")), *queries)
    for query, rows in zip(queries, answers, strict=True):
        assert rows, query
