# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the command line's --profile goes, and in which format."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvlock.cli.guest_kind import GuestKind, GuestOption
from pvlock.cli.screen import console, paragraph, show
from pvlock.duration import nanoseconds
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


class _Time(click.ParamType[int]):
    """A time with its unit, in ns."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        """Return the ns. Raises BadParameter."""
        try:
            return nanoseconds(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, context)


def _option(*names: str, **attributes: Any) -> Callable[..., Any]:
    return click.option(*names, cls=GuestOption, kinds=GuestKind.LINUX, **attributes)


_OPTIONS = (
    _option(
        "--profile",
        metavar="FILE",
        help="Say what the CPUs' time goes to, and write call stacks to FILE, named "
        f"{', '.join(SUFFIXES)}.",
    ),
    _option(
        "--profile-period",
        "profile_period_ns",
        type=_Time(),
        metavar="TIME",
        help="Guest time between two samples.  [default: 99991ns]",
    ),
    _option(
        "--profile-from",
        "profile_from_ns",
        type=_Time(),
        metavar="TIME",
        help="The profile begins there in guest time.  [default: 0]",
    ),
    _option(
        "--profile-to",
        "profile_to_ns",
        type=_Time(),
        metavar="TIME",
        help="The profile ends there.  [default: as the guest does]",
    ),
    _option(
        "--system-map",
        metavar="FILE",
        help="Its System.map, where the kernel has no kallsyms: --profile and --trace need one.",
    ),
    _option(
        "--program",
        "programs",
        multiple=True,
        metavar="ELF[@ADDRESS]",
        help="A user program, for the names of its functions; may be repeated.",
    ),
)


def profile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --profile and the options that go with it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def profile_asked_for(options: Mapping[str, Any]) -> ProfileOptions | None:
    """Return what was asked for about a profile. Raises UsageError without --profile."""
    given = {f.name: options[f.name] for f in fields(ProfileOptions) if options[f.name]}
    # A trace needs symbols as well.
    alone = [name for name in given if name != "system_map"]
    if not options["profile"]:
        if not alone:
            return None
        name = alone[0].removesuffix("_ns").removesuffix("s").replace("_", "-")
        raise click.UsageError(f"--{name} is for --profile FILE")
    return ProfileOptions(**given) if given else None


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
        self.outputs = [("--profile", self._path)]
        self._profile: Profile | None = None

    def show(self, profile: "Profile") -> None:
        """Print the table of a profile, which write() will write."""
        from pvlock.profile import render

        self._profile = profile.part(self._options.profile_from_ns, self._options.profile_to_ns)
        shares = self._profile.shares()
        self.result = shares.as_dict()
        screen = console(sys.stderr)
        show(screen, render.table(shares))
        screen.print()
        show(screen, render.functions(shares))
        screen.print()
        paragraph(render.sentence(shares), sys.stderr)
        if profile.lost:
            paragraph(f"{profile.lost:,} samples were lost: there was no memory.", sys.stderr)

    def write(self, facts: dict[str, Any]) -> None:
        """Write the file, whole or not at all, of what was shown last. Raises ConfigError."""
        if self._profile is None:
            return
        content = self._content(self._profile, facts)
        with replacing(self._path, self._who) as temporary:
            temporary.write_bytes(content)
        many = sum(sample.points for sample in self._profile.samples)
        print(f"profile: {self._path}, {many:,} samples", file=sys.stderr)

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
        from pvlock.report import document, to_json

        return to_json(document("profile", facts | {"profile": self.result})).encode()
