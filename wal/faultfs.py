"""A file system that fails on purpose: `wal.faults` in front of any other.

Real nodes run with it. While no fault stands, an operation costs one look at a flag more
(docs/durability.md has the figure); reading costs nothing but the call.

What a failed fsync covered is dropped (fsyncgate) where the file system below can do that, which is
power-loss mode (`wal.writeback`): a later sync reports success and does not write it. Without it
the pages stay in the kernel's cache, and a later life of the node may read them there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from wal.faults import FaultBoard
from wal.filesystem import (
    Buffer,
    File,
    FileMode,
    Filesystem,
    Lock,
    ReadFile,
    TunableFilesystem,
    TunedFile,
)
from wal.policy import Capability
from wal.writeback import WriteBackFile

__all__ = ["FaultFile", "FaultFilesystem", "Flip", "flip_bit"]


class FaultFile:
    """`wal.filesystem.TunedFile` in front of another file."""

    __slots__ = ("_board", "_dsync", "_inner", "_path")

    def __init__(
        self, inner: File, path: str, board: FaultBoard, mode: FileMode | None = None
    ) -> None:
        """Stand in front of `inner`, which is open for writing; with `dsync` a write is a sync too."""
        self._dsync = mode is not None and mode.dsync
        self._inner = inner
        self._path = path
        self._board = board

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """See `File.pwritev`."""
        if not self._board.armed:
            self._inner.pwritev(buffers, offset)
            return
        board, path = self._board, self._path
        board.before("write", path)
        if self._dsync:
            board.before("sync", path)
        size = sum(map(len, buffers))
        stored = self._room(offset, size)
        if stored == size:
            self._inner.pwritev(buffers, offset)
            board.after("write", path)
            if self._dsync:
                board.after("sync", path)
            return
        if stored:
            whole = buffers[0] if len(buffers) == 1 else b"".join(buffers)
            self._inner.pwritev([memoryview(whole)[:stored]], offset)
        raise _no_space(path)

    def zero_fill(self, offset: int, length: int) -> None:
        """See `File.zero_fill`; a write for faults."""
        if not self._board.armed:
            self._inner.zero_fill(offset, length)
            return
        self._board.before("write", self._path)
        stored = self._room(offset, length)
        if stored:
            self._inner.zero_fill(offset, stored)
        if stored < length:
            raise _no_space(self._path)
        self._board.after("write", self._path)

    def allocate(self, offset: int, length: int) -> None:
        """See `File.allocate`; a write for faults."""
        if not self._board.armed:
            self._inner.allocate(offset, length)
            return
        self._board.before("write", self._path)
        if self._room(offset, length) < length:
            raise _no_space(self._path)
        self._inner.allocate(offset, length)
        self._board.after("write", self._path)

    def datasync(self) -> None:
        """See `File.datasync`."""
        if not self._board.armed:
            self._inner.datasync()
            return
        self._before_sync()
        self._inner.datasync()
        self._board.after("sync", self._path)

    def sync(self) -> None:
        """See `File.sync`."""
        if not self._board.armed:
            self._inner.sync()
            return
        self._before_sync()
        self._inner.sync()
        self._board.after("sync", self._path)

    def truncate(self, length: int) -> None:
        """See `File.truncate`."""
        if not self._board.armed:
            self._inner.truncate(length)
            return
        self._board.before("truncate", self._path)
        self._board.freed(max(0, self._inner.size() - length))
        self._inner.truncate(length)
        self._board.after("truncate", self._path)

    def pread(self, length: int, offset: int) -> bytes:
        """See `ReadFile.pread`."""
        return self._inner.pread(length, offset)

    def size(self) -> int:
        """See `ReadFile.size`."""
        return self._inner.size()

    def drop_cache(self, offset: int, length: int) -> None:
        """See `TunedFile.drop_cache`."""
        if isinstance(self._inner, TunedFile):
            self._inner.drop_cache(offset, length)

    def start_writeback(self, offset: int, length: int) -> None:
        """See `TunedFile.start_writeback`."""
        if isinstance(self._inner, TunedFile):
            self._inner.start_writeback(offset, length)

    def close(self) -> None:
        """Close the file."""
        self._inner.close()

    def _before_sync(self) -> None:
        try:
            self._board.before("sync", self._path)
        except OSError:
            if isinstance(self._inner, WriteBackFile):
                self._inner.drop_unsynced()
            raise

    def _room(self, offset: int, size: int) -> int:
        growth = max(0, offset + size - self._inner.size())
        return self._board.room(self._path, size, growth)


class FaultFilesystem:
    """`wal.filesystem.TunableFilesystem` in front of another file system."""

    def __init__(self, inner: TunableFilesystem, board: FaultBoard) -> None:
        """Stand in front of `inner`; `board` says what fails."""
        self.board = board
        self._inner = inner

    def open(self, path: str, *, create: bool = False) -> File:
        """See `Filesystem.open`."""
        if create and self.board.armed:
            self.board.before("create", path)
            if self.board.refuses_files(path):
                raise _no_space(path)
            file = self._inner.open(path, create=True)
            self.board.after("create", path)
        else:
            file = self._inner.open(path, create=create)
        return FaultFile(file, path, self.board)

    def open_tuned(self, path: str, mode: FileMode) -> TunedFile:
        """See `TunableFilesystem.open_tuned`."""
        return FaultFile(self._inner.open_tuned(path, mode), path, self.board, mode)

    def open_read(self, path: str) -> ReadFile:
        """See `Filesystem.open_read`; nothing stands in front of what is only read."""
        return self._inner.open_read(path)

    def capabilities(self, directory: str) -> frozenset[Capability]:
        """See `TunableFilesystem.capabilities`."""
        return self._inner.capabilities(directory)

    def exists(self, path: str) -> bool:
        """See `Filesystem.exists`."""
        return self._inner.exists(path)

    def listdir(self, path: str) -> list[str]:
        """See `Filesystem.listdir`."""
        return self._inner.listdir(path)

    def rename(self, source: str, target: str) -> None:
        """See `Filesystem.rename`."""
        if not self.board.armed:
            self._inner.rename(source, target)
            return
        self.board.before("rename", target)
        self._inner.rename(source, target)
        self.board.after("rename", target)

    def unlink(self, path: str) -> None:
        """See `Filesystem.unlink`."""
        if not self.board.armed:
            self._inner.unlink(path)
            return
        self.board.before("unlink", path)
        with closing(self._inner.open_read(path)) as file:
            size = file.size()
        self._inner.unlink(path)
        self.board.freed(size)
        self.board.after("unlink", path)

    def mkdirs(self, path: str) -> None:
        """See `Filesystem.mkdirs`."""
        self._inner.mkdirs(path)

    def sync_dir(self, path: str) -> None:
        """See `Filesystem.sync_dir`."""
        if not self.board.armed:
            self._inner.sync_dir(path)
            return
        self.board.before("dir-sync", path)
        self._inner.sync_dir(path)
        self.board.after("dir-sync", path)

    def lock(self, path: str) -> Lock:
        """See `Filesystem.lock`."""
        return self._inner.lock(path)


@dataclass(frozen=True, slots=True)
class Flip:
    """A bit that was turned over in a file at rest."""

    path: str
    offset: int
    bit: int
    before: int
    after: int


def flip_bit(fs: Filesystem, path: str, offset: int, bit: int) -> Flip:
    """Turn one bit of a file over, durably; the same again repairs it.

    `fs` is the disk itself, below any cache: what lies at rest is meant. ValueError behind the end.
    """
    with closing(fs.open(path)) as file:
        found = file.pread(1, offset)
        if not found:
            raise ValueError(f"{path}: ends before byte {offset}")
        after = found[0] ^ 1 << bit
        file.pwritev([bytes([after])], offset)
        file.datasync()
    return Flip(path, offset, bit, found[0], after)


def _no_space(path: str) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
