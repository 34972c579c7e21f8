# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline of one trace, or of two below each other, as a picture (PNG, SVG) by matplotlib.

Each VCPU has a lane. The lane's ground shows what the host did with the VCPU. On it are bars: above
the VCPU's waits, below the locks that it owned. Where much happens within a column of pixels, the
height of a bar says for how much of that time. The worst preemption has a frame, and an arrow leads
from it to each VCPU that it kept waiting.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvlock import report
from pvlock.explain.findings import Culprit, Findings, percent, vcpu_ms
from pvlock.extras import load_extra
from pvlock.files import refuse_unwritable, replacing
from pvlock.trace.columns import Ints, starts, stops
from pvlock.trace.events import Kind

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a lock may be called $x$
    "svg.fonttype": "path",
    "svg.hashsalt": "pvlock",
}
_DPI = 150
_WIDTH = 10.0
_LANE = 0.34
_WHOLE_NS = 50_000_000
"""The longest time that is shown. Of a longer run it is the time around its worst preemption."""
_MOST_LANES = 32
_LONGEST_NAME = 48
_COLUMNS = 1350
"""The number of columns in the width of a lane; each is about a pixel."""
_GROUND, _UPPER, _LOWER = (0.04, 0.96), (0.12, 0.46), (0.54, 0.88)
"""Where they begin and end within a lane, from its top, 0, to its bottom, 1."""

_INK, _PALE, _MARK = "#1a1a1a", "#666666", "#000000"
# Okabe and Ito's colours. They differ in lightness too, for people who see no colours.
_STATES = (
    ((Kind.SCHED_IN,), {"facecolor": "#d6e9f8"}, "running"),
    (
        (Kind.PREEMPTED, Kind.READY),
        {"facecolor": "#f4f4f4", "edgecolor": "#9a9a9a", "hatch": "//////", "linewidth": 0},
        "could run, has no CPU",
    ),
)
_OWNS, _WAITS, _DELAYED = "#0b4f8a", "#f0c419", "#d55e00"


def check(path: Path) -> None:
    """Raise ConfigError if a picture could not be written to `path`: before the work, not after."""
    refuse_unwritable(path, f"--figure {path}", (".png", ".svg"))
    load_extra("matplotlib", "plot", f"--figure {path}")


def draw(path: Path, traces: Sequence[Findings]) -> None:
    """Draw the timelines of `traces`, all over the same time, to `path`. Raises ConfigError."""
    matplotlib = load_extra("matplotlib", "plot", str(path))
    figure_class = load_extra("matplotlib.figure", "plot", str(path)).Figure
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    lanes = [min(found.events.vcpus, _MOST_LANES) for found in traces]
    window = _window(traces)
    with matplotlib.rc_context(_STYLE), replacing(path) as file, warnings.catch_warnings():
        # A lock's name may have a letter that the font lacks. A box in its place is good enough.
        warnings.simplefilter("ignore", UserWarning)
        figure = figure_class(layout="constrained", facecolor="white")
        figure.set_size_inches(_WIDTH, 0.9 + sum(_LANE * count + 0.45 for count in lanes))
        panels = figure.subplots(
            len(traces), 1, squeeze=False, sharex=True, height_ratios=[n + 1 for n in lanes]
        )[:, 0]
        for panel, found, count in zip(panels, traces, lanes, strict=True):
            _panel(panel, found, count, window)
        panels[-1].set_xlabel("ms", color=_PALE)
        figure.legend(
            handles=_legend(), loc="outside lower center", ncols=6, frameon=False, fontsize=8.5
        )
        figure.savefig(file, format=path.suffix[1:], dpi=_DPI, metadata=metadata)


def _window(traces: Sequence[Findings]) -> tuple[int, int]:
    """Return the time to draw, in ns: all of the run, or what is around its worst preemption."""
    start = min(found.events.start for found in traces)
    end = max(found.events.end for found in traces)
    if end - start <= _WHOLE_NS:
        return start, max(end, start + 1 + (start >> 50))  # so that the two differ as doubles
    worst = max((found.worst for found in traces if found.worst), key=_cost, default=None)
    middle = (worst.start + worst.end) // 2 if worst else start
    first = max(min(middle - _WHOLE_NS // 2, end - _WHOLE_NS), start)
    return first, first + _WHOLE_NS


def _cost(culprit: Culprit) -> int:
    return culprit.cost


def _panel(panel: Any, found: Findings, lanes: int, window: tuple[int, int]) -> None:
    events, of = found.events, found.attribution
    switches = np.flatnonzero(events.kind <= Kind.READY)
    ends = of.ends_at(switches)

    def add(
        lane: Ints, start: Ints, end: Ints, within: tuple[float, float], look: dict[str, Any]
    ) -> None:
        _bars(panel, _coverage(lane, start, end, window, lanes), window, within, look)

    for kinds, look, _ in _STATES:
        mine = np.isin(events.kind[switches], kinds)
        at = switches[mine]
        within = _GROUND if Kind.SCHED_IN in kinds else (_GROUND[1], _GROUND[0])
        add(events.vcpu[at], events.time[at], ends[mine], within, look)
    holds, time, waits, delays = of.pairing.holds, of.ledger.time, of.waits, of.delays
    add(holds.vcpu, time[holds.first], time[holds.last], _LOWER, _plain(_OWNS))
    add(waits.vcpu, waits.start, waits.end, _UPPER, _plain(_WAITS))
    add(waits.vcpu[delays.wait], delays.start, delays.end, _UPPER, _plain(_DELAYED))
    panel.set_xlim(window[0] / 1e6, window[1] / 1e6)
    panel.set_ylim(lanes, 0)
    panel.set_yticks(
        [lane + 0.5 for lane in range(lanes)], [events.vcpu_name(n) for n in range(lanes)]
    )
    panel.tick_params(length=0, labelsize=8.5, labelcolor=_PALE)
    for spine in panel.spines.values():
        spine.set_visible(False)
    with_ = "with PV-lock" if events.settings.get("pvlock") else "without PV-lock"
    guest, total = _short(str(events.settings.get("guest", "guest"))), found.total
    panel.set_title(
        f"{guest} {with_}: {vcpu_ms(total.ns)} {found.unit} of waiting, "
        f"{percent(total.off_cpu, total.ns)} of it for VCPUs off their CPUs",
        loc="left",
        color=_INK,
    )
    worst = found.worst
    if worst and worst.row < lanes and worst.cost * 100 > window[1] - window[0]:
        _mark(panel, found, worst, lanes, window)


def _coverage(
    lane: Ints, start: Ints, end: Ints, window: tuple[int, int], lanes: int
) -> NDArray[np.float64]:
    """Return, for each lane and column, which share of the column's time the intervals cover."""
    scale = _COLUMNS / (window[1] - window[0])
    shown = (end > window[0]) & (start < window[1]) & (lane < lanes)
    row = lane[shown].astype(np.int64) * (_COLUMNS + 1)
    left, right = ((t[shown] - window[0]) * scale for t in (start, end))
    left, right = np.maximum(left, 0), np.minimum(right, _COLUMNS)
    # `slope` is by how much each column is covered more than the one before it. An interval begins
    # within a column, which gets its share of 1, and the next column gets the rest. Where it ends,
    # the same is taken away.
    slope = np.zeros(lanes * (_COLUMNS + 1) + 2)
    for edge, sign in ((left, 1.0), (right, -1.0)):
        column = edge.astype(np.int64)
        within = edge - column
        np.add.at(slope, row + column, sign * (1 - within))
        np.add.at(slope, row + column + 1, sign * within)
    covered = np.cumsum(slope)[: lanes * (_COLUMNS + 1)].reshape(lanes, _COLUMNS + 1)
    return np.clip(np.round(covered[:, :_COLUMNS], 3), 0, 1)


def _bars(
    panel: Any,
    coverage: NDArray[np.float64],
    window: tuple[int, int],
    within: tuple[float, float],
    look: dict[str, Any],
) -> None:
    """Draw a bar in each covered column of each lane, as high as the coverage.

    `within` has two heights within a lane. A bar grows from the second towards the first.
    """
    lane, column = np.nonzero(coverage)
    height = coverage[lane, column]
    joins = (lane[1:] == lane[:-1]) & (column[1:] == column[:-1] + 1) & (height[1:] == height[:-1])
    first, final = starts(len(lane), joins), stops(len(lane), joins)
    edges = np.linspace(window[0], window[1], _COLUMNS + 1) / 1e6
    left, right = edges[column[first]], edges[column[final] + 1]
    bottom = lane[first] + within[1]
    top = bottom - height[first] * (within[1] - within[0])
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1)
    collection = load_extra("matplotlib.collections", "plot", "a figure").PolyCollection
    panel.add_collection(collection(corners.reshape(-1, 4, 2), **look), autolim=False)


def _plain(colour: str) -> dict[str, Any]:
    return {"facecolor": colour, "edgecolor": "none", "linewidth": 0}


def _mark(panel: Any, found: Findings, worst: Culprit, lanes: int, window: tuple[int, int]) -> None:
    """Draw a frame around the worst preemption, and an arrow to each VCPU that it kept waiting."""

    def place(ns: int) -> float:
        """Return where a time is drawn; a time outside the window is drawn at its edge."""
        return min(max(ns, window[0]), window[1]) / 1e6

    left, right = place(worst.start), place(worst.end)
    rectangle = load_extra("matplotlib.patches", "plot", "a figure").Rectangle
    panel.add_patch(
        rectangle(
            (left, worst.row + 0.02), right - left, 0.96, fill=False, edgecolor=_MARK,
            linewidth=1.6, zorder=4,
        )
    )  # fmt: skip
    of = found.attribution
    delays, waits = of.delays, of.waits
    mine = (of.events.time[delays.event] == worst.start) & (delays.vcpu == worst.row)
    seen: set[int] = set()
    for row in np.flatnonzero(mine).tolist():
        vcpu = int(waits.vcpu[delays.wait[row]])
        if vcpu in seen or vcpu >= lanes:
            continue
        seen.add(vcpu)
        down = vcpu > worst.row
        panel.annotate(
            "",
            xy=(place(int(delays.start[row])), vcpu + (0.16 if down else 0.46)),
            xytext=(left, worst.row + (0.98 if down else 0.02)),
            arrowprops={"arrowstyle": "-|>", "color": _MARK, "linewidth": 0.8, "shrinkB": 0},
            zorder=5,
        )
    role = ("head of the queue for " if worst.queue else "owner of ") + _short(worst.lock)
    text = (
        f"{worst.who}, {role}, is {worst.reason}: "
        f"{report.time(worst.end - worst.start)}, cost {vcpu_ms(worst.cost)} {found.unit}"
    )
    panel.text(
        left, worst.row - 0.03, text, fontsize=8, color=_INK, va="bottom", ha="left", zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
    )  # fmt: skip


def _short(name: str) -> str:
    """Return a long name without its middle. Its end is often an address, or the name of a file."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"


def _legend() -> list[Any]:
    patch = load_extra("matplotlib.patches", "plot", "a figure").Patch
    handles = [patch(label=label, **look) for _, look, label in _STATES]
    handles.append(patch(facecolor="white", edgecolor="#cccccc", label="blocked or off"))
    for colour, label in (
        (_WAITS, "waits"),
        (_DELAYED, "waits for a VCPU off its CPU"),
        (_OWNS, "owns a lock"),
    ):
        handles.append(patch(label=label, **_plain(colour)))
    return handles
