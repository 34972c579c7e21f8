# SPDX-License-Identifier: GPL-2.0-or-later
"""The throughput as bars with ranges: without PV-lock, with it, and not overcommitted.

There is a panel for each load and kind of WFE (down) and each overcommitment (across). In a panel
the guests are side by side.
"""

from collections.abc import Sequence
from typing import Any

from pvlock import report
from pvlock.sweep.results import WFE, Group, wfe_rank
from pvlock.workload import RUNS, Settings

_COLOURS = {"without": "#c8553d", "with": "#2f6690", "baseline": "#b8b8b8"}
_NAMES = {"without": "without PV-lock", "with": "with PV-lock", "baseline": "not overcommitted"}
_BAR = 0.27
_PANEL_INCHES = 1.9
_INK = "#1a1a1a"


def draw(figure: Any, groups: Sequence[Group], common: str) -> None:
    """Draw the throughput of `groups` into `figure`, and set the figure's size."""
    cells = [group.settings for group in groups]
    guests = list(dict.fromkeys(cell.guest for cell in cells))
    down, across = sorted(set(map(_row, cells))), sorted(set(map(_column, cells)))
    width = 1.2 + len(across) * max(0.9 * len(guests) + 0.4, 1.8)
    figure.set_size_inches(max(width, 7), 1.3 + len(down) * _PANEL_INCHES)
    panels = figure.subplots(len(down), len(across), squeeze=False, sharex=True, sharey="row")
    places = {(_row(g.settings), _column(g.settings), g.settings.guest): g for g in groups}
    for row, line in zip(panels, down, strict=True):
        row[0].set_ylabel(_row_text(line), fontsize=8.5)
        for panel, column in zip(row, across, strict=True):
            for x, guest in enumerate(guests):
                if (group := places.get((line, column, guest))) is not None:
                    _draw_group(panel, x, group)
            panel.margins(y=0.15)
            panel.grid(axis="y", color="#e4e4e4", linewidth=0.8)
            panel.set_axisbelow(True)
            panel.tick_params(length=0, labelsize=8.5)
            panel.yaxis.set_major_formatter(
                lambda value, _: f"{value / 1000:g} k" if value else "0"
            )
    for panel, (ratio, vcpus, pcpus) in zip(panels[0], across, strict=True):
        panel.set_title(f"{ratio:g}:1  ({vcpus} VCPUs on {pcpus} CPUs)")
    panels[0][0].set_xticks(range(len(guests)), guests)
    panels[0][0].set_xlim(-0.6, len(guests) - 0.4)
    slice_ns = report.time(cells[0].slice_ns)
    figure.suptitle(f"Acquisitions per second, slice {slice_ns}\n{common}", fontsize=10)
    handles, labels = panels[0][0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=3, frameon=False
    )


def _draw_group(panel: Any, x: int, group: Group) -> None:
    """Draw three bars side by side, and write the gain above them."""
    for position, name in enumerate(RUNS):
        spread = group.throughput(name)
        if spread is None:
            continue
        middle = x + (position - 1) * _BAR
        panel.bar(middle, spread.median, _BAR * 0.92, color=_COLOURS[name], label=_NAMES[name])
        reach = [[spread.median - spread.low], [spread.high - spread.median]]
        panel.errorbar(middle, spread.median, reach, color=_INK, linewidth=0.9, capsize=2)
    top = max((s.high for name in RUNS if (s := group.throughput(name))), default=0)
    text = f"×{group.gain.median:.2f}" if group.gain else group.verdict
    panel.annotate(
        text, (x, top), (0, 4), textcoords="offset points", ha="center", fontsize=8, color=_INK
    )


def _row(cell: Settings) -> tuple[int, int, int]:
    return wfe_rank(cell), cell.cs_ns, cell.think_ns


def _row_text(row: tuple[int, int, int]) -> str:
    rank, cs, think = row
    return f"WFE {list(WFE.values())[rank]}\ncs {report.time(cs)}, think {report.time(think)}"


def _column(cell: Settings) -> tuple[float, int, int]:
    return cell.vcpus / cell.pcpus, cell.vcpus, cell.pcpus
