# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that people script: memory, VCPUs, a console, and a guest in it."""

import functools
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pvlock import attribute, engines, fdt, hint, image, memory_map, pl011
from pvlock.engines.contract import (
    EngineConfig,
    Interrupting,
    Live,
    Placement,
    Recording,
    Sampled,
    Showing,
    Switch,
    SystemEvent,
    Usage,
    WatchingRecording,
)
from pvlock.errors import (
    ConfigError,
    EngineError,
    EngineUnavailable,
    ImageError,
    PvlockError,
    StateError,
)
from pvlock.extras import load_extra
from pvlock.host import LONGEST_NS
from pvlock.hypercall import Hypercalls
from pvlock.memory import GuestMemory, MemorySlot, anonymous_slot
from pvlock.pl011 import Console
from pvlock.region import PvLockRegion, StolenTimeRegion, layout, region_size

if TYPE_CHECKING:
    from pvlock.profile import Profile, Profiler
    from pvlock.trace.events import Events, Setting
    from pvlock.trace.linux.points import Points
    from pvlock.trace.linux.recorder import LinuxRecorder
    from pvlock.trace.recorder import Recorder

_DTB_ROOM = 2 << 20
_MAX_BOOTARGS = 4096
_RNG_SEED_BYTES = 64
"""What Linux's random numbers begin with: they would else be ready after a second, and slow."""
_TRACE_STEP_NS = 250_000
"""How often the rings are emptied: a VCPU that records an event every 30 ns fills its own."""
_LATE_NS = 1_000_000_000
"""How long after it looked at the clock a thread of the host may come to read the rings."""


class Vcpu:
    """One VCPU: its registers, its PV-lock structure, and the attribute that places it.

    >>> with Machine(vcpus=2, pcpus=1, engine="emulator") as machine:
    ...     vcpu = machine.vcpus[1]
    ...     vcpu.set("x5", 7)
    ...     vcpu.get("x5"), vcpu.preempted  # a VCPU that is off cannot run
    (7, 1)
    """

    def __init__(self, machine: "Machine", index: int) -> None:
        self.index = index
        self._machine = machine

    def get(self, register: str) -> int:
        """Read a register: x0 to x30, sp, pc, pstate, or an EL1 system register by name."""
        return self._machine.engine.get(self.index, register)

    def set(self, register: str, value: int) -> None:
        """Write a register."""
        self._machine.engine.set(self.index, register, value)

    def start(self, entry: int, x0: int = 0) -> None:
        """Let this VCPU start at IPA `entry`, as PSCI CPU_ON would."""
        self._machine.engine.start(self.index, entry, x0)

    @property
    def preempted(self) -> int:
        """The `preempted` field of this VCPU's structure (SPECIFICATION.md, section 2)."""
        return self._machine.pvlock.read(self.index)

    def has_attr(self, attr: attribute.DeviceAttr) -> int:
        """KVM_HAS_DEVICE_ATTR: 0 or a negative errno (SPECIFICATION.md, section 5)."""
        return attribute.has_attr(self._machine.pvlock, attr)

    def set_attr(self, attr: attribute.DeviceAttr, user: attribute.UserMemory) -> int:
        """KVM_SET_DEVICE_ATTR: 0 or a negative errno; from then on the flag is kept current."""
        error = attribute.set_attr(self._machine.pvlock, self.index, attr, user)
        if not error:
            try:
                self._machine.publish(self.index)
            except PvlockError:
                self._machine.pvlock.forget_address(self.index)  # clause 5.10
                raise
        return error

    def get_attr(self, attr: attribute.DeviceAttr, user: attribute.UserMemory) -> int:
        """KVM_GET_DEVICE_ATTR: 0 or a negative errno."""
        return attribute.get_attr(self._machine.pvlock, self.index, attr, user)


class Machine:
    """A virtual arm64 machine.

    Its attributes are `vcpus`, `memory` (the slots), `console`, `pvlock` (the structures) and
    `engine`.

    >>> from pvlock import workload
    >>> arguments = "duration=1000000 cs=2000 think=8000"
    >>> with Machine(vcpus=2, pcpus=1, engine="emulator", bootargs=arguments) as machine:
    ...     loaded = machine.load(workload.image_of("mutex"))
    ...     event = machine.run(until_ns=50_000_000)
    ...     switches = machine.usage().switches
    >>> str(event), machine.console.text.splitlines()[0], switches > 0
    ('off', 'workload mutex', True)
    """

    def __init__(
        self,
        vcpus: int = 1,
        pcpus: int | None = None,
        *,
        engine: str = "auto",
        pvlock: bool = True,
        place: bool = True,
        ram_size: int = memory_map.RAM_SIZE,
        bootargs: str = "",
        script: Sequence[Placement] | None = None,
        record: bool = False,
        trace: bool = False,
        watched: "Points | None" = None,
        profile: "Profiler | None" = None,
        output: Callable[[bytes], None] | None = None,
        **host: Any,
    ) -> None:
        """Create a machine with `vcpus` VCPUs on `pcpus` CPUs (default: as many as VCPUs).

        `pvlock` offers the interface; `place` gives every VCPU its structure, as a VMM would, else
        that is left to Vcpu.set_attr. `script` fixes every switch, `record` keeps them for
        `switches()`, `trace` for `events()` instead, and offers the guest the rings in which it
        records its locks. With `watched`, the points of a Linux kernel (pvlock.trace.linux.points),
        `events()` has the tasks and locks of that kernel instead, and the guest is offered nothing.
        With `profile` (pvlock.profile), what a Linux guest does is sampled, for `profile()`.
        `output` gets console bytes as they come. All fields of host.Host are
        keywords too.
        Raises ConfigError for what makes no sense, EngineError when the engine cannot.
        """
        pcpus = vcpus if pcpus is None else pcpus
        _check("ram_size", ram_size, 2 * _DTB_ROOM, memory_map.RAM_LIMIT)
        if ram_size % memory_map.RAM_GRANULE:
            raise ConfigError(f"ram_size: {ram_size} is not a multiple of 2 MiB")
        if len(bootargs) > _MAX_BOOTARGS or not bootargs.isascii() or "\0" in bootargs:
            raise ConfigError(f"bootargs: must be ASCII, at most {_MAX_BOOTARGS} characters")
        config = EngineConfig(
            vcpus=vcpus,
            pcpus=pcpus,
            script=None if script is None else tuple(script),
            record=record or trace,
            coalesced=(memory_map.UART_BASE + pl011.DR,),
            **host,
        )
        _check_script(config)
        recorder = _recorder_class() if trace and watched is None else None
        linux_recorder = _linux_recorder_class() if trace and watched is not None else None
        open_engine = engines.opener(engine)
        self._bootargs = bootargs
        self._loaded = False
        self._start = self._now = 0
        self._trace: MemorySlot | None = None
        self._recorder: Recorder | LinuxRecorder | None = None
        self._profile: Profile | None = None
        self.console = Console(output)
        self.memory = GuestMemory(mmap.PAGESIZE)
        try:
            self._ram = open_engine.ram_slot(memory_map.RAM_BASE, ram_size, "ram")
            self.memory.add(self._ram)
            size = region_size(vcpus)
            if pvlock:
                slot = open_engine.published_slot(config, memory_map.PVLOCK_BASE, size, "pvlock")
                self.memory.add(slot)
            self._slot(memory_map.STOLEN_TIME_BASE, size, "stolen-time", readonly=True)
            self.pvlock = PvLockRegion(self.memory, enabled=pvlock)
            self.stolen_time = StolenTimeRegion(self.memory)
            self._hypercalls = Hypercalls(
                self.pvlock, self.stolen_time, hints=config.hint != hint.OFF
            )
            if recorder:
                size = recorder.region_size(vcpus, mmap.PAGESIZE, open_engine.ring_events)
                self._trace = self._slot(memory_map.TRACE_BASE, size, "trace")
            self.engine = open_engine(config, self.memory.slots)
        except BaseException as error:
            self.memory.close()
            if isinstance(error, EngineError):
                engines.require(engine)
            raise
        if isinstance(self.engine, Interrupting):
            self.console.line = functools.partial(self.engine.set_line, memory_map.UART_INTERRUPT)
        if isinstance(self.engine, Showing):
            self.console.show = functools.partial(self.engine.show, memory_map.UART_BASE)
        self.vcpus = [Vcpu(self, index) for index in range(vcpus)]
        try:
            if linux_recorder and watched is not None:
                if not isinstance(self.engine, WatchingRecording):
                    remedy = "trace on --engine emulator"
                    raise EngineUnavailable(self.engine.name, "watches no functions", remedy)
                self._recorder = linux_recorder(watched, vcpus, pcpus, self.engine)
            if recorder:
                if not isinstance(self.engine, Recording):
                    remedy = "trace on --engine emulator"
                    raise EngineUnavailable(self.engine.name, "records no switches", remedy)
                assert self._trace is not None
                self._recorder = recorder(self._trace, vcpus, pcpus, self.engine)
                if isinstance(self.engine, Live):
                    self.engine.collect = self._collect
            if profile is not None:
                self._profile = self._sampled(profile, pcpus)
            self._place_structures(pvlock and place)
        except BaseException:
            self.close()
            raise

    def load(
        self, guest: str | Path | bytes | image.Image, initrd: bytes | None = None
    ) -> image.Loaded:
        """Load an ELF file or a Linux Image, and let VCPU 0 start it with X0 = the device tree.

        `initrd` goes to the end of RAM, and the device tree says where. Raises ImageError when the
        guest is neither or something does not fit.
        """
        if self._loaded:
            raise StateError("load", "loaded", "empty")
        if isinstance(guest, str | Path):
            with image.opened(guest) as opened:
                return self.load(opened, initrd)
        if isinstance(guest, bytes):
            guest = image.parse(guest, "guest")
        if guest.page_size is not None:
            image.check_granule(guest, self.vcpus[0].get("id_aa64mmfr0_el1"))
        loaded = image.load(guest, self.memory, memory_map.RAM_BASE)
        dtb = self._ram.end - _DTB_ROOM
        if loaded.end > dtb:
            raise ImageError(f"{guest.name}: leaves no room for the device tree at {dtb:#x}")
        disk = None
        if initrd:
            disk = dtb - len(initrd) & -mmap.PAGESIZE, len(initrd)
            if disk[0] < loaded.end:
                raise ImageError(self._no_room(len(initrd), loaded))
            self.memory.write(disk[0], initrd, "initrd")
        tree = self._device_tree(disk)
        self.memory.write(dtb, tree, "device tree")
        if guest.kind is not image.Kind.LINUX and self._ram.base + len(tree) <= loaded.start:
            # Where bare-metal guests for QEMU's virt board look for it, without X0.
            self.memory.write(self._ram.base, tree, "device tree")
        self._loaded = True
        self.vcpus[0].start(loaded.entry, dtb)
        return loaded

    def run(self, until_ns: int) -> SystemEvent | None:
        """Run until the guest turns the machine off or resets it, or until `until_ns` (None).

        `until_ns` is guest time since the machine was created, so calls with growing times go on.
        Raises GuestFault, GuestStalled or WorkerDied.
        """
        _check("until_ns", until_ns, 0, LONGEST_NS)
        if self._recorder is None or isinstance(self.engine, Live):
            return self.engine.run(self, until_ns)
        # What is told to the engine between steps, a guest could notice: so there are as many steps
        # as without a trace, where nothing forces more.
        step = max(self.engine.step_ns, _TRACE_STEP_NS if self._trace else LONGEST_NS)
        while True:
            now = min(self._now + step, until_ns)
            event = self.engine.run(self, now)
            self._recorder.collect(now)
            self._now = max(now, self._now)
            if event is not None or now >= until_ns:
                return event

    def usage(self) -> Usage:
        """Return what the machine used so far: time, instructions, switches, exits."""
        return self.engine.usage()

    def switches(self) -> list[Switch]:
        """Return every switch so far, if the machine was created with `record`."""
        return self.engine.switches()

    def events(self, **settings: "Setting") -> "Events":
        """Return all events so far, if the machine was created with `trace`, with these settings.

        Raises StateError without `trace`.
        """
        if self._recorder is None:
            raise StateError("events", "not traced", "traced")
        end = self._now if isinstance(self.engine, Live) else self.usage().time_ns
        facts: dict[str, Setting] = {"engine": self.engine.name, **settings}
        if isinstance(self.engine, Live) and engines.cpus_are_emulated():
            facts["emulated_cpus"] = True
        return self._recorder.events(end, facts, self._start)

    def profile(self) -> "Profile":
        """Return what was sampled so far, if the machine was created with `profile`.

        Raises StateError without it.
        """
        if self._profile is None or not isinstance(self.engine, Sampled):
            raise StateError("profile", "not sampled", "sampled")
        self._profile.add(*self.engine.take_samples())
        self._profile.end_ns = self.usage().time_ns
        return self._profile

    def close(self) -> None:
        """End the machine and free its memory; safe to call twice."""
        try:
            self.engine.close()
        finally:
            self.memory.close()

    def __enter__(self) -> Self:
        """Return the machine; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the machine."""
        self.close()

    # -- contract.Handler: what the engine asks for --

    def hypercall(self, vcpu: int, registers: Sequence[int]) -> Sequence[int]:
        """Answer a hypercall that the engine does not know."""
        return self._hypercalls.call(vcpu, registers)

    def mmio_read(self, vcpu: int, ipa: int, size: int) -> int | None:
        """Read a register of the console; None elsewhere."""
        offset = ipa - memory_map.UART_BASE
        if not 0 <= offset < memory_map.UART_SIZE:
            return None
        return self.console.read(offset, size)

    def mmio_write(self, vcpu: int, ipa: int, size: int, value: int) -> bool:
        """Write a register of the console; False elsewhere."""
        offset = ipa - memory_map.UART_BASE
        if not 0 <= offset < memory_map.UART_SIZE:
            return False
        self.console.write(offset, size, value)
        return True

    # -- private --

    def _sampled(self, profiler: "Profiler", pcpus: int) -> "Profile":
        from pvlock.profile import Profile  # most runs are not sampled

        if not isinstance(self.engine, Sampled):
            remedy = "profile on --engine emulator"
            raise EngineUnavailable(self.engine.name, "takes no samples of its guests", remedy)
        self.engine.sample(profiler.sampling)
        return Profile(profiler, len(self.vcpus), pcpus)

    def _collect(self, now_ns: int) -> None:
        assert self._recorder is not None
        self._start = self._start or now_ns
        self._now = now_ns
        self._recorder.collect(now_ns, _LATE_NS)

    def publish(self, vcpu: int) -> None:
        """Have the engine keep the flag of `vcpu` current where its structure now is."""
        ipa = self.pvlock.ipa(vcpu)
        assert ipa is not None
        self.engine.publish_at(vcpu, ipa)

    def _no_room(self, initrd: int, loaded: image.Loaded) -> str:
        kernel = loaded.end - self._ram.base
        needed = -(-(kernel + initrd + mmap.PAGESIZE + _DTB_ROOM) >> 20)
        return (
            f"an initrd of {_mib(initrd)} does not fit into RAM of {_mib(self._ram.size)} "
            f"beside a kernel of {_mib(kernel)}: give it {needed + needed % 2} MiB (--memory)"
        )

    def _place_structures(self, pvlock: bool) -> None:
        count = len(self.vcpus)
        for index, ipa in enumerate(layout(memory_map.STOLEN_TIME_BASE, count)):
            self.stolen_time.set_address(index, ipa)
            self.engine.stolen_time_at(index, ipa)
        if pvlock:
            for index, ipa in enumerate(layout(memory_map.PVLOCK_BASE, count)):
                self.pvlock.set_address(index, ipa)
                self.publish(index)

    def _slot(self, base: int, size: int, name: str, readonly: bool = False) -> MemorySlot:
        slot = anonymous_slot(base, size, name, readonly)
        self.memory.add(slot)
        return slot

    def _device_tree(self, initrd: tuple[int, int] | None) -> bytes:
        count = len(self.vcpus)
        return fdt.build(
            fdt.Board(
                vcpus=count,
                ram_base=self._ram.base,
                ram_size=self._ram.size,
                gicd_base=memory_map.GICD_BASE,
                gicd_size=memory_map.GICD_SIZE,
                gicr_base=memory_map.gicr_base(count),
                gicr_size=count * memory_map.GICR_STRIDE,
                uart_base=memory_map.UART_BASE,
                uart_size=memory_map.UART_SIZE,
                pvlock_base=memory_map.PVLOCK_BASE if self.pvlock.enabled else None,
                pvlock_size=region_size(count, mmap.PAGESIZE) if self.pvlock.enabled else 0,
                trace_base=self._trace.base if self._trace else None,
                trace_size=self._trace.size if self._trace else 0,
                bootargs=self._bootargs,
                rng_seed=_words(self.engine.entropy(_RNG_SEED_BYTES)),
                initrd_start=None if initrd is None else initrd[0],
                initrd_end=None if initrd is None else sum(initrd),
                timer_virtual=memory_map.VIRTUAL_TIMER_PPI,
                timer_physical=memory_map.PHYSICAL_TIMER_PPI,
            )
        )


def _recorder_class() -> "type[Recorder]":
    """Traces need NumPy, which is an extra: nothing else of a machine does."""
    load_extra("numpy", "trace", "a trace")
    from pvlock.trace.recorder import Recorder

    return Recorder


def _linux_recorder_class() -> "type[LinuxRecorder]":
    load_extra("numpy", "trace", "a trace")
    from pvlock.trace.linux.recorder import LinuxRecorder

    return LinuxRecorder


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}: {value} is not between {low} and {high}")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _words(data: bytes) -> tuple[int, ...]:
    """Return `data` as the cells of a device tree."""
    return tuple(int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4))


def _check_script(config: EngineConfig) -> None:
    for line in config.script or ():
        bad = not 0 <= line.cpu < config.pcpus or line.time_ns < 0
        if bad or (line.vcpu is not None and not 0 <= line.vcpu < config.vcpus):
            raise ConfigError(f"script: {line} names no CPU, VCPU or time of this machine")
