# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock kernel fetch`: Debian's own kernel and a busybox, and one line where that cannot be."""

import gzip
import io
import os
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from command_line import complaint, pvlock
from kernels import kernel, zboot_of
from pvlock import image
from pvlock.cli import initrd
from pvlock.errors import ConfigError, LabError
from pvlock.kernel import debian, fetch
from pvlock.lab import apt

KERNEL = kernel(0x1100)
NOWHERE = "http://127.0.0.1:9/debian"


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with Debian's kernel in it, from the archive."""
    for name in ("apt-get", "dpkg-deb"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    if not debian.KEYRING.exists():
        pytest.skip("needs debian-archive-keyring")
    cache = tmp_path_factory.mktemp("kernels")
    fetch.get("trixie", "cloud-arm64", cache, None, quiet)
    return cache


def test_debian_s_kernel_can_be_opened(fetched: Path) -> None:
    made = fetch.get("trixie", "cloud-arm64", fetched, NOWHERE, quiet)
    assert made.version.startswith("linux-image-6.12.")
    with image.opened(made.kernel) as opened:
        assert opened.kind is image.Kind.LINUX
        assert opened.page_size == 4096
    disk = initrd.read(made.initrd, pytest.fail)
    for name in ("init", "usr/bin/busybox", "etc/inittab", "etc/rc", "dev"):
        assert name.encode() + b"\0" in disk
    assert b"\x7fELF" in disk
    for path in fetch.GUEST.iterdir():
        assert path.read_bytes() in disk
    assert [path.name for path in fetched.iterdir()] == [made.folder.name]


@pytest.mark.parametrize("form", ["gzip", "zboot zstd22"])
def test_debian_s_kernel_in_other_forms(fetched: Path, form: str, tmp_path: Path) -> None:
    plain = fetch.get("trixie", "cloud-arm64", fetched, NOWHERE, quiet).kernel.read_bytes()
    data = gzip.compress(plain, 1) if form == "gzip" else zboot_of("zstd22", plain)
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    with image.opened(path) as opened:
        (segment,) = opened.segments
        assert segment.data[:] == plain
        assert opened.page_size == 4096


def test_the_command(fetched: Path, tmp_path: Path) -> None:
    command = ["kernel", "fetch", "--cache", str(fetched), "--mirror", NOWHERE, "--out"]
    out = tmp_path / "out"
    done = pvlock(*command, str(out))
    assert (done.status, done.err) == (0, "")
    vmlinuz, disk, line = done.out.splitlines()
    assert (vmlinuz, disk) == (str(out / "vmlinuz"), str(out / "initrd"))
    assert shlex.split(line) == [
        "pvlock", "run", "--kernel", vmlinuz, "--initrd", disk, "--append", "console=ttyAMA0",
        "--vcpus", "4", "--pcpus", "2",
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["initrd", "vmlinuz"]
    done = pvlock(*command, str(tmp_path / "b"), "--no-initrd")
    assert "initrd" not in done.out
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["vmlinuz"]


def test_a_mirror_that_is_not_there(fetched: Path) -> None:
    """What is kept stays, also if it was to be fetched again."""
    before = sorted(fetched.rglob("*"))
    with pytest.raises(
        LabError, match=r"^apt-get update failed: E: Failed to fetch http://127"
    ) as e:
        fetch.get("trixie", "cloud-arm64", fetched, NOWHERE, quiet, refresh=True)
    assert "\n" not in str(e.value)
    assert sorted(fetched.rglob("*")) == before


# -- with programs that stand for Debian's --

TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
exec {python} {body} "$(basename "$0")" "$@"
"""
BODY = """
import os, shutil, sys
tool, *arguments = sys.argv[1:]
arguments = [each for each in arguments if not each.startswith("-")]
if tool == os.environ.get("FAILS"):
    print("W: a warning\\nE: it is broken\\nE: more", file=sys.stderr)
    sys.exit(100)
match tool, arguments:
    case "apt-get", ["download", package]:
        shutil.copy(os.environ["PACKAGES"] + "/" + package.split("-")[0], package + "_1_arm64.deb")
    case "apt-cache", ["depends", package]:
        print(package + "\\n  Depends: linux-image-9")
    case "apt-cache", ["show", package]:
        print("Package: " + package + "\\nVersion: 9.1\\nSize: 5000000\\n")
    case "dpkg-deb", [path]:
        data = open(path, "rb").read()
        if data.startswith(b"FAIL"):
            sys.stdout.buffer.write(data[4:])
            sys.exit(2)
        sys.stdout.buffer.write(data)
"""


def package_of(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in (("./etc/x", b"x"), (name, data), ("./usr/y", bytes(1 << 20))):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs named as Debian's, whose archive has a small kernel; returns what they log."""
    folder, packages = tmp_path / "bin", tmp_path / "packages"
    folder.mkdir()
    packages.mkdir()
    (folder / "body.py").write_text(BODY)
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        script = folder / name
        script.write_text(TOOL.format(python=sys.executable, body=folder / "body.py"))
        script.chmod(0o755)
    (packages / "linux").write_bytes(package_of("./boot/vmlinuz-9", KERNEL))
    (packages / "busybox").write_bytes(package_of("./usr/bin/busybox", b"\x7fELF"))
    keyring = tmp_path / "keyring"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRING", keyring)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PACKAGES", str(packages))
    return tmp_path / "log"


def test_it_is_fetched_once_and_again_when_asked(tools: Path, tmp_path: Path) -> None:
    said: list[str] = []
    cache = tmp_path / "cache"
    made = fetch.get("bookworm", "rt-arm64", cache, None, said.append)
    assert made.kernel.read_bytes() == KERNEL
    assert said == [
        "reading Debian's list of packages (bookworm, arm64)",
        "downloading linux-image-9, 5.0 MB",
        "downloading busybox-static, 5.0 MB",
        f"linux-image-9 9.1 is ready: 0 MB in {made.folder}",
    ]
    log = tools.read_text()
    assert "apt-cache -q depends linux-image-rt-arm64" in log
    assert fetch.get("bookworm", "rt-arm64", cache, None, said.append) == made
    assert tools.read_text() == log
    (made.folder / "vmlinuz").write_bytes(b"old")
    fetch.get("bookworm", "rt-arm64", cache, None, quiet, refresh=True)
    assert made.kernel.read_bytes() == KERNEL
    (made.folder / "initrd").unlink()
    fetch.get("bookworm", "rt-arm64", cache, None, quiet)
    assert made.initrd.exists()
    assert [path.name for path in cache.iterdir()] == [made.folder.name]
    assert made.folder.name != fetch.key("bookworm", "arm64")


@pytest.mark.parametrize("tool", ["apt-get", "apt-cache"])
def test_apt_s_own_words(
    tools: Path, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", tool)
    with pytest.raises(LabError, match=rf"^{tool} \w+ failed: E: it is broken$"):
        fetch.get("trixie", "arm64", tmp_path / "cache", None, quiet)
    assert list((tmp_path / "cache").iterdir()) == []


CUT_OFF = package_of("./boot/vmlinuz-9", KERNEL)[:2500]


@pytest.mark.parametrize(
    ("package", "data", "message"),
    [
        ("linux", b"", "linux-image-9_1_arm64.deb: is broken: "),
        (
            "linux",
            package_of("./boot/vmlinuz-9", KERNEL)[:2500],
            "linux-image-9_1_arm64.deb: is broken: ",
        ),
        ("linux", package_of("./boot/config", b""), "linux-image-9_1_arm64.deb: the file that"),
        ("linux", b"FAIL" + bytes(20000), "linux-image-9_1_arm64.deb: is broken"),
        ("busybox", b"nonsense" * 1000, "busybox-static_1_arm64.deb: is broken: "),
    ],
)
def test_a_broken_package(
    tools: Path, package: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "packages" / package).write_bytes(data)
    with pytest.raises(LabError) as caught:
        fetch.get("trixie", "arm64", tmp_path / "cache", None, quiet)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_packages_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "no.gpg")
    with pytest.raises(LabError) as caught:
        fetch.get("trixie", "arm64", tmp_path / "cache", None, quiet)
    assert str(caught.value) == (
        f"apt-get, apt-cache, dpkg-deb, {tmp_path}/no.gpg: not here; pvlock kernel fetch needs "
        "the packages apt, dpkg and debian-archive-keyring"
    )


def test_a_flavour_that_a_suite_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch.get("bookworm", "arm64-16k", tmp_path, None, quiet)
    assert str(caught.value) == (
        "Debian bookworm has no arm64-16k; it has cloud-arm64, arm64, rt-arm64"
    )


def test_the_sources_are_debian_s_alone(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "options", lambda: ['Acquire::http::Proxy "http://proxy";'])
    debian.Archive("trixie", "http://mirror/debian", tmp_path / "apt")
    assert (tmp_path / "apt/sources.list").read_text() == (
        f"deb [signed-by={tmp_path}/keyring] http://mirror/debian trixie main\n"
    )
    configuration = (tmp_path / "apt/apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy";\n' in configuration
    assert f'Dir::State "{tmp_path}/apt/";\n' in configuration


def test_where_it_cannot_be_put(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for option, named in (("--out", "--out"), ("--cache", "cache")):
        target = tmp_path / "file" / "x"
        done = pvlock("kernel", "fetch", option, str(target))
        assert done.status == 2
        assert complaint(done) == f"pvlock: {named} {target}: Not a directory"


def test_no_mirror_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "mirror", lambda: None)
    with pytest.raises(LabError, match="names no Debian archive: name one by --mirror URI"):
        debian.Archive("trixie", None, tmp_path / "apt")
