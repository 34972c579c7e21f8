# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes docs/evidence.md and its picture. Every figure in the text is taken from the results."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from evidence_data import MATTERS, Evidence, Gain, Published, Setting, direction, named

from pvlock.loads.catalogue import BY_NAME

TRAP, NOTRAP = Setting(8, 4, "trap"), Setting(8, 4, "notrap")
LARGER = (Setting(16, 8, "notrap"), Setting(16, 8, "trap"))
LARGEST = (Setting(128, 64, "notrap"), Setting(128, 64, "trap"))
ALONE = Setting(4, 4)
LETTER = tuple(Setting(8, 4, wfe, "scheduled-out") for wfe in ("notrap", "trap"))
SHARED = ("fscopy256", "fscopy1024", "fscopy4096")
DISK = tuple(f"{name}-ext4" for name in SHARED)
OWN = "fscopy1024-own"
NOTHING_SHARED = ("syscall", "pipe", OWN)
SHELLS = ("shell1", "shell8")
PRINTED = 0.1
"""A published gain that is nearer to 1 says nothing: there is one run, and no spread."""
INDEX = "System Benchmarks Index Score"
SOURCES = {"graviton": "Graviton2, 128 on 64", "kunpeng": "Kunpeng920, 16 on 8"}

HEAD = """<!-- SPDX-License-Identifier: GPL-2.0-or-later -->
# The evidence

Published measurements of `vcpu_is_preempted()` on arm64 disagree, and none of them comes with a
harness. This page puts them beside the loads of [loads.md](loads.md), in a Linux guest on the
emulator. One instruction is 1 ns here, without caches, so a size on this page is no prediction of
silicon. What it can show is which mechanism makes a gain or a loss, since each run repeats to the
digit and one thing can be changed at a time.

This command writes the page from [evidence.csv](evidence.csv). It first does the runs of
[evidence.toml](evidence.toml) that are missing there, and goes on where it was stopped:

```sh
python benchmarks/evidence.py --run
```

[published.csv](published.csv) has the published figures and their sources. The guest is Linux 6.12
of `pvlock kernel build guest`, SHA-256 {kernels}…; slice 3 ms, an exit costs 1 µs, a switch 3 µs;
policy `preempted` where no other is named. A gain is the throughput with PV-lock divided by that
without, of the same seed: the median of the seeds, and from the lowest to the highest. It counts as
a gain or a loss if it is more than {matters:.0%} and all seeds agree about the sign.

Computed: {computed}.
"""


def gain_or_dash(gain: Gain | None) -> str:
    return str(gain) if gain else "–"


def settings(evidence: Evidence, candidates: tuple[Setting, ...]) -> list[Setting]:
    """Return those of the settings that were computed, for at least one load."""
    return [each for each in candidates if evidence.seeds(each)]


def gains(evidence: Evidence, setting: Setting) -> Iterator[tuple[str, Gain]]:
    """Yield each load that was computed, and its gain."""
    for load in BY_NAME:
        gain = evidence.gain(setting, load)
        if gain:
            yield load, gain


def of(evidence: Evidence, setting: Setting, names: tuple[str, ...]) -> list[tuple[str, Gain]]:
    return [(name, gain) for name, gain in gains(evidence, setting) if name in names]


def range_of(found: list[tuple[str, Gain]]) -> str:
    """Return the lowest and the highest median."""
    medians = [gain.median for _, gain in found]
    return f"x{min(medians):.2f} to x{max(medians):.2f}" if medians else "nothing computed"


# Findings. Each is a paragraph whose first sentence says it, or None where nothing was computed.


def file_copies(evidence: Evidence) -> str | None:
    shared, own = of(evidence, NOTRAP, SHARED), evidence.gain(NOTRAP, OWN)
    if not shared or not own:
        return None
    trapped, own_trapped = of(evidence, TRAP, SHARED), evidence.gain(TRAP, OWN)
    published = [
        found.ratio
        for source in SOURCES
        for name in SHARED
        if (test := BY_NAME[name].test) and (found := evidence.of_test(source, test.name))
    ]
    reproduced = all(gain.direction == "gain" for _, gain in shared)
    first = (
        "The published gains of file copies are those of one lock, the inode's, which UnixBench of "
        "that time made all copies share."
        if reproduced and own.direction != "gain"
        else "File copies do not gain here as they did in print."
    )
    return (
        f"**{first}** Published: x{min(published):.1f} to x{max(published):.1f}. Here, where WFE "
        "does "
        f"not trap: {named(shared)}; where it traps: {named(trapped)}. With files of its own for "
        "each "
        f"copy, as newer releases of UnixBench have, the same copying gains nothing: {own} and "
        f"{gain_or_dash(own_trapped)}. Whoever repeats the published test with a new UnixBench "
        "must "
        "expect not to see its gain."
    )


def disk(evidence: Evidence) -> str | None:
    found = of(evidence, NOTRAP, DISK)
    if not found:
        return None
    return (
        f"**On ext4 with a journal the same copies gain {range_of(found)}, on tmpfs "
        f"{range_of(of(evidence, NOTRAP, SHARED))}** (WFE does not trap). One by one: "
        f"{named(found)}; where WFE traps: {named(of(evidence, TRAP, DISK))}. The disk is RAM; "
        "nothing "
        "is written back within these runs."
    )


def trapping(evidence: Evidence) -> str | None:
    free, trapped = dict(gains(evidence, NOTRAP)), dict(gains(evidence, TRAP))
    both = [name for name in free if name in trapped and free[name].direction == "gain"]
    if not both:
        return None
    larger = [name for name in both if free[name].median > trapped[name].median]
    lines = ", ".join(
        f"{name} x{free[name].median:.2f} beside x{trapped[name].median:.2f}" for name in both
    )
    return (
        f"**Whether WFE traps decides how large a gain is: of {len(both)} loads that gain where it "
        f"does not, {len(larger)} gain less where it does.** {lines}. Where WFE traps, a waiter in "
        "the queue of osq_lock() already gives its CPU to a preempted VCPU, without PV-lock. KVM "
        "traps "
        "it by default while other tasks wait for the CPU. No published table says which it was."
    )


def nothing_shared(evidence: Evidence) -> str | None:
    found = [
        (f"{name}, {setting}", gain)
        for setting in (NOTRAP, TRAP)
        for name, gain in of(evidence, setting, NOTHING_SHARED)
    ]
    if not found:
        return None
    worst = max(abs(gain.median - 1) for _, gain in found)
    return (
        "**Loads that share nothing do not change: the largest median difference is "
        f"{worst:.1%}.** "
        f"{named(found)}. That is the noise of the "
        "method. In print the system call test, which shares nothing either, differs by 9 % on "
        f"Graviton2; so this page takes no published difference below {PRINTED:.0%} for one."
    )


def losses(evidence: Evidence) -> str | None:
    found = [
        (f"{name} ({setting})", gain)
        for setting in (NOTRAP, TRAP, *settings(evidence, LARGER + LARGEST))
        for name, gain in gains(evidence, setting)
        if gain.direction == "loss"
    ]
    unsure = [
        (f"{name} ({setting})", gain)
        for setting in (NOTRAP, TRAP)
        for name, gain in gains(evidence, setting)
        if gain.median < 1 - MATTERS and not gain.certain
    ]
    broken = [
        f"{name} ({setting}) x{min(gain.ratios):.2f}"
        for setting in (NOTRAP, TRAP, *settings(evidence, LARGER + LARGEST))
        for name, gain in gains(evidence, setting)
        if min(gain.ratios) < 0.5
    ]
    if not dict(gains(evidence, NOTRAP)):
        return None
    if not found:
        first = "No load loses for all seeds."
    else:
        first = f"PV-lock costs something in {len(found)} of the cells that were computed."
    return (
        f"**{first}** Losses: {named(found)}. Medians below 1 whose seeds disagree about the sign: "
        f"{named(unsure)}. A seed of these lost more than half: {', '.join(broken) or 'none'}."
    )


def by_seed(evidence: Evidence, setting: Setting, load: str) -> str:
    """Return the throughput of each seed, without PV-lock and with it."""
    pairs = [evidence.throughputs(setting, pvlock, load) for pvlock in (False, True)]
    seeds = sorted(set(pairs[0]) & set(pairs[1]))
    return ", ".join(f"{pairs[0][seed]:,.0f} → {pairs[1][seed]:,.0f}" for seed in seeds)


def execl(evidence: Evidence) -> str | None:
    found = [
        (str(setting), gain)
        for setting in (NOTRAP, TRAP, *settings(evidence, LARGER + LARGEST))
        if (gain := evidence.gain(setting, "execl"))
    ]
    if not found:
        return None
    gained = [each for each in found if each[1].direction == "gain"]
    return (
        f"**execl gains for all seeds in {len(gained)} of {len(found)} settings here; in print, in "
        f"both.** In print: x15.1 and x1.35. Here: {named(found)}. What contends is the rwsem of "
        "the "
        "files that every copy maps. Where WFE does not trap, a run keeps its pace for a while or "
        "breaks down, with PV-lock or without, and 40 ms are too short to average that. Operations "
        f"per second, seed by seed: {by_seed(evidence, NOTRAP, 'execl')}. The published runs had "
        "16 "
        "and 128 VCPUs, half a minute each, and programs of a distribution, which map more files."
    )


def spawn(evidence: Evidence) -> str | None:
    found = [
        (str(setting), gain)
        for setting in (NOTRAP, TRAP)
        if (gain := evidence.gain(setting, "spawn"))
    ]
    if not found:
        return None
    return (
        "**Process creation waits mostly for spinlocks, of which PV-lock says nothing.** In "
        "print: x0.97 "
        f"and x1.09. Here: {named(found)}."
    )


def shells(evidence: Evidence) -> str | None:
    found = [
        (f"{name} ({setting})", gain)
        for setting in (NOTRAP, TRAP, *settings(evidence, LARGER))
        for name, gain in of(evidence, setting, SHELLS)
    ]
    if not found:
        return None
    free, trapped = (
        {
            gain.direction
            for setting in (base, *settings(evidence, (larger,)))
            if (gain := evidence.gain(setting, "shell8"))
        }
        for base, larger in ((NOTRAP, LARGER[0]), (TRAP, LARGER[1]))
    )
    first = "none of our settings has the published signs of shell scripts"
    if {"gain", "loss"} <= free and trapped == {"neither"}:
        first = "both signs occur here where WFE does not trap, and neither where it does"
    elif "gain" in free and "gain" not in trapped:
        first = "here shell scripts gain where WFE does not trap, and not where it does"
    counts = "; ".join(
        f"{setting}: {by_seed(evidence, setting, 'shell8')}"
        for setting in (NOTRAP, *settings(evidence, LARGER[:1]))
    )
    return (
        f"**Kunpeng against Kunpeng: {first}.** Two runs of different kernels on the same kind of "
        "machine found shell scripts worse (5.5-rc5), and x2.8 better, 8 at a time (4.19 of "
        f"openEuler). Here: {named(found)}. Where WFE does not trap, shell8 breaks down, with "
        "PV-lock "
        f"or without, and so few scripts end in 120 ms that their ratio says little ({counts}, "
        "scripts per second, seed by seed). So neither sign is reproduced as a steady state. What "
        "a "
        "WFE does, and when a run breaks down, is enough for either; neither publication says how "
        "its host treated WFE, and 4.19 also has other locks than 5.5."
    )


def together(_evidence: Evidence) -> str:
    return (
        "**PV-lock alone +279 %, hint alone +51 %, both together +37 %: a Linux guest that gives "
        "hints reproduces the signs, and so does the bundled mutex, where the hint stands in for "
        "the sleep and each CPU of the host has a queue of its own.** "
        "[models.md](models.md#pv-lock-alone-a-hint-alone-and-both) has the experiment and what it "
        "takes. UnixBench's loads have not been run with it. The published gains of the hint alone "
        "are in the table below."
    )


def letter(evidence: Evidence) -> str | None:
    found = [
        (f"{name} ({setting.wfe})", gain)
        for setting in LETTER
        for name in BY_NAME
        if (gain := evidence.policy(setting, name))
    ]
    if not found:
        return None
    seeds = max(len(gain.ratios) for _, gain in found)
    differ = [(name, gain) for name, gain in found if abs(gain.median - 1) > PRINTED]
    return (
        f"**The policy changes {len(differ)} of {len(found)} cells by more than {PRINTED:.0%}, "
        "with "
        f"PV-lock both times ({seeds} seed{'s' if seeds > 1 else ''}).** `scheduled-out`, the "
        "document's letter, counts a VCPU that sleeps as preempted, too. Its throughput divided by "
        f"that of `preempted`, 8 on 4: {named(differ)}."
    )


FINDINGS: tuple[Callable[[Evidence], str | None], ...] = (
    file_copies, trapping, disk, execl, spawn, nothing_shared, losses, letter,
)  # fmt: skip
CONTRADICTIONS: tuple[Callable[[Evidence], str | None], ...] = (shells, together)


KINDS = {
    "osq_lock": "osq_lock",
    "rwsem spinning": "rwsem",
    "mutex spinning": "mutex",
    "qspinlock slow path": "spinlocks",
    "idle loop": "idle",
    "no VCPU": "no VCPU",
}


def time_spent(evidence: Evidence) -> list[str]:
    """Return the paragraph and the table about where the CPUs' time went."""
    if not evidence.spent:
        return ["No run was sampled yet."]
    first = ["create", "notrap"]
    shares = [
        evidence.spent.get((first[1], pvlock, first[0]), {}).get("osq_lock", (0.0, 0.0))
        for pvlock in (False, True)
    ]
    lines = [
        "**The series says that osq_lock() took 50 % of the samples without PV-lock and less than "
        f"1 % with it; here, for {first[0]} where WFE does not trap, it takes {shares[0][0]:.0%} "
        f"and {shares[1][0]:.0%} of the CPUs' time.** One seed, 8 VCPUs on 4 CPUs, 50 ms. In "
        "brackets is what was spent waiting for a VCPU that was off its CPU. `no VCPU` is a CPU "
        "that "
        "nobody wanted; the rest is work.",
        "",
        *breakdowns(evidence),
        *head_row(["load", "WFE", "PV-lock", "per second", *KINDS.values(), "all other"]),
    ]
    for (wfe, pvlock, load), kinds in sorted(evidence.spent.items(), key=spent_order):
        cells = [shown(*kinds.get(kind, (0.0, 0.0))) for kind in KINDS]
        other = sum(share for kind, (share, _) in kinds.items() if kind not in KINDS)
        traps = "traps" if wfe == "trap" else "does not"
        rate = f"{evidence.sampled[wfe, pvlock, load]:,.0f}"
        word = "with" if pvlock else "without"
        lines.append(row([load, traps, word, rate, *cells, f"{other:.0%}"]))
    return lines


def breakdowns(evidence: Evidence) -> list[str]:
    """Return a paragraph about runs in which PV-lock made matters much worse."""
    spinlocks = "qspinlock slow path"
    found = [
        (wfe, load, evidence.sampled[wfe, False, load], rate, evidence.spent[wfe, True, load])
        for (wfe, pvlock, load), rate in evidence.sampled.items()
        if pvlock and rate < evidence.sampled[wfe, False, load] / 2
    ]
    if not found:
        return []
    lines = [
        f"{load} ({'WFE traps' if wfe == 'trap' else 'WFE does not trap'}): {without:,.0f} → "
        f"{rate:,.0f} per second, {kinds.get(spinlocks, (0.0, 0.0))[0]:.0%} of the CPUs' time in "
        "the slow path of spinlocks"
        for wfe, load, without, rate, kinds in found
    ]
    return [
        f"**PV-lock can make a run break down: in {len(found)} of {len(evidence.sampled) // 2} of "
        f"these runs it halved the throughput or worse.** {'; '.join(lines)}. A native spinlock is "
        "a queue in which nobody asks whether anybody is preempted. Waiters that PV-lock sends to "
        "sleep take such spinlocks to sleep and to wake others; once a VCPU in that queue is off "
        "its CPU, and a WFE gives none away, all behind it wait for their turns. It happens "
        "without "
        "PV-lock too: seeds decide. Spinlocks whose waiters sleep ([linux.md](linux.md)) are "
        "against "
        "this, and were not tried here.",
        "",
    ]


def spent_order(item: tuple[tuple[str, bool, str], object]) -> tuple[str, str, bool]:
    (wfe, pvlock, load), _ = item
    return load, wfe, pvlock


def shown(share: float, off: float) -> str:
    return f"{share:.1%} ({off:.1%})" if off else f"{share:.1%}"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def head_row(cells: list[str]) -> list[str]:
    return [row(cells), row(["---"] * len(cells))]


def load_by_load(evidence: Evidence) -> list[str]:
    """Return the table of UnixBench's tests, published and ours."""
    ours = settings(evidence, (NOTRAP, TRAP, *LARGER, *LARGEST))
    lines = head_row(
        ["load", SOURCES["graviton"], "hint alone", SOURCES["kunpeng"], *map(str, ours), "signs"]
    )
    for load, each in BY_NAME.items():
        if each.test is None:
            continue
        published = [evidence.of_test(source, each.test.name) for source in SOURCES]
        known = [evidence.gain(setting, load) for setting in ours]
        lines.append(
            row(
                [
                    load,
                    *in_print(published),
                    *map(gain_or_dash, known),
                    verdict(
                        [direction(found.ratio, PRINTED) for found in published if found], known
                    ),
                ]
            )
        )
    indexes = [evidence.of_test(source, INDEX) for source in SOURCES]
    lines.append(
        row(
            [
                "index",
                *in_print(indexes),
                *(gain_or_dash(evidence.index(setting)) for setting in ours),
                "ours: without Dhrystone and Whetstone",
            ]
        )
    )
    return lines


def in_print(found: list[Published | None]) -> list[str]:
    """Return the cells of the published gains; the first source has one of the hint, too."""
    first, second = (each or Published("", "", 0.0, None) for each in found)
    hint = f"x{first.hint:.2f}" if first.hint else "–"
    return [f"x{first.ratio:.2f}", hint, f"x{second.ratio:.2f}"]


def verdict(published: list[str], ours: list[Gain | None]) -> str:
    """Say whether directions agree: the published ones with each other, and ours with them."""
    mine = [gain.direction for gain in ours if gain]
    if not mine:
        return "not computed"
    if len(set(published)) > 1:
        return (
            f"in print they differ ({', '.join(published)}); ours: {', '.join(dict.fromkeys(mine))}"
        )
    agreeing = mine.count(published[0])
    return f"{published[0]} in print; {agreeing} of our {len(mine)} agree"


def other_loads(evidence: Evidence) -> list[str]:
    """Return the table of the loads that are no tests of UnixBench."""
    ours = settings(evidence, (NOTRAP, TRAP, *LARGER, *LARGEST))
    lines = head_row(["load", *map(str, ours)])
    for load, each in BY_NAME.items():
        if each.test is None:
            known = [evidence.gain(setting, load) for setting in ours]
            lines.append(row([load, *map(gain_or_dash, known)]))
    return lines


def beside_alone(evidence: Evidence) -> list[str]:
    """Return the table of what overcommitting costs, and how much of it PV-lock wins back."""
    lines = head_row(
        [
            "load", "not overcommitted", "without, WFE does not trap", "with", "without, WFE traps",
            "with",
        ]
    )  # fmt: skip
    for load in BY_NAME:
        alone = evidence.throughputs(ALONE, True, load)
        if not alone:
            continue
        cells = [
            gain_or_dash(evidence.kept(setting, load, pvlock))
            for setting in (NOTRAP, TRAP)
            for pvlock in (False, True)
        ]
        lines.append(row([load, f"{statistics.median(alone.values()):,.0f} per second", *cells]))
    return lines


def not_overcommitted(evidence: Evidence) -> list[str]:
    found = dict(gains(evidence, ALONE))
    if not found:
        return ["Nothing was computed."]
    between = {load: spread(evidence.throughputs(ALONE, False, load)) for load in found}
    changed = [
        (load, gain)
        for load, gain in found.items()
        if abs(gain.median - 1) > min(0.01, between[load])
    ]
    first = (
        "**With a CPU for each VCPU, no load's median moves by more than 1 %, or than its seeds "
        "lie "
        "apart.**"
        if not changed
        else f"**With a CPU for each VCPU, {len(changed)} of {len(found)} loads move by more than "
        "1 %, "
        f"or than their seeds lie apart: {named(changed)}.** The seeds of "
        f"{sum(min(gain.ratios) < 1 < max(gain.ratios) for _, gain in changed)} of these disagree "
        "about the sign."
    )
    lines = [
        f"{first} The same kernel on machines with and without PV-lock, 4 VCPUs on 4 CPUs; "
        "`between "
        "seeds` is how far the throughput without PV-lock lies apart, from the lowest to the "
        "highest.",
        "",
        *head_row(["load", "gain", "between seeds"]),
    ]
    for load, gain in found.items():
        lines.append(row([load, str(gain), f"{between[load]:.1%}"]))
    return lines


def spread(throughputs: dict[int, float]) -> float:
    """Return how far the seeds of one setting lie apart."""
    return max(throughputs.values()) / min(throughputs.values()) - 1


OTHERS = (
    ("openEuler's 4.19 kernel, Kunpeng920, 16 on 8: index 1,679 → 2,271, shell scripts (8) 607 → "
     "1,709",
     "index x1.35, shell8 x2.82; ours is in the table. That kernel is not built here."),
    ("Kunpeng920, 16 on 8, 5.5-rc5 (third version, 2020): the gains of 2019, shell scripts worse",
     "see the contradictions."),
    ("openEuler's paravirtual spinlock, 60 on 32: kernel build 950 s → 437 s (second hand)",
     "a spinlock that sleeps, not PV-lock alone; `build` here is without it. [linux.md](linux.md) "
     "has "
     "spinlocks whose waiters sleep under a load that does little else."),
    ("x86, 2016, i5-4570, 8 on 4, 4.8: execl 11,702 → 18,308; file copy (4096) 1.78 → 3.68 GB/s",
     "execl x1.56, fscopy4096 x2.07: the same directions as on arm64; x86 has no WFE, so nothing "
     "traps."),
    ("x86, 2019, 80, 160, 240 VCPUs on 80: ebizzy +6, +70, +74 %; IPI boost",
     "a yield on IPIs, another mechanism; not reproduced here."),
    ("x86, November 2025, semantics-aware yield, 32, 48, 64 on 16: dbench +14 to +7 %, dedup +47 "
     "to +2 %",
     "a yield to the lock's owner, and it needs a disk and programs that are not here."),
    ("Raspberry Pi 4, 4 on 4, idle host: sched-pipe 33,500 → 34,000 to 39,000 operations/s",
     "nobody is preempted on an idle host; `context` without overcommitment is ours."),
    ("Preemptable ticket spinlocks (2013) x5.3 to x7.9; eCS (2018) up to x2.5 overcommitted, x1.6 "
     "not",
     "other locks and kernels; not reproduced here."),
    ("the steal governor, x86: hackbench +91 %, sysbench −3 %",
     "another mechanism; `messaging` has hackbench's shape."),
)  # fmt: skip


def computed(evidence: Evidence) -> str:
    parts = []
    for setting in (NOTRAP, TRAP, ALONE, *LARGER, *LARGEST):
        seeds = evidence.seeds(setting)
        loads = len(dict(gains(evidence, setting)))
        plural = "" if seeds == 1 else "s"
        what = f"{loads} loads, {seeds} seed{plural}" if seeds else "nothing yet"
        parts.append(f"{setting}: {what}")
    return "; ".join(parts)


def page(evidence: Evidence) -> str:
    """Return the text of docs/evidence.md."""
    kernels = ", ".join(sorted(evidence.kernels))
    lines = [HEAD.format(kernels=kernels, matters=MATTERS, computed=computed(evidence))]
    for title, findings in (("Findings", FINDINGS), ("The contradictions", CONTRADICTIONS)):
        lines += [f"## {title}", ""]
        for finding in findings:
            text = finding(evidence)
            lines += [text, ""] if text else []
    lines += ["![Gains in print and here, load by load](evidence.png)", ""]
    lines += ["## UnixBench's tests, load by load", "", *load_by_load(evidence), ""]
    lines += ["## Other loads that contend in current kernels", "", *other_loads(evidence), ""]
    lines += [
        "## Beside the same CPUs without overcommitment", "",
        "Throughput of 8 VCPUs on 4 CPUs divided by that of 4 on 4, with PV-lock; UnixBench "
        "starts as "
        "many copies as there are VCPUs, so there are half as many copies to wait for one "
        "another.", "",
        *beside_alone(evidence), "",
    ]  # fmt: skip
    lines += ["## Where the CPUs' time went", "", *time_spent(evidence), ""]
    lines += ["## Without overcommitment", "", *not_overcommitted(evidence), ""]
    lines += ["## Other published results", "", *head_row(["published", "here"])]
    lines += [row(list(each)) for each in OTHERS]
    lines += [
        "",
        "## What is not here",
        "",
        "These loads under the other models of a host and with hints in the guest (for three of "
        "them see [models.md](models.md)); kernel 6.1; caches, memory and disks, which no "
        "emulator here has. Groups of "
        "runs for which the head of this page says that nothing was computed are in evidence.toml, "
        "and the command above does them.",
        "",
    ]
    return "\n".join(lines)


def draw(evidence: Evidence, path: Path) -> None:
    """Draw the gains in print and here, one row for each load."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    loads = [load for load in BY_NAME if evidence.gain(NOTRAP, load)]
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(loads) + 1.4))
    axes.axvline(1, color="0.6", linewidth=1)
    for setting, color, label, shift in (
        (NOTRAP, "#1f5fa8", "here, WFE does not trap (range of the seeds)", -0.15),
        (TRAP, "#d9822b", "here, WFE traps (range of the seeds)", 0.15),
    ):
        found = [
            (at, gain) for at, load in enumerate(loads) if (gain := evidence.gain(setting, load))
        ]
        heights = [at + shift for at, _ in found]
        axes.hlines(
            heights, [min(gain.ratios) for _, gain in found],
            [max(gain.ratios) for _, gain in found], color=color, linewidth=3, alpha=0.5,
        )  # fmt: skip
        axes.plot([gain.median for _, gain in found], heights, "o", color=color, label=label)
    for source, marker in (("graviton", "x"), ("kunpeng", "+")):
        points = [
            (pair.ratio, at)
            for at, load in enumerate(loads)
            if (test := BY_NAME[load].test) and (pair := evidence.of_test(source, test.name))
        ]
        axes.plot(
            *zip(*points, strict=True), marker, color="0.2", label=f"in print: {SOURCES[source]}"
        )
    axes.set_xscale("log")
    ticks = (0.03, 0.1, 0.3, 0.5, 1, 2, 3, 5, 10, 30)
    axes.set_xticks(ticks, [f"x{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(loads)), loads)
    axes.invert_yaxis()
    axes.set_xlabel("throughput with PV-lock / without")
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def write(docs: Path) -> None:
    """Write the page and its picture into the folder `docs`."""
    evidence = Evidence(docs / "evidence.csv", docs / "published.csv")
    evidence.read_spent(docs / "evidence-profile.csv")
    (docs / "evidence.md").write_text(page(evidence), "utf-8")
    draw(evidence, docs / "evidence.png")
