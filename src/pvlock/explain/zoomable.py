# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline of a trace to zoom into, drawn in a browser by Bokeh.

Each VCPU has a lane, as in the picture (timeline.py). Here every bar is one interval, and says what
it is when the pointer is on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvlock.explain.findings import Findings
from pvlock.extras import load_extra
from pvlock.trace.columns import Bools, Ints
from pvlock.trace.events import Kind

MOST_BARS = 10_000
"""The most bars of one timeline; with them a page with two timelines stays below 2 MiB."""
_MOST_LANES = 64
_LANE_PIXELS, _FRAME_PIXELS = 26, 90
_GREY = "#888888"
"""Of what is written: it can be read on a light page, and on a dark one."""


@dataclass(frozen=True)
class _Bars:
    """Intervals of one kind: where they are in their lanes, what they look like and say.

    `top` and `bottom` are parts of a lane, from 0 to 1. `said` has what the pointer shows of each
    bar besides its times, by title.
    """

    name: str
    colour: str
    alpha: float
    top: float
    bottom: float
    lane: Ints
    start: Ints
    end: Ints
    said: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.lane)

    def shown(self, window: tuple[int, int]) -> Bools:
        """Return which bars can be seen in a window of time."""
        return (self.end > window[0]) & (self.start < window[1]) & (self.lane < _MOST_LANES)


def figure(found: Findings) -> tuple[dict[str, Any], str]:
    """Return the timeline as Bokeh's JSON, and a sentence if it is not all of the run, else "".

    Raises ConfigError where Bokeh is not installed.
    """
    plotting = load_extra("bokeh.plotting", "html", "an HTML report")
    models = load_extra("bokeh.models", "html", "an HTML report")
    embed = load_extra("bokeh.embed", "html", "an HTML report")
    bars = list(_bars(found))
    window = _window(found, bars)
    lanes = min(found.events.vcpus, _MOST_LANES)
    wide = {"dimensions": "width"}
    tools = [models.PanTool(**wide), models.BoxZoomTool(**wide), models.WheelZoomTool(**wide),
             models.ZoomInTool(**wide), models.ZoomOutTool(**wide), models.ResetTool()]  # fmt: skip
    plot = plotting.figure(
        height=_FRAME_PIXELS + _LANE_PIXELS * lanes, sizing_mode="stretch_width", tools=tools,
        active_drag=tools[0], x_range=models.Range1d(window[0] / 1e6, window[1] / 1e6),
        y_range=models.Range1d(lanes, 0), x_axis_label="ms", background_fill_alpha=0,
        border_fill_alpha=0, outline_line_color=None, toolbar_location="above",
    )  # fmt: skip
    plot.toolbar.logo = None
    for one in bars:
        _add(plot, models, one, window)
    plot.yaxis.ticker = [lane + 0.5 for lane in range(lanes)]
    plot.yaxis.major_label_overrides = {
        lane + 0.5: found.events.vcpu_name(lane) for lane in range(lanes)
    }
    plot.axis.major_label_text_color = plot.axis.axis_label_text_color = _GREY
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = None
    plot.axis.minor_tick_line_color = plot.grid.grid_line_color = None
    plot.legend.orientation, plot.legend.click_policy = "horizontal", "hide"
    plot.legend.background_fill_alpha, plot.legend.label_text_color = 0, _GREY
    plot.legend.border_line_color = None
    if plot.legend:
        plot.add_layout(plot.legend[0], "below")
    return embed.json_item(plot), _what_is_missing(found, window)


def _bars(found: Findings) -> Iterator[_Bars]:
    events, of = found.events, found.attribution
    switches = np.flatnonzero(events.kind <= Kind.READY)
    ends = of.ends_at(switches)
    for kinds, name, colour, alpha in (
        ((Kind.SCHED_IN,), "running", "#56b4e9", 0.3),
        ((Kind.PREEMPTED, Kind.READY), "could run, has no CPU", "#888888", 0.35),
    ):
        mine = np.isin(events.kind[switches], kinds)
        at = switches[mine]
        yield _Bars(
            name, colour, alpha, 0.04, 0.96, events.vcpu[at], events.time[at], ends[mine], {}
        )
    names = [events.name_of(address) for address in of.locks]
    holds, time, waits, delays = of.pairing.holds, of.ledger.time, of.waits, of.delays
    yield _Bars(
        "owns a lock", "#0072b2", 1, 0.54, 0.88, holds.vcpu, time[holds.first], time[holds.last],
        {"lock": [names[lock] for lock in holds.lock.tolist()]},
    )  # fmt: skip
    yield _Bars(
        "waits", "#e6b800", 1, 0.12, 0.46, waits.vcpu, waits.start, waits.end,
        {"lock": [names[lock] for lock in waits.lock.tolist()]},
    )  # fmt: skip
    yield _Bars(
        "waits for a VCPU off its CPU", "#d55e00", 1, 0.12, 0.46, waits.vcpu[delays.wait],
        delays.start, delays.end,
        {
            "lock": [names[lock] for lock in delays.lock.tolist()],
            "for": [events.vcpu_name(vcpu) for vcpu in delays.vcpu.tolist()],
        },
    )  # fmt: skip


def _add(plot: Any, models: Any, bars: _Bars, window: tuple[int, int]) -> None:
    rows = np.flatnonzero(bars.shown(window))
    if not len(rows):
        return
    data: dict[str, Any] = {
        "left": bars.start[rows] / 1e6,
        "right": bars.end[rows] / 1e6,
        "top": bars.lane[rows] + bars.top,
        "bottom": bars.lane[rows] + bars.bottom,
        "took": (bars.end - bars.start)[rows] / 1e3,
    }
    for title, texts in bars.said.items():
        data[title] = [texts[row] for row in rows.tolist()]
    drawn = plot.quad(
        left="left", right="right", top="top", bottom="bottom", source=data,
        fill_color=bars.colour, fill_alpha=bars.alpha, line_color=None, legend_label=bars.name,
    )  # fmt: skip
    tips = [("", bars.name), ("from", "@left{0,0.000} ms"), ("took", "@took{0,0.0} µs")]
    tips += [(title, f"@{{{title}}}") for title in bars.said]
    plot.add_tools(models.HoverTool(renderers=[drawn], tooltips=tips, visible=False))


def _window(found: Findings, bars: list[_Bars]) -> tuple[int, int]:
    """Return the time to draw, in ns: all, or as much around the worst preemption as has room."""
    start, end = found.events.start, found.events.end
    window = (start, max(end, start + 1 + (start >> 50)))  # so that the two differ as doubles
    worst = found.worst
    middle = (worst.start + worst.end) // 2 if worst else start
    while sum(int(one.shown(window).sum()) for one in bars) > MOST_BARS:
        length = (window[1] - window[0]) // 2
        if not length:
            break
        first = max(min(middle - length // 2, end - length), start)
        window = (first, first + length)
    return window


def _what_is_missing(found: Findings, window: tuple[int, int]) -> str:
    events = found.events
    if window[1] - window[0] < events.end - events.start:
        where = "around the worst preemption" if found.worst else "at the beginning"
        return (
            f"It shows {(window[1] - window[0]) / 1e6:,.3g} ms {where}, of "
            f"{(events.end - events.start) / 1e6:,.3g} ms."
        )
    if events.vcpus > _MOST_LANES:
        return f"It shows the first {_MOST_LANES} of {events.vcpus} VCPUs."
    return ""
