# SPDX-License-Identifier: GPL-2.0-or-later
"""Write docs/results.md from the cells of docs/results.toml: every group of cells, and why.

pvlock sweep docs/results.toml --out cells.csv && python benchmarks/results.py cells.csv
"""

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Key = tuple[str, str, int, int, int, int, str]
NO_EFFECT = 0.005
MATTERS = 0.02

HEAD = """<!-- SPDX-License-Identifier: GPL-2.0-or-later -->
# Where PV-lock pays, and where it does not

This page has every cell of [results.toml](results.toml): the median and the range of ten seeds.
These commands write it again:

```sh
pvlock sweep docs/results.toml --out cells.csv
python benchmarks/results.py cells.csv
```

All figures are in virtual time on the emulator, where an instruction costs 1 ns, an exit 1 µs and a
switch 3 µs. So the same commands of the same version give the same figures on any machine, and none
of them is a measurement of silicon. `gain` is the throughput with PV-lock divided by that without;
`kept` is the throughput with PV-lock divided by that of as many VCPUs as CPUs. The last column has
medians of other measurements: the share of the CPUs' time that was spent spinning (a wait that
outlasts the run counts in full, so it can exceed 100 %), and switches and sleeps per millisecond of
guest time.

"""

GUESTS = {
    "mutex": "A sleeping lock with optimistic spinning, as Linux's mutex with osq_lock.",
    "rwsem": "One turn in four reads. Whoever waits for readers sleeps, with PV-lock or without, "
    "so there is little spinning to save.",
    "qspinlock": "A fair queue: every wait stands behind each preempted waiter before it.",
    "ticket": "A fair spinlock with an owner word; not Linux's.",
    "idle": "No contention: what the interface costs when nobody needs it.",
}


def number(row: dict[str, str], column: str) -> float:
    """Return the number in a column of a cell."""
    return float(row[column])


def key(row: dict[str, str]) -> Key:
    """Return what the seeds of a group have in common, in the order of the tables."""
    return (
        row["guest"], row["wfe"], int(row["cs_ns"]), int(row["slice_ns"]), int(row["vcpus"]),
        int(row["pcpus"]), row["policy"],
    )  # fmt: skip


def spread(rows: list[dict[str, str]], column: str) -> str:
    """Return the median and the range of a column, as text."""
    values = [number(row, column) for row in rows]
    return f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def middle(rows: list[dict[str, str]], column: str) -> float:
    """Return the median of a column."""
    return statistics.median(number(row, column) for row in rows)


def why(rows: list[dict[str, str]]) -> str:
    """Say in one sentence what comes with the gain, from nothing but the figures of the group."""
    first = rows[0]
    gains = [number(row, "gain") for row in rows]
    gain = statistics.median(gains)
    ms = number(first, "duration_ns") / 1e6
    spin = {name: middle(rows, f"{name}_spin_share") for name in ("without", "with")}
    per_ms = {
        (name, what): middle(rows, f"{name}_{what}") / ms
        for name in ("without", "with")
        for what in ("switches", "sleeps")
    }
    spins = f"spinning {spin['without']:.0%} → {spin['with']:.0%}"
    switches = f"switches {per_ms['without', 'switches']:.0f} → {per_ms['with', 'switches']:.0f}"
    sleeps = f"sleeps {per_ms['without', 'sleeps']:.0f} → {per_ms['with', 'sleeps']:.0f}"
    if max(abs(min(gains) - 1), abs(max(gains) - 1)) <= NO_EFFECT:
        if first["vcpus"] == first["pcpus"]:
            return "No effect: nobody is preempted."
        if spin["without"] < MATTERS:
            return f"No effect: hardly anybody spins ({spins})."
        return f"No effect ({spins}; {switches})."
    if min(gains) <= 1 <= max(gains):
        return f"Depends on the seed ({spins}; {switches}; {sleeps})."
    word = "Gain" if gain > 1 else "Loss"
    if gain > 1 and spin["without"] - spin["with"] > MATTERS:
        cause = "time spent spinning behind preempted VCPUs is saved"
    elif gain > 1 and per_ms["without", "switches"] > 2 * per_ms["with", "switches"]:
        cause = "waiters no longer hand CPUs around"
    elif gain < 1 and per_ms["with", "sleeps"] > 2 * per_ms["without", "sleeps"] + 1:
        cause = "going to sleep and being woken costs more than the spinning it saves"
    elif gain < 1 and per_ms["with", "switches"] > per_ms["without", "switches"]:
        cause = "more switches"
    else:
        cause = "no single cause in these figures"
    return f"{word}: {cause} ({spins}; {switches}; {sleeps})."


def table(groups: list[tuple[Key, list[dict[str, str]]]]) -> list[str]:
    """Return the lines of the table of one guest."""
    lines = [
        "| WFE | cs + think | slice | VCPUs on CPUs | policy | gain | kept | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (_, wfe, cs, slice_ns, vcpus, pcpus, policy), rows in groups:
        think = int(rows[0]["think_ns"])
        cells = (
            wfe, f"{cs // 1000} + {think // 1000} µs", f"{slice_ns // 1_000_000} ms",
            f"{vcpus} on {pcpus}", policy, spread(rows, "gain"), spread(rows, "kept"), why(rows),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", type=Path, help="what `pvlock sweep --out` wrote")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args()
    groups: dict[Key, list[dict[str, str]]] = defaultdict(list)
    failed = []
    with options.cells.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["error"]:
                failed.append(f"- {key(row)}, seed {row['seed']}: {row['error']}")
            else:
                groups[key(row)].append(row)
    ordered = sorted(groups.items(), key=lambda item: (item[0][1] == "notrap", item[0]))
    lines = [HEAD]
    for guest, text in GUESTS.items():
        mine = [(k, rows) for k, rows in ordered if k[0] == guest]
        if mine:
            lines += [f"## {guest}", "", text, "", *table(mine), ""]
    if failed:
        lines += ["## Cells without a result", "", *failed, ""]
    options.to.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
