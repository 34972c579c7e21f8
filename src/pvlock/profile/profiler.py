# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a guest's kernel before it runs: how to sample it, and what to call things."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pvlock import image, linux_image
from pvlock.engines.contract import Sampling
from pvlock.errors import ConfigError, MissingTypes, SymbolsError
from pvlock.linux_image import Btf
from pvlock.profile import spinning
from pvlock.profile.frames import Names, keeps_frames, program

DEFAULT_PERIOD_NS = 99_991
"""A prime number: no timer of the guest keeps step with it."""
SHORTEST_NS, LONGEST_NS = 100, 1_000_000_000
_REGISTERS_BEFORE_RECORD = 304
"""struct pt_regs: where the last frame record is, in kernels before 6.13."""


@dataclass(frozen=True)
class Profiler:
    """How the VCPUs of a guest are sampled, and what its addresses are called."""

    sampling: Sampling
    names: Names

    @classmethod
    def open(
        cls,
        kernel: str | Path,
        system_map: str | Path | None = None,
        programs: Sequence[str] = (),
        period_ns: int = DEFAULT_PERIOD_NS,
    ) -> Self:
        """Make one for a kernel's file; see of_image()."""
        with image.opened(kernel) as opened:
            return cls.of_image(opened, system_map, programs, period_ns)

    @classmethod
    def of_image(
        cls,
        kernel: image.Image,
        system_map: str | Path | None = None,
        programs: Sequence[str] = (),
        period_ns: int = DEFAULT_PERIOD_NS,
    ) -> Self:
        """Make one for a kernel, whose symbols are its kallsyms or else in `system_map`.

        `programs` are ELF files of user programs, FILE or FILE@ADDRESS. Raises SymbolsError for a
        kernel without symbols or frame pointers, or the System.map of another; ConfigError for
        programs and periods that make no sense.
        """
        if not SHORTEST_NS <= period_ns <= LONGEST_NS:
            raise ConfigError(
                f"period_ns: {period_ns} is not between {SHORTEST_NS} ns and {LONGEST_NS} ns"
            )
        data = linux_image.kernel_bytes(kernel)
        symbols = linux_image.read_symbols(data, kernel.name, system_map)
        if not keeps_frames(data, symbols):
            raise SymbolsError(
                f"{kernel.name}: its functions keep no frame pointers (CONFIG_FRAME_POINTER), "
                "so who called them cannot be told"
            )
        try:
            types = Btf(data, kernel.name)
        except MissingTypes:
            types = None
        registers = _REGISTERS_BEFORE_RECORD
        if types is not None and types.has("pt_regs", "stackframe"):
            registers = types.field("pt_regs", "stackframe").offset
        sampling = Sampling(
            period_ns,
            registers,
            spinning.queue_nodes(data, symbols),
            spinning.spins(data, symbols, types),
        )
        return cls(sampling, Names(data, symbols, [program(one) for one in programs]))
