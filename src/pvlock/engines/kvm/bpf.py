# SPDX-License-Identifier: GPL-2.0-or-later
"""BPF objects through the system's libbpf.so.1. Every use that pvlock makes of BPF is made here.

Where a function of the kernel or of libbpf fails, OSError has its errno. Where an object cannot be
loaded, LoadError also has what libbpf printed about it.
"""

import ctypes as c
import errno
import functools
import mmap
import os
import struct
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from pvlock.errors import EngineError, EngineUnavailable
from pvlock.memory import fence

BTF = Path("/sys/kernel/btf/vmlinux")

# User API of the kernel (linux/bpf.h).
MAP_TYPE_ARRAY, MAP_TYPE_TASK_STORAGE = 2, 29
PROG_TYPE_SYSCALL = 31
TRACE_RAW_TP = 23
_F_MMAPABLE = 1 << 10
_PIDFD_THREAD = os.O_EXCL  # linux/pidfd.h

_LOG_LIMIT = 1 << 20
_PRINT = c.CFUNCTYPE(c.c_int, c.c_int, c.c_char_p, c.c_void_p)
_LEVEL_DEBUG = 2
_BUSY_SECONDS = 1.0
_POSITION = struct.Struct("Q")  # of native order ("<" would not be), so one load or one store
_HEADER = struct.Struct("I4x")
_RECORD_BUSY, _RECORD_DISCARDED = 1 << 31, 1 << 30


class LoadError(EngineError):
    """The kernel or libbpf refused an object with `errno`; `log` is what libbpf printed."""

    def __init__(self, name: str, error: int, log: str) -> None:
        # The verifier gives its verdict in its last line, libbpf says in its first what failed.
        said, verified, _ = log.partition("-- END PROG LOAD LOG --")
        lines = [line.strip() for line in said.split("\nprocessed ")[0].splitlines()]
        why = " | ".join(lines[-2:] if verified else lines[:2])
        super().__init__(f"cannot load {name}: {os.strerror(error)}: {why}")
        self.name, self.errno, self.log = name, error, log


class _RunOptions(c.Structure):
    """libbpf's struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", c.c_size_t),
        ("data_in", c.c_void_p),
        ("data_out", c.c_void_p),
        ("data_size_in", c.c_uint32),
        ("data_size_out", c.c_uint32),
        ("ctx_in", c.c_void_p),
        ("ctx_out", c.c_void_p),
        ("ctx_size_in", c.c_uint32),
        ("ctx_size_out", c.c_uint32),
        ("retval", c.c_uint32),
        ("repeat", c.c_int),
        ("duration", c.c_uint32),
        ("flags", c.c_uint32),
        ("cpu", c.c_uint32),
        ("batch_size", c.c_uint32),
    )


class _MapOptions(c.Structure):
    """The beginning of libbpf's struct bpf_map_create_opts; `sz` says that no more follows."""

    _fields_ = (
        ("sz", c.c_size_t),
        ("btf_fd", c.c_uint32),
        ("btf_key_type_id", c.c_uint32),
        ("btf_value_type_id", c.c_uint32),
        ("btf_vmlinux_value_type_id", c.c_uint32),
        ("inner_map_fd", c.c_uint32),
        ("map_flags", c.c_uint32),
    )


class _Said(threading.local):
    """What libbpf printed in this thread. Without us it would be on the user's terminal."""

    text = b""


_said = _Said()


def _keep(level: int, form: bytes, arguments: int) -> int:
    if level < _LEVEL_DEBUG and len(_said.text) < _LOG_LIMIT:
        # `arguments` is a va_list, which x86-64 and arm64 both pass as a pointer.
        vsnprintf = c.CDLL(None).vsnprintf
        vsnprintf.argtypes = [c.c_void_p, c.c_size_t, c.c_char_p, c.c_void_p]
        line = c.create_string_buffer(_LOG_LIMIT)
        vsnprintf(line, _LOG_LIMIT, form, arguments)
        _said.text += line.value
    return 0


_callback = _PRINT(_keep)  # libbpf keeps no reference that Python can see


@functools.cache
def libbpf() -> Any:
    """Load libbpf. Raises EngineUnavailable."""
    try:
        lib = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise EngineUnavailable(
            "kvm", "libbpf.so.1 is not installed", "on Debian: apt-get install libbpf1"
        ) from None
    p, text, u32 = c.c_void_p, c.c_char_p, c.c_uint32
    for name, result, arguments in (
        ("libbpf_set_print", p, [_PRINT]),
        ("libbpf_version_string", text, []),
        ("libbpf_find_vmlinux_btf_id", c.c_int, [text, c.c_int]),
        ("libbpf_probe_bpf_map_type", c.c_int, [c.c_int, p]),
        ("libbpf_probe_bpf_prog_type", c.c_int, [c.c_int, p]),
        ("bpf_object__open_file", p, [text, p]),
        ("bpf_object__load", c.c_int, [p]),
        ("bpf_object__close", None, [p]),
        ("bpf_object__find_map_by_name", p, [p, text]),
        ("bpf_object__find_program_by_name", p, [p, text]),
        ("bpf_object__next_program", p, [p, p]),
        ("bpf_map__fd", c.c_int, [p]),
        ("bpf_map__reuse_fd", c.c_int, [p, c.c_int]),
        ("bpf_map__set_max_entries", c.c_int, [p, u32]),
        ("bpf_program__fd", c.c_int, [p]),
        ("bpf_program__name", text, [p]),
        ("bpf_program__set_autoload", c.c_int, [p, c.c_bool]),
        ("bpf_program__attach", p, [p]),
        ("bpf_program__attach_iter", p, [p, p]),
        ("bpf_link__fd", c.c_int, [p]),
        ("bpf_iter_create", c.c_int, [c.c_int]),
        ("bpf_map_get_fd_by_id", c.c_int, [u32]),
        ("bpf_prog_get_fd_by_id", c.c_int, [u32]),
        ("bpf_obj_get_info_by_fd", c.c_int, [c.c_int, p, p]),
        ("bpf_map_lookup_elem", c.c_int, [c.c_int, p, p]),
        ("bpf_map_update_elem", c.c_int, [c.c_int, p, p, c.c_uint64]),
        ("bpf_map_delete_elem", c.c_int, [c.c_int, p]),
        ("bpf_map_lookup_batch", c.c_int, [c.c_int, p, p, p, p, p, p]),
        ("bpf_map_lookup_and_delete_batch", c.c_int, [c.c_int, p, p, p, p, p, p]),
        ("bpf_link__destroy", c.c_int, [p]),
        ("bpf_map_create", c.c_int, [c.c_int, text, u32, u32, u32, p]),
        ("bpf_prog_test_run_opts", c.c_int, [c.c_int, p]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(_callback)
    return lib


def _check(result: int) -> int:
    # Since 1.0 libbpf returns -errno and sets errno too; a map or program returns its fd.
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _pointer(pointer: int | None) -> int:
    if not pointer:
        error = c.get_errno()
        raise OSError(error, os.strerror(error))
    return pointer


def version() -> str:
    """Return what libbpf says of its version. Raises EngineUnavailable."""
    return str(libbpf().libbpf_version_string().decode().removeprefix("v"))


def has_map_type(kind: int) -> bool:
    """Say whether the kernel has maps of this type."""
    return _check(libbpf().libbpf_probe_bpf_map_type(kind, None)) == 1


def has_program_type(kind: int) -> bool:
    """Say whether the kernel has programs of this type."""
    return _check(libbpf().libbpf_probe_bpf_prog_type(kind, None)) == 1


def has_mmapable_arrays() -> bool:
    """Say whether an array can be mapped into a process."""
    options = _MapOptions(sz=c.sizeof(_MapOptions), map_flags=_F_MMAPABLE)
    fd = libbpf().bpf_map_create(MAP_TYPE_ARRAY, None, 4, 64, 1, c.byref(options))
    if fd == -errno.EINVAL:
        return False
    os.close(_check(fd))
    return True


def has_attach_point(name: str, kind: int) -> bool:
    """Say whether programs of `kind` can be attached to `name`: for TRACE_RAW_TP, a tracepoint."""
    found = libbpf().libbpf_find_vmlinux_btf_id(name.encode(), kind)
    return found != -errno.ENOENT and _check(found) > 0


class BpfObject:
    """A compiled BPF object, loaded when it is made and freed by close().

    Links, programs and maps belong to file descriptors of this process. So nothing outlives the
    process, however it dies.
    """

    def __init__(
        self,
        path: Path,
        programs: Collection[str],
        entries: Mapping[str, int] | None = None,
        shared: Mapping[str, int] | None = None,
    ) -> None:
        """Load `programs` of `path` and its maps.

        `entries` sets max_entries of maps. `shared` has the file descriptors of existing maps that
        stand for maps of the object. Raises LoadError, and EngineUnavailable without libbpf.
        """
        self._lib = lib = libbpf()
        self._links: list[int] = []
        self._object: int | None = None
        _said.text = b""
        try:
            self._object = _pointer(lib.bpf_object__open_file(str(path).encode(), None))
            program = lib.bpf_object__next_program(self._object, None)
            while program:
                wanted = lib.bpf_program__name(program).decode() in programs
                _check(lib.bpf_program__set_autoload(program, wanted))
                program = lib.bpf_object__next_program(self._object, program)
            for name, count in (entries or {}).items():
                _check(lib.bpf_map__set_max_entries(self._map(name), count))
            for name, fd in (shared or {}).items():
                _check(lib.bpf_map__reuse_fd(self._map(name), fd))
            _check(lib.bpf_object__load(self._object))
        except OSError as error:
            self.close()
            said = _said.text.decode(errors="replace")
            raise LoadError(path.name, error.errno or 0, said) from error
        finally:
            _said.text = b""

    def _map(self, name: str) -> int:
        return _pointer(self._lib.bpf_object__find_map_by_name(self._object, name.encode()))

    def _program(self, name: str) -> int:
        return _pointer(self._lib.bpf_object__find_program_by_name(self._object, name.encode()))

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map, which belongs to this object."""
        return _check(self._lib.bpf_map__fd(self._map(name)))

    def program_fd(self, name: str) -> int:
        """Return the file descriptor of a program, which belongs to this object."""
        return _check(self._lib.bpf_program__fd(self._program(name)))

    def attach(self, name: str) -> None:
        """Attach a program to the hook that its section names, until close()."""
        self._links.append(_pointer(self._lib.bpf_program__attach(self._program(name))))

    def iterate(self, name: str) -> int:
        """Attach an iterator; return the link's file descriptor, for iterate_over(), until close().

        Raises OSError.
        """
        link = _pointer(self._lib.bpf_program__attach_iter(self._program(name), None))
        self._links.append(link)
        return _check(self._lib.bpf_link__fd(link))

    def run(self, name: str, argument: int) -> int:
        """Run a program of type `syscall` on a u32 in the calling thread; return its errno, or 0.

        Raises EngineError when the kernel does not run it.
        """
        context = struct.pack("I", argument)
        buffer = c.create_string_buffer(context, len(context))
        options = _RunOptions(sz=c.sizeof(_RunOptions), ctx_size_in=len(context))
        options.ctx_in = c.addressof(buffer)
        # EAGAIN: another thread was preempted inside the kernel's task storage, on this CPU.
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                _check(self._lib.bpf_prog_test_run_opts(self.program_fd(name), c.byref(options)))
            except OSError as error:
                raise EngineError(f"cannot run BPF program {name}: {error.strerror}") from error
            said = -c.c_int32(options.retval).value
            if said != errno.EAGAIN or time.monotonic() > deadline:
                return said
            time.sleep(0.0001)

    def close(self) -> None:
        """Detach and free everything; safe to call twice."""
        while self._links:
            self._lib.bpf_link__destroy(self._links.pop())
        if self._object is not None:
            self._lib.bpf_object__close(self._object)
        self._object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def iterate_over(link: int) -> None:
    """Let an iterator's program run over all that there is. Raises OSError."""
    fd = _check(libbpf().bpf_iter_create(link))
    try:
        while os.read(fd, 4096):
            pass
    finally:
        os.close(fd)


class _ProgramInfo(c.Structure):
    """The beginning of struct bpf_prog_info (linux/bpf.h); the kernel fills no more than this."""

    _fields_ = (
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("tag", c.c_uint8 * 8),
        ("lengths", c.c_uint32 * 2),
        ("instructions", c.c_uint64 * 2),
        ("load_time", c.c_uint64),
        ("created_by", c.c_uint32),
        ("nr_map_ids", c.c_uint32),
        ("map_ids", c.c_uint64),
        ("name", c.c_char * 16),
    )


class _MapInfo(c.Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = (
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("key_size", c.c_uint32),
        ("value_size", c.c_uint32),
        ("max_entries", c.c_uint32),
        ("map_flags", c.c_uint32),
        ("name", c.c_char * 16),
    )


_MOST_MAPS = 8


class ForeignProgram(NamedTuple):
    """A program that any process has loaded: its name (15 characters) and its maps' IDs."""

    name: str
    maps: tuple[int, ...]


class ForeignMap(NamedTuple):
    """A map of any process: its name, its sizes, and a file descriptor of our own for it."""

    name: str
    kind: int
    value_size: int
    entries: int
    fd: int


def _info(fd: int, info: c.Structure) -> None:
    size = c.c_uint32(c.sizeof(info))
    _check(libbpf().bpf_obj_get_info_by_fd(fd, c.byref(info), c.byref(size)))


def program_by_id(number: int) -> ForeignProgram:
    """Say what the program of this ID is. Raises OSError; the caller needs CAP_SYS_ADMIN."""
    fd = _check(libbpf().bpf_prog_get_fd_by_id(number))
    try:
        maps = (c.c_uint32 * _MOST_MAPS)()
        info = _ProgramInfo(nr_map_ids=_MOST_MAPS, map_ids=c.addressof(maps))
        _info(fd, info)
    finally:
        os.close(fd)
    return ForeignProgram(info.name.decode(), tuple(maps[: min(info.nr_map_ids, _MOST_MAPS)]))


def map_by_id(number: int) -> ForeignMap:
    """Open the map of this ID; the caller closes it. Raises OSError, as program_by_id()."""
    fd = _check(libbpf().bpf_map_get_fd_by_id(number))
    info = _MapInfo()
    try:
        _info(fd, info)
    except OSError:
        os.close(fd)
        raise
    return ForeignMap(info.name.decode(), info.type, info.value_size, info.max_entries, fd)


def of_thread(storage: int, tid: int, size: int) -> bytes | None:
    """Return what the task storage of this file descriptor keeps of a thread; None: nothing.

    Raises OSError where the kernel cannot be asked of a thread (Linux 6.9 and newer can), or the
    thread has ended.
    """
    thread = os.pidfd_open(tid, _PIDFD_THREAD)
    try:
        key, value = c.c_int(thread), c.create_string_buffer(size)
        result = libbpf().bpf_map_lookup_elem(storage, c.byref(key), value)
    finally:
        os.close(thread)
    if result == -errno.ENOENT:
        return None
    _check(result)
    return value.raw


class Table:
    """A map (hash, queue) of this file descriptor, its keys and values as bytes."""

    def __init__(self, fd: int, key_size: int, value_size: int, entries: int) -> None:
        self._fd, self._key_size, self._value_size, self._entries = (
            fd,
            key_size,
            value_size,
            entries,
        )

    def put(self, key: bytes | None, value: bytes) -> None:
        """Set the value of a key; a queue has no keys. Raises OSError."""
        _check(libbpf().bpf_map_update_elem(self._fd, key, value, 0))

    def drop(self, key: bytes) -> None:
        """Remove a key, if it is there. Raises OSError."""
        result = libbpf().bpf_map_delete_elem(self._fd, key)
        if result != -errno.ENOENT:
            _check(result)

    def items(self, drop: bool = False) -> list[tuple[bytes, bytes]]:
        """Return what a hash has, and `drop` it; what changes meanwhile may be there or not.

        Raises OSError.
        """
        lib, key, value = libbpf(), self._key_size, self._value_size
        keys = c.create_string_buffer(key * self._entries)
        values = c.create_string_buffer(value * self._entries)
        count = c.c_uint32(self._entries)
        batch = lib.bpf_map_lookup_and_delete_batch if drop else lib.bpf_map_lookup_batch
        position = c.create_string_buffer(max(key, 4))
        result = batch(self._fd, None, position, keys, values, c.byref(count), None)
        if result != -errno.ENOENT:  # that is the end, with what has been found
            _check(result)
        keyed, valued = keys.raw[: key * count.value], values.raw[: value * count.value]
        return [
            (keyed[i * key : (i + 1) * key], valued[i * value : (i + 1) * value])
            for i in range(count.value)
        ]


class RingBuffer:
    """Reads the records that programs put into a BPF ring buffer.

    libbpf has a reader too. But it calls back for each record, and a Ctrl-C that arrives in a
    callback from C is lost. The kernel documents the layout with the map type: a page with the
    reader's position, a page with the writers' position, then the data twice, so that no record is
    ever in two pieces.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Map the ring of `size` bytes. Raises OSError."""
        self._size = size
        self._reader = mmap.mmap(fd, mmap.PAGESIZE)
        self._ring = mmap.mmap(
            fd, mmap.PAGESIZE + 2 * size, prot=mmap.PROT_READ, offset=mmap.PAGESIZE
        )

    def take(self) -> bytes:
        """Return the records since the last call, one after the other."""
        (at,), (end,) = _POSITION.unpack_from(self._reader), _POSITION.unpack_from(self._ring)
        fence()
        found = []
        while at < end:
            place = mmap.PAGESIZE + at % self._size
            (header,) = _HEADER.unpack_from(self._ring, place)
            if header & _RECORD_BUSY:
                break
            start, length = place + _HEADER.size, header & ~_RECORD_DISCARDED
            if not header & _RECORD_DISCARDED:
                found.append(slice(start, start + length))
            at += _HEADER.size + (length + 7 & ~7)
        fence()
        taken = b"".join(self._ring[part] for part in found)
        fence()
        _POSITION.pack_into(self._reader, 0, at)
        return taken
