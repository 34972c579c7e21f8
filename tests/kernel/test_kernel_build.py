# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock kernel build` on a tree that looks like a kernel's and is built in no time."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from command_line import ENVIRONMENT, Done, complaint
from pvlock.errors import KernelError
from pvlock.kernel import build, fetch, series, source, tools

# Runs the command line with the series in argv[1].
DRIVER: Final = """
import sys
from pathlib import Path
from pvlock import cli
from pvlock.kernel import series
folder = Path(sys.argv.pop(1))
series.folder = lambda: folder
cli.main()
"""
PATCH: Final = """\
From: somebody
Subject: [PATCH 1/1] greeting: Be polite

---
--- a/greeting
+++ b/greeting
@@ -1,2 +1,2 @@
 one
-two
+three
"""
MAKEFILE: Final = """\
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 99
allnoconfig:
\t@grep -v DROPPED $(KCONFIG_ALLCONFIG) > .config
Image:
\t@echo "  CC      init/main.o"
\t@echo built >> COUNT
\t@mkdir -p arch/arm64/boot
\t@cat greeting > arch/arm64/boot/Image
\t@env | grep '^KBUILD\\|^ARCH\\|^CROSS\\|^LC_ALL\\|^EXTRA' | sort >> arch/arm64/boot/Image
\tACTION
"""


class Bench:
    """A series of one patch, a tree that it applies to, and programs that were missing."""

    def __init__(self, folder: Path) -> None:
        self.series, self.tree = folder / "linux", folder / "tree"
        self.cache, self.count, self.programs = (
            folder / name for name in ("cache", "count", "bin")
        )
        for name in ("patches", "config"):
            (self.series / name).mkdir(parents=True)
        (self.series / "series").write_text("# a comment\n\n0001.patch # guest host\n")
        self.patch = self.series / "patches" / "0001.patch"
        self.patch.write_text(PATCH)
        self.fragment = self.series / "config" / "guest.config"
        self.fragment.write_text("CONFIG_ONE=y\n")
        (self.tree / "arch" / "arm64").mkdir(parents=True)
        (self.tree / "arch" / "arm64" / "Kconfig").touch()
        (self.tree / "greeting").write_text("one\ntwo\n")
        self.act("true")
        self.programs.mkdir()
        for name in tools.PACKAGES:
            if name == tools.COMPILER or shutil.which(name) is None:
                (self.programs / name).write_text("#!/bin/sh\necho fake 1.0\n")
                (self.programs / name).chmod(0o755)
        self.environment = ENVIRONMENT | {"PATH": f"{self.programs}:{os.environ['PATH']}"}

    def act(self, command: str) -> None:
        """Let the build end with a command."""
        text = MAKEFILE.replace("COUNT", str(self.count)).replace("ACTION", command)
        (self.tree / "Makefile").write_text(text)

    def built(self) -> int:
        """How often something was built."""
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0

    def command(self, *options: str) -> list[str]:
        return [
            *(sys.executable, "-c", DRIVER, str(self.series), "kernel", "build", "guest"),
            *("--source", str(self.tree), "--cache", str(self.cache), *options),
        ]

    def run(self, *options: str) -> Done:
        done = subprocess.run(
            self.command(*options),
            capture_output=True, text=True, env=self.environment, timeout=120, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(), text=True, env=self.environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def left(self) -> list[str]:
        """What is in the cache beside the lock."""
        return sorted(path.name for path in self.cache.iterdir() if path.name != "lock")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    for name in ("make", "patch", "gcc"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    return Bench(tmp_path)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_kernel_is_built_once_and_kept(bench: Bench) -> None:
    first = bench.run()
    assert first.status == 0, first.err
    path, sha, what = first.out.splitlines()
    data = Path(path).read_bytes()
    assert data.startswith(b"one\nthree\n")
    assert sha == f"sha256 {hashlib.sha256(data).hexdigest()}"
    assert what == f"source Linux 6.12.99 in {bench.tree} (Linux 6.12.99)"
    assert "applying 1 patches to Linux 6.12.99" in first.err
    assert (Path(path).parent / "config").read_text() == "CONFIG_ONE=y\n"
    again = bench.run()
    assert (again.status, again.out, again.err) == (0, first.out, "")
    assert bench.built() == 1
    # The tree is as it was.
    assert (bench.tree / "greeting").read_text() == "one\ntwo\n"
    assert not (bench.tree / ".config").exists()


def test_what_is_built_again(bench: Bench) -> None:
    images = set()

    def change(path: Path, text: str) -> None:
        path.write_text(text)

    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: change(bench.tree / "greeting", "one\ntwo\nfour\n"),
        lambda: change(bench.patch, PATCH.replace("+three", "+five")),
        lambda: change(bench.fragment, "CONFIG_TWO=y\n"),
        lambda: change(bench.programs / tools.COMPILER, "#!/bin/sh\necho fake 2.0\n"),
    ]
    for number, act in enumerate(changes, start=1):
        act()
        done = bench.run()
        assert done.status == 0, done.err
        images.add(done.out.splitlines()[0])
        assert bench.built() == len(images) == number


def test_the_environment_decides_nothing(bench: Bench) -> None:
    bench.environment |= {"KBUILD_BUILD_USER": "me", "ARCH": "x86", "EXTRA_CFLAGS": "-O0"}
    done = bench.run("--jobs", "3")
    text = Path(done.out.splitlines()[0]).read_text()
    expected = {**build._STAMPS, "ARCH": "arm64", "LC_ALL": "C"}
    del expected["LOCALVERSION"]
    if tools.CROSS_COMPILE:
        expected["CROSS_COMPILE"] = tools.CROSS_COMPILE
    seen = dict(line.split("=", 1) for line in text.splitlines()[2:])
    assert seen == expected


def test_out(bench: Bench, tmp_path: Path) -> None:
    target = tmp_path / "Image"
    done = bench.run("--out", str(target))
    assert done.status == 0, done.err
    assert done.out.splitlines()[0] == str(target)
    assert target.read_bytes().startswith(b"one\nthree\n")
    full = bench.run("--out", "/dev/full")
    assert complaint(full) == "pvlock: --out /dev/full: No space left on device"
    nowhere = bench.run("--out", str(tmp_path / "no" / "Image"))
    assert complaint(nowhere).endswith("No such file or directory")
    assert bench.built() == 1


def test_a_patch_that_does_not_apply(bench: Bench) -> None:
    (bench.tree / "greeting").write_text("six\nseven\n")
    done = bench.run()
    assert done.status == 1
    (line,) = [line for line in done.err.splitlines() if "does not apply" in line]
    assert line.startswith("pvlock: 0001.patch does not apply to Linux 6.12.99: ")
    assert bench.left() == []
    assert bench.built() == 0


def test_an_option_that_is_dropped(bench: Bench) -> None:
    bench.fragment.write_text("CONFIG_ONE=y\nCONFIG_DROPPED=y\nCONFIG_DROPPED_TOO=y\n")
    last = bench.run().err.splitlines()[-1]
    words = "cannot be configured so: CONFIG_DROPPED=y, CONFIG_DROPPED_TOO=y"
    assert last == f"pvlock: Linux 6.12.99 {words}"


def test_a_compiler_s_error(bench: Bench) -> None:
    bench.act("@echo 'init/main.c:1:2: error: no good'; echo more; exit 1")
    done = bench.run()
    assert done.status == 1
    log = bench.cache / build.LOG
    last = done.err.splitlines()[-1]
    assert last.startswith("pvlock: make Image failed: init/main.c:1:2: error: no good; ")
    assert last.endswith(f": {log}")
    assert "more\n" in log.read_text()
    assert bench.left() == [build.LOG]


def test_a_full_disk(bench: Bench) -> None:
    bench.act("@echo 'cc1: fatal: No space left on device'; exit 1")
    last = bench.run().err.splitlines()[-1]
    assert "No space left on device" in last


def test_a_tree_that_is_no_kernel(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for there in (False, True):
        if there:
            other.mkdir()
        done = bench.run("--source", str(other))
        assert complaint(done) == f"pvlock: {other}: is no kernel's source: it has no Makefile"
    (other / "Makefile").write_text("all:\n")
    assert complaint(bench.run("--source", str(other))).endswith("is no source of Linux for arm64")
    (bench.tree / ".config").touch()
    assert complaint(bench.run()).endswith("run make mrproper there")


def test_a_cache_that_cannot_be_written(bench: Bench) -> None:
    bench.cache.write_text("a file")
    assert complaint(bench.run()) == f"pvlock: cache {bench.cache}: File exists"


def test_missing_programs(bench: Bench) -> None:
    for name in ("gcc", "make", "patch"):
        (bench.programs / name).symlink_to(str(shutil.which(name)))
    # The words for a host whose packages come by it.
    (bench.programs / "apt-get").touch(mode=0o755)
    (bench.programs / "bc").unlink(missing_ok=True)
    (bench.programs / tools.COMPILER).unlink(missing_ok=True)
    bench.environment |= {"PATH": str(bench.programs)}
    line = complaint(bench.run())
    assert line.startswith(f"pvlock: {tools.COMPILER}, ")
    packages = line.partition("apt-get install ")[2].split()
    assert {"bc", tools.PACKAGES[tools.COMPILER]} <= set(packages)
    assert "make" not in packages


@pytest.fixture
def waiting(bench: Bench) -> Iterator["subprocess.Popen[str]"]:
    """A build that does not end by itself; its make, and its make's sleep, do neither."""
    bench.act("@sleep 1000")
    with bench.start() as process:
        until(lambda: bench.built() == 1)
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(bench: Bench, waiting: "subprocess.Popen[str]", number: int) -> None:
    (make,) = children(waiting.pid)
    waiting.send_signal(number)
    _out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 128 + number
    assert "Traceback" not in err
    assert bench.left() == []
    until(lambda: is_gone(make))


def test_killed_and_then_built(bench: Bench, waiting: "subprocess.Popen[str]") -> None:
    (make,) = children(waiting.pid)
    waiting.kill()
    waiting.wait()
    os.killpg(make, signal.SIGKILL)
    assert bench.left() != []
    bench.act("true")
    done = bench.run()
    assert done.status == 0, done.err
    assert bench.left() == [Path(done.out.splitlines()[0]).parent.name]


def test_two_at_once(bench: Bench, tmp_path: Path) -> None:
    go = tmp_path / "go"
    bench.act(f"@until [ -e {go} ]; do sleep 0.05; done")
    both = [bench.start(), bench.start()]
    try:
        until(lambda: bench.built() == 1)
        # One of them has a make. The other waits, and says so, before that one may go on.
        until(lambda: any(has_make(process.pid) for process in both))
        (waits,) = [process for process in both if not has_make(process.pid)]
        assert waits.stderr is not None
        assert waits.stderr.readline() == (
            "pvlock: another process builds a kernel: waiting for it\n"
        )
        go.touch()
        outputs = [process.communicate(timeout=60)[0] for process in both]
    finally:
        go.touch()
        for process in both:
            process.kill()
            process.communicate()
    assert outputs[0] == outputs[1] != ""
    assert bench.built() == 1


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


def has_make(process: int) -> bool:
    return any(Path(f"/proc/{pid}/comm").read_text() == "make\n" for pid in children(process))


def is_gone(group: int) -> bool:
    """Say whether a process group has no process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_links_and_modes_are_content(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    digests = {source.Tree(bench.tree).digest}
    (bench.tree / ".git").mkdir()
    (bench.tree / ".git" / "index").touch()
    assert source.Tree(bench.tree).digest in digests
    (bench.tree / "link").symlink_to("greeting")
    digests.add(source.Tree(bench.tree).digest)
    (bench.tree / "greeting").chmod(0o755)
    digests.add(source.Tree(bench.tree).digest)
    assert len(digests) == 3
    copy = tmp_path / "copy"
    copy.mkdir()
    source.Tree(bench.tree).unpack(copy)
    assert (copy / "link").readlink() == Path("greeting")
    assert not (copy / ".git").exists()


def test_a_series_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(series, "folder", lambda: bench.series)
    assert [patch.name for patch in series.patches("host")] == ["0001.patch"]
    (bench.series / "series").write_text("0001.patch # nobody\n")
    with pytest.raises(ValueError, match="nobody"):
        series.patches()


def test_both_commands_keep_to_one_folder() -> None:
    assert fetch.default_folder().name == "kernel"
    with pytest.raises(KernelError):
        source.version_of(Path("/nowhere"))
