"""An in-memory disk with a write-back cache: `wal.filesystem` as the tests see it.

What a log may rely on is exactly what is modelled: content survives a power cut once `datasync` or
`sync` returned, a name once `sync_dir` of its directory returned. Of everything else a power cut
keeps a random subset of the 512-byte sectors, any size between the old and the new one, and a
random prefix or any subset of the directory operations (a rename is one operation). A process that is killed loses nothing but its handles.

It is tunable: direct files take whole blocks at their place only, a write to a file with `dsync` is
durable in its range when it returns, and advice about the cache changes nothing.

`before` is called ahead of every change; it may raise OSError (a fault) or `PowerCut` (the end).
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence

from wal.errors import LockedError
from wal.filesystem import Buffer, FileMode
from wal.policy import Capability

SECTOR = 512
BLOCK = 4096
EVERYTHING: frozenset[Capability] = frozenset(
    {"fallocate", "o_direct", "o_dsync", "fadvise", "sync_file_range"}
)


class PowerCut(BaseException):
    """The machine is off; not an Exception, so that nothing on the way handles it."""


class Inode:
    """A file: what a reader sees, what would survive, and the sectors in which they differ."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()

    def write(self, data: Buffer, offset: int) -> None:
        end = offset + len(data)
        if end > len(self.seen):
            self.touch(len(self.seen), end)
            self.seen.extend(bytes(end - len(self.seen)))
        self.seen[offset:end] = data
        self.touch(offset, end)

    def truncate(self, length: int) -> None:
        old = len(self.seen)
        self.touch(min(old, length), max(old, length))
        if length < old:
            del self.seen[length:]
        else:
            self.seen.extend(bytes(length - old))

    def touch(self, start: int, end: int) -> None:
        if end > start:
            self.dirty.update(range(start // SECTOR, (end - 1) // SECTOR + 1))

    def flush(self) -> None:
        size = len(self.seen)
        if len(self.durable) > size:
            del self.durable[size:]
        self.durable.extend(bytes(size - len(self.durable)))
        for sector in self.dirty:
            start = sector * SECTOR
            self.durable[start : min(start + SECTOR, size)] = self.seen[start : start + SECTOR]
        self.dirty.clear()

    def flush_range(self, start: int, end: int) -> None:
        """Make what was written there durable, and the size that it takes; nothing else."""
        if end > len(self.durable):
            self.durable.extend(bytes(end - len(self.durable)))
        for sector in sorted(self.dirty):
            first = sector * SECTOR
            if start <= first and min(first + SECTOR, len(self.seen)) <= end:
                self.durable[first : first + SECTOR] = self.seen[first : min(first + SECTOR, end)]
                self.dirty.discard(sector)
            elif first < end and first + SECTOR > start:
                low, high = max(first, start), min(first + SECTOR, end)
                self.durable[low:high] = self.seen[low:high]

    def power_cut(self, rng: random.Random) -> None:
        if not self.dirty and len(self.seen) == len(self.durable):
            # A sync that failed may have left clean sectors that never reached the disk.
            self.seen = bytearray(self.durable)
            return
        sizes = sorted((len(self.durable), len(self.seen)))
        size = rng.choice([*sizes, rng.randint(*sizes)])
        kept = bytearray(self.durable[:size])
        kept.extend(bytes(size - len(kept)))
        odds = rng.choice([0.0, 0.3, 0.7, 1.0])
        for sector in sorted(self.dirty):
            start = sector * SECTOR
            if start < size and rng.random() < odds:
                piece = self.seen[start : start + SECTOR].ljust(SECTOR, b"\0")
                kept[start : min(start + SECTOR, size)] = piece[: size - start]
        self.seen, self.durable = kept, bytearray(kept)
        self.dirty.clear()


class CrashFile:
    """`wal.filesystem.TunedFile`; dies with its process."""

    def __init__(
        self, fs: CrashFilesystem, inode: Inode, path: str, mode: FileMode | None = None
    ) -> None:
        self._mode = mode or FileMode()
        self._fs = fs
        self._inode = inode
        self._path = path
        self._epoch = fs.epoch
        fs.handles.append(self)

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        self._change("pwritev")
        data = b"".join(bytes(buffer) for buffer in buffers)
        if self._mode.direct:
            assert offset % BLOCK == len(data) % BLOCK == 0, f"{offset}, {len(data)}: no blocks"
        self._write(data, offset)
        if self._mode.dsync:
            self._change("datasync")
            self._fs.syncs += 1
            if not self._fs.lies:
                self._inode.flush_range(offset, offset + len(data))

    def drop_cache(self, offset: int, length: int) -> None:
        self._alive()
        self._fs.advice.append(("drop", offset, length))
        first, last = offset // SECTOR, (offset + length - 1) // SECTOR
        dirty = [sector for sector in self._inode.dirty if first <= sector <= last]
        assert not dirty, "what is dropped is durable"

    def start_writeback(self, offset: int, length: int) -> None:
        self._alive()
        self._fs.advice.append(("write", offset, length))

    def pread(self, length: int, offset: int) -> bytes:
        self._alive()
        return bytes(self._inode.seen[offset : offset + length])

    def zero_fill(self, offset: int, length: int) -> None:
        self._change("zero_fill")
        self._write(bytes(length), offset)

    def allocate(self, offset: int, length: int) -> None:
        self._change("allocate")
        if self._fs.room_for(self._inode, offset + length) > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._inode.truncate(max(len(self._inode.seen), offset + length))

    def datasync(self) -> None:
        self._change("datasync")
        self._fs.syncs += 1
        if not self._fs.lies:
            self._inode.flush()

    def sync(self) -> None:
        self._change("sync")
        self._fs.syncs += 1
        if not self._fs.lies:
            self._inode.flush()

    def truncate(self, length: int) -> None:
        self._change("truncate")
        self._inode.truncate(length)

    def size(self) -> int:
        self._alive()
        return len(self._inode.seen)

    def close(self) -> None:
        self._fs.handles.remove(self)

    def drop_dirty(self) -> None:
        """Forget what is dirty without writing it: what Linux does after a failed fsync."""
        self._inode.dirty.clear()

    def _write(self, data: bytes, offset: int) -> None:
        missing = self._fs.room_for(self._inode, offset + len(data))
        fitting = data[: max(0, len(data) - missing)] if missing > 0 else data
        self._inode.write(fitting, offset)
        if len(fitting) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _change(self, operation: str) -> None:
        self._alive()
        try:
            self._fs.change(operation, self._path)
        except OSError:
            if operation in ("datasync", "sync"):
                self.drop_dirty()
            raise

    def _alive(self) -> None:
        assert self in self._fs.handles, f"{self._path}: used after close"
        assert self._epoch == self._fs.epoch, f"{self._path}: used after a crash"


class CrashLock:
    """A lock that goes with its process."""

    def __init__(self, fs: CrashFilesystem, path: str) -> None:
        self._fs = fs
        self._path = path
        self._epoch = fs.epoch

    def release(self) -> None:
        assert self._epoch == self._fs.epoch, "released after a crash"
        self._fs.locked.remove(self._path)


Step = tuple[str, str, Inode | None]
"""What a directory operation does: a name that goes, a name that comes, and its file."""


class CrashFilesystem:
    """`wal.filesystem.Filesystem` over inodes. Directories are made durable when they are made."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.pending: list[Step] = []
        self.directories: set[str] = {"/"}
        self.handles: list[CrashFile] = []
        self.locked: set[str] = set()
        self.epoch = 0
        self.syncs = 0
        self.changes = 0
        self.lies = False
        self.advice: list[tuple[str, int, int]] = []
        self.can: frozenset[Capability] = EVERYTHING
        self.capacity: int | None = None
        self.before: Callable[[str, str], None] = lambda operation, path: None

    # ---- the protocol --------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> CrashFile:
        if not create:
            return self.open_read(path)
        self.change("create", path)
        if path in self.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self.names[path] = Inode()
        self.pending.append(("", path, self.names[path]))
        return CrashFile(self, self.names[path], path)

    def open_read(self, path: str) -> CrashFile:
        return CrashFile(self, self._inode(path), path)

    def open_tuned(self, path: str, mode: FileMode) -> CrashFile:
        assert not mode.direct or "o_direct" in self.can
        assert not mode.dsync or "o_dsync" in self.can
        return CrashFile(self, self._inode(path), path, mode)

    def capabilities(self, directory: str) -> frozenset[Capability]:
        return self.can

    def exists(self, path: str) -> bool:
        return path in self.names or path in self.directories

    def listdir(self, path: str) -> list[str]:
        prefix = f"{path}/"
        return sorted(name[len(prefix) :] for name in self.names if name.startswith(prefix))

    def rename(self, source: str, target: str) -> None:
        self.change("rename", f"{source} -> {target}")
        self._inode(source)
        self.names[target] = self.names.pop(source)
        self.pending.append((source, target, self.names[target]))

    def unlink(self, path: str) -> None:
        self.change("unlink", path)
        self._inode(path)
        del self.names[path]
        self.pending.append((path, "", None))

    def mkdirs(self, path: str) -> None:
        self.directories.add(path)

    def sync_dir(self, path: str) -> None:
        self.change("sync_dir", path)
        if not self.lies:
            for step in self.pending:
                self._replay(step)
            self.pending.clear()

    def lock(self, path: str) -> CrashLock:
        if path in self.locked:
            raise LockedError(f"{path}: in use")
        self.locked.add(path)
        return CrashLock(self, path)

    # ---- the end of a process or of the power --------------------------------------------

    def kill(self) -> None:
        """End the process: its handles and locks go, the page cache stays."""
        self.epoch += 1
        self.handles.clear()
        self.locked.clear()
        self.before = lambda operation, path: None

    def power_cut(self, rng: random.Random) -> None:
        """Lose what is not durable, as `rng` decides."""
        self.kill()
        kept = self.pending[: rng.randint(0, len(self.pending))]
        if rng.random() < 0.5:
            kept = [step for step in self.pending if rng.random() < 0.5]
        for step in kept:
            self._replay(step)
        self.pending.clear()
        self.names = dict(self.durable_names)
        for path in sorted(self.names):
            self.names[path].power_cut(rng)

    # ---- for the fakes above and for tests -----------------------------------------------

    def change(self, operation: str, path: str) -> None:
        self.changes += 1
        self.before(operation, path)

    def room_for(self, inode: Inode, end: int) -> int:
        """Return how many bytes of a file that grows to `end` find no room (0 or less: all do)."""
        if self.capacity is None or end <= len(inode.seen):
            return 0
        used = sum(len(other.seen) for other in self.names.values())
        return used + end - len(inode.seen) - self.capacity

    def read(self, path: str) -> bytes:
        """Return the bytes of a file."""
        return bytes(self._inode(path).seen)

    def put(self, path: str, data: bytes) -> None:
        """Make a file hold `data`, durably, whatever stood there."""
        inode = self.names.setdefault(path, Inode())
        self.durable_names[path] = inode
        inode.seen, inode.durable = bytearray(data), bytearray(data)
        inode.dirty.clear()

    def flip(self, path: str, offset: int, mask: int = 0x40) -> None:
        """Damage one byte, durably; flipping it again repairs it."""
        data = bytearray(self.read(path))
        data[offset] ^= mask
        self.put(path, bytes(data))

    def vanish(self, path: str) -> None:
        """Remove a file behind the log's back, durably."""
        del self.names[path]
        del self.durable_names[path]

    def _inode(self, path: str) -> Inode:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.names[path]

    def _replay(self, step: Step) -> None:
        gone, come, inode = step
        self.durable_names.pop(gone, None)
        if inode is not None:
            self.durable_names[come] = inode
