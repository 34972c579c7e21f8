# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error that pvlock raises on purpose.

PvlockError
├── ConfigError            an option or argument that makes no sense
├── OutputError            a result that cannot be written, though it could be before
├── ImageError             a file that is no guest, or does not fit
├── LogError               a console log that is no whole report of the conformance guest
├── InputError             words that a script of typed input awaits did not come
├── MemoryAccessError      an access outside the memory slots of the guest
├── StateError             a call that the object's state does not allow
├── TraceError             a trace that cannot be read, or made sense of
├── LabError               the virtual arm64 host cannot be built, or ended before its command
├── WatchError             the VCPUs of this host cannot be watched, or there are none to watch
├── KernelError            a Linux kernel cannot be built
├── SymbolsError           what a Linux kernel says of itself cannot be used
│   ├── MissingSymbols     it has no kallsyms, and there is no System.map
│   ├── OtherKernel        the System.map is another kernel's
│   └── MissingTypes       it has no BTF, or not that structure
└── EngineError            the engine, or the guest in it, cannot go on
    ├── EngineUnavailable  this host cannot run the engine: what is missing, and the remedy
    ├── WorkerDied         the process of an emulated machine ended on its own
    ├── GuestFault         a fault that the guest itself cannot handle
    ├── GuestPanicked      the guest's own kernel gave up
    └── GuestStalled       every VCPU sleeps and nothing can wake one
"""


class PvlockError(Exception):
    """The root of all errors of pvlock. Its text is a line to act on."""


class ConfigError(PvlockError):
    """An option or argument is out of range, or does not go with another."""


class OutputError(PvlockError):
    """A result cannot be written: a disk is full, or a folder has gone while it was made."""


class ImageError(PvlockError):
    """A file is not a guest that this machine can load."""


class LogError(PvlockError):
    """A console log is not a whole and consistent report of the conformance guest."""


class InputError(PvlockError):
    """A guest did not go along with a script of typed input: `what`, and its `last_lines`."""

    def __init__(self, what: str, last_lines: tuple[str, ...]) -> None:
        words = "its last lines:" if last_lines else "it printed nothing"
        super().__init__("\n  ".join((f"{what}; {words}", *last_lines)))
        self.what, self.last_lines = what, last_lines


class MemoryAccessError(PvlockError):
    """`who` made an access of `size` bytes at IPA `address`, which no memory slot holds whole."""

    def __init__(self, address: int, size: int, who: str) -> None:
        super().__init__(f"{who}: {size} bytes at IPA {address:#x} are not inside a memory slot")
        self.address, self.size, self.who = address, size, who


class StateError(PvlockError):
    """A call needs another state of `what`: the state is `actual`, and must be `required`."""

    def __init__(self, what: str, actual: str, required: str) -> None:
        super().__init__(f"{what}: the machine is {actual}, must be {required}")
        self.what, self.actual, self.required = what, actual, required


class TraceError(PvlockError):
    """A trace cannot be read, written, or made sense of."""


class WatchError(PvlockError):
    """The VCPUs of this host cannot be watched, or there is none such as is asked for."""


class LabError(PvlockError):
    """The virtual arm64 host cannot be built or started, or ended before its command did."""


class KernelError(PvlockError):
    """A Linux kernel with PV-lock cannot be built."""


class SymbolsError(PvlockError):
    """What a Linux kernel says of itself, its symbols and structures, cannot be used."""


class MissingSymbols(SymbolsError):
    """A kernel has no symbols within itself, or a file that should have them has none."""


class OtherKernel(SymbolsError):
    """A System.map is not that of the kernel that it was given for."""


class MissingTypes(SymbolsError):
    """A kernel has no BTF, or its BTF has no such structure or member."""


class EngineError(PvlockError):
    """The engine cannot create or run the machine."""


class EngineUnavailable(EngineError):
    """This host lacks `capability`; `remedy` says what to do about it."""

    def __init__(self, engine: str, capability: str, remedy: str) -> None:
        super().__init__(f"engine {engine}: {capability}; {remedy}")
        self.engine, self.capability, self.remedy = engine, capability, remedy


class WorkerDied(EngineError):
    """A worker process died: `how`, and the `vcpu` it ran, with its `pc` (None: it ran none)."""

    def __init__(self, how: str, vcpu: int | None, pc: int | None) -> None:
        where = "before it ran a VCPU" if vcpu is None else f"VCPU {vcpu} at PC {pc or 0:#x}"
        super().__init__(f"the emulator's worker process died ({how}), {where}")
        self.how, self.vcpu, self.pc = how, vcpu, pc


class GuestFault(EngineError):
    """VCPU `vcpu` met, at `pc`, what no guest could handle; `reason` says what."""

    def __init__(self, vcpu: int, pc: int, reason: str) -> None:
        super().__init__(f"VCPU {vcpu} at PC {pc:#x}: {reason}")
        self.vcpu, self.pc, self.reason = vcpu, pc, reason


class GuestStalled(EngineError):
    """All VCPUs sleep in WFI or are off, and no timer or interrupt is left to wake one."""


class GuestPanicked(EngineError):
    """The guest's kernel panicked: `reason` in its words, and the `last_lines` of its console."""

    def __init__(self, reason: str, last_lines: tuple[str, ...]) -> None:
        what = f"the guest gave up: {reason}; its last lines:"
        super().__init__("\n  ".join((what, *last_lines)))
        self.reason, self.last_lines = reason, last_lines
