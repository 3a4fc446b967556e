"""The only file of this package that touches `os`: the few operations a log needs of a disk.

`Filesystem` and `File` are protocols; the simulator and the fault tests bring their own. A log
relies on exactly this: bytes are durable after `File.datasync` returned; a created, renamed or
removed name is durable after `sync_dir` of its directory returned; nothing else is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from typing import Final, Protocol

from wal.errors import LockedError

__all__ = [
    "Buffer",
    "File",
    "Filesystem",
    "Lock",
    "OsFilesystem",
    "ReadFile",
    "ReadFilesystem",
]

Buffer = bytes | bytearray | memoryview

_IOV_MAX: Final = 1024
_ZEROS: Final = bytes(1 << 20)


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


class _OsFile:
    """`File` over a descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        for start in range(0, len(buffers), _IOV_MAX):
            part = buffers[start : start + _IOV_MAX]
            wanted = sum(len(buffer) for buffer in part)
            written = os.pwritev(self._fd, part, offset)
            if written < wanted:
                self._write_rest(b"".join(part), written, offset)
            offset += wanted

    def _write_rest(self, data: bytes, written: int, offset: int) -> None:
        view = memoryview(data)
        while written < len(view):
            count = os.pwrite(self._fd, view[written:], offset + written)
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

    def datasync(self) -> None:
        os.fdatasync(self._fd)

    def sync(self) -> None:
        os.fsync(self._fd)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)

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


class OsFilesystem:
    """The real file system."""

    def open(self, path: str, *, create: bool = False) -> File:
        """See `Filesystem.open`."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return _OsFile(os.open(path, flags, 0o600))

    def open_read(self, path: str) -> ReadFile:
        """See `Filesystem.open_read`."""
        return _OsFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def exists(self, path: str) -> bool:
        """See `Filesystem.exists`."""
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        """See `Filesystem.listdir`."""
        return sorted(os.listdir(path))

    def rename(self, source: str, target: str) -> None:
        """See `Filesystem.rename`."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """See `Filesystem.unlink`."""
        os.unlink(path)

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
