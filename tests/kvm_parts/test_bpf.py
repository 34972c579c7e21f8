# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading BPF objects: what goes wrong is a typed error with its remedy, and only that."""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import build_native
import pytest

from pvlock.abi import Policy
from pvlock.engines.kvm import bpf, publisher
from pvlock.errors import EngineError, EngineUnavailable

PUBLISH = """
import sys
from pvlock.abi import Policy
from pvlock.engines.kvm.publisher import Publisher
from pvlock.errors import PvlockError
try:
    with Publisher(1, Policy.PREEMPTED) as publisher:
        publisher.add_current_thread(0)
        publisher.remove_current_thread()
except PvlockError as error:
    print(type(error).__name__, error)
else:
    print("published")
"""
REFUSED = """
#define SEC(name) __attribute__((section(name), used))
SEC("tp_btf/sched_switch") int wrong(unsigned long *args) { return *(int *)args[0]; }
char _license[] SEC("license") = "GPL";
"""


def can_load() -> bool:
    try:
        publisher.Publisher(1, Policy.PREEMPTED).close()
    except EngineUnavailable:
        return False
    return True


needs_bpf = pytest.mark.skipif(not can_load(), reason="this process may not load BPF programs")


@pytest.fixture
def fresh_library() -> Iterator[None]:
    bpf.libbpf.cache_clear()
    yield
    bpf.libbpf.cache_clear()


def test_no_libbpf(monkeypatch: pytest.MonkeyPatch, fresh_library: None) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError("libbpf.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(EngineUnavailable, match="apt-get install libbpf1") as caught:
        publisher.Publisher(1, Policy.PREEMPTED)
    assert caught.value.capability == "libbpf.so.1 is not installed"


@needs_bpf
@pytest.mark.parametrize(
    ("capabilities", "answer"),
    [
        ("-all", "EngineUnavailable engine kvm: this process may not load BPF programs; run it"),
        ("-all,+bpf", "EngineUnavailable engine kvm: this process may not load BPF programs"),
        ("-all,+bpf,+perfmon", "published"),
    ],
)
def test_capabilities(capabilities: str, answer: str) -> None:
    """CAP_BPF and CAP_PERFMON are enough, and less is an error that names them."""
    done = subprocess.run(
        ["setpriv", f"--bounding-set={capabilities}", sys.executable, "-c", PUBLISH],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith(answer) and done.stdout.count("\n") == 1, done
    assert not done.stderr


@needs_bpf
def test_verifier_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The error is one line with the verifier's last words, and nothing else is printed."""
    (tmp_path / "refused.bpf.c").write_text(REFUSED)
    build_native.build_bpf(tmp_path / "refused.bpf.c", tmp_path / "refused.bpf.o")
    with pytest.raises(
        bpf.LoadError, match=r"cannot load refused\.bpf\.o: .*invalid mem access 'scalar'$"
    ):
        bpf.BpfObject(tmp_path / "refused.bpf.o", ["wrong"])
    try:
        bpf.BpfObject(tmp_path / "refused.bpf.o", ["wrong"])
    except bpf.LoadError as error:
        assert "\n" not in str(error) and error.errno in (errno.EACCES, errno.EINVAL)
        assert "BEGIN PROG LOAD LOG" in error.log
    assert capfd.readouterr() == ("", "")


@needs_bpf
def test_wrong_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(bpf.LoadError, match=r"cannot load nothing\.bpf\.o: No such file"):
        bpf.BpfObject(tmp_path / "nothing.bpf.o", [])
    with pytest.raises(bpf.LoadError, match="No such file"):
        bpf.BpfObject(publisher.OBJECT, ["preempted"], {"no such map": 1})
    with bpf.BpfObject(publisher.OBJECT, ["preempted"]) as loaded:
        with pytest.raises(OSError):
            loaded.attach("no such program")
        with pytest.raises(OSError):
            loaded.map_fd("no such map")
    assert capfd.readouterr() == ("", "")


@needs_bpf
def test_needs() -> None:
    """A host on which a publisher loads has all that one needs, each asked for alone."""
    assert [need.what for need in publisher.NEEDS if not need.there()] == []
    assert not bpf.has_attach_point("no_such_tracepoint", bpf.TRACE_RAW_TP)


@pytest.mark.parametrize("need", publisher.NEEDS, ids=lambda need: str(need.what))
def test_lacking(need: publisher.Need, monkeypatch: pytest.MonkeyPatch) -> None:
    """When loading fails, the first need that the host has not is what the error names."""

    def fails(*_: object) -> None:
        raise bpf.LoadError("publisher.bpf.o", errno.EINVAL, "libbpf: it failed")

    lacking = publisher.Need(need.what, lambda: False, need.remedy)
    fine = [publisher.Need(other.what, lambda: True, "") for other in publisher.NEEDS]
    needs = [lacking if other.what == need.what else other for other in fine]
    monkeypatch.setattr(publisher, "NEEDS", needs)
    monkeypatch.setattr(bpf, "BpfObject", fails)
    with pytest.raises(EngineUnavailable) as caught:
        publisher.Publisher(1, Policy.PREEMPTED)
    assert need.what in caught.value.capability and caught.value.remedy == need.remedy


def test_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no need explains stays the error that it is."""

    def fails(*_: object) -> None:
        raise bpf.LoadError("publisher.bpf.o", errno.E2BIG, "libbpf: it failed")

    def unknown() -> bool:
        raise OSError(errno.EIO, "cannot tell")

    monkeypatch.setattr(publisher, "NEEDS", [publisher.Need("it", unknown, "")])
    monkeypatch.setattr(bpf, "BpfObject", fails)
    with pytest.raises(EngineError, match="Argument list too long: libbpf: it failed"):
        publisher.Publisher(1, Policy.PREEMPTED)
