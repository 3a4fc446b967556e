"""Performing a committer's operations over a file system, one at a time.

What a policy wants of the open file itself (O_DIRECT, O_DSYNC, advice to the page cache) is wanted
of a `TunableFilesystem`; any other knows none of it, and `wal.policy.settle` has seen to it that none
is asked for.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

from wal.blocks import BlockFile
from wal.filesystem import File, FileMode, Filesystem, TunableFilesystem, TunedFile
from wal.operations import (
    Allocate,
    Create,
    DropCache,
    Operation,
    Rename,
    StartWriteback,
    Sync,
    SyncDir,
    Unlink,
    Write,
    ZeroFill,
)
from wal.policy import SyncPolicy

__all__ = ["SegmentIO"]

_PLAIN: Final = FileMode()


class SegmentIO:
    """Performs single operations in one directory; keeps the head's file open.

    One thread, but for `Sync` of the open file, which another one may perform meanwhile.
    """

    __slots__ = ("_directory", "_file", "_fs", "_full_sync", "_mode", "_name", "_tunable")

    def __init__(self, fs: Filesystem, directory: str, policy: SyncPolicy | None = None) -> None:
        """Work in `directory`, which exists, as `policy` (settled: `wal.policy.settle`) wants."""
        self._fs = fs
        self._directory = directory
        self._file: File | None = None
        self._name = ""
        self._mode = _PLAIN
        self._full_sync = False
        self._tunable = fs if isinstance(fs, TunableFilesystem) else None
        if policy is not None:
            self._mode = FileMode(policy.io == "direct", policy.sync == "o_dsync")
            self._full_sync = policy.sync == "fsync"
            assert self._tunable or self._mode == _PLAIN, "the policy was settled"

    def perform(self, operation: Operation) -> None:
        """Perform one operation; OSError as the disk says. See `wal.operations` on repeating."""
        # The two of almost every job stand first: a class pattern takes as long as a small write. What
        # runs between a sync and the next write finds cold caches, and takes three times as long.
        if type(operation) is Write or type(operation) is Sync:
            file = self._file
            if file is None or self._name != operation.name:
                file = self._open(operation.name)
            if type(operation) is Write:
                file.pwritev(operation.buffers, operation.offset)
            elif self._full_sync:
                file.sync()
            else:
                file.datasync()
            return
        match operation:
            case ZeroFill(name, offset, length):
                self._open(name).zero_fill(offset, length)
            case Create(name):
                self._create(name)
            case Allocate(name, length):
                self._open(name).allocate(0, length)
            case Rename(source, target):
                self._rename(source, target)
            case Unlink(name):
                if self._fs.exists(self._path(name)):
                    self._fs.unlink(self._path(name))
            case SyncDir():
                self._fs.sync_dir(self._directory)
            case DropCache(name, offset, length):
                self._tuned(name).drop_cache(offset, length)
            case StartWriteback(name, offset, length):
                self._tuned(name).start_writeback(offset, length)

    def close(self) -> None:
        """Close the open file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._name = ""

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _open(self, name: str) -> File:
        if self._file is None or self._name != name:
            self.close()
            self._file = self._opened(self._path(name))
            self._name = name
        return self._file

    def _opened(self, path: str) -> File:
        if self._mode == _PLAIN or self._tunable is None:
            return self._fs.open(path)
        file = self._tunable.open_tuned(path, self._mode)
        if not self._mode.direct:
            return file

        def read(length: int, offset: int) -> bytes:
            with closing(self._fs.open_read(path)) as plain:
                return plain.pread(length, offset)

        return BlockFile(file, read)

    def _tuned(self, name: str) -> TunedFile:
        file = self._open(name)
        assert isinstance(file, TunedFile), "the policy was settled"
        return file

    def _create(self, name: str) -> None:
        self.close()
        path = self._path(name)
        if self._fs.exists(path):
            self._open(name).truncate(0)
            return
        file = self._fs.open(path, create=True)
        if self._mode == _PLAIN:
            self._file, self._name = file, name
        else:
            file.close()

    def _rename(self, source: str, target: str) -> None:
        if self._fs.exists(self._path(source)):
            self._fs.rename(self._path(source), self._path(target))
