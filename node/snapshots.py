"""Snapshots on disk: one file per group and index, written in the background, loaded at start.

    header (68 bytes)   8 magic "RDSNAP01" · u32 format · u32 group · u64 index · u64 term ·
                        16 cluster id · u32 node · u32 reserved · 8 zero bytes · u32 CRC
    chunks              u32 length · u32 CRC-32C · bytes           (as `Frozen.next_chunk` gave)
    trailer             u32 0xFFFFFFFF · u32 CRC-32C over all chunk CRCs · u64 chunks

A file is written as `….tmp`, synced, renamed and its directory synced: a name that ends in
`.snap` is complete or damaged, never half-written. Older snapshots of the group are removed after.
The log releases its prefix only when the snapshot is durable.

Writing is a list of `wal.operations`, performed one by one by whoever runs them: a thread in a
process, the event heap in the simulator.
"""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, Protocol

from node.ports import SnapshotDone
from node.raft.types import GroupId, Index, LogStart, Term
from wal import CorruptLogError, Filesystem, LogIdentity, OtherFormatError, SegmentIO
from wal.checksum import crc32c
from wal.filesystem import ReadFile
from wal.operations import Create, Operation, Rename, Sync, SyncDir, Unlink, Write

__all__ = [
    "Done",
    "Loaded",
    "OperationRunner",
    "OperationThread",
    "SnapshotError",
    "SnapshotStore",
    "SnapshotWriter",
]

FORMAT: Final = 1
_MAGIC: Final = b"RDSNAP01"
_HEADER: Final = Struct("<8sIIQQ16sII8x")
_CHUNK: Final = Struct("<II")
_TRAILER: Final = Struct("<IIQ")
_CRC: Final = Struct("<I")
_END: Final = 0xFFFF_FFFF
_NAME: Final = re.compile(r"(\d{6,})-(\d{16,})\.snap")
CHUNK_BYTES_MAX: Final = 256 << 20
"""The session table is one chunk: a million replies of about 200 bytes."""

Done = Callable[[OSError | None], None]


class SnapshotError(CorruptLogError):
    """A snapshot that the log relies on is missing or damaged: the node cannot start from it."""

    def __init__(self, path: str, reason: str) -> None:
        """Name the file and what is wrong with it."""
        super().__init__(path, 0, reason)
        text = (
            f"{path}: {reason}; the log before it is released, so that this node cannot rebuild"
            " its state and stays out: restore the file"
        )
        self.args = (text,)


class OperationRunner(Protocol):
    """Performs lists of operations in order, in the background."""

    def run(self, operations: Sequence[Operation], done: Done | None) -> None:
        """Queue operations; `done` is called with the error, or None, after the last one."""

    def close(self) -> None:
        """Stop after what is under way; the rest is dropped."""


class OperationThread:
    """An `OperationRunner` on a thread of its own, so that a snapshot's fsync delays nobody."""

    def __init__(self, io: SegmentIO) -> None:
        """Start the thread."""
        self._io = io
        self._queue: queue.SimpleQueue[tuple[Sequence[Operation], Done | None] | None] = (
            queue.SimpleQueue()
        )
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="snapshot", daemon=True)
        self._thread.start()

    def run(self, operations: Sequence[Operation], done: Done | None) -> None:
        """See `OperationRunner.run`; `done` is called on the thread."""
        self._queue.put((operations, done))

    def close(self) -> None:
        """See `OperationRunner.close`; joins the thread."""
        self._closing = True
        self._queue.put(None)
        self._thread.join()
        self._io.close()

    def close_after_all(self) -> None:
        """Finish what is queued, then stop; joins the thread."""
        self._queue.put(None)
        self._thread.join()
        self._io.close()

    def _work(self) -> None:
        while not self._closing:
            task = self._queue.get()
            if task is None:
                if self._queue.empty():
                    return
                self._queue.put(None)  # what is queued in the end queued more
                continue
            operations, done = task
            failure: OSError | None = None
            try:
                for operation in operations:
                    self._io.perform(operation)
            except OSError as error:
                failure = error
            if done is not None:
                done(failure)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A snapshot found at start; `chunks` reads and checks the file as it goes."""

    path: str
    place: LogStart
    chunks: Iterator[bytes]


class SnapshotWriter:
    """One snapshot being written. Main thread."""

    def __init__(self, store: SnapshotStore, group: GroupId, place: LogStart) -> None:
        """Use `SnapshotStore.begin`."""
        self._store = store
        self._group = group
        self._place = place
        self._name = _file_name(group, place.index)
        self._temporary = f"{self._name}.tmp"
        self._offset = 0
        self._chunks = 0
        self._crc = 0
        self._failed: OSError | None = None
        self._queued = 0
        self._written = 0
        header = store.header(group, place)
        self._write([Create(self._temporary)], header)

    @property
    def queued_bytes(self) -> int:
        """Bytes given and not yet written. The runner's thread only ever adds to what is written."""
        return self._queued - self._written

    def write(self, chunk: bytes) -> None:
        """Queue one chunk."""
        crc = crc32c(chunk)
        self._crc = crc32c(_CRC.pack(crc), self._crc)
        self._chunks += 1
        self._write([], _CHUNK.pack(len(chunk), crc), chunk)

    def finish(self) -> None:
        """Queue the end; the snapshot's completion follows in `SnapshotStore.completions`.

        The name is given only when all that was queued before is known to be written: a part that
        found no space must not be followed by a rename, nor by the end of the older snapshots.
        """
        older = self._store.older(self._group, self._name)
        trailer = _TRAILER.pack(_END, self._crc, self._chunks)
        self._write([], trailer, then=lambda: self._publish(older))

    def _publish(self, older: Sequence[str]) -> None:
        """Give the file its name, if it is whole; on the runner's thread."""
        operations: list[Operation] = [
            Sync(self._temporary),
            Rename(self._temporary, self._name),
            SyncDir(),
            *(Unlink(name) for name in older),
        ]
        if self._failed is None:
            self._store.runner.run(operations, self._finished)
        else:
            self._finished(self._failed)

    def _write(
        self, before: list[Operation], *buffers: bytes, then: Callable[[], None] | None = None
    ) -> None:
        size = sum(len(buffer) for buffer in buffers)
        operations = [*before, Write(self._temporary, self._offset, buffers, size)]
        self._offset += size
        self._queued += size

        def written(error: OSError | None) -> None:
            self._written += size
            self._failed = self._failed or error
            if then is not None:
                then()

        self._store.runner.run(operations, written)

    def _finished(self, error: OSError | None) -> None:
        if error is not None:
            self._store.runner.run([Unlink(self._temporary)], None)  # it takes space
        self._store.completed(SnapshotDone(self._group, self._place, error))


class SnapshotStore:
    """All snapshots of a node, in one directory that exists."""

    def __init__(
        self,
        fs: Filesystem,
        directory: str,
        identity: LogIdentity,
        runner: OperationRunner,
        wake: Callable[[], None],
    ) -> None:
        """`runner` performs operations in `directory`; `wake` is called after completions."""
        self.runner = runner
        self._fs = fs
        self._directory = directory
        self._identity = identity
        self._wake = wake
        self._completed: deque[SnapshotDone] = deque()
        for name in fs.listdir(directory):
            if name.endswith(".tmp"):
                fs.unlink(f"{directory}/{name}")
        # A process that died between rename and directory sync left a name that a power cut would
        # take away again; before the log lets go of what it covers, it must be there to stay.
        fs.sync_dir(directory)

    def begin(self, group: GroupId, place: LogStart) -> SnapshotWriter:
        """Start writing a snapshot of `group` as of `place` (a batch end)."""
        return SnapshotWriter(self, group, place)

    def completions(self) -> list[SnapshotDone]:
        """Take what ended since the last call."""
        taken = []
        while self._completed:
            taken.append(self._completed.popleft())
        return taken

    def completed(self, done: SnapshotDone) -> None:
        """Take the end of a snapshot; called by its writer, on the runner's thread."""
        self._completed.append(done)
        self._wake()

    def newest(self, group: GroupId, released: Index) -> Loaded | None:
        """Open the newest snapshot of a group; None where there is none and none is needed.

        Raises SnapshotError if the log has released entries up to `released` and no snapshot
        covers them, or if the newest one is damaged.
        """
        names = [name for name in self._names() if _group_of(name) == group]
        if not names:
            if released:
                raise SnapshotError(
                    f"{self._directory}/{_file_name(group, released)}", "the snapshot is missing"
                )
            return None
        path = f"{self._directory}/{names[-1]}"
        file = self._fs.open_read(path)
        place = self._check_header(file, path, group)
        if place.index < released:
            raise SnapshotError(path, f"the log is released up to {released}, behind this snapshot")
        return Loaded(path, place, _read_chunks(file, path))

    def header(self, group: GroupId, place: LogStart) -> bytes:
        """Return a file's header."""
        head = _HEADER.pack(
            _MAGIC,
            FORMAT,
            group,
            place.index,
            place.term,
            self._identity.cluster_id,
            self._identity.node,
            0,
        )
        return head + _CRC.pack(crc32c(head))

    def older(self, group: GroupId, than: str) -> list[str]:
        """Return the names of a group's snapshots before the one named `than`."""
        return [name for name in self._names() if _group_of(name) == group and name < than]

    def _names(self) -> list[str]:
        return [name for name in self._fs.listdir(self._directory) if _NAME.fullmatch(name)]

    def _check_header(self, file: ReadFile, path: str, group: GroupId) -> LogStart:
        data = file.pread(_HEADER.size + _CRC.size, 0)
        if len(data) != _HEADER.size + _CRC.size:
            raise SnapshotError(path, "the header is cut off")
        (stored,) = _CRC.unpack_from(data, _HEADER.size)
        if stored != crc32c(data[: _HEADER.size]):
            raise SnapshotError(path, "the header's CRC does not match")
        magic, version, found, index, term, cluster_id, node, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise SnapshotError(path, "not a snapshot")
        if version > FORMAT:
            raise OtherFormatError(
                f"{path}: format {version} is newer than {FORMAT}, the newest this version reads;"
                " update raftdeck"
            )
        if found != group or LogIdentity(cluster_id, node) != self._identity:
            raise SnapshotError(path, "it belongs to another group, node or cluster")
        return LogStart(Index(index), Term(term))


def _read_chunks(file: ReadFile, path: str) -> Iterator[bytes]:
    """Yield the chunks of a snapshot, each checked; SnapshotError at the first that is damaged."""
    offset = _HEADER.size + _CRC.size
    total = chunks = 0
    try:
        while True:
            head = file.pread(_TRAILER.size, offset)
            if len(head) < _CHUNK.size:
                raise SnapshotError(path, f"cut off at byte {offset}")
            length, crc = _CHUNK.unpack_from(head)
            if length == _END:
                if head != _TRAILER.pack(_END, total, chunks):
                    raise SnapshotError(path, "the trailer does not match the chunks")
                return
            data = file.pread(length, offset + _CHUNK.size) if length <= CHUNK_BYTES_MAX else b""
            computed = crc32c(data)
            if len(data) != length or computed != crc:
                raise SnapshotError(
                    path, f"bad chunk at byte {offset} (stored {crc:08x}, computed {computed:08x})"
                )
            total = crc32c(_CRC.pack(crc), total)
            chunks += 1
            offset += _CHUNK.size + length
            yield data
    finally:
        file.close()


def _file_name(group: int, index: int) -> str:
    return f"{group:06d}-{index:016d}.snap"


def _group_of(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1])
