# SPDX-License-Identifier: GPL-2.0-or-later
"""What `pvlock doctor` says of this host, and of hosts whose kernel answers otherwise.

Such a host is made by another answer to an ioctl or to open(); all above is the real thing.
tests/kvm/test_probe.py asks a host that has everything.
"""

import ctypes
import errno
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from asm import ROOT
from pvlock import abi, cli, engines
from pvlock.cli import host_report, run
from pvlock.cli.doctor import _advice
from pvlock.engines.kvm import bpf, ioctl, probe
from pvlock.engines.kvm.probe import Finding, State
from pvlock.errors import ConfigError, EngineUnavailable
from pvlock.extras import system_packages
from pvlock.machine import Machine
from pvlock.workload import image_of

KVM: Final = (
    *("VM", "GICv3", "PSCI 0.2", "read-only memory slots", "stores without syndrome"),
    *("injected aborts", "immediate exit", "SMCCC filter", "PV-lock's two calls", "stolen time"),
)
"""What only KVM of an arm64 host can be asked."""
BPF: Final = (
    *("mmapable BPF arrays", "BPF task storage", "BPF programs of type syscall"),
    "publisher of `preempted`",
)
"""What needs the permission to use BPF."""
CAP_PERFMON, CAP_BPF = 38, 39
LIBC: Final = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    probe.require.cache_clear()
    yield
    probe.require.cache_clear()


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def findings() -> dict[str, Finding]:
    """Ask everything; what a question opens must be closed again."""
    before = descriptors()
    found = {finding.what: finding for finding in probe.findings()}
    assert descriptors() == before
    for finding in found.values():
        assert finding.because
        assert bool(finding.remedy) == (finding.state is State.NO), finding
    return found


def states(*names: str) -> set[State]:
    found = findings()
    return {found[name].state for name in names}


def refusal() -> EngineUnavailable:
    with pytest.raises(EngineUnavailable) as caught:
        probe.require()
    return caught.value


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(engines.VARIABLE, raising=False)


def doctor(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pvlock", *arguments],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
    )  # fmt: skip


# ---- this host ----


def test_this_host_is_what_it_is() -> None:
    found = findings()
    arm64 = platform.machine() == "aarch64"
    assert found["arm64 CPU"].state is (State.YES if arm64 else State.NO)
    assert found["page size"].because.startswith(f"{os.sysconf('SC_PAGESIZE') // 1024} KiB")
    assert f"{len(os.sched_getaffinity(0))} of" in found["host CPUs"].because
    assert (found["KVM"].state is State.YES) == os.access(ioctl.PATH, os.R_OK | os.W_OK)
    assert (found["BTF of the kernel"].state is State.YES) == bpf.BTF.exists()
    if not arm64:
        assert {found[name].state for name in KVM} == {State.UNKNOWN}
        assert "pvlock lab" in found["arm64 CPU"].remedy


def test_require_usable_and_auto_agree_with_the_findings() -> None:
    missing = probe.first_missing(findings().values())
    assert probe.usable() == (missing is None)
    assert engines.choose("auto") == ("emulator" if missing else "kvm")
    if missing:
        assert missing.because in refusal().capability
        with pytest.raises(EngineUnavailable):
            engines.choose("kvm")


def test_the_environment_says_what_auto_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "usable", lambda: True)
    monkeypatch.setattr(probe, "require", lambda: None)
    for named in ("emulator", "kvm"):
        monkeypatch.setenv(engines.VARIABLE, named)
        assert engines.choose("auto") == named
        assert engines.choose("kvm") == "kvm"
        assert engines.choose("emulator") == "emulator"
    for nothing in ("auto", ""):
        monkeypatch.setenv(engines.VARIABLE, nothing)
        assert engines.choose("auto") == "kvm"
    monkeypatch.setenv(engines.VARIABLE, "xen")
    with pytest.raises(ConfigError, match=r"PVLOCK_ENGINE: no engine is called 'xen'; there are"):
        engines.choose("auto")


@pytest.mark.parametrize("named", ["emulator", "kvm"])
def test_the_user_is_told_that_the_environment_names_the_engine(named: str) -> None:
    told = f"auto takes the engine {named}: PVLOCK_ENGINE names it"
    run = doctor("run", "idle", "--vcpus", "1", "--duration", "1ms", PVLOCK_ENGINE=named)
    answer = doctor("doctor", PVLOCK_ENGINE=named)
    if named == "kvm" and not probe.usable():
        assert (run.returncode, answer.returncode) == (1, 1)
        assert run.stderr == f"pvlock: {refusal()}; pvlock doctor tells more\n"
        assert f"no engine can run here: kvm: {refusal().capability}" in answer.stdout
        return
    assert f"engine {named} (auto: PVLOCK_ENGINE names it)" in run.stdout
    assert told in answer.stdout


def test_auto_asks_a_host_of_another_architecture_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr(ioctl, "call", None)
    monkeypatch.setattr(bpf, "libbpf", None)
    assert not probe.usable()
    assert refusal().capability == "this CPU is riscv64, not 64-bit arm64"


# ---- the permission to use BPF ----


def with_capabilities(capabilities: set[int], ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns in a process that has only these capabilities of Linux."""

    def child(result: Any) -> None:
        bits = sum(1 << number for number in capabilities)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        low, high = bits & 0xFFFFFFFF, bits >> 32
        data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
        result.send(ask() if LIBC.capset(header, data) == 0 else ctypes.get_errno())

    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(send,))
    process.start()
    try:
        assert receive.poll(60), "the process neither answered nor ended"
        return receive.recv()
    finally:
        process.join()


def bpf_findings() -> dict[str, Finding]:
    found = findings()
    return {name: found[name] for name in (*BPF, "the tracepoint sched_switch")}


@pytest.fixture
def may_use_bpf() -> None:
    if states(*BPF) != {State.YES}:
        pytest.skip("this process may not use BPF: run the tests as root of the host")


@pytest.mark.usefixtures("may_use_bpf")
@pytest.mark.parametrize("capabilities", [set(), {CAP_PERFMON}], ids=["none", "CAP_PERFMON"])
def test_bpf_without_its_capability(capabilities: set[int]) -> None:
    found: dict[str, Finding] = with_capabilities(capabilities, bpf_findings)
    # libbpf cannot tell a program type that is refused from one that is not there.
    assert found.pop("BPF programs of type syscall").state is State.UNKNOWN
    assert found.pop("the tracepoint sched_switch").state is State.YES
    for finding in found.values():
        assert finding.state is State.NO
        assert "CAP_BPF and CAP_PERFMON" in finding.remedy


@pytest.mark.usefixtures("may_use_bpf")
def test_bpf_with_one_of_its_two_capabilities() -> None:
    found: dict[str, Finding] = with_capabilities({CAP_BPF}, bpf_findings)
    publisher = found.pop("publisher of `preempted`")
    assert publisher.state is State.NO
    assert "CAP_BPF and CAP_PERFMON" in publisher.remedy


@pytest.mark.usefixtures("may_use_bpf")
def test_bpf_with_the_two_capabilities_that_the_remedy_names() -> None:
    found: dict[str, Finding] = with_capabilities({CAP_BPF, CAP_PERFMON}, bpf_findings)
    assert {finding.state for finding in found.values()} == {State.YES}


def test_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self, *_arguments: object, **_options: object) -> None:
            raise OSError("libbpf.so.1: cannot open shared object file")

    bpf.libbpf.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", Absent)
    try:
        found = findings()["libbpf"]
    finally:
        bpf.libbpf.cache_clear()
    assert found.state is State.NO
    assert "apt-get install libbpf1" in found.remedy


def test_a_kernel_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bpf, "BTF", tmp_path / "vmlinux")
    found = findings()["BTF of the kernel"]
    assert found.state is State.NO
    assert "CONFIG_DEBUG_INFO_BTF" in found.remedy


def test_an_installation_without_the_compiled_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pvlock.engines.kvm.requirements.OBJECT", tmp_path / "publisher.bpf.o")
    found = findings()["publisher of `preempted`"]
    assert found.state is State.NO
    assert "pip" in found.remedy


# ---- KVM of another host ----


@dataclass
class Kernel:
    """What an arm64 kernel answers to the ioctls of the probe; a negative number is an errno."""

    version: int = ioctl.API_VERSION
    vm: int = 0
    gic: int = 0
    has_filter: int = 0
    absent: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=lambda: {abi.SMCCC_ARCH_FEATURES})
    asked: int = 0

    def call(self, fd: int, request: int, argument: Any = 0) -> int:
        self.asked += 1
        result = self._answer(request, argument)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        if request == ioctl.CREATE_VM:
            return os.dup(fd)
        return result

    def _answer(self, request: int, argument: Any) -> int:
        match request:
            case ioctl.GET_API_VERSION:
                return self.version
            case ioctl.CREATE_VM:
                return self.vm
            case ioctl.CHECK_EXTENSION:
                return 0 if argument in self.absent else 512
            case ioctl.CREATE_DEVICE:
                assert argument.flags == ioctl.CREATE_DEVICE_TEST
                return self.gic
            case ioctl.HAS_DEVICE_ATTR:
                return self.has_filter
            case ioctl.SET_DEVICE_ATTR:
                wanted = ioctl.SmcccFilter.from_address(argument.addr)
                calls = range(wanted.base, wanted.base + wanted.nr_functions)
                return -errno.EEXIST if self.kept & set(calls) else self.has_filter
        raise AssertionError(f"ioctl {request:#x}")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    """An arm64 host that has everything, unless a test says otherwise."""
    device = tmp_path / "kvm"
    device.touch()
    kernel = Kernel()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(ioctl, "PATH", str(device))
    monkeypatch.setattr(ioctl, "call", kernel.call)
    return kernel


def test_a_host_that_has_everything(kernel: Kernel) -> None:
    found = findings()
    assert {found[name].state for name in KVM} == {State.YES}
    assert "512 VCPUs" in found["VM"].because


def test_a_stock_kernel_answers_arch_features_itself(kernel: Kernel) -> None:
    found = findings()["SMCCC_ARCH_FEATURES"]
    assert (found.state, found.needed) == (State.NO, False)
    assert "device tree" in found.remedy
    kernel.kept.clear()
    assert findings()["SMCCC_ARCH_FEATURES"].state is State.YES


MISSING: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "another API version": ("KVM", {"version": 11}, "12"),
    "a small CPU": ("VM", {"vm": -errno.EINVAL}, "CPU"),
    "GICv2 only": ("GICv3", {"gic": -errno.ENODEV}, "GICv3"),
    "no PSCI": ("PSCI 0.2", {"absent": {102}}, "Linux 6.4"),
    "all slots writable": ("read-only memory slots", {"absent": {81}}, "Linux 6.4"),
    "STP is fatal": ("stores without syndrome", {"absent": {177}}, "Linux 6.4"),
    "no aborts": ("injected aborts", {"absent": {178}}, "Linux 6.4"),
    "no immediate exit": ("immediate exit", {"absent": {136}}, "Linux 6.4"),
    "before 6.4": ("SMCCC filter", {"has_filter": -errno.ENXIO}, "Linux 6.4"),
    "long before 6.4": ("SMCCC filter", {"has_filter": -errno.EINVAL}, "Linux 6.4"),
    "calls in use": ("PV-lock's two calls", {"kept": {abi.PV_LOCK_PREEMPTED}}, "kernel"),
}


@pytest.mark.parametrize("host", MISSING)
def test_what_is_missing_has_its_remedy(host: str, kernel: Kernel) -> None:
    name, answers, remedy = MISSING[host]
    for attribute, answer in answers.items():
        setattr(kernel, attribute, answer)
    found = findings()
    assert found[name].state is State.NO
    assert remedy in found[name].remedy
    assert probe.first_missing(found.values()) == found[name]
    error = refusal()
    assert (error.capability, error.remedy) == (found[name].because, found[name].remedy)
    assert not probe.usable()
    assert engines.choose("auto") == "emulator"


def test_what_is_not_needed_does_not_decide(kernel: Kernel) -> None:
    kernel.absent = {187}
    found = findings()
    assert (found["stolen time"].state, found["stolen time"].needed) == (State.NO, False)
    missing = probe.first_missing(found.values())
    assert missing is None or missing.what not in KVM


OPEN: Final = [
    (errno.ENOENT, State.NO, "host"),
    (errno.ENODEV, State.NO, "host"),
    (errno.ENXIO, State.NO, "host"),
    (errno.EACCES, State.NO, "group kvm"),
    (errno.EPERM, State.NO, "group kvm"),
    (errno.EMFILE, State.UNKNOWN, ""),
]


@pytest.mark.parametrize(("error", "state", "remedy"), OPEN, ids=lambda x: errno.errorcode.get(x))
def test_a_device_that_does_not_open(
    error: int, state: State, remedy: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if path == ioctl.PATH:
            raise OSError(error, os.strerror(error))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    found = findings()
    assert found["KVM"].state is state
    assert remedy in found["KVM"].remedy
    assert os.strerror(error) in found["KVM"].because
    assert {found[name].state for name in KVM} == {State.UNKNOWN}
    assert os.strerror(error) in refusal().capability


def test_a_device_that_is_none(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(ioctl, "PATH", __file__)
    assert states("KVM", "VM") == {State.UNKNOWN}


@pytest.mark.parametrize(
    ("attribute", "name"), [("vm", "VM"), ("gic", "GICv3"), ("has_filter", "SMCCC filter")]
)
def test_an_error_that_tells_nothing_is_no_answer(
    attribute: str, name: str, kernel: Kernel
) -> None:
    setattr(kernel, attribute, -errno.ENOMEM)
    assert findings()[name].state is State.UNKNOWN
    assert "cannot tell" in refusal().capability
    assert not probe.usable()


@pytest.mark.usefixtures("may_use_bpf")
def test_only_a_yes_is_remembered(kernel: Kernel) -> None:
    for answer in (-errno.ENOMEM, -errno.EINVAL):
        kernel.vm = answer
        assert not probe.usable()
    kernel.vm = 0
    assert probe.usable()
    assert engines.choose("kvm") == "kvm"
    asked = kernel.asked
    kernel.vm = -errno.ENOMEM
    assert probe.usable()
    assert kernel.asked == asked


# ---- pvlock doctor ----


def test_doctor_prints_every_answer() -> None:
    done = doctor("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    first, _, *lines = done.stdout.splitlines()
    assert f"the engine {engines.choose('auto')}" in first
    for finding in probe.findings():
        line = next(line for line in lines if line.startswith(f"  {finding.what} "))
        assert line.split(finding.what)[1].strip().startswith(finding.state)
    for part in ("emulated machine", "mmdebstrap", "qemu-system-aarch64"):
        assert f"  {part} " in done.stdout


def promised(text: str) -> None:
    facts = json.loads(text)
    assert facts["engine"] == engines.choose("auto")
    assert facts["because"]
    assert [each["what"] for each in facts["kvm"]] == [each.what for each in probe.findings()]
    for each in (*facts["kvm"], *facts["emulator"], *facts["lab"]):
        assert each.keys() == {"what", "state", "because", "remedy", "needed"}
        assert each["state"] in ("yes", "no", "cannot tell")


def test_doctor_writes_json_to_stdout_and_the_table_to_stderr() -> None:
    done = doctor("doctor", "--json", "-")
    assert done.returncode == 0
    promised(done.stdout)
    assert "arm64 CPU" in done.stderr


def test_doctor_writes_json_to_a_file(tmp_path: Path) -> None:
    done = doctor("doctor", "--json", "host.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    promised((tmp_path / "host.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["host.json"]


def test_doctor_refuses_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = doctor("doctor", "--json", "/nonexistent/host.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pvlock: --json /nonexistent/host.json: No such file or directory\n"


def test_doctor_fails_where_no_engine_can_run(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.vm = -errno.EINVAL
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    monkeypatch.setenv("PATH", "/nonexistent")
    done = CliRunner().invoke(cli.cli, ["doctor"])
    assert done.exit_code == 1
    assert "no engine can run here: kvm: KVM refuses a VM" in done.stdout
    assert "/nonexistent/python" in done.stdout
    assert "install mmdebstrap qemu-system-arm" in done.stdout


# ---- pvlock run --engine kvm ----


def test_a_run_on_a_host_without_kvm_names_what_is_missing() -> None:
    """Whatever this host lacks; where it lacks nothing, all tests of tests/kvm run."""
    done = doctor("run", "--engine", "kvm", "--duration", "1ms")
    if probe.usable():
        assert done.returncode == 0
        return
    error = refusal()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pvlock: {error}; pvlock doctor tells more\n"
    assert done.stderr.startswith(f"pvlock: engine kvm: {error.capability}; {error.remedy}; ")


def test_a_machine_that_cannot_be_made_says_what_is_missing(tmp_path: Path) -> None:
    """Nothing was asked before: the machine itself, and a run of a file, find out afterwards."""
    (tmp_path / "guest.elf").write_bytes(image_of("idle"))
    done = doctor("run", "--engine", "kvm", "--duration", "1s", str(tmp_path / "guest.elf"))
    if probe.usable():
        assert done.returncode == 0
        return
    with pytest.raises(EngineUnavailable) as caught:
        Machine(engine="kvm")
    assert str(caught.value) == str(refusal())
    said = done.stderr.splitlines()
    assert done.returncode == 1
    assert said[0].endswith("engine kvm, policy scheduled-out")
    assert said[1:] == [f"pvlock: {refusal()}; pvlock doctor tells more"]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let every choice of an engine be kvm; gives the settings of the runs that were asked for."""
    settings: list[Any] = []
    monkeypatch.setattr(engines, "choose", lambda _name: "kvm")
    monkeypatch.setattr(run, "_run_workload", lambda *arguments: settings.append(arguments[0]))
    return settings


@pytest.mark.parametrize("engine", ["auto", "kvm"])
@pytest.mark.parametrize(
    "option",
    ["--slice=3ms", "--quantum=1us", "--exit-cost=1us", "--switch-cost=3us", "--wfe=trap"],
)
def test_an_option_of_the_emulated_host_is_refused(
    option: str, engine: str, chosen: list[Any]
) -> None:
    done = CliRunner().invoke(cli.cli, ["run", "--engine", engine, option])
    name = option.partition("=")[0]
    assert done.exit_code == 2
    assert f"Error: {name}: the kvm engine runs on a real host, which has its own" in done.stderr
    assert done.stdout == ""
    assert not chosen


@pytest.mark.parametrize("cpus", [1, 3, 64])
def test_kvm_takes_no_more_cpus_than_there_are(
    cpus: int, chosen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
    done = CliRunner().invoke(cli.cli, ["run"])
    assert done.exit_code == 0
    assert "engine kvm (auto: this host has all that it needs)" in done.stdout
    assert CliRunner().invoke(cli.cli, ["run", "--pcpus", "7"]).exit_code == 0
    assert [each.pcpus for each in chosen] == [min(cpus, 4), 7]
    assert {each.engine for each in chosen} == {"kvm"}


# ---- what to do now ----


@pytest.mark.parametrize(
    ("engine", "lab", "words"),
    [
        ("kvm", State.YES, "So: pvlock run works here, on this host's KVM."),
        ("emulator", State.YES, "for KVM, pvlock lab -- run mutex --engine kvm --vcpus 4."),
        ("emulator", State.NO, "for KVM, get qemu, then pvlock lab -- run mutex"),
        (None, State.YES, "So: install it; then say pvlock doctor again."),
    ],
)
def test_it_ends_with_one_sentence(engine: str | None, lab: State, words: str) -> None:
    """It names a remedy only for what is missing here."""
    kvm = [Finding("arm64 CPU", State.NO, "this CPU is another", "", needed=True)]
    emulator = Finding("emulated machine", State.YES, "", "install it", needed=True)
    tools = [Finding("qemu", lab, "", "get qemu", needed=True)]
    sentence = _advice(engine, kvm, emulator, tools)
    assert words in sentence
    assert sentence.startswith("So: ") and sentence.endswith(".") and "\n" not in sentence


def test_its_last_line_is_for_this_host() -> None:
    done = CliRunner().invoke(cli.cli, ["doctor"])
    last = done.output.strip().splitlines()[-1]
    assert last.startswith("So: pvlock run works here, on ")


def test_packages_are_named_for_the_package_manager_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "by your package manager" in system_packages("qemu-system-arm")
    (tmp_path / "dnf").write_text("")
    (tmp_path / "dnf").chmod(0o755)
    assert system_packages("a b") == "install a b (their names on Debian), by dnf"
    (tmp_path / "apt-get").write_text("")
    (tmp_path / "apt-get").chmod(0o755)
    assert system_packages("a b") == "apt-get install a b"


# ---- one file about this host ----


def test_a_report_is_one_file_that_names_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it runs is cut short here; the file is what it would be."""
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    monkeypatch.setattr(host_report, "_HOME", re.compile("/home/somebody"))
    steps = [
        host_report.Step("doctor.json", ("doctor", "--json", "-")),
        host_report.Step("no.txt", ("run", "/home/somebody/no.elf")),
    ]
    host_report.write(tmp_path / "host.zip", steps, lambda _text: None)
    assert [path.name for path in tmp_path.iterdir()] == ["host.zip"]
    with zipfile.ZipFile(tmp_path / "host.zip") as archive:
        index = json.loads(archive.read("index.json"))
        texts = [archive.read(name).decode() for name in archive.namelist()]
    assert [step["status"] for step in index["steps"]] == [0, 1]
    assert not [text for text in texts if "somebody" in text]
    assert len(platform.node()) < 3 or not [t for t in texts if f" {platform.node()} " in t]
    assert "~/no.elf" in "".join(texts)


def test_what_a_report_runs() -> None:
    names = [s.name for s in host_report.steps("kvm", Path("vmlinuz"), Path("initrd"))]
    assert names[:2] == ["doctor.json", "check.json"]
    assert {f"run-{guest}.json" for guest in ("mutex", "rwsem", "idle")} <= set(names)
    assert names[-1] == "boot.txt"
    assert "boot.txt" not in [s.name for s in host_report.steps("kvm", None, None)]
    text = (ROOT / "docs" / "kvm.md").read_text(encoding="utf-8")
    assert all(f"`{n}`" in text for n in names if not n.startswith("run-"))


def test_a_report_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    done = doctor("doctor", "--report", str(tmp_path / "no" / "a.zip"))
    assert done.returncode == 2
    assert "No such file" in done.stderr
