# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches in linux/: their form, their numbers, and whether they apply."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import pvlock
from pvlock import abi
from pvlock.kernel import debian, fetch, series, source

PATCHES = series.patches()
NEW_FILE = re.compile(r"^--- /dev/null\n\+\+\+ b/(\S+)\n@@ .*\n\+(.*)\n", re.M)
CHECKPATCH = ("scripts/checkpatch.pl", "scripts/spelling.txt", "scripts/const_structs.checkpatch")
IGNORED = ("FILE_PATH_CHANGES", "SPDX_LICENSE_TAG")
"""The first asks whether MAINTAINERS knows the new files' folders: it does. The second needs a
Python package; test_licences looks instead."""


def text_of(words: str) -> str:
    """Return the patch whose name has `words` in it."""
    (patch,) = [patch for patch in PATCHES if words in patch.name]
    return patch.text


def test_the_series_lists_all_patches() -> None:
    listed = [patch.path for patch in PATCHES]
    assert listed == sorted((series.folder() / "patches").iterdir())
    assert all(patch.kernels for patch in PATCHES)


def test_numbers_and_signatures() -> None:
    for number, patch in enumerate(PATCHES, start=1):
        assert f"\nSubject: [PATCH {number:02}/{len(PATCHES)}] " in patch.text
        assert patch.name.startswith(f"{number:04}-")
        # Only whoever posts a patch can sign it off.
        assert not re.search("^Signed-off-by", patch.text, re.M)
        assert patch.text.startswith(f"From {0:040} ")


def test_licences() -> None:
    found = {name: first for patch in PATCHES for name, first in NEW_FILE.findall(patch.text)}
    assert found
    for name, first in found.items():
        licence = first.partition("SPDX-License-Identifier: ")[2].removesuffix(" */")
        if name.startswith("Documentation/"):
            assert licence == "GPL-2.0", name
        elif "/uapi/" in name:
            assert licence == "GPL-2.0-only WITH Linux-syscall-note", name
        else:
            assert licence == "GPL-2.0-only", name


def test_the_command_prints_them() -> None:
    done = pvlock("kernel", "patches")
    assert (done.status, done.out) == (0, "".join(patch.text for patch in PATCHES))
    guest = pvlock("kernel", "patches", "--for", "guest").out
    assert guest == "".join(patch.text for patch in PATCHES if "guest" in patch.kernels)


def test_numbers_are_the_interface_s() -> None:
    text = text_of("calls-and-the-structure")
    for name, value in (
        ("FEATURES", abi.PV_LOCK_FEATURES),
        ("PREEMPTED", abi.PV_LOCK_PREEMPTED),
    ):
        define = re.search(
            rf"define ARM_SMCCC_VENDOR_HYP_PV_LOCK_{name}\b.*\n.*FAST_CALL.*\n.*SMC_64.*\n"
            rf".*OWNER_VENDOR_HYP.*\n\+\s+(0x\w+)\)\n",
            text,
        )
        assert define is not None
        assert 1 << 31 | 1 << 30 | 6 << 24 | int(define[1], 0) == value
    uid = re.findall(r"PVLOCK_UID_REG_(\d)\t(0x\w+)U", text)
    assert [(str(i), f"{word:#010x}") for i, word in enumerate(abi.uid_words())] == uid
    assert f"u8 padding[{abi.STRUCTURE_SIZE - 8}];" in text
    assert f'"{abi.DT_COMPATIBLE}"' in text_of("Ask-PV-lock")
    document = text_of("Documentation")
    for word in (f"{abi.PV_LOCK_FEATURES:#X}", f"{abi.PV_LOCK_PREEMPTED:#X}"):
        assert word.replace("X", "x", 1) in document
    assert str(abi.HYPERVISOR_UID) in document
    assert f'"{abi.DT_COMPATIBLE}"' in document


def test_the_configuration_is_for_allnoconfig() -> None:
    for line in series.fragment("guest").read_text().splitlines():
        assert re.fullmatch(r"(CONFIG_\w+=\w+|#.*|)", line)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a git tree with what the patches touch of Debian's source."""
    for name in ("apt-get", "dpkg-deb", "git", "patch", "perl", "tar", "xz"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    if not debian.KEYRING.exists():
        pytest.skip("needs debian-archive-keyring")
    made: dict[str, Path] = {}

    def make(linux: str) -> Path:
        if linux not in made:
            folder = tmp_path_factory.mktemp(f"linux-{linux}-")
            cache = fetch.default_folder()
            cache.mkdir(parents=True, exist_ok=True)
            package = source.package(linux, cache, None, lambda _text: None, refresh=False)
            touched = {
                name for patch in PATCHES for name in re.findall(r"^--- a/(\S+)", patch.text, re.M)
            }
            new = {name for patch in PATCHES for name, _first in NEW_FILE.findall(patch.text)}
            names = {*touched - new, *CHECKPATCH, "Makefile", "arch/arm64/Kconfig"}
            archive = package.folder / "source.tar.xz"
            subprocess.run(
                [
                    *("tar", "-xJf", str(archive), "-C", str(folder), "--strip-components=1"),
                    *(f"linux-source-{linux}/{name}" for name in sorted(names)),
                ],
                check=True,
            )
            git(folder, "init", "-q")
            git(folder, "add", "-f", "-A")
            git(folder, "commit", "-q", "-m", linux)
            made[linux] = folder
        return made[linux]

    return make


def git(folder: Path, *arguments: str, text: str | None = None) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", *arguments],
        cwd=folder, input=text, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("linux", "kernel", "options"),
    [("6.12", None, ()), ("6.12", "host", ()), ("6.12", "guest", ()), ("6.1", "guest", ("-C1",))],
)
def test_they_apply(
    tree: Callable[[str], Path], linux: str, kernel: str | None, options: tuple[str, ...]
) -> None:
    """By `git am`, and as `pvlock kernel build` applies them: with one result."""
    folder = tree(linux)
    wanted = series.patches(kernel)
    printed = pvlock("kernel", "patches", *(["--for", kernel] if kernel else [])).out
    git(folder, "am", "-q", *options, text=printed)
    subjects = git(folder, "log", "--format=%s", f"-{len(wanted)}").splitlines()
    assert len(set(subjects)) == len(wanted)
    by_am = git(folder, "rev-parse", "HEAD^{tree}")
    git(folder, "reset", "-q", "--hard", f"HEAD~{len(wanted)}")
    source.apply(wanted, folder)
    git(folder, "add", "-f", "-A")
    assert git(folder, "write-tree") == by_am
    git(folder, "reset", "-q", "--hard")


def test_the_experiment_applies_on_top_of_them(tree: Callable[[str], Path]) -> None:
    folder = tree("6.12")
    path = series.folder() / "experiments" / "yield-by-hint.patch"
    source.apply([*series.patches("guest"), series.Patch(path, ("guest",))], folder)
    assert (folder / "arch/arm64/kernel/pvhint.c").read_text().count("PV_YIELD_TO") == 3
    git(folder, "reset", "-q", "--hard")
    git(folder, "clean", "-fdxq")


def test_checkpatch_has_nothing_to_say(tree: Callable[[str], Path]) -> None:
    folder = tree("6.12")
    done = subprocess.run(
        [
            *("perl", str(folder / CHECKPATCH[0]), "--no-tree", "--strict", "--no-signoff"),
            *("--terse", "--no-summary", "--ignore", ",".join(IGNORED)),
            *(str(patch.path) for patch in PATCHES),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    complaints = [line for line in done.stdout.splitlines() if re.search("ERROR|WARN|CHECK", line)]
    assert complaints == []
    assert done.returncode == 0, done.stdout + done.stderr
