"""Power-loss mode: what is not synced lies in this process's memory, and dies with it.

Theory of operation
-------------------
The kernel's page cache outlives a killed process, so that SIGKILL proves nothing about a log. Here
every change goes to a journal in memory first, and reads see it through the journal:

    pwritev, zero_fill, truncate, allocate   an entry in the journal of the file
    datasync, sync                           the file's entries are written below, in order, and synced
    create, rename, unlink                   an entry in the journal of the directory
    sync_dir                                 its entries are done below, in order, and synced

So a plain SIGKILL loses what a power cut would: all writes since the file's last sync, all changes of
names since the directory's. A new file has no name below yet; its content, once synced, waits for
it. A rename moves the name only: content that is synced meanwhile reaches the file under its old
one. `tear` is the other kind of cut: a drawn part of all that reaches the disk.

A file opened with `FileMode.dsync` is synced after each write, whole; `FileMode.direct` goes through
the journal like everything else, and below through the page cache. Blocks that are reserved are only
a length here. More than `JOURNAL_BYTES_MAX` are written below early, unsynced, names first: a disk may
do that at any time. `LOCK` and directories are the file system's own.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from wal.faults import drawn
from wal.filesystem import Buffer, FileMode, Lock, TunableFilesystem
from wal.journal import Entry, EntryState, Inode, tear_file
from wal.policy import Capability

__all__ = ["Torn", "Unsynced", "WriteBackFile", "WriteBackFilesystem"]

JOURNAL_BYTES_MAX: Final = 256 << 20
"""Of all files: what the log's own queue may hold as well."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One change of names."""

    kind: Literal["create", "rename", "unlink"]
    path: str
    source: str = ""
    inode: Inode | None = None


@dataclass(frozen=True, slots=True)
class Unsynced:
    """What a power cut would take now."""

    size: int
    """Bytes in memory; zeros written ahead take none."""
    writes: int
    names: int


@dataclass(frozen=True, slots=True)
class Torn:
    """What a torn cut let through, of how much."""

    sectors_kept: int
    sectors: int
    names_kept: int
    names: int

    def __str__(self) -> str:
        """Return it for a person."""
        return (
            f"{self.sectors_kept} of {self.sectors} unsynced sectors and {self.names_kept} of"
            f" {self.names} changes of names reached the disk"
        )


class WriteBackFile:
    """`wal.filesystem.TunedFile` over a journal."""

    __slots__ = ("_dsync", "_fs", "_inode")

    def __init__(self, fs: WriteBackFilesystem, inode: Inode, mode: FileMode) -> None:
        """Use `WriteBackFilesystem.open`."""
        self._fs = fs
        self._inode = inode
        self._dsync = mode.dsync

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """See `File.pwritev`."""
        data = b"".join(buffers)
        self._fs.add(self._inode, Entry(offset, len(data), data))
        if self._dsync:
            self.datasync()

    def zero_fill(self, offset: int, length: int) -> None:
        """See `File.zero_fill`."""
        self._fs.add(self._inode, Entry(offset, length))
        if self._dsync:
            self.datasync()

    def allocate(self, offset: int, length: int) -> None:
        """See `File.allocate`."""
        if offset + length > self.size():
            self.truncate(offset + length)

    def truncate(self, length: int) -> None:
        """See `File.truncate`."""
        self._fs.add(self._inode, Entry(length, 0, cut=True))

    def datasync(self) -> None:
        """See `File.datasync`."""
        self._fs.flush(self._inode)

    def sync(self) -> None:
        """See `File.sync`."""
        self._fs.flush(self._inode)

    def drop_unsynced(self) -> None:
        """Mark as clean what is dirty, without writing it: what Linux does after a failed fsync."""
        self._fs.lose(self._inode)

    def pread(self, length: int, offset: int) -> bytes:
        """See `ReadFile.pread`."""
        return self._fs.read(self._inode, length, offset)

    def size(self) -> int:
        """See `ReadFile.size`."""
        return self._inode.size

    def drop_cache(self, offset: int, length: int) -> None:
        """Do nothing: see `TunedFile.drop_cache`."""

    def start_writeback(self, offset: int, length: int) -> None:
        """Do nothing: see `TunedFile.start_writeback`."""

    def close(self) -> None:
        """Close; what is not synced stays in the journal."""
        self._fs.closed(self._inode)


class WriteBackFilesystem:
    """`wal.filesystem.TunableFilesystem` whose unsynced changes die with the process. Any thread."""

    def __init__(self, below: TunableFilesystem) -> None:
        """Keep over `below` what is not synced."""
        self._below = below
        self._lock = threading.RLock()
        self._inodes: dict[str, Inode] = {}
        """Files that are open, have a journal, or whose name changed; by the name that is seen."""
        self._gone: set[str] = set()
        """Names that are below, and not what is seen there."""
        self._steps: dict[str, list[_Step]] = {}
        """Changes of names by directory."""
        self._weight = 0

    # ---- Filesystem ------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> WriteBackFile:
        """See `Filesystem.open`."""
        with self._lock:
            if create:
                if self.exists(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
                inode = self._inodes[path] = Inode(path, None)
                self._note(_Step("create", path, inode=inode))
            return self._handle(path, FileMode())

    def open_read(self, path: str) -> WriteBackFile:
        """See `Filesystem.open_read`."""
        with self._lock:
            return self._handle(path, FileMode())

    def open_tuned(self, path: str, mode: FileMode) -> WriteBackFile:
        """See `TunableFilesystem.open_tuned`, and the module's text."""
        with self._lock:
            return self._handle(path, mode)

    def capabilities(self, directory: str) -> frozenset[Capability]:
        """See `TunableFilesystem.capabilities`."""
        return self._below.capabilities(directory)

    def exists(self, path: str) -> bool:
        """See `Filesystem.exists`."""
        with self._lock:
            return path in self._inodes or (path not in self._gone and self._below.exists(path))

    def listdir(self, path: str) -> list[str]:
        """See `Filesystem.listdir`."""
        with self._lock:
            names = {n for n in self._below.listdir(path) if f"{path}/{n}" not in self._gone}
            names |= {_name(each) for each in self._inodes if _directory(each) == path}
            return sorted(names)

    def rename(self, source: str, target: str) -> None:
        """See `Filesystem.rename`; both names are in one directory."""
        assert _directory(source) == _directory(target), "one directory, one journal"
        with self._lock:
            inode = self._find(source)
            old = self._inodes.get(target)
            del self._inodes[source]
            self._inodes[target] = inode
            inode.path, inode.pending = target, True
            self._gone.add(source)
            self._note(_Step("rename", target, source))
            if old is not None:
                self._forget(old)

    def unlink(self, path: str) -> None:
        """See `Filesystem.unlink`."""
        with self._lock:
            inode = self._find(path)
            del self._inodes[path]
            self._gone.add(path)
            self._note(_Step("unlink", path))
            self._forget(inode)

    def mkdirs(self, path: str) -> None:
        """See `Filesystem.mkdirs`."""
        self._below.mkdirs(path)

    def sync_dir(self, path: str) -> None:
        """See `Filesystem.sync_dir`."""
        with self._lock:
            self._name_below(path)
        self._below.sync_dir(path)

    def lock(self, path: str) -> Lock:
        """See `Filesystem.lock`."""
        return self._below.lock(path)

    # ---- for the files ---------------------------------------------------------------------

    def add(self, inode: Inode, entry: Entry) -> None:
        """Note a change of a file."""
        if not entry.length and not entry.cut:
            return  # a write of nothing does not even move the end
        with self._lock:
            inode.journal.append(entry)
            end = entry.offset + entry.length
            inode.size = entry.offset if entry.cut else max(inode.size, end)
            self._weight += entry.weight
            if self._weight > JOURNAL_BYTES_MAX:
                self._spill()

    def _spill(self) -> None:
        """Write early what is too much for memory: names, then content, and no sync."""
        self._weight = self.unsynced.size  # some of it may have gone with its file
        if self._weight <= JOURNAL_BYTES_MAX:
            return
        for inode in list(self._inodes.values()):
            if inode.below is None:
                self._name_below(_directory(inode.path))
            inode.flush()
        self._weight = 0

    def flush(self, inode: Inode) -> None:
        """Make a file's content durable; waits for the disk without the lock."""
        with self._lock:
            self._weight -= sum(entry.weight for entry in inode.dirty())
            inode.flush()
            below = inode.below
        if below is not None:
            below.datasync()

    def lose(self, inode: Inode) -> None:
        """Take what is dirty for clean, without writing it."""
        with self._lock:
            for entry in inode.dirty():
                entry.state = EntryState.LOST

    def read(self, inode: Inode, length: int, offset: int) -> bytes:
        """Return what a reader sees."""
        with self._lock:
            return inode.read(length, offset)

    def closed(self, inode: Inode) -> None:
        """Take note that a handle is closed."""
        with self._lock:
            inode.handles -= 1
            self._forget(inode)

    # ---- the end ---------------------------------------------------------------------------

    @property
    def unsynced(self) -> Unsynced:
        """What a power cut would take now."""
        with self._lock:
            dirty = [entry for inode in self._inodes.values() for entry in inode.dirty()]
            names = sum(map(len, self._steps.values()))
            return Unsynced(sum(entry.weight for entry in dirty), len(dirty), names)

    def tear(self, seed: int) -> Torn:
        """Let a drawn part of what is not synced reach the disk: what a cut in mid-write leaves.

        Of every directory a prefix of its changes, of every file a drawn subset of its 512-byte
        sectors and one of its two lengths. The process has to end right after.
        """
        with self._lock:
            names = names_kept = 0
            for directory, steps in sorted(self._steps.items()):
                kept = drawn(seed, "names", _name(directory)) % (len(steps) + 1)
                names, names_kept = names + len(steps), names_kept + kept
                for step in steps[:kept]:
                    self._replay(step)
            sectors = sectors_kept = 0
            for inode in sorted(self._inodes.values(), key=lambda each: each.path):
                found, kept = tear_file(inode, seed)
                sectors, sectors_kept = sectors + found, sectors_kept + kept
            return Torn(sectors_kept, sectors, names_kept, names)

    # ---- names -----------------------------------------------------------------------------

    def _handle(self, path: str, mode: FileMode) -> WriteBackFile:
        inode = self._find(path)
        inode.handles += 1
        return WriteBackFile(self, inode, mode)

    def _find(self, path: str) -> Inode:
        inode = self._inodes.get(path)
        if inode is None:
            if path in self._gone:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            inode = self._inodes[path] = Inode(path, self._below.open(path))
        return inode

    def _forget(self, inode: Inode) -> None:
        """Close a file below if nobody needs it: it is not open, and neither dirty nor renamed."""
        is_seen = self._inodes.get(inode.path) is inode
        if inode.handles or (is_seen and (inode.journal or inode.pending)):
            return
        if is_seen:
            del self._inodes[inode.path]
        if inode.below is not None:
            inode.below.close()
            inode.below = None

    def _note(self, step: _Step) -> None:
        self._steps.setdefault(_directory(step.path), []).append(step)

    def _name_below(self, directory: str) -> None:
        """Do the changes of a directory below."""
        steps = self._steps.get(directory, [])
        while steps:
            self._replay(steps[0])
            step = steps.pop(0)
            if step.inode is not None:
                self._forget(step.inode)
        self._gone = {path for path in self._gone if _directory(path) != directory}
        for inode in [each for path, each in self._inodes.items() if _directory(path) == directory]:
            inode.pending = False
            self._forget(inode)

    def _replay(self, step: _Step) -> None:
        below = self._below
        if step.kind == "unlink":
            below.unlink(step.path)
        elif step.kind == "rename":
            below.rename(step.source, step.path)
        else:
            assert step.inode is not None
            inode = step.inode
            inode.below = below.open(step.path, create=True)
            inode.flush(EntryState.SAFE)
            inode.below.datasync()


def _directory(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]
