# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels with PV-lock, built of Debian's source and our patches: each once, and kept."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvlock.errors import ConfigError, KernelError
from pvlock.kernel import series, source, tools
from pvlock.kernel.source import Source

KERNELS = ("guest",)
"""What can be built: a kernel for a guest."""
LOG = "failed.log"
"""In the cache: what make said when a build failed."""
_FILES = ("Image", "config", "source")
_STAMPS = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "pvlock",
    "KBUILD_BUILD_HOST": "pvlock",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
}
"""What would differ from one build to the next."""
_KEPT = ("PATH", "HOME", "TMPDIR")
_STEP = 100
"""Files between two lines of progress."""
_COMPLAINT = re.compile(r"\berror\b|No space left|\*\*\*|Killed", re.I)


@dataclass(frozen=True)
class Kernel:
    """A kernel that was built, in `folder`."""

    folder: Path

    @property
    def image(self) -> Path:
        """The kernel, a raw arm64 Image."""
        return self.folder / "Image"

    @property
    def source(self) -> str:
        """What it was built of."""
        return (self.folder / "source").read_text("utf-8").strip()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the Image."""
        with self.image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def key(kernel: str, taken: Source) -> str:
    """Return the name of what is kept: a hash of all that decides what is in it."""
    parts = [taken.digest, tools.compiler_version(), json.dumps(_STAMPS)]
    parts += [patch.change for patch in series.patches(kernel)]
    parts.append(series.fragment(kernel).read_text("utf-8"))
    return f"{kernel}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def get(
    kernel: str, folder: Path, take: Callable[[], Source], jobs: int, say: Callable[[str], None]
) -> Kernel:
    """Return a `kernel` made of the source that `take` gives, building it if it is not there.

    Two processes that need the same kernel build it once. Raises KernelError when it cannot be
    built, ConfigError when `folder` cannot be written.
    """
    tools.check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock", say):
            for leftover in folder.glob(f"{source.TEMPORARY}*"):
                # We hold the lock, so whoever made it was killed.
                shutil.rmtree(leftover, ignore_errors=True)
            taken = take()
            target = folder / key(kernel, taken)
            if not all((target / name).is_file() for name in _FILES):
                _build(kernel, taken, target, jobs, say)
    except OSError as error:
        raise ConfigError(f"cache {folder}: {error.strerror or error}") from error
    return Kernel(target)


def find(kernel: str, folder: Path) -> Kernel:
    """Return the `kernel` that get() made last of Debian's source, and build nothing.

    Raises KernelError, whose text has the command that builds it, when it is not there: perhaps
    since the source, the patches, the configuration or the compiler is another one now.
    """
    taken = source.kept(source.DEFAULT, folder)
    if taken is not None:
        target = folder / key(kernel, taken)
        if all((target / name).is_file() for name in _FILES):
            return Kernel(target)
    raise KernelError(f"there is no kernel of ours yet: pvlock kernel build {kernel} makes it")


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `path`: the kernel lets go of it when a process dies, however it does."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds a kernel: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(kernel: str, taken: Source, target: Path, jobs: int, say: Callable[[str], None]) -> None:
    patches = series.patches(kernel)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=source.TEMPORARY) as temporary:
        tree, made = Path(temporary) / "linux", Path(temporary) / "made"
        tree.mkdir()
        made.mkdir()
        say(f"unpacking {taken.name}")
        taken.unpack(tree)
        version = source.version_of(tree)
        say(f"applying {len(patches)} patches to Linux {version}")
        source.apply(patches, tree)
        make = _Make(tree, target.parent / LOG)
        fragment = series.fragment(kernel)
        make.run(["allnoconfig"], {"KCONFIG_ALLCONFIG": str(fragment)})
        refuse_missing(fragment.read_text("utf-8"), (tree / ".config").read_text("utf-8"), version)
        say(f"compiling Linux {version} with {tools.compiler_version()}, {jobs} at a time")
        make.run([f"-j{jobs}", "Image"], {}, _Progress(say))
        shutil.copyfile(tree / "arch/arm64/boot/Image", made / "Image")
        shutil.copyfile(tree / ".config", made / "config")
        (made / "source").write_text(f"{taken.name} (Linux {version})\n", "utf-8")
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    say(f"built in {time.monotonic() - began:.0f} s")


def refuse_missing(fragment: str, config: str, version: str) -> None:
    """Raise KernelError when an option of `fragment` did not make it into `config`.

    make drops an option in silence that does not exist, or whose conditions are not met.
    """
    have = set(config.splitlines())
    wanted = [line for line in fragment.splitlines() if line.startswith("CONFIG_")]
    missing = [line for line in wanted if line not in have]
    if missing:
        raise KernelError(f"Linux {version} cannot be configured so: {', '.join(missing)}")


class _Progress:
    """Says now and then how many files have been compiled."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._count, self._began = say, 0, time.monotonic()

    def __call__(self, line: str) -> None:
        if not re.match(r"  (CC|AS)\s", line):
            return
        self._count += 1
        if self._count % _STEP == 0:
            self._say(f"{self._count} files in {time.monotonic() - self._began:.0f} s")


class _Make:
    """`make` in a tree. What it says goes to a log, which stays when it fails."""

    def __init__(self, tree: Path, log: Path) -> None:
        self._tree, self._log = tree, log
        # Nothing of the user's environment may decide what the kernel is.
        self._environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self._environment |= {"LC_ALL": "C", "ARCH": "arm64", **_STAMPS}
        if tools.CROSS_COMPILE:
            self._environment["CROSS_COMPILE"] = tools.CROSS_COMPILE

    def run(
        self, arguments: Sequence[str], more: dict[str, str],
        see: Callable[[str], None] = lambda _line: None,
    ) -> None:  # fmt: skip
        """Run make; `see` gets each line of what it says. Raises KernelError when it fails."""
        lines = []
        # A session of its own: all that make started can be ended at once.
        with subprocess.Popen(
            ["make", *arguments], cwd=self._tree, env=self._environment | more, text=True,
            errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout
            try:
                for line in process.stdout:
                    lines.append(line)
                    see(line)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode:
            reason = next((line for line in lines if _COMPLAINT.search(line)), *lines[-1:] or ["?"])
            where = ""
            # On a full disk there is no log either, and the reason matters more.
            with contextlib.suppress(OSError):
                self._log.write_text("".join(lines), "utf-8")
                where = f"; all that make said: {self._log}"
            raise KernelError(f"make {arguments[-1]} failed: {reason.strip()}{where}")
