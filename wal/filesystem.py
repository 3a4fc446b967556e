"""The only file of this package that touches `os`: the few operations a log needs of a disk.

`Filesystem` and `File` are protocols; the simulator and the fault tests bring their own. A log
relies on exactly this: bytes are durable after `File.datasync` returned (or, in a file opened with
`FileMode.dsync`, after `pwritev` did); a created, renamed or removed name is durable after `sync_dir`
of its directory returned; nothing else is.

A `TunableFilesystem` also opens files past the page cache, synced by every write, and takes advice
about the cache. What it can do depends on where the directory lies, so it is asked first.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Final, Protocol, runtime_checkable

from wal.errors import LockedError
from wal.policy import Capability

__all__ = [
    "Buffer",
    "Calls",
    "File",
    "FileMode",
    "Filesystem",
    "Lock",
    "OsFilesystem",
    "ReadFile",
    "ReadFilesystem",
    "TunableFilesystem",
    "TunedFile",
]

Buffer = bytes | bytearray | memoryview

_IOV_MAX: Final = 1024
_ZEROS: Final = bytes(1 << 20)
_PROBE: Final = "PROBE.tmp"
_PROBE_BYTES: Final = 4096
_SYNC_FILE_RANGE_WRITE: Final = 2


class ReadFile(Protocol):
    """An open file that is only read. Positions and lengths in bytes; calls may raise OSError."""

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to `length` bytes; fewer only at the end of the file."""

    def size(self) -> int:
        """Return the file's length."""

    def close(self) -> None:
        """Close the file; makes nothing durable."""


class File(ReadFile, Protocol):
    """An open file."""

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers, one after another, from `offset` on; short writes are continued."""

    def zero_fill(self, offset: int, length: int) -> None:
        """Write zeros."""

    def allocate(self, offset: int, length: int) -> None:
        """Reserve blocks without writing them (posix_fallocate)."""

    def datasync(self) -> None:
        """Make the content durable (fdatasync)."""

    def sync(self) -> None:
        """Make content and metadata durable (fsync)."""

    def truncate(self, length: int) -> None:
        """Cut or extend the file."""


class Lock(Protocol):
    """A held lock."""

    def release(self) -> None:
        """Give the lock back."""


class ReadFilesystem(Protocol):
    """What reading a log takes. Paths are absolute or relative strings; calls may raise OSError."""

    def open_read(self, path: str) -> ReadFile:
        """Open for reading only."""

    def exists(self, path: str) -> bool:
        """Tell whether there is a file or directory at `path`."""

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""


class Filesystem(ReadFilesystem, Protocol):
    """A directory tree."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and writing; `create` makes a new, empty file (it must not exist)."""

    def rename(self, source: str, target: str) -> None:
        """Rename a file, replacing `target`; durable after `sync_dir`."""

    def unlink(self, path: str) -> None:
        """Remove a file; durable after `sync_dir`."""

    def mkdirs(self, path: str) -> None:
        """Create a directory and its parents, each made durable in its own parent."""

    def sync_dir(self, path: str) -> None:
        """Make the names of a directory durable."""

    def lock(self, path: str) -> Lock:
        """Take the exclusive lock file at `path`; `LockedError` if another process holds it."""


@runtime_checkable
class TunedFile(File, Protocol):
    """A file that takes advice about the page cache. Advice fails silently where it has no effect."""

    def drop_cache(self, offset: int, length: int) -> None:
        """Let clean pages of this range leave the page cache."""

    def start_writeback(self, offset: int, length: int) -> None:
        """Begin to write dirty pages of this range; return at once, with nothing durable."""


@dataclass(frozen=True, slots=True)
class FileMode:
    """How a file is written."""

    direct: bool = False
    """Past the page cache: whole blocks of 4 KiB, at their place, from memory aligned likewise."""
    dsync: bool = False
    """Every write is durable when it returns."""


@runtime_checkable
class TunableFilesystem(Filesystem, Protocol):
    """A file system that may be able to do more."""

    def capabilities(self, directory: str) -> frozenset[Capability]:
        """Return what works in a directory. It is tried out there; nothing is left behind."""

    def open_tuned(self, path: str, mode: FileMode) -> TunedFile:
        """Open an existing file for writing in a mode that `capabilities` said works."""


@dataclass(slots=True)
class Calls:
    """System calls on files that were opened for writing, as they were made."""

    writes: int = 0
    syncs: int = 0
    others: int = 0
    """Opening, closing, allocating, cutting, renaming, advising, and what directories take."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.writes + self.syncs + self.others


class _OsFile:
    """`File` over a descriptor."""

    __slots__ = ("_calls", "_fd")

    def __init__(self, descriptor: int, calls: Calls) -> None:
        self._fd = descriptor
        self._calls = calls

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        if len(buffers) > _IOV_MAX:  # small ones then: copying them costs less than another call
            buffers = [b"".join(buffers)]
        wanted = sum(map(len, buffers))
        written = os.pwritev(self._fd, buffers, offset)
        self._calls.writes += 1
        if written < wanted:
            self._write_rest(buffers, written, offset)

    def _write_rest(self, buffers: Sequence[Buffer], written: int, offset: int) -> None:
        view = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        while written < len(view):
            count = os.pwrite(self._fd, view[written:], offset + written)
            self._calls.writes += 1
            if count == 0:
                raise OSError(errno.EIO, "a write made no progress")
            written += count

    def pread(self, length: int, offset: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        done = len(data)
        while done < length and (data := os.pread(self._fd, length - done, offset + done)):
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def zero_fill(self, offset: int, length: int) -> None:
        while length > 0:
            step = min(length, len(_ZEROS))
            self.pwritev([memoryview(_ZEROS)[:step]], offset)
            offset += step
            length -= step

    def allocate(self, offset: int, length: int) -> None:
        os.posix_fallocate(self._fd, offset, length)
        self._calls.others += 1

    def datasync(self) -> None:
        os.fdatasync(self._fd)
        self._calls.syncs += 1

    def sync(self) -> None:
        os.fsync(self._fd)
        self._calls.syncs += 1

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)
        self._calls.others += 1

    def drop_cache(self, offset: int, length: int) -> None:
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)
        self._calls.others += 1

    def start_writeback(self, offset: int, length: int) -> None:
        assert _sync_file_range is not None, "capabilities said so"
        _sync_file_range(self._fd, offset, length, _SYNC_FILE_RANGE_WRITE)
        self._calls.others += 1

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)


class _OsLock:
    """A `flock` held through an open descriptor; it goes with the process, however that dies."""

    __slots__ = ("_fd",)

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

    def release(self) -> None:
        os.close(self._fd)


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's sync_file_range of the C library, or None where there is none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    function.restype = ctypes.c_int

    def call(descriptor: int, offset: int, length: int, flags: int) -> int:
        return int(function(descriptor, offset, length, flags))

    return call


_sync_file_range: Final = _find_sync_file_range()


class OsFilesystem:
    """The real file system. `calls` counts what all its files did."""

    def __init__(self) -> None:
        """Count from 0."""
        self.calls = Calls()

    def open(self, path: str, *, create: bool = False) -> File:
        """See `Filesystem.open`."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return self._opened(path, flags)

    def open_read(self, path: str) -> ReadFile:
        """See `Filesystem.open_read`."""
        return _OsFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), Calls())

    def open_tuned(self, path: str, mode: FileMode) -> TunedFile:
        """See `TunableFilesystem.open_tuned`."""
        return self._opened(path, os.O_RDWR | os.O_CLOEXEC | _flags_of(mode))

    def capabilities(self, directory: str) -> frozenset[Capability]:
        """See `TunableFilesystem.capabilities`."""
        found: set[Capability] = set()
        path = f"{directory}/{_PROBE}"
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            trials: dict[Capability, Callable[[], None]] = {
                "o_direct": lambda: _try_to_write(path, FileMode(direct=True)),
                "o_dsync": lambda: _try_to_write(path, FileMode(dsync=True)),
                "fallocate": lambda: _try(path, lambda fd: os.posix_fallocate(fd, 0, 8192)),
                "fadvise": lambda: _try(path, _advise),
                "sync_file_range": lambda: _try(path, _write_back),
            }
            for capability, trial in trials.items():
                with contextlib.suppress(OSError, AttributeError):  # then it does not work here
                    trial()
                    found.add(capability)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return frozenset(found)

    def _opened(self, path: str, flags: int) -> _OsFile:
        self.calls.others += 1
        return _OsFile(os.open(path, flags, 0o600), self.calls)

    def exists(self, path: str) -> bool:
        """See `Filesystem.exists`."""
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        """See `Filesystem.listdir`."""
        return sorted(os.listdir(path))

    def rename(self, source: str, target: str) -> None:
        """See `Filesystem.rename`."""
        os.rename(source, target)
        self.calls.others += 1

    def unlink(self, path: str) -> None:
        """See `Filesystem.unlink`."""
        os.unlink(path)
        self.calls.others += 1

    def mkdirs(self, path: str) -> None:
        """See `Filesystem.mkdirs`."""
        path = os.path.abspath(path)
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        self.mkdirs(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self.sync_dir(parent)

    def sync_dir(self, path: str) -> None:
        """See `Filesystem.sync_dir`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            self.calls.others += 3
        finally:
            os.close(descriptor)

    def lock(self, path: str) -> Lock:
        """See `Filesystem.lock`; the file holds the owner's pid for the error text."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise LockedError(
                f"{os.path.dirname(path)}: in use by process {owner}; stop it first, or use"
                " another directory"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        with contextlib.suppress(OSError):  # a full disk must not keep a node from starting
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return _OsLock(descriptor)


def _flags_of(mode: FileMode) -> int:
    """Return the flags of `open` for a mode; AttributeError where the system has none."""
    return (os.O_DIRECT if mode.direct else 0) | (os.O_DSYNC if mode.dsync else 0)


def _try(path: str, trial: Callable[[int], object], flags: int = 0) -> None:
    """Do something with an open file; OSError if it cannot be done here."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags)
    try:
        trial(descriptor)
    finally:
        os.close(descriptor)


def _try_to_write(path: str, mode: FileMode) -> None:
    with mmap(-1, _PROBE_BYTES) as block:
        _try(path, lambda fd: os.pwritev(fd, [block], 0), _flags_of(mode))


def _advise(descriptor: int) -> None:
    os.posix_fadvise(descriptor, 0, _PROBE_BYTES, os.POSIX_FADV_DONTNEED)


def _write_back(descriptor: int) -> None:
    if _sync_file_range is None:
        raise OSError(errno.ENOSYS, "no sync_file_range")
    if _sync_file_range(descriptor, 0, _PROBE_BYTES, _SYNC_FILE_RANGE_WRITE):
        raise OSError(ctypes.get_errno(), "sync_file_range")
