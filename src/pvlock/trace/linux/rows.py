# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of tasks, in columns that grow; an event may be changed later, or moved before others."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvlock.trace.events import Kind

NOTHING = 255
"""The kind of an event that turned out not to have happened."""

ROW = np.dtype(
    [
        ("time", "<i8"), ("order", "<i8"), ("task", "<i4"), ("kind", "u1"), ("object", "<u8"),
        ("other", "<i4"), ("flags", "u1"),
    ]
)  # fmt: skip


class Rows:
    """Events of tasks: time in ns, order among those of one time, task, and the rest."""

    def __init__(self) -> None:
        self._time, self._order = array("q"), array("q")
        self._task, self._other = array("i"), array("i")
        self.kind, self._flags = array("B"), array("B")
        self._object = array("Q")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.kind)

    def add(
        self, time: int, task: int, kind: Kind, object_: int, other: int = -1, flags: int = 0,
        before: int | None = None,
    ) -> int:  # fmt: skip
        """Add an event; return its row. It goes before the row `before`, at the time of that."""
        row = len(self.kind)
        order = 2 * row if before is None else self._order[before] - 1
        self._time.append(time if before is None else self._time[before])
        self._order.append(order)
        self._task.append(task)
        self.kind.append(kind)
        self._object.append(object_)
        self._other.append(other)
        self._flags.append(flags)
        return row

    def table(self) -> NDArray[Any]:
        """Return all events that happened, in order."""
        rows = np.empty(len(self), ROW)
        for name, column in (
            ("time", self._time), ("order", self._order), ("task", self._task),
            ("kind", self.kind), ("object", self._object), ("other", self._other),
            ("flags", self._flags),
        ):  # fmt: skip
            rows[name] = np.array(column, ROW[name])
        rows = rows[rows["kind"] != NOTHING]
        result: NDArray[Any] = rows[np.lexsort((rows["order"], rows["time"]))]
        return result
