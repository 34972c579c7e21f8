# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the command line's --profile goes, and in which format."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvlock.errors import ConfigError
from pvlock.extras import load_extra
from pvlock.files import refuse_unwritable, replacing
from pvlock.image import Image

if TYPE_CHECKING:
    from pvlock.profile import Profile

SUFFIXES = (".folded", ".pb.gz", ".pftrace", ".json")


@dataclass(frozen=True)
class ProfileOptions:
    """What a user may choose for a profile; the names are those of options of `pvlock run`.

    The profile is of the guest time from `profile_from_ns` to `profile_to_ns` (None: the end).
    """

    profile: str
    profile_period_ns: int = 99_991
    profile_from_ns: int = 0
    profile_to_ns: int | None = None
    system_map: str | None = None
    programs: Sequence[str] = ()


class ProfileFile:
    """The file of --profile."""

    def __init__(self, options: ProfileOptions, guest: Image) -> None:
        """Refuse early what could not be written later. Raises PvlockError."""
        from pvlock.profile import Profiler

        self._options, self._path = options, Path(options.profile)
        self._who = f"--profile {options.profile}"
        if not self._path.name.endswith(SUFFIXES):
            raise ConfigError(f"{self._who}: the name must end in {', '.join(SUFFIXES)}")
        if self._path.name.endswith(".pftrace"):
            load_extra("perfetto", "trace", self._who)
        refuse_unwritable(self._path, self._who)
        self.profiler: Profiler = Profiler.of_image(
            guest, options.system_map, options.programs, options.profile_period_ns
        )
        self.result: dict[str, Any] = {}

    def write(self, profile: "Profile", facts: dict[str, Any]) -> None:
        """Print the table, then write the file, whole or not at all. Raises ConfigError."""
        from rich.console import Console

        from pvlock.profile import render

        options = self._options
        profile = profile.part(options.profile_from_ns, options.profile_to_ns)
        shares = profile.shares()
        self.result = shares.as_dict()
        width = None if sys.stderr.isatty() else 100
        console = Console(file=sys.stderr, width=width, highlight=False)
        with console.capture() as captured:
            console.print(render.table(shares))
            console.print("\n", render.functions(shares), "\n", render.sentence(shares), sep="")
        for line in captured.get().splitlines():
            print(line.rstrip(), file=sys.stderr)
        if profile.lost:
            console.print(f"{profile.lost:,} samples were lost: there was no memory for them.")
        with replacing(self._path, self._who) as temporary:
            temporary.write_bytes(self._content(profile, facts))
        many = sum(sample.points for sample in profile.samples)
        print(f"profile: {options.profile}, {many:,} samples", file=sys.stderr)

    def _content(self, profile: "Profile", facts: dict[str, Any]) -> bytes:
        name = self._path.name
        if name.endswith(".folded"):
            from pvlock.profile.folded import folded

            return folded(profile).encode()
        if name.endswith(".pb.gz"):
            from pvlock.profile.pprof import pprof

            return pprof(profile)
        if name.endswith(".pftrace"):
            import io

            from pvlock.profile import perfetto

            file = io.BytesIO()
            perfetto.write(file, profile)
            return file.getvalue()
        from pvlock.report import to_json

        return to_json(facts | {"profile": self.result}).encode()
