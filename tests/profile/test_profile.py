# SPDX-License-Identifier: GPL-2.0-or-later
"""From samples to stacks, shares and files; what cannot be profiled is refused in one line."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from asm import assemble
from command_line import complaint, pvlock
from kernels import header
from profiles import (
    AT,
    FUNCTIONS,
    LEAF,
    MOV,
    NOP,
    RET,
    STP,
    kernel,
    kernel_table,
    packed,
    profile,
    profiler,
)  # fmt: skip
from pvlock import image
from pvlock.engines.contract import Awaits, Sampling, SpinKind
from pvlock.errors import ConfigError, MissingSymbols, OtherKernel, SymbolsError, TraceError
from pvlock.linux_image import Symbol, Symbols
from pvlock.profile import Profile, Profiler, render, spinning
from pvlock.profile.folded import folded
from pvlock.profile.frames import Names, program
from pvlock.profile.pprof import pprof
from symbol_tables import TEXT, system_map


def names_of(found: Profile) -> list[list[str]]:
    return [[frame.name for frame in stack] for stack in found.stacks]


def test_a_leaf_is_called_by_the_link_register() -> None:
    """A function that has made its frame record is not."""
    lr, outer = AT["__mutex_lock.constprop.0"] + 16, AT["vfs_read"] + 16
    leaf = [AT["osq_lock"] + 8, outer]
    framed = [AT["queued_spin_lock_slowpath"] + 12, outer]
    found = profile(packed(0, 0, leaf, lr=lr), packed(100, 0, framed, lr=lr))
    assert names_of(found) == [
        ["osq_lock", "__mutex_lock.constprop.0", "vfs_read"],
        ["queued_spin_lock_slowpath", "vfs_read"],
    ]


@pytest.mark.parametrize(
    ("at", "framed"), [(0, False), (4, False), (8, True), (12, True), (20, False), (24, True)]
)
def test_where_a_function_has_its_frame_record(at: int, framed: bool) -> None:
    names = Names(kernel(), Symbols(TEXT, [Symbol(AT["vfs_read"], "T", "vfs_read")]))
    assert names.has_frame(AT["vfs_read"] + at) is framed


def test_the_registers_are_those_at_the_begin_of_the_block() -> None:
    """The record is made in this block: what it begins with is the caller's X29."""
    lr, outer = AT["do_idle"] + 16, AT["vfs_read"] + 16
    found = profile(packed(0, 0, [AT["vfs_write"] + 12, outer], lr=lr, into=3))
    assert names_of(found) == [["vfs_write", "do_idle", "vfs_read"]]


def test_programs_and_modules() -> None:
    module = 0xFFFF_8000_7A00_0000
    found = profile(
        packed(0, 0, [module, AT["vfs_read"] + 16, 0x1234, 0x5678], user=2),
        packed(100, 1, [0x4444, 0x5555], user=2),
    )
    assert names_of(found) == [["[module]", "vfs_read", "[user]"], ["[user]"]]


def test_shares_of_the_time_of_all_cpus() -> None:
    found = profile(
        packed(0, 0, [AT["vfs_read"] + 12], points=4),
        packed(400, 0, [0x4000], user=1, points=2),
        packed(0, 1, [AT["cpu_do_idle"] + 4, AT["do_idle"] + 16], points=3, flags=1),
        packed(300, 1, [AT["pvlock_vcpu_is_preempted"], AT["mutex_spin_on_owner"] + 8], points=1),
    )
    shares = found.shares()
    assert shares.total == 20
    assert shares.of("rest of the kernel") == 4 / 20
    assert shares.of("user programs") == 2 / 20
    assert shares.of("idle loop") == 3 / 20
    assert shares.kinds["idle loop"].in_wfe == 3
    assert shares.of("mutex spinning") == 1 / 20
    assert shares.of("no VCPU") == 10 / 20
    assert shares.of_function("vfs_read") == 4 / 20
    assert sum(share.points for share in shares.kinds.values()) == shares.total


def test_a_queue_waits_for_whom_its_head_waits_for() -> None:
    """VCPU 2 waits behind 1, 1 behind 0, and 0 for the owner, which is off its CPU."""
    osq, head = AT["osq_lock"] + 8, AT["mutex_spin_on_owner"] + 8
    found = profile(
        packed(0, 0, [head], awaited=3, awaits=Awaits.OFF),
        packed(0, 1, [osq], awaited=0, awaits=Awaits.RUNNING),
        packed(0, 2, [osq], awaited=1, awaits=Awaits.RUNNING),
        # The head waits for one that runs; then two in a ring, which samples a quantum apart show.
        packed(100, 0, [head], awaited=3, awaits=Awaits.RUNNING),
        packed(100, 1, [osq], awaited=0, awaits=Awaits.RUNNING),
        packed(200, 0, [osq], awaited=1, awaits=Awaits.RUNNING),
        packed(200, 1, [osq], awaited=0, awaits=Awaits.RUNNING),
        packed(300, 0, [head], awaits=Awaits.SLEEPING),
        packed(300, 1, [osq], awaited=0, awaits=Awaits.RUNNING),
        packed(400, 1, [osq]),
        packed(500, 1, [AT["rwsem_down_write_slowpath"] + 12], awaits=Awaits.READERS),
    )
    kinds = found.shares().kinds
    queue, mutex = kinds["osq_lock"], kinds["mutex spinning"]
    assert (queue.points, queue.off, queue.running, queue.sleeping) == (7, 2, 3, 1)
    assert (mutex.points, mutex.off, mutex.running, mutex.sleeping) == (3, 1, 1, 1)
    assert kinds["rwsem spinning"].readers == 1
    assert "30% of that for a VCPU that was off" not in render.sentence(found.shares())
    assert "27% of that for a VCPU that was off its CPU" in render.sentence(found.shares())


def test_a_part_of_the_run() -> None:
    found = profile(*(packed(100 * n, 0, [AT["vfs_read"] + 12]) for n in range(10)))
    part = found.part(200, 500)
    assert [sample.time_ns for sample in part.samples] == [200, 300, 400]
    assert part.shares().total == 6
    assert found.part(800).shares().total == 4
    assert found.part(5_000).shares().total == 0


def test_folded_stacks() -> None:
    stack = [AT["osq_lock"] + 8, AT["vfs_read"] + 16, 0x1234]
    found = profile(packed(0, 0, stack, user=1, points=3), packed(300, 1, [0x4444], user=1))
    assert folded(found) == "[user] 1\n[user];vfs_read_[k];osq_lock_[k] 3\n"


def pprof_messages() -> Any:
    """The definition of pprof's messages, as far as they are written here."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pprof.proto", package="p", syntax="proto3")
    messages: dict[str, list[tuple[str, int, str, bool]]] = {
        "ValueType": [("type", 1, "", False), ("unit", 2, "", False)],
        "Line": [("function_id", 1, "", False)],
        "Sample": [("location_id", 1, "", True), ("value", 2, "", True)],
        "Mapping": [("id", 1, "", False), ("filename", 5, "", False)],
        "Location": [("id", 1, "", False), ("mapping_id", 2, "", False), ("address", 3, "", False),
                     ("line", 4, "Line", True)],
        "Function": [("id", 1, "", False), ("name", 2, "", False), ("system_name", 3, "", False)],
        "Profile": [("sample_type", 1, "ValueType", True), ("sample", 2, "Sample", True),
                    ("mapping", 3, "Mapping", True), ("location", 4, "Location", True),
                    ("function", 5, "Function", True), ("string_table", 6, "str", True),
                    ("duration_nanos", 10, "", False), ("period_type", 11, "ValueType", False),
                    ("period", 12, "", False)],
    }  # fmt: skip
    for name, members in messages.items():
        message = file.message_type.add(name=name)
        for called, number, kind, repeated in members:
            types = {"": field.TYPE_UINT64, "str": field.TYPE_STRING}
            message.field.add(
                name=called, number=number, type=types.get(kind, field.TYPE_MESSAGE),
                type_name=None if kind in types else f".p.{kind}",
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Profile"))


def test_pprof() -> None:
    stack = [AT["osq_lock"] + 8, AT["vfs_read"] + 16, 0x1234]
    found = profile(packed(0, 0, stack, user=1, points=3), packed(300, 1, [0x4444], user=1))
    read = pprof_messages().FromString(gzip.decompress(pprof(found)))
    text = list(read.string_table)
    assert text[0] == ""
    functions = {one.id: text[one.name] for one in read.function}
    places = {one.id: (functions[one.line[0].function_id], one.address) for one in read.location}
    stacks = {
        tuple(places[number] for number in one.location_id): list(one.value) for one in read.sample
    }
    user = ("[user]", 0)
    assert stacks == {
        (("osq_lock", stack[0]), ("vfs_read", stack[1]), user): [3, 300],
        (user,): [1, 100],
    }
    assert [text[one.filename] for one in read.mapping] == ["[kernel]", "[user]"]
    assert (read.period, read.duration_nanos) == (100, 1000)
    assert [(text[one.type], text[one.unit]) for one in read.sample_type] == [
        ("samples", "count"), ("cpu", "nanoseconds"),
    ]  # fmt: skip
    assert pprof(found) == pprof(found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_nonsense_instead_of_samples(data: bytes) -> None:
    found = profile()
    try:
        found.add(data, 0)
    except TraceError as error:
        assert "make no sense" in str(error)


def test_where_the_kernel_keeps_the_lock() -> None:
    found = {spin.start: spin for spin in profiler().sampling.spins}
    lock = found[AT["__mutex_lock.constprop.0"]]
    assert (lock.kind, lock.register, lock.moved) == (SpinKind.OWNER, 20, lock.start + 12)
    leaf = found[AT["mutex_spin_on_owner"]]
    assert (leaf.register, leaf.moved, leaf.end) == (0, leaf.start, leaf.start + 32)
    assert found[AT["rwsem_down_write_slowpath"]].owner == 8
    assert found[AT["osq_lock"]].kind is SpinKind.QUEUE


def test_the_address_of_a_variable_is_read_in_the_code() -> None:
    """ADRP X1, 0x3c3000 and ADD X1, X1, #0x3c0, at a known place, from a kernel's own code."""
    code = {"osq_lock": (STP, 0xB0001A81, 0x910F0021, MOV, NOP, NOP, NOP, RET)}
    symbols = Symbols(TEXT, [Symbol(AT[n], "T", n) for n in AT])
    nodes = spinning.queue_nodes(kernel({**FUNCTIONS, **code}), symbols)
    assert nodes == ((AT["osq_lock"] + 4) & ~0xFFF) + 0x351 * 0x1000 + 0x3C0


def test_programs_by_their_elf_files(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    path.write_bytes(assemble(".type f, %function\nf: nop\nret\n.type g, %function\ng: nop\noff\n"))
    first = program(str(path))
    assert [first.at(first.starts[i]) for i in (0, 1)] == ["f", "g"]
    moved = program(f"{path}@0x1000")
    assert moved.starts[0] == first.starts[0] + 0x1000
    with pytest.raises(ConfigError, match="guest and guest are at the same addresses"):
        profiler(programs=[str(path), str(path)])
    with pytest.raises(ConfigError, match="is no ELF file"):
        program(__file__)
    with pytest.raises(ConfigError, match="No such file"):
        program(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="'x' is no address"):
        program(f"{path}@x")
    with pytest.raises(ConfigError, match="is not for AArch64"):
        program("/bin/sh" if Path("/bin/sh").read_bytes()[18] != 0xB7 else str(tmp_path))


def test_kernels_that_cannot_be_profiled(tmp_path: Path) -> None:
    bare = header() + bytes(0x4000)
    with pytest.raises(MissingSymbols, match=r"^k: has no kallsyms"):
        Profiler.of_image(image.parse(bare, "k"))
    frameless = dict.fromkeys(FUNCTIONS, LEAF)
    with pytest.raises(SymbolsError, match="keep no frame pointers"):
        Profiler.of_image(image.parse(kernel(frameless), "k"))
    other = tmp_path / "System.map"
    other.write_text(system_map(kernel_table()).replace("vfs_read", "vfs_rood"))
    table = [(o, k, n.replace("vfs_read", "vfs_write2")) for o, k, n in kernel_table()]
    assert Profiler.of_image(image.parse(kernel(), "k"), other)
    other.write_text(system_map(table).replace("80001020 T", "80001024 T"))
    with pytest.raises(OtherKernel, match="vfs_write is at"):
        Profiler.of_image(image.parse(kernel(), "k"), other)
    with pytest.raises(ConfigError, match="period_ns"):
        profiler(period_ns=10)


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    bare, good = tmp_path / "bare", tmp_path / "good"
    bare.write_bytes(header() + bytes(0x4000))
    good.write_bytes(kernel())

    def said(*options: str) -> str:
        return complaint(pvlock("run", "--engine", "emulator", *options))

    out = str(tmp_path / "out.folded")
    assert "has no kallsyms" in said(str(bare), "--profile", out)
    assert "--profile is for a Linux Image" in said("mutex", "--profile", out)
    assert "must end in .folded, .pb.gz" in said(str(good), "--profile", str(tmp_path / "out"))
    assert "--profile-from is for --profile" in said(str(good), "--profile-from", "1s")
    assert "No such file" in said(str(good), "--profile", str(tmp_path / "no" / "x.json"))
    said(str(good), "--profile", out, "--profile-period", "10")
    assert "period" in said(str(good), "--profile", out, "--profile-period", "10ns")
    missing = str(tmp_path / "System.map")
    assert "System.map: No such" in said(str(good), "--profile", out, "--system-map", missing)
    assert not Path(out).exists()


def test_sampling_is_described_by_its_defaults() -> None:
    assert Sampling(1000).spins == ()
    assert Sampling(1000).queue is None
