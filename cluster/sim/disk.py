"""A disk behind a write-back cache: what was not synced, a power cut takes.

Implements `wal.filesystem` in memory. Two states are kept of everything: what a reader sees, and
what is durable. `File.datasync` makes a file's content durable, `sync_dir` the names of a
directory; nothing else does. Killing a process leaves both alone; `power_loss` throws the visible
state away, and either keeps nothing that was unsynced, or tears: a drawn subset of the unsynced
512-byte sectors of each file, and a prefix of the directory's unsynced changes.

What lies at rest can be hurt as well: `flip` turns a bit over, `wipe` empties the directory, `exchange`
gives two disks each other's content. `at_rest` reads what is durable.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from cluster.sim.rng import Stream
from wal.errors import LockedError
from wal.filesystem import Buffer, ReadFilesystem

__all__ = ["SECTOR_BYTES", "DiskOperation", "PowerCut", "SimDisk", "Trap"]

SECTOR_BYTES = 512
_READ_ONLY = "opened for reading only"


class PowerCut(Exception):
    """Raised out of a file operation when the disk's fuse blows: the node dies there and then."""


class DiskOperation(Enum):
    """What changes a disk, as far as a crash can tell."""

    CREATE = "create"
    WRITE = "write"
    """Truncations and zeros written ahead count as well."""
    SYNC = "sync"
    RENAME = "rename"
    UNLINK = "unlink"
    SYNC_DIR = "dir-sync"


@dataclass(slots=True)
class Trap:
    """Springs once, at one operation of one kind in one directory."""

    kind: DiskOperation
    directory: str
    left: int
    """How many such operations pass before."""
    after: bool
    """Whether it springs when the operation is done, instead of before."""
    spring: Callable[[str], None]
    """Called with the path. It may end the node, and raise PowerCut so that nothing follows."""


class _Inode:
    """One file: the visible content, the durable content, and where they differ."""

    __slots__ = ("content", "dirty", "durable")

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = bytearray()
        self.dirty: list[tuple[int, int]] = []

    def is_settled(self, offset: int) -> bool:
        """Tell whether a byte is durable, and nothing newer is on its way over it."""
        if offset >= min(len(self.content), len(self.durable)):
            return False
        if self.content[offset] != self.durable[offset]:
            return False
        return not any(start <= offset < end for start, end in self.dirty)

    def write(self, offset: int, block: bytes) -> None:
        end = offset + len(block)
        size = len(self.content)
        if offset > size:
            self.content.extend(bytes(offset - size))
            offset_dirty = size
        else:
            offset_dirty = offset
        self.content[offset:end] = block
        self.dirty.append((offset_dirty, end))

    def truncate(self, length: int) -> None:
        size = len(self.content)
        if length < size:
            del self.content[length:]
        else:
            self.content.extend(bytes(length - size))
        self.dirty.append((min(length, size), max(length, size)))

    def sync(self) -> None:
        content, durable = self.content, self.durable
        size = len(content)
        for start, end in self.dirty:
            stop = min(end, size)
            if start > len(durable):
                durable.extend(bytes(start - len(durable)))
            if start < stop:
                durable[start:stop] = content[start:stop]
        del durable[size:]
        self.dirty.clear()
        assert len(durable) == size, "every growth of a file is a dirty range"

    def lose(self, stream: Stream | None) -> None:
        """Fall back to what is durable, plus (with `stream`) a drawn part of what is not."""
        if stream is not None and self.dirty:
            self._tear(stream)
        self.content = bytearray(self.durable)
        self.dirty.clear()

    def _tear(self, stream: Stream) -> None:
        content, durable = self.content, self.durable
        mode = stream.below(8)
        if mode == 0:
            return
        sectors: set[int] = set()
        for start, end in self.dirty:
            sectors.update(range(start // SECTOR_BYTES, -(-end // SECTOR_BYTES)))
        ordered = sorted(sectors)
        if mode == 1:
            kept = ordered
        elif mode <= 4:
            kept = ordered[: stream.below(len(ordered) + 1)] if ordered else []
        else:
            kept = [sector for sector in ordered if stream.bits() & 1]
        size = len(content) if mode == 1 or stream.bits() & 1 else len(durable)
        del durable[size:]
        durable.extend(bytes(size - len(durable)))
        for sector in kept:
            start = sector * SECTOR_BYTES
            stop = min(start + SECTOR_BYTES, size, len(content))
            if start < stop:
                durable[start:stop] = content[start:stop]


class _SimFile:
    """`wal.filesystem.File` over an inode."""

    __slots__ = ("_disk", "_inode", "_path", "_writable")

    def __init__(self, disk: SimDisk, path: str, inode: _Inode, writable: bool) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._writable = writable

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        self._write(offset, b"".join(buffers))

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self._inode.content[offset : offset + length])

    def zero_fill(self, offset: int, length: int) -> None:
        self._write(offset, bytes(length))

    def allocate(self, offset: int, length: int) -> None:
        size = len(self._inode.content)
        if offset + length > size:
            self._write(size, bytes(offset + length - size))

    def datasync(self) -> None:
        self._disk.begin(DiskOperation.SYNC, self._path)
        self._disk.check_sync()
        self._inode.sync()
        self._disk.end(DiskOperation.SYNC, self._path)

    def sync(self) -> None:
        self.datasync()

    def truncate(self, length: int) -> None:
        self._disk.begin(DiskOperation.WRITE, self._path)
        assert self._writable, _READ_ONLY
        self._inode.truncate(length)
        self._disk.end(DiskOperation.WRITE, self._path)

    def size(self) -> int:
        return len(self._inode.content)

    def close(self) -> None:
        """Nothing is made durable."""

    def _write(self, offset: int, block: bytes) -> None:
        self._disk.begin(DiskOperation.WRITE, self._path)
        assert self._writable, _READ_ONLY
        self._disk.check_write()
        if self._disk.full and offset + len(block) > len(self._inode.content):
            raise OSError(errno.ENOSPC, "No space left on device")
        self._disk.cut_short(self._path, self._inode, offset, block)
        self._inode.write(offset, block)
        self._disk.end(DiskOperation.WRITE, self._path)


class _RestingFile:
    """`wal.filesystem.ReadFile` over what is durable."""

    __slots__ = ("_durable",)

    def __init__(self, durable: bytearray) -> None:
        self._durable = durable

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self._durable[offset : offset + length])

    def size(self) -> int:
        return len(self._durable)

    def close(self) -> None:
        """Nothing is held."""


class _AtRest:
    """`wal.filesystem.ReadFilesystem` over what a power cut would leave."""

    def __init__(self, names: Mapping[str, _Inode]) -> None:
        self._names = names

    def open_read(self, path: str) -> _RestingFile:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return _RestingFile(inode.durable)

    def exists(self, path: str) -> bool:
        return path in self._names

    def listdir(self, path: str) -> list[str]:
        return _names_in(self._names, path)


class _SimLock:
    """A lock that goes with its process (`SimDisk.process_died`)."""

    __slots__ = ("_disk", "_path")

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locks.discard(self._path)


class SimDisk:
    """One node's disk: a flat set of paths. Directories exist once made, durably."""

    def __init__(self) -> None:
        """Start empty and healthy."""
        self.full = False
        """Whether files refuse to grow (ENOSPC)."""
        self.failing_syncs = 0
        """How many of the next syncs fail with EIO; the pages they covered are dropped."""
        self.failing_writes = 0
        """How many of the next writes fail with EIO, before anything is written."""
        self.short: tuple[Stream, int] | None = None
        """The next write stores a part drawn from a stream, and fails with this errno."""
        self.shorts_mended = 0
        """Writes that were cut short and then made again, whole."""
        self.kept: dict[str, str] = {}
        """The small files beside the log that a node reads at its start, by name. They are written
        atomically and durably, and not by way of the operations that a crash can tell apart."""
        self.fuse: int | None = None
        """How many more changing operations succeed before `PowerCut` is raised; None: all."""
        self.trap: Trap | None = None
        self.locks: set[str] = set()
        self._directories: set[str] = set()
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._pending: list[tuple[str, str, _Inode | None]] = []
        """Unsynced directory changes in order: (path, source of a rename or "", inode)."""
        self._shortened: dict[str, int] = {}
        """Where a write to a file began that was cut short and not made again yet."""

    # ---- faults --------------------------------------------------------------------------

    def process_died(self) -> None:
        """Release what the kernel releases when a process dies; the cache stays."""
        self.locks.clear()
        self._shortened.clear()
        self.fuse = None

    def power_loss(self, stream: Stream | None) -> None:
        """Lose the cache: all of it, or (with `stream`) a drawn part of it."""
        self.process_died()
        kept = 0 if stream is None else stream.below(len(self._pending) + 1)
        for path, source, inode in self._pending[:kept]:
            self._change(self._durable_names, path, source, inode)
        self._pending.clear()
        self._names = dict(self._durable_names)
        for path in sorted(self._names):
            self._names[path].lose(stream)

    def begin(self, kind: DiskOperation, path: str) -> None:
        """Burn the fuse by one operation, which is about to happen; or spring the trap."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise PowerCut
        trap = self.trap
        if trap is not None and not trap.left and not trap.after and _meets(trap, kind, path):
            self.trap = None
            trap.spring(path)

    def end(self, kind: DiskOperation, path: str) -> None:
        """Take the news that an operation has happened."""
        trap = self.trap
        if trap is None or not _meets(trap, kind, path):
            return
        if trap.left:
            trap.left -= 1
            return
        self.trap = None
        trap.spring(path)

    def check_write(self) -> None:
        """Fail a write if one is to fail."""
        if self.failing_writes:
            self.failing_writes -= 1
            raise OSError(errno.EIO, "Input/output error")

    def cut_short(self, path: str, inode: _Inode, offset: int, block: bytes) -> None:
        """Store a part of a block and fail, if that is what the next write does."""
        if self.short is None or not block:
            if self._shortened.get(path, -1) == offset:
                del self._shortened[path]
                self.shorts_mended += 1
            return
        (stream, code), self.short = self.short, None
        inode.write(offset, block[: stream.below(len(block))])
        self._shortened[path] = offset
        raise OSError(code, os.strerror(code), path)

    @property
    def at_rest(self) -> ReadFilesystem:
        """What is durable, to be read."""
        return _AtRest(self._durable_names)

    def is_settled(self, path: str, offset: int) -> bool:
        """Tell whether a byte is durable under a durable name, and nothing is about to change it."""
        inode = self._names.get(path)
        return inode is self._durable_names.get(path) and (
            inode is not None and inode.is_settled(offset)
        )

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Turn over one bit of a settled byte."""
        assert self.is_settled(path, offset), f"{path}: byte {offset} is not at rest"
        inode = self._names[path]
        inode.content[offset] ^= 1 << bit
        inode.durable[offset] ^= 1 << bit

    def holds(self, path: str, offset: int, value: int) -> bool:
        """Tell whether a byte has a value, as a reader sees it."""
        inode = self._names.get(path)
        return inode is not None and inode.content[offset : offset + 1] == bytes([value])

    def byte(self, path: str, offset: int) -> int:
        """Return one byte, as a reader sees it."""
        return self._find(path).content[offset]

    def wipe(self) -> None:
        """Empty the directories, for good; `kept` stays."""
        self._names.clear()
        self._durable_names.clear()
        self._pending.clear()
        self._shortened.clear()

    def exchange(self, other: SimDisk) -> None:
        """Give each of two disks the directories of the other one; `kept` stays."""
        self._names, other._names = other._names, self._names
        self._durable_names, other._durable_names = other._durable_names, self._durable_names
        self._pending, other._pending = other._pending, self._pending
        self._shortened, other._shortened = other._shortened, self._shortened

    def check_sync(self) -> None:
        """Fail a sync if one is to fail."""
        if self.failing_syncs:
            self.failing_syncs -= 1
            raise OSError(errno.EIO, "Input/output error")

    # ---- Filesystem ----------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> _SimFile:
        """See `Filesystem.open`."""
        if create:
            self.begin(DiskOperation.CREATE, path)
            if path in self._names:
                raise FileExistsError(errno.EEXIST, "File exists", path)
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device", path)
            self._record(path, "", _Inode())
            self.end(DiskOperation.CREATE, path)
        return _SimFile(self, path, self._find(path), True)

    def open_read(self, path: str) -> _SimFile:
        """See `Filesystem.open_read`."""
        return _SimFile(self, path, self._find(path), False)

    def exists(self, path: str) -> bool:
        """See `Filesystem.exists`."""
        return path in self._names or path in self._directories

    def listdir(self, path: str) -> list[str]:
        """See `Filesystem.listdir`."""
        return _names_in(self._names, path)

    def rename(self, source: str, target: str) -> None:
        """See `Filesystem.rename`."""
        self.begin(DiskOperation.RENAME, target)
        self._record(target, source, self._find(source))
        self.end(DiskOperation.RENAME, target)

    def unlink(self, path: str) -> None:
        """See `Filesystem.unlink`."""
        self.begin(DiskOperation.UNLINK, path)
        self._find(path)
        self._record(path, "", None)
        self.end(DiskOperation.UNLINK, path)

    def mkdirs(self, path: str) -> None:
        """See `Filesystem.mkdirs`."""
        self._directories.add(path)

    def sync_dir(self, path: str) -> None:
        """See `Filesystem.sync_dir`."""
        name = f"{path}/"
        self.begin(DiskOperation.SYNC_DIR, name)
        self.check_sync()
        left = []
        for change in self._pending:
            if change[0].rpartition("/")[0] == path:
                self._change(self._durable_names, *change)
            else:
                left.append(change)
        self._pending = left
        self.end(DiskOperation.SYNC_DIR, name)

    def lock(self, path: str) -> _SimLock:
        """See `Filesystem.lock`."""
        if path in self.locks:
            raise LockedError(f"{path}: in use by another process")
        self.locks.add(path)
        return _SimLock(self, path)

    # ---- small parts ---------------------------------------------------------------------

    def _find(self, path: str) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return inode

    def _record(self, path: str, source: str, inode: _Inode | None) -> None:
        self._change(self._names, path, source, inode)
        self._pending.append((path, source, inode))

    @staticmethod
    def _change(names: dict[str, _Inode], path: str, source: str, inode: _Inode | None) -> None:
        if source:
            names.pop(source, None)
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _names_in(names: Mapping[str, _Inode], path: str) -> list[str]:
    start = len(path) + 1
    return sorted(name[start:] for name in names if name.rpartition("/")[0] == path)


def _meets(trap: Trap, kind: DiskOperation, path: str) -> bool:
    return trap.kind is kind and path.startswith(trap.directory)
