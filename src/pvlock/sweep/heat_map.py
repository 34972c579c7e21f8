# SPDX-License-Identifier: GPL-2.0-or-later
"""The gain as heat maps: overcommitment down, critical section across, blue for a gain.

There is a panel for each guest (down) and for each slice and kind of WFE (across). The colour
follows the logarithm of the gain, so that half and double are equally strong, and 1 is white. Every
cell has its median and range written in it.
"""

import math
from collections.abc import Sequence
from typing import Any

from pvlock import report
from pvlock.extras import load_extra
from pvlock.sweep.results import WFE, Group, wfe_rank
from pvlock.workload import Settings

_LEAST_SCALE, _MOST_SCALE = math.log2(1.5), math.log2(4)
"""Where the colours end at least and at most. A few huge gains must not make all others pale."""

_CELL_INCHES = 0.92, 0.46
_INK, _PALE = "#1a1a1a", "#666666"


def draw(figure: Any, groups: Sequence[Group], common: str) -> None:
    """Draw the gain of `groups` into `figure`, and set the figure's size."""
    cells = [group.settings for group in groups]
    guests = list(dict.fromkeys(cell.guest for cell in cells))
    hosts = sorted({(wfe_rank(cell), cell.slice_ns) for cell in cells})
    loads, ratios = sorted(set(map(_load, cells))), sorted(set(map(_ratio, cells)), reverse=True)
    width = 2.0 + len(hosts) * (_CELL_INCHES[0] * len(loads) + 0.15)
    height = 1.5 + len(guests) * (_CELL_INCHES[1] * len(ratios) + 0.2)
    figure.set_size_inches(max(width, 7), height)
    panels = figure.subplots(len(guests), len(hosts), squeeze=False, sharex=True, sharey=True)
    norm, colours = _scale(groups)
    places = {(_panel(g.settings), _ratio(g.settings), _load(g.settings)): g for g in groups}
    for row, guest in zip(panels, guests, strict=True):
        row[0].set_ylabel(guest, fontweight="bold", fontsize=10, labelpad=8)
        for panel, host in zip(row, hosts, strict=True):
            grid = [[places.get(((guest, *host), r, load)) for load in loads] for r in ratios]
            _draw_panel(panel, grid, norm, colours)
    for panel, (rank, slice_ns) in zip(panels[0], hosts, strict=True):
        panel.set_title(
            f"WFE {list(WFE.values())[rank]}\nslice {report.time(slice_ns)}", color=_INK
        )
    panels[0][0].set_xticks(range(len(loads)), [_load_text(load) for load in loads])
    panels[0][0].set_yticks(range(len(ratios)), [f"{r:g}:1\n{v} on {p}" for r, v, p in ratios])
    figure.suptitle(f"Gain by PV-lock\n{common}", fontsize=10)
    figure.supxlabel(
        "across: the critical section, its share of a turn and its length;  down: VCPUs on CPUs",
        fontsize=9,
    )
    _draw_colour_bar(figure, panels, norm, colours)


def _scale(groups: Sequence[Group]) -> tuple[Any, Any]:
    """Return matplotlib's norm and colours for log2 of the gain, with 0 in the middle."""
    gains = [group.gain.median for group in groups if group.gain]
    furthest = max((abs(math.log2(gain)) for gain in gains if gain > 0), default=0.0)
    top = min(max(furthest, _LEAST_SCALE), _MOST_SCALE)
    norm = load_extra("matplotlib.colors", "plot", "a figure").Normalize(-top, top, clip=True)
    return norm, load_extra("matplotlib", "plot", "a figure").colormaps["RdBu"]


def _draw_panel(
    panel: Any, grid: Sequence[Sequence[Group | None]], norm: Any, colours: Any
) -> None:
    panel.set_facecolor("#e6e6e6")
    values = [[_log_gain(group) for group in row] for row in grid]
    panel.imshow(values, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
    for y, row in enumerate(grid):
        for x, group in enumerate(row):
            if group is None:
                continue
            dark = abs(norm(_log_gain(group)) - 0.5) > 0.3 if group.gain else False
            upper, lower = _texts(group)
            ink = "white" if dark else _INK
            panel.text(x, y - 0.12, upper, ha="center", va="center", color=ink, fontsize=9.5)
            panel.text(x, y + 0.26, lower, ha="center", va="center", color=ink, fontsize=6)
    panel.tick_params(length=0, labelsize=8, labelcolor=_PALE)
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_xticks([x - 0.5 for x in range(1, len(grid[0]))], minor=True)
    panel.set_yticks([y - 0.5 for y in range(1, len(grid))], minor=True)
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.tick_params(which="minor", length=0)


def _draw_colour_bar(figure: Any, panels: Any, norm: Any, colours: Any) -> None:
    mappable = load_extra("matplotlib.cm", "plot", "a figure").ScalarMappable(norm, colours)
    steps = [s for s in (1, 0.5, 0.25) if norm.vmax / s >= 2] or [0.25]
    count = int(norm.vmax / steps[0])
    ticks = [n * steps[0] for n in range(-count, count + 1)]
    bar = figure.colorbar(
        mappable, ax=panels, ticks=ticks, extend="both", fraction=0.03, pad=0.015, aspect=30
    )
    bar.ax.set_yticklabels([f"×{2**tick:.3g}" for tick in ticks], fontsize=8)
    bar.set_label("throughput with PV-lock / without", fontsize=9)
    bar.outline.set_visible(False)


def _log_gain(group: Group | None) -> float:
    gain = group.gain if group else None
    return math.log2(gain.median) if gain and gain.median > 0 else math.nan


def _texts(group: Group) -> tuple[str, str]:
    gain = group.gain
    if gain is None:
        return "–", group.verdict
    digits = 1 if gain.median >= 10 else 2
    return f"×{gain.median:.{digits}f}", f"{gain.low:.{digits}f}–{gain.high:.{digits}f}"


def _panel(cell: Settings) -> tuple[str, int, int]:
    return cell.guest, wfe_rank(cell), cell.slice_ns


def _load(cell: Settings) -> tuple[float, int, int]:
    return cell.cs_ns / max(cell.cs_ns + cell.think_ns, 1), cell.cs_ns, cell.think_ns


def _load_text(load: tuple[float, int, int]) -> str:
    share, cs, _ = load
    return f"{share:.0%}\n{report.time(cs)}" if share >= 0.01 else f"{share:.1%}\n{report.time(cs)}"


def _ratio(cell: Settings) -> tuple[float, int, int]:
    return cell.vcpus / cell.pcpus, cell.vcpus, cell.pcpus
