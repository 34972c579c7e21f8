# SPDX-License-Identifier: GPL-2.0-or-later
"""What `pvlock top` can tell on this host, as `pvlock doctor` says it."""

from pvlock.engines.kvm.probe import Finding, State
from pvlock.errors import WatchError
from pvlock.top.slots import Feature
from pvlock.top.watch import Watcher

_OPTIONAL = (
    (
        "VCPUs, by the kernel",
        Feature.NOTIFIERS | Feature.VCPUS,
        "the kernel says which threads are VCPUs",
        "no KVM is loaded whose types the kernel knows",
        "load the module kvm; without it, threads are VCPUs by their names",
    ),
    (
        "throttled time",
        Feature.THROTTLED,
        "the kernel counts it",
        "the kernel does not count it",
        "use Linux 6.6 or newer",
    ),
)


def findings() -> list[Finding]:
    """Load the program, look once, and say what it found; nothing is raised."""
    what = "VCPUs by BPF"
    try:
        with Watcher() as watcher:
            watcher.look()
            has, yields = watcher.features, watcher.yields
    except WatchError as error:
        because, _, remedy = str(error).partition("; ")
        without = "without it there is only what /proc tells"
        return [Finding(what, State.NO, because, remedy or without, needed=False)]
    found = [Finding(what, State.YES, "loaded, attached, and removed again", "", needed=False)]
    for name, wanted, there, missing, remedy in _OPTIONAL:
        if has & wanted == wanted:
            found.append(Finding(name, State.YES, there, "", needed=False))
        else:
            found.append(Finding(name, State.NO, missing, remedy, needed=False))
    counts = {
        Feature.WFE_EXITS: "KVM counts WFE exits",
        Feature.YIELDS_TRIED: "KVM counts directed yields that it tried",
    }
    because = next((text for feature, text in counts.items() if has & feature), "")
    name, remedy = "exits of VCPUs that wait", "use Linux 5.15 or newer (arm64, x86)"
    if because:
        found.append(Finding(name, State.YES, because, "", needed=False))
    else:
        found.append(Finding(name, State.NO, "KVM does not count them", remedy, needed=False))
    name = "directed yields"
    if yields:
        found.append(Finding(name, State.YES, "a program is at yield_to", "", needed=False))
    else:
        refused = "the kernel lets no program be put at yield_to"
        remedy = "none needed: the column stays empty"
        found.append(Finding(name, State.NO, refused, remedy, needed=False))
    return found
