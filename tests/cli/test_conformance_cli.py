# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock check` as its user meets it: a process with a status, and what it printed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pvlock import Machine, Policy, SystemEvent
from pvlock.cli.check import FORMATS, PROFILES
from pvlock.conformance import audit, outcome, render, userspace
from pvlock.conformance.cases import binary, guest_cases
from pvlock.engines.kvm import probe
from pvlock.image import Kind, parse

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
SECONDS = 120


def check(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pvlock", "check", *arguments],
        input=given, capture_output=True, env=ENVIRONMENT, timeout=SECONDS, check=False,
    )  # fmt: skip
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in out + err
    return done.returncode, out, err


def refused(*arguments: str, given: bytes = b"") -> str:
    """Return the line that says what is wrong with a command line that makes no sense."""
    status, out, err = check(*arguments, given=given)
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if line and not line.startswith(("Usage", "Try"))]
    assert len(lines) == 1
    return lines[0]


def red(form: str, out: str) -> str:
    """Return the reason of the only failure in a report, which is valid in its form."""
    match form:
        case "json":
            facts = json.loads(out)
            assert facts["conforms"] is False
            (why,) = (case["reason"] for case in facts["cases"] if case["verdict"] == "failed")
        case "junit":
            suite = ElementTree.fromstring(out)
            assert int(suite.get("tests", "")) == len(suite) > 0
            assert suite.get("failures") == "1"
            (why,) = (failure.get("message", "") for failure in suite.iter("failure"))
        case _:
            lines = out.splitlines()
            assert lines[0] == "TAP version 14"
            cases = [line for line in lines if line.startswith(("ok ", "not ok "))]
            assert f"1..{len(cases)}" in lines
            (at,) = (n for n, line in enumerate(lines) if line.startswith("not ok "))
            why = json.loads(lines[at + 2].removeprefix("  message: "))
    assert isinstance(why, str)
    return why


def failed(*arguments: str, status: int = 1, given: bytes = b"") -> str:
    """Return the line that says what is wrong with a log. Every form of the report says it too."""
    lines = set()
    for form in FORMATS:
        found, out, err = check(*arguments, "--format", form, given=given)
        assert found == status
        (line,) = (line for line in err.splitlines() if not line.startswith("pvlock: profile "))
        lines.add(line)
        why = red(form, out)
        assert why in line
        assert why.isprintable()
    (line,) = lines
    return line


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of our own machine, as another VMM would have written it."""
    with Machine(2, 1, policy=Policy.PREEMPTED, bootargs="observe=10") as machine:
        machine.load(binary("Image"))
        assert machine.run(2_000_000_000) is SystemEvent.OFF
        path = tmp_path_factory.mktemp("logs") / "console.log"
        path.write_text(machine.console.text)
        return path


def test_choices_are_those_of_the_package() -> None:
    assert PROFILES == outcome.PROFILES
    assert FORMATS == render.FORMATS


def test_an_engine() -> None:
    status, out, err = check(
        "--engine", "emulator", "--policy", "preempted", "--vcpus", "2", "--pcpus", "1",
        "--case", "6.2", "--case", "attr-t*",
    )  # fmt: skip
    assert status == 0
    assert out.startswith("TAP version 14\n# engine emulator, 2 VCPUs on 1 CPUs, preempted\n1..3\n")
    assert [line for line in out.splitlines() if "ok " in line[:8]] == [
        "ok 1 - 6.2/document own-flag (preempted)",
        "ok 2 - 5.6/document attr-twice (user space)",
        "ok 3 - run completes (preempted)",
    ]
    assert err == "pvlock: profile pvlock: 2 ok: conforms\n"


def test_both_policies_by_default() -> None:
    status, out, _ = check("--engine", "emulator", "--case", "6.6", "--format", "json")
    cases = [case for case in json.loads(out)["cases"] if case["clause"]]
    assert status == 0
    assert [(case["name"], case["run"]) for case in cases] == [
        (name, f"{policy}{machine}")
        for policy in ("scheduled-out", "preempted")
        for name, machine in (("never-started", ""), ("off-vcpu", ""), ("off-again", ", brisk"))
    ]
    assert cases[0]["evidence"] == {"policy": "scheduled-out", "vcpus": 4}


def test_nothing_ran_is_a_failure() -> None:
    status, _, err = check(
        "--engine", "emulator", "--case", "distinct", "--vcpus", "1", "--pcpus", "1"
    )
    assert status == 1
    assert "nothing was judged, which is a failure" in err


def test_image_and_elf(tmp_path: Path) -> None:
    image, elf = tmp_path / "guest", tmp_path / "guest.elf"
    status, out, err = check("--image", str(image), "--elf", str(elf))
    assert (status, out) == (0, "")
    assert err.splitlines() == [f"pvlock: wrote {image}", f"pvlock: wrote {elf}"]
    assert image.read_bytes() == binary("Image")
    assert parse(image.read_bytes(), "guest").kind is Kind.LINUX
    assert parse(elf.read_bytes(), "guest").kind is Kind.ELF_EXEC
    assert sorted(tmp_path.iterdir()) == [image, elf]


def test_list() -> None:
    status, out, _ = check("--list")
    assert status == 0
    assert len(out.splitlines()) == len(guest_cases()) + len(audit.CASES) + len(userspace.cases())
    assert "6.2/document   own-flag               a VCPU that reads" in out
    assert check("--list", "--case", "5.10")[1].count("\n") == 2


def test_parse_a_file_and_standard_input(log: Path) -> None:
    from_file = check("--parse", str(log))
    assert from_file[0] == 0
    assert from_file == check("--parse", "-", given=log.read_bytes().replace(b"\n", b"\r\n"))
    assert "interface: present" in from_file[1]
    assert "profile document" in from_file[2]
    assert check("--parse", str(log), "--present", "--profile", "pvlock")[0] == 0


@pytest.fixture(scope="module")
def absent() -> bytes:
    """The log of a hypervisor that speaks SMCCC 1.1, has PV time, and has no PV-lock."""
    with Machine(2, 1, pvlock=False, bootargs="observe=10") as machine:
        machine.load(binary("Image"))
        assert machine.run(2_000_000_000) is SystemEvent.OFF
        return machine.console.text.encode()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_hypervisor_without_pvlock_does_not_conform(profile: str, absent: bytes) -> None:
    """What can be judged is right, and yet a hypervisor that has lost PV-lock must not be green."""
    arguments = ("--parse", "-", "--profile", profile)
    status, out, err = check(*arguments, "--format", "json", given=absent)
    facts = json.loads(out)
    assert (status, facts["conforms"]) == (3, False)
    assert facts["conclusion"] == "PV-lock is not offered"
    assert "absent (ARCH_FEATURES knows no PV_LOCK_FEATURES)" in facts["subject"]
    assert facts["counts"]["ok"] >= 11
    assert facts["counts"]["failed"] == 0
    assert "conforms" not in err
    assert "--absent-ok accepts that" in err
    status, out, _ = check(*arguments, "--format", "junit", given=absent)
    assert status == 3
    assert "PV-lock is not offered" in red("junit", out)


@pytest.mark.parametrize("form", FORMATS)
def test_absence_can_be_asked_for(form: str, absent: bytes) -> None:
    status, out, err = check("--parse", "-", "--absent-ok", "--format", form, given=absent)
    assert status == 0
    assert err.endswith(": PV-lock is not offered, and its absence is right\n")
    match form:
        case "json":
            assert json.loads(out)["conforms"] is False
        case "junit":
            assert ElementTree.fromstring(out).get("failures") == "0"


def test_absence_can_be_a_failure(absent: bytes) -> None:
    assert "PV-lock was not offered: interface absent" in failed(
        "--parse", "-", "--present", given=absent
    )


def test_absence_excuses_no_failure(absent: bytes) -> None:
    text = absent.decode()
    old = re.search(r"^ok (\d+ - 3\.11/pvlock off-calls)$|^ok (\d+ - \S+ conduit)$", text, re.M)
    assert old
    name = old[1] or old[2]
    text = text.replace(old[0], f'not ok {name}\n  ---\n  message: "wrong"\n  ...', 1)
    count = re.search(r"# summary: (\d+) ok, 0", text)
    assert count
    text = text.replace(count[0], f"# summary: {int(count[1]) - 1} ok, 1")
    status, _, err = check("--parse", "-", "--absent-ok", given=text.encode())
    assert status == 1
    assert "does not conform" in err


def test_the_profile_decides(log: Path, tmp_path: Path) -> None:
    """A failure of a [pvlock] clause is shown, and does not count in the others."""
    text = log.read_text()
    ok = "ok 20 - 1.3/pvlock uid\n  ---\n"
    assert ok in text
    text = text.replace(ok, 'not ok 20 - 1.3/pvlock uid\n  ---\n  message: "another"\n')
    counts = text.rpartition("# summary: ")[2].split()
    text = text.replace(
        f"# summary: {counts[0]} ok, 0 not", f"# summary: {int(counts[0]) - 1} ok, 1 not"
    )
    path = tmp_path / "log"
    path.write_text(text)
    status, out, _ = check("--parse", str(path))
    assert status == 0
    assert "not ok 20 - 1.3/pvlock uid # TODO not in profile document" in out
    status, out, err = check("--parse", str(path), "--profile", "pvlock")
    assert status == 1
    assert 'not ok 20 - 1.3/pvlock uid\n  ---\n  message: "another"' in out
    assert "1 failed" in err
    assert check("--parse", str(path), "--profile", "series")[0] == 0
    assert check("--parse", str(path), "--profile", "pvlock", "--case", "3.*")[0] == 0


def test_formats_agree(log: Path) -> None:
    found = {form: check("--parse", str(log), "--format", form) for form in FORMATS}
    assert {status for status, _, _ in found.values()} == {0}
    facts = json.loads(found["json"][1])
    assert facts["conforms"] is True
    names = [f"{case['clause']}/{case['tag']} {case['name']}" for case in facts["cases"]]
    suite = ElementTree.fromstring(found["junit"][1])
    assert [case.get("name") for case in suite] == names
    assert int(suite.get("skipped", "")) == sum(c["verdict"] == "skipped" for c in facts["cases"])
    tap = [line for line in found["tap"][1].splitlines() if line.startswith(("ok ", "not ok "))]
    assert [line.split(" - ")[1].partition(" # ")[0] for line in tap] == names


def test_junit_of_nothing_is_red(log: Path) -> None:
    status, out, _ = check("--parse", str(log), "--case", "3.11", "--format", "junit")
    assert status == 1
    assert ElementTree.fromstring(out).get("failures") == "1"


def test_a_log_does_not_reach_the_terminal_as_it_is(log: Path) -> None:
    for noise in (b"\x1b[2J", b"\xff\xfe", b"\x9b2J"):
        text = log.read_bytes().replace(b"# SKIP ", b"# SKIP " + noise, 1)
        why = failed("--parse", "-", given=text)
        assert "nothing that the guest prints" in why
        assert why.isprintable()


def test_a_log_that_is_cut_off(log: Path) -> None:
    """What came before the cut is in the report, and it is no judgement of the hypervisor."""
    text = log.read_bytes()
    cut = text[: text.index(b"ok 5 - ")]
    assert failed("--parse", "-", given=cut) == "pvlock: -: the log ends where case 5 should be"
    _, out, err = check("--parse", "-", "--format", "json", given=cut)
    facts = json.loads(out)
    assert [case["name"] for case in facts["cases"][:4]] == [c.name for c in guest_cases()[:4]]
    assert "interface: present" in facts["subject"]
    assert err.endswith(": not judged\n")


def test_an_engine_that_cannot_run() -> None:
    if probe.usable():
        pytest.skip("this host can run KVM")
    assert "engine kvm: " in failed("--engine", "kvm")


def test_ctrl_c_leaves_a_report() -> None:
    """CI that ends a job too long must not find a file without tests."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pvlock", "check", "--engine", "emulator", "--format", "junit"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True,
        process_group=0,
    )  # fmt: skip
    # A machine runs once there is a worker: a child of the process.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + SECONDS
    while not children.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert red("junit", out) == "interrupted"
    assert "Traceback" not in err


def test_partial_logs(log: Path, tmp_path: Path) -> None:
    """A guest that ran only some cases has not been judged, unless that was wanted."""
    with Machine(1, bootargs="cases=3.*,6.2 profile=document") as machine:
        machine.load(binary("Image"))
        assert machine.run(1_000_000_000) is SystemEvent.OFF
        path = tmp_path / "log"
        path.write_text(machine.console.text)
    status, out, err = check("--parse", str(path), "--format", "junit")
    assert status == 1
    assert f"pvlock: {path}: case discovery-order was not run; name what was by --case" in err
    missing = [f.get("message") for f in ElementTree.fromstring(out).iter("failure")]
    assert set(missing) == {"was not run; name what was by --case"}
    assert len(missing) > 10
    assert check("--parse", str(path), "--case", "3.*", "--case", "6.2")[0] == 0
    _, _, err = check("--parse", str(path), "--profile", "pvlock", "--case", "uid")
    assert "case uid was not run" in err


@pytest.mark.parametrize(
    ("arguments", "why", "status"),
    [
        (["--case", "no-such"], "no case or clause is called 'no-such'", 2),
        (["--parse", "/no/such/file"], "/no/such/file: No such file", 1),
        (["--parse", "/"], "/: Is a directory", 1),
        (["--parse", "-"], "no line says 'TAP version 14'; the log ends in line 1: ", 1),
    ],
)
def test_what_cannot_be_judged(arguments: list[str], why: str, status: int) -> None:
    given = b"\xff\xfe nonsense \x00\n"
    assert why in failed(*arguments, status=status, given=given)


@pytest.mark.parametrize("target", ["/no/such/folder/file", "/"])
def test_an_image_that_cannot_be_written(target: str) -> None:
    status, out, err = check("--image", target)
    assert (status, out) == (1, "")
    assert err.startswith(f"pvlock: {target}: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--parse", "-", "--engine", "emulator"], "--engine is for an engine"),
        (["--parse", "-", "--vcpus", "2"], "--vcpus is for an engine"),
        (["--present"], "--present is for --parse"),
        (["--absent-ok"], "--absent-ok is for --parse"),
        (["--parse", "-", "--present", "--absent-ok"], "contradict each other"),
        (["--profile", "linux"], "Invalid value for '--profile'"),
        (["--vcpus", "0"], "Invalid value for '--vcpus'"),
    ],
)
def test_complaints(arguments: list[str], why: str) -> None:
    assert why in refused(*arguments)
