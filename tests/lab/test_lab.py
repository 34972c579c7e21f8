# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock lab` without QEMU: its image, what goes in and out, how it ends (see test_lab_qemu)."""

import io
import os
import re
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import ENVIRONMENT, PVLOCK, Done, complaint
from pvlock.cli import lab as lab_command
from pvlock.errors import LabError
from pvlock.lab import apt, cpio, files, host, image, payload, recipe, relay, tools

PATIENCE_S = 60


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Return mode and contents by name, of all archives, as the kernel's documentation says."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        data = at + (110 + length + 3) // 4 * 4
        at = data + (size + 3) // 4 * 4
        if name != b"TRAILER!!!\0":
            path = name[:-1].decode()
            parent = path.rpartition("/")[0]
            assert not parent or stat.S_ISDIR(found[parent][0]), f"{path} comes before its folder"
            found[path] = mode, archive[data : data + size]
    assert at == len(archive)
    return found


def small_archive(text: bytes) -> bytes:
    buffer = io.BytesIO()
    writer = cpio.Writer(buffer)
    writer.folder("tmp", 0o1777)
    writer.add("a/b/c", text, 0o755, mtime=5)
    writer.add("a/b/d", b"")
    writer.link("l", "a/b/c")
    writer.close()
    return buffer.getvalue()


def test_archive() -> None:
    for size in range(9):
        found = entries(small_archive(b"x" * size))
        assert list(found) == ["tmp", "a", "a/b", "a/b/c", "a/b/d", "l"]
        assert found["tmp"] == (stat.S_IFDIR | 0o1777, b"")
        assert found["a/b/c"] == (stat.S_IFREG | 0o755, b"x" * size)
        assert found["l"] == (stat.S_IFLNK | 0o777, b"a/b/c")


def test_archives_one_behind_the_other() -> None:
    assert entries(small_archive(b"one") + small_archive(b"two"))["a/b/c"][1] == b"two"
    assert small_archive(b"one") == small_archive(b"one")


def test_image_is_named_by_what_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = image.key(["a", "b"])
    assert name == image.key(["b", "a"]) != image.key(["a"])
    for path in recipe.GUEST.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() + b"# changed\n")
    monkeypatch.setattr(recipe, "GUEST", tmp_path)
    assert image.key(["a", "b"]) != name


DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
OF_OTHERS = """\
Types: deb
URIs: https://packages.example/apt
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/example.gpg
"""
LINES = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/example.gpg] https://packages.example bookworm main
deb http://security.example/debian-security bookworm-security main
deb [ arch=amd64 ] http://lines.example/debian bookworm main contrib
"""


@pytest.mark.parametrize(
    ("system", "sources", "expected"),
    [
        ("debian", {"sources.list.d/debian.sources": DEB822}, "http://mirror.example/debian"),
        ("debian", {"sources.list": LINES}, "http://lines.example/debian"),
        (
            "debian",
            {"sources.list.d/a.sources": OF_OTHERS, "sources.list.d/b.sources": DEB822},
            "http://mirror.example/debian",
        ),
        ("debian", {"sources.list.d/debian.sources": DEB822 + "Enabled: no\n"}, None),
        ("debian", {"sources.list.d/debian.sources": OF_OTHERS + "\n" + DEB822[12:]},
         "http://mirror.example/debian"),
        ("debian", {"sources.list.d/debian.sources.bak": DEB822}, None),
        ("ubuntu", {"sources.list.d/debian.sources": DEB822}, None),
        ("debian", {}, None),
    ],
)  # fmt: skip
def test_mirror_of_this_machine(
    tmp_path: Path, system: str, sources: dict[str, str], expected: str | None
) -> None:
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    release = f'PRETTY_NAME="X"\nID={system}\nVERSION_CODENAME="bookworm"\n'
    (tmp_path / "etc/os-release").write_text(release)
    for name, text in sources.items():
        (tmp_path / "etc/apt" / name).write_text(text)
    assert apt.mirror(tmp_path) == expected


def test_no_mirror_where_there_is_no_release_file(tmp_path: Path) -> None:
    assert apt.mirror(tmp_path) is None


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that makes a Python program NAME; only such programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def program(name: str, text: str) -> None:
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)

    return program


MMDEBSTRAP = """
import io, pathlib, sys, tarfile, time
log = pathlib.Path(__file__).with_name("log")
with log.open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
time.sleep(0.5)
kernel = bytes(0x38) + b"ARMd" + bytes(8)
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    for name, data in {
        "./boot/vmlinuz-6.12": kernel, "./usr/bin/busybox": b"busybox", "./usr/bin/x": b"x",
        "./usr/share/doc/x": b"dropped",
    }.items():
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o755
        tar.addfile(member, io.BytesIO(data))
    link = tarfile.TarInfo("./usr/bin/y")
    link.type, link.linkname = tarfile.SYMTYPE, "x"
    tar.addfile(link)
"""


def test_image_is_made_of_what_mmdebstrap_delivers(
    programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    programs("mmdebstrap", MMDEBSTRAP)
    said: list[str] = []
    made = image.get(tmp_path / "cache", ["strace"], "http://mirror.example/debian", said.append)
    arguments = (tmp_path / "bin/log").read_text()
    assert "http://mirror.example/debian" in arguments
    assert all(name in arguments for name in ("strace", *recipe.PACKAGES, recipe.SUITE))
    kernel = made.kernel.read_bytes()
    assert kernel[0x38:0x3C] == b"ARMd"
    root = entries(made.initrd.read_bytes())
    assert root["usr/bin/x"] == (stat.S_IFREG | 0o755, b"x")
    assert root["bin"][1] == b"usr/bin"
    assert root["guest/Image"][1] == kernel
    assert not any(name.startswith("usr/share/doc") for name in root)
    guest = entries(root["guest/initrd"][1])
    assert guest["usr/bin/busybox"][1] == b"busybox"
    assert guest["init"][1] == b"bin/busybox"
    assert "building" in said[0]
    said.clear()
    assert image.get(tmp_path / "cache", ["strace"], None, said.append) == made
    assert not said
    # Other packages make another image.
    assert image.get(tmp_path / "cache", [], None, said.append) != made
    (tmp_path / "cache/of-the-user").mkdir()
    assert image.clean(tmp_path / "cache") > 2 * len(kernel)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["lock", "of-the-user"]


def test_two_at_once_build_one_image(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs("mmdebstrap", MMDEBSTRAP)
    got: list[image.Image] = []

    def build() -> None:
        got.append(image.get(tmp_path / "cache", [], None, lambda _text: None))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(got) == 3
    assert len(set(got)) == 1
    assert len((tmp_path / "bin/log").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('I: so far so good\\nE: no network\\nE: mmdebstrap failed')",
         "mmdebstrap failed: E: no network"),
        (MMDEBSTRAP.replace("ARMd", "MZ\\0\\0"), "raw arm64 Image"),
        ("print('no archive')", "not whole"),
        (MMDEBSTRAP + "sys.exit(1)", "mmdebstrap failed"),
    ],
)  # fmt: skip
def test_image_that_cannot_be_built_leaves_nothing(
    programs: Callable[[str, str], None], tmp_path: Path, program: str, words: str
) -> None:
    programs("mmdebstrap", program)
    (tmp_path / "cache/new.killed").mkdir(parents=True)
    with pytest.raises(LabError, match=words):
        image.get(tmp_path / "cache", [], None, lambda _text: None)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


@pytest.mark.parametrize("missing", tools.NAMES)
def test_missing_programs_are_one_line(
    programs: Callable[[str, str], None], missing: str, tmp_path: Path
) -> None:
    for name in {*tools.NAMES, "apt-get"} - {missing}:  # as on Debian
        programs(name, "")
    done = lab("--cache", str(tmp_path / "cache"), "--", "--version", path=tmp_path / "bin")
    assert done.status == 1
    line = complaint(done)
    assert f"{missing} is missing" in line
    assert "apt-get install" in line
    assert not any((tmp_path / "cache").glob("[!l]*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to run"),
        (["--add", "/none/such", "--", "--version"], "/none/such: no such file"),
        (["--out", "/dev/null", "--", "--version"], "--out /dev/null"),
        (["--package", "not a name", "--build"], "is not the name of a Debian package"),
        (["--cache", "/dev/null/x", "--build"], "/dev/null/x"),
        (["--cpus", "0", "--", "--version"], "--cpus"),
        (["--timeout", "nan", "--", "--version"], "--timeout"),
        (["--", "run", "--trace", "/out/x"], "would be lost with the lab; say --out DIR"),
        (["--out", "/tmp", "--", "run", "--trace=x"], "--trace /out/x after it"),
    ],
)
def test_bad_options_are_one_line(
    programs: Callable[[str, str], None], tmp_path: Path, arguments: list[str], words: str
) -> None:
    for name in tools.NAMES:
        programs(name, "import sys; sys.exit('must not run')")
    options = [] if "--cache" in arguments else ["--cache", str(tmp_path / "cache")]
    done = lab(*options, *arguments, path=tmp_path / "bin")
    assert done.status == 2
    assert words in complaint(done)


def lab(*arguments: str, path: Path | None = None, given: bytes | None = None) -> Done:
    """Run `pvlock lab` with no programs but those in `path`, and with `given` as its input."""
    environment = ENVIRONMENT | ({"PATH": str(path)} if path else {})
    done = subprocess.run(
        [*PVLOCK, "lab", *arguments], input=given if given is not None else b"",
        capture_output=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in out + err
    return Done(done.returncode, out, err)


def written(
    command: list[str],
    added: list[tuple[Path, str]] | None = None,
    distributions: list[str] | None = None,
    bytecode: Path = Path("/none/such"),
) -> dict[str, tuple[int, bytes]]:
    with tempfile.TemporaryFile() as file:
        payload.write(file, command, {"A": "it's"}, added or [], distributions or [], bytecode)
        file.seek(0)
        return entries(file.read())


def test_pvlock_and_what_it_imports_go_in() -> None:
    found = written(["true"])
    site = payload.SITE
    package = Path(payload.__file__).parents[1]
    names = ["abi.py", "lab/init", "guests/mutex.elf", "engines/emulator/engine.py"]
    for name in names:
        assert found[f"{site}/pvlock/{name}"][1] == (package / name).read_bytes()
    for name in ("click", "fdt", "elftools", "rich", "markdown_it"):
        assert f"{site}/{name}/__init__.py" in found
    assert not [name for name in found if re.search(r"\.so|\.pyc|\.pth|/unicorn/", name)]
    assert not any(name.startswith(f"{site}/_pytest") for name in found)
    assert f"{site}/_pytest/__init__.py" in written(["true"], distributions=["pytest"])


def test_what_a_trace_needs_goes_in() -> None:
    """perfetto and protobuf, whose code for this machine's processor is left out."""
    found = written(["true"], distributions=[*lab_command.TRACE_WITH])
    for name in ("perfetto/protos", "google/protobuf/internal/python_message.py"):
        assert any(path.startswith(f"{payload.SITE}/{name}") for path in found)
    assert not [name for name in found if re.search(r"\.so", name)]


def test_python_package_that_is_not_there() -> None:
    with pytest.raises(LabError, match="no-such-package is not installed"):
        written(["true"], distributions=["no-such-package"])


def test_files_of_the_user_go_in(tmp_path: Path) -> None:
    (tmp_path / "sub/__pycache__").mkdir(parents=True)
    (tmp_path / "sub/x.sh").write_text("text")
    (tmp_path / "sub/x.sh").chmod(0o755)
    (tmp_path / "sub/__pycache__/x.pyc").write_text("")
    found = written(["true"], [(tmp_path, "root/here"), (tmp_path / "sub/x.sh", "etc/y")])
    assert found["root/here/sub/x.sh"] == found["etc/y"] == (stat.S_IFREG | 0o755, b"text")
    assert not any("pycache" in name for name in found)


@pytest.mark.parametrize(
    ("destination", "place"),
    [("", "root/x"), (":", "root/x"), (":/a/b", "a/b"), (":/a/", "a/x"), (":/", "x")],
)
def test_where_files_of_the_user_go(tmp_path: Path, destination: str, place: str) -> None:
    (tmp_path / "x").touch()
    assert lab_command._added(f"{tmp_path / 'x'}{destination}") == (tmp_path / "x", place)


def test_kept_bytecode_goes_in(tmp_path: Path) -> None:
    for folder in ("usr/lib", ".new.other/usr/lib"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.cpython-313.pyc").write_bytes(b"code")
    found = written(["true"], bytecode=tmp_path)
    assert found["bytecode/usr/lib/x.cpython-313.pyc"][1] == b"code"
    assert not any("new" in name for name in found if name.startswith("bytecode"))


def test_every_argument_reaches_the_command_as_it_is(tmp_path: Path) -> None:
    command = ["printf", "<%s>", "", "a b", "it's", '"', "$HOME", "\n", "-x", "é", "*", "\\"]
    fragment = tmp_path / "command"
    fragment.write_bytes(written(command)["lab/command"][1])
    script = f'. {fragment}; printf "[%s]" "$A"; "$@"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.decode() == "[it's]" + "".join(f"<{word}>" for word in command[2:])


def tar(members: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def test_files_come_back(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").write_text("kept")
    (tmp_path / "out/b").write_text("old")
    files.unpack(tar({"./a/x": b"1", "./b": b"2"}), tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert found == {"a", "a/x", "b", "kept"}
    assert (tmp_path / "out/b").read_bytes() == b"2"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_files_do_not_leave_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match="sent a file with the name"):
        files.unpack(tar({"good": b"", name: b"bad"}), tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_files_that_are_cut_off_do_not_come_back(tmp_path: Path) -> None:
    whole = tar({"a": b"a", "b": bytes(5000)}).getvalue()
    for size in (0, 100, 1024, 1024 + 10, 3000):
        with pytest.raises(LabError, match="not whole"):
            files.unpack(io.BytesIO(whole[:size]), tmp_path / "out")
        assert not list(tmp_path.glob("out/*"))


def test_arguments_of_qemu() -> None:
    fds = {name: number for number, name in enumerate(relay.CHANNELS, 10)}
    command = host.arguments(host.Host(3, 1500, 1), "KERNEL", "INITRD", fds)
    text = " ".join(command)
    for words in (
        "-M virt,virtualization=on,gic-version=3", "-smp 3", "-m 1500M", "-kernel KERNEL",
        "-initrd INITRD", "-no-reboot", "-serial chardev:kernel",
        "virtconsole,chardev=terminal,nr=0", "virtserialport,chardev=input,nr=1",
        "virtserialport,chardev=bytecode,nr=6",
    ):  # fmt: skip
        assert words in text
    for name, fd in fds.items():
        assert f"socket,id={name},fd={fd}" in command
    init = (Path(host.__file__).parent / "init").read_text()
    ports = {int(number) for number in re.findall(r"/dev/vport0p(\d)", init)}
    assert ports == set(range(1, len(relay.CHANNELS) - 1))


# This program stands for QEMU. It has the channels, and does what its test says.
QEMU = """
import os, re, socket, sys, time
channel = {
    match[1]: socket.socket(fileno=int(match[2]))
    for match in (re.fullmatch(r"socket,id=(\\w+),fd=(\\d+)", word) for word in sys.argv) if match
}
initrd = open(sys.argv[sys.argv.index("-initrd") + 1], "rb").read()
def read_all(name):
    text = b""
    while data := channel[name].recv(1000):
        text += data
    return text
"""


class FakeLab:
    """Runs host.run() with another program in place of QEMU."""

    def __init__(self, folder: Path, programs: Callable[[str, str], None]) -> None:
        self.programs, self.folder = programs, folder
        self.got: dict[str, bytes] = dict.fromkeys(relay.CHANNELS, b"")
        (folder / "initrd").write_bytes(b"base,")

    def run(self, program: str, timeout: float = PATIENCE_S, source: int | None = None) -> int:
        self.programs("qemu-system-aarch64", QEMU + program)

        def sink(name: str) -> Callable[[bytes], object]:
            def add(data: bytes) -> None:
                self.got[name] += data

            return add

        sinks = {name: sink(name) for name in relay.CHANNELS}
        streams = relay.Streams(sinks, source)
        made = image.Image(self.folder)
        return host.run(host.Host(2, 512, timeout), made, io.BytesIO(b"payload"), streams)


@pytest.fixture
def fake_lab(tmp_path: Path, programs: Callable[[str, str], None]) -> FakeLab:
    return FakeLab(tmp_path, programs)


def test_channels_are_kept_apart(fake_lab: FakeLab) -> None:
    status = fake_lab.run("""
channel["status"].send(b"started\\n")
channel["output"].sendall(b"o" * 300_000)
channel["errors"].sendall(b"e")
channel["files"].sendall(initrd)
channel["kernel"].sendall(b"k")
channel["status"].send(b"17\\n")
""")
    assert status == 17
    assert fake_lab.got["output"] == b"o" * 300_000
    assert fake_lab.got["errors"] == b"e"
    assert fake_lab.got["kernel"] == b"k"
    assert fake_lab.got["files"] == b"base,payload"


def test_bytecode_that_is_cut_off_costs_nothing(
    programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    made = tmp_path / "cache" / image.key(recipe.PACKAGES)
    made.mkdir(parents=True)
    for name in ("Image", "initrd"):
        (made / name).write_bytes(b"")
    programs(
        "qemu-system-aarch64",
        QEMU
        + """
channel["status"].send(b"started\\n")
channel["bytecode"].sendall(b"cut off")
channel["status"].send(b"3\\n")
""",
    )
    cache = ("--cache", str(tmp_path / "cache"))
    done = lab(*cache, "--exec", "--", "true", path=tmp_path / "bin")
    assert (done.status, done.err) == (3, "")


def test_input_arrives_whole_and_ends(fake_lab: FakeLab, tmp_path: Path) -> None:
    # This is more than the socket holds, and taken late. It must wait, and not be lost.
    (tmp_path / "input").write_bytes(os.urandom(1_000_000))
    program = """
time.sleep(0.5)
channel["output"].sendall(read_all("input"))
channel["status"].send(b"started\\n0\\n")
"""
    with (tmp_path / "input").open("rb") as file:
        assert fake_lab.run(program, source=file.fileno()) == 0
    assert fake_lab.got["output"] == (tmp_path / "input").read_bytes()
    fake_lab.got["output"] = b""
    assert fake_lab.run(program) == 0
    assert not fake_lab.got["output"]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("sys.exit('qemu: no such device')", "QEMU failed: qemu: no such device"),
        ("os.kill(os.getpid(), 9)", "QEMU was killed by signal 9"),
        ("channel['kernel'].send(b'boot\\r\\n[1] Kernel panic - not syncing: X\\r\\n[1] end')",
         r"the lab's kernel failed: \[1\] Kernel panic - not syncing: X"),
        ("channel['status'].send(b'started\\n'); channel['kernel'].send(b'last words')",
         "ended before its command: last words"),
        # A status that is cut off is no status.
        ("channel['status'].send(b'started\\n1')", "ended before its command"),
    ],
)  # fmt: skip
def test_a_host_that_ends_early_is_an_error(fake_lab: FakeLab, program: str, words: str) -> None:
    with pytest.raises(LabError, match=words):
        fake_lab.run(program)


def test_time_is_bounded_and_qemu_ends(fake_lab: FakeLab, tmp_path: Path) -> None:
    program = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    # On a busy machine it takes a while until the program has begun.
    for seconds in (2, 10, 50):
        with pytest.raises(LabError, match="time is up"):
            fake_lab.run(program, timeout=seconds)
        if (tmp_path / "pid").exists():
            break
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("", "has not come to the command yet"),
        ("channel['status'].send(b'started\\n')", "no sign of life for [2-9] s; it stands still"),
        (
            "while not channel['status'].send(b'started\\n') or not time.sleep(0.1): pass",
            "the host is alive",
        ),
    ],
)
def test_what_became_of_a_host_whose_time_is_up(
    fake_lab: FakeLab, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    monkeypatch.setattr(relay, "SILENT_SECONDS", 2)
    with pytest.raises(LabError, match=words):
        fake_lab.run(f"{program}\ntime.sleep(1000)", timeout=5)


def test_a_sign_of_life_is_no_status(fake_lab: FakeLab) -> None:
    assert fake_lab.run("channel['status'].send(b'started\\nalive\\n7\\n')") == 7
    with pytest.raises(LabError, match="ended before its command"):
        fake_lab.run("channel['status'].send(b'started\\nalive\\n')")


def test_escape_ends_a_lab_with_a_terminal() -> None:
    ends = {name: socket.socketpair() for name in relay.CHANNELS}
    ours = {name: pair[0] for name, pair in ends.items()}
    leader, follower = os.openpty()
    try:
        subject = relay.Relay(ours, relay.Streams({}, follower, terminal=True))
        os.write(leader, b"x\n")
        os.write(leader, relay.ESCAPE + b"\n")
        with pytest.raises(KeyboardInterrupt):
            subject.until(time.monotonic() + PATIENCE_S)
        assert ends["terminal"][1].recv(10).startswith(b"x")
    finally:
        for pair in ends.values():
            pair[0].close()
            pair[1].close()
        os.close(leader)
        os.close(follower)
