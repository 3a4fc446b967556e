"""Writers of CWal files: CWal's own two modes, and two of the extensions that seed 4 plans.

`CwalWriter` appends, or overwrites: after every `overwrite_every` entries it begins at the start of
the file again, as CWal's batched mode does, without cutting what stands behind. What the user of
that mode must have done by then is in `wal.cwal`: the older batch must be needed no more.

**Copies.** Several paths are written alike; an entry is durable when every copy that still works has
been synced. A copy that fails is left as it is and named in `lost`; the writer goes on while one is
left, and raises PoisonedLogError when none is. Nothing is retried on a copy after a failed sync.

**Asynchronous.** `AsyncCwalWriter` returns from `append` at once; a thread writes all that gathered
meanwhile with one write, and syncs once (natural batching, as our own committer does). The handle
says when its entry is durable. What may wait is bounded.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from wal.cwal import CwalError, CwalStop, Empties, encode_entry, entry_size
from wal.cwal_reader import MirrorReader
from wal.errors import ClosedLogError, DiskFullError, PoisonedLogError, WalError, is_no_space
from wal.filesystem import Buffer, File, Filesystem

__all__ = ["AsyncCwalWriter", "CwalHandle", "CwalOptions", "CwalWriter", "LostCopy"]

QUEUED_BYTES_MAX: Final = 64 << 20
"""What may wait for the disk in an asynchronous writer: a second of a slow disk."""
ENTRIES_PER_WRITE_MAX: Final = 1_024
"""Entries taken by one write: 3 pieces each, three calls of `pwritev`."""


@dataclass(frozen=True, slots=True)
class CwalOptions:
    """How a file is written."""

    sync_every: int = 1
    """Sync after so many entries; 0: only when asked to."""
    overwrite_every: int = 0
    """Begin at the start of the file again after so many entries; 0: append."""
    behind_damage: Literal["refuse", "cut"] = "refuse"
    """What to do at the opening with a valid entry behind a damaged one. It is either damage to what
    was durable, or a write of many entries that a power cut tore: the format cannot tell."""
    empties: Empties = "damage"
    """entries: write entries without data too, as a foreign file may have them."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.sync_every < 0 or self.overwrite_every < 0:
            raise ValueError("sync_every and overwrite_every are 0 or more")


@dataclass(frozen=True, slots=True)
class LostCopy:
    """A copy that is written no more, and why."""

    path: str
    reason: str


class CwalWriter:
    """Writes entries to one file, or to several alike. One thread."""

    def __init__(
        self, fs: Filesystem, paths: Sequence[str], options: CwalOptions | None = None
    ) -> None:
        """Open the files, made if absent; each is continued behind its last valid entry.

        In overwrite mode writing begins at the start. What stands behind the end is cut (and told
        in `cut_bytes`) in append mode only. Raises CwalError if the copies hold different logs, or
        if valid entries stand behind damage: nothing is changed then. Raises OSError.
        """
        if not paths or len(set(paths)) != len(paths):
            raise ValueError("one path or more, each once")
        self.lost: list[LostCopy] = []
        self.cut_bytes = 0
        self.entries = 0
        self.syncs = 0
        self.bytes_written = 0
        self.offset = 0
        """Where the next entry goes."""
        self._fs = fs
        self._options = options or CwalOptions()
        self._since_sync = 0
        self._files: dict[str, File] = {}
        fresh = [path for path in paths if not fs.exists(path)]
        try:
            for path in paths:
                self._files[path] = fs.open(path, create=path in fresh)
            for directory in sorted({_directory_of(path) for path in fresh}):
                fs.sync_dir(directory)
            if not self._options.overwrite_every:
                self._settle_ends()
        except BaseException:
            self._close_files()
            raise

    def append(self, data: Buffer) -> int:
        """Write one entry; return its offset. Durable after the sync that `sync_every` asks for.

        Raises CwalError for empty data (see `wal.cwal`), PoisonedLogError, DiskFullError.
        """
        return self.append_all([data])

    def append_all(self, batch: Sequence[Buffer]) -> int:
        """Write entries with as few writes as can be; return the offset of the first.

        Raises as `append` does; entries may then have been written in part, and count for nothing.
        """
        if self._options.empties == "damage" and not all(len(data) for data in batch):
            raise CwalError(
                "an empty entry is twelve zero bytes, as a hole in a file is; not written"
            )
        first, at = self.offset, 0
        while at < len(batch):
            part = batch[at : at + self._room()]
            self._write(part)
            at += len(part)
        return first

    @property
    def overwrite_every(self) -> int:
        """After how many entries writing begins at the start again; 0: never."""
        return self._options.overwrite_every

    def sync(self) -> None:
        """Make every entry so far durable, in all copies."""
        self._on_every_copy(lambda file: file.datasync())
        self._since_sync = 0
        self.syncs += 1

    def close(self) -> None:
        """Sync what was not, and close."""
        try:
            if self._since_sync and self._files:
                self.sync()
        finally:
            self._close_files()

    def abort(self) -> None:
        """Close without a sync."""
        self._close_files()

    # ---- inside ----------------------------------------------------------------------------

    def _room(self) -> int:
        """Return how many entries may be written before a sync or a return to the start is due."""
        room, options = ENTRIES_PER_WRITE_MAX, self._options
        if options.overwrite_every:
            room = min(room, options.overwrite_every - self.entries % options.overwrite_every)
        if options.sync_every:
            room = min(room, options.sync_every - self._since_sync)
        return room

    def _write(self, part: Sequence[Buffer]) -> None:
        """Write a part that `_room` allows, with one write per copy, and sync if it is time."""
        pieces = [piece for data in part for piece in encode_entry(data)]
        offset, size = self.offset, sum(map(len, pieces))
        self._on_every_copy(lambda file: file.pwritev(pieces, offset))
        self.offset += size
        self.bytes_written += size
        self.entries += len(part)
        self._since_sync += len(part)
        every = self._options.overwrite_every
        if every and self.entries % every == 0:
            self.offset = 0
        if self._since_sync == self._options.sync_every:
            self.sync()

    def _on_every_copy(self, action: Callable[[File], None]) -> None:
        """Do something to every copy; one that fails is lost. A full disk changes nothing."""
        if not self._files:
            raise PoisonedLogError(f"no copy is left: {self._reasons()}")
        for path, file in list(self._files.items()):
            try:
                action(file)
            except OSError as error:
                if is_no_space(error):
                    raise DiskFullError(f"{path}: {error.strerror}; nothing was appended") from None
                self.lost.append(LostCopy(path, error.strerror or type(error).__name__))
                self._files.pop(path).close()
        if not self._files:
            raise PoisonedLogError(
                f"no copy is left: {self._reasons()}; what was not durable may or may not be there"
            )

    def _reasons(self) -> str:
        return "; ".join(f"{each.path}: {each.reason}" for each in self.lost)

    def _settle_ends(self) -> None:
        """Find the end, give every copy what another one has, and cut what stands behind."""
        stop = CwalStop()
        with MirrorReader(self._fs, list(self._files)) as mirror:
            for entry in mirror.entries(stop):
                self.offset = entry.offset + entry_size(len(entry.data))
            if mirror.differing:
                first = mirror.differing[0]
                raise CwalError(
                    f"{first.path}: another entry than in the first copy stands at byte"
                    f" {first.offset}; these are not copies of one log"
                )
        if stop.resumes is not None and self._options.behind_damage == "refuse":
            raise CwalError(
                f"{next(iter(self._files))}: {stop.reason} at byte {stop.offset}, and a valid entry"
                f" behind it at byte {stop.resumes}: damage, or a torn write of several entries;"
                " left as it is"
            )
        if mirror.damaged:
            self._mend()
        self.cut_bytes = stop.rest
        for file in self._files.values():
            if file.size() != self.offset or mirror.damaged:
                file.truncate(self.offset)
                file.sync()

    def _mend(self) -> None:
        """Write what some copy lacks, out of another one."""
        with MirrorReader(self._fs, list(self._files)) as mirror:
            for entry in mirror.entries(CwalStop()):
                for each in mirror.damages:
                    self._files[each.path].pwritev(encode_entry(entry.data), entry.offset)
                mirror.damages.clear()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def _directory_of(path: str) -> str:
    head, _, _ = path.rpartition("/")
    return head or ("/" if path.startswith("/") else ".")


class CwalHandle:
    """An entry on its way to the disk."""

    __slots__ = ("_done", "error", "offset")

    def __init__(self) -> None:
        """Make one that waits."""
        self.offset = -1
        """Where the entry lies, once it is durable."""
        self.error: Exception | None = None
        self._done = threading.Event()

    @property
    def done(self) -> bool:
        """Whether it is durable, or failed."""
        return self._done.is_set()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the entry is durable; return its offset.

        Raises TimeoutError, and what the writer failed with.
        """
        if not self._done.wait(timeout_s):
            raise TimeoutError("the entry is not durable yet")
        if self.error is not None:
            raise self.error
        return self.offset

    def settle(self, offset: int, error: Exception | None = None) -> None:
        """End the waiting; the writer's thread."""
        self.offset, self.error = offset, error
        self._done.set()


class AsyncCwalWriter:
    """A `CwalWriter` with a thread of its own. `append` may be called from any thread."""

    def __init__(
        self, fs: Filesystem, paths: Sequence[str], options: CwalOptions | None = None
    ) -> None:
        """Open as `CwalWriter` does; whatever `sync_every` says, each write ends with a sync."""
        self._writer = CwalWriter(fs, paths, replace(options or CwalOptions(), sync_every=0))
        self._changed = threading.Condition()
        self._queue: deque[tuple[CwalHandle, Buffer]] = deque()
        self._queued_bytes = 0
        self._closing = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="cwal", daemon=True)
        self._thread.start()

    @property
    def writer(self) -> CwalWriter:
        """The writer underneath: its counters, and the copies it lost."""
        return self._writer

    def append(self, data: Buffer) -> CwalHandle:
        """Queue an entry and return at once.

        Raises CwalError for empty data, DiskFullError if too much waits already, ClosedLogError,
        and what the writer failed with: nothing is queued then.
        """
        if not len(data):
            raise CwalError(
                "an empty entry is twelve zero bytes, as a hole in a file is; not written"
            )
        size = entry_size(len(data))
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise ClosedLogError("the writer is closed")
            if self._queued_bytes and self._queued_bytes + size > QUEUED_BYTES_MAX:
                raise DiskFullError(f"{self._queued_bytes} bytes wait for the disk already")
            handle = CwalHandle()
            self._queue.append((handle, data))
            self._queued_bytes += size
            self._changed.notify()
        return handle

    def close(self) -> None:
        """Write and sync what waits, then close. Handles tell of a failure, not this."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._writer.abort()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                taken = [
                    self._queue.popleft()
                    for _ in range(min(len(self._queue), ENTRIES_PER_WRITE_MAX))
                ]
            if not taken:
                return
            self._perform(taken)

    def _perform(self, taken: Sequence[tuple[CwalHandle, Buffer]]) -> None:
        """Write and sync some entries; on failure they and all others end with it."""
        offsets = self._offsets(taken)
        failure: Exception | None = None
        try:
            self._writer.append_all([data for _, data in taken])
            self._writer.sync()
        except (WalError, OSError) as error:
            failure = error
        failed: list[CwalHandle] = []
        with self._changed:
            self._queued_bytes -= sum(entry_size(len(data)) for _, data in taken)
            if failure is not None and not isinstance(failure, DiskFullError):
                self._failure = failure
                failed = [handle for handle, _ in self._queue]
                self._queue.clear()
        for (handle, _), offset in zip(taken, offsets, strict=True):
            handle.settle(offset, failure)
        for handle in failed:
            handle.settle(-1, failure)

    def _offsets(self, taken: Sequence[tuple[CwalHandle, Buffer]]) -> list[int]:
        """Return where the entries are going to lie."""
        offsets, offset = [], self._writer.offset
        entries, every = self._writer.entries, self._writer.overwrite_every
        for _, data in taken:
            offsets.append(offset)
            entries, offset = entries + 1, offset + entry_size(len(data))
            if every and entries % every == 0:
                offset = 0
        return offsets
