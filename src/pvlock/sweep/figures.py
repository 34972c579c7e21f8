# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as pictures (PNG, SVG), drawn by matplotlib.

Where cells would share a place in a picture, as those of two policies do, each policy has a file
of its own, with its name: gain.png becomes gain-preempted.png. Equal results give equal bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pvlock import report
from pvlock.extras import load_extra
from pvlock.files import refuse_unwritable, replacing
from pvlock.sweep.bars import draw as draw_bars
from pvlock.sweep.heat_map import draw as draw_heat_map
from pvlock.sweep.results import CellResult, Group, count, grouped, setting_columns, shown

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "pvlock",
}
_DPI = 150
_EVERYWHERE = {"guest", "wfe", "cs_ns", "think_ns", "vcpus", "pcpus"}

Draw = Callable[[Any, Sequence[Group], str], None]
"""Draws groups into a matplotlib Figure; the text says what all of them have in common."""


def check(path: Path, option: str) -> None:
    """Refuse a picture early if it could not be drawn later. Raises ConfigError."""
    refuse_unwritable(path, f"{option} {path}", (".png", ".svg"))
    load_extra("matplotlib", "plot", f"{option} {path}")


def heat_maps(paths: Iterable[Path], results: Sequence[CellResult]) -> list[Path]:
    """Draw the gain over overcommitment and critical section; return the files written."""
    return _pictures(paths, results, draw_heat_map, _EVERYWHERE | {"slice_ns"})


def bars(paths: Iterable[Path], results: Sequence[CellResult]) -> list[Path]:
    """Draw the throughput of the three runs for each guest; return the files written."""
    return _pictures(paths, results, draw_bars, _EVERYWHERE)


def _pictures(
    paths: Iterable[Path], results: Sequence[CellResult], draw: Draw, inside: set[str]
) -> list[Path]:
    pages = _pages(grouped(results), inside)
    return [
        _picture(path.with_name("-".join([path.stem, *map(_word, key)]) + path.suffix), page, draw)
        for path in paths
        for key, page in pages.items()
    ]


def _pages(groups: Sequence[Group], inside: set[str]) -> dict[tuple[str, ...], list[Group]]:
    """Return the groups of each picture, in which no two groups have the same place.

    The settings `inside` give a group its place. Where groups share a place, another setting tells
    them apart: each of its values has a picture, named after the value.
    """
    settings = [setting_columns(group.settings) for group in groups]
    keys: list[str] = []
    for column in settings[0]:
        places: dict[tuple[object, ...], set[object]] = {}
        for row in settings:
            place = tuple(row[c] for c in row if c in inside or c in keys)
            places.setdefault(place, set()).add(row[column])
        if any(len(values) > 1 for values in places.values()):
            keys.append(column)
    pages: dict[tuple[str, ...], list[Group]] = {}
    for group, row in zip(groups, settings, strict=True):
        pages.setdefault(tuple(shown(key, row[key])[1] for key in keys), []).append(group)
    return pages


def _picture(path: Path, groups: Sequence[Group], draw: Draw) -> Path:
    matplotlib = load_extra("matplotlib", "plot", str(path))
    # We make the Figure without pyplot: so there is no state, no display, and one backend.
    figure_class = load_extra("matplotlib.figure", "plot", str(path)).Figure
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE), replacing(path) as file:
        figure = figure_class(layout="constrained", facecolor="white")
        draw(figure, groups, _common(groups))
        figure.savefig(file, format=path.suffix[1:], dpi=_DPI, metadata=metadata)
    return path


def _common(groups: Sequence[Group]) -> str:
    cells = [group.settings for group in groups]

    def each(values: Iterable[str]) -> str:
        return " or ".join(dict.fromkeys(values))

    return (
        f"median and range of {count(len(groups[0].cells), 'seed')}, "
        f"{each(report.time(c.duration_ns) for c in cells)} each; "
        f"policy {each(c.policy.value for c in cells)}; "
        f"an exit costs {each(report.time(c.exit_ns) for c in cells)}, "
        f"a switch {each(report.time(c.switch_ns) for c in cells)}"
    )


def _word(text: str) -> str:
    return text.replace(" ", "").replace("µ", "u")
