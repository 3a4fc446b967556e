"""Between a log of ours and a file of CWal, both ways, verified, and without loss.

A log becomes a CWal file in one of two shapes:

    records   identity, then what is live in each group (`wal.excerpt`), then the end; every entry is
              one record of ours, 64 bytes of header and its body, as it stands in the log
    entries   the data alone: what the entries of one group hold, decompressed

A file whose first entry is an identity record is of the first shape, and becomes the log that it
was; its last entry is the end record, so that a file that lost its tail is noticed. Any other file
is foreign: its entries become entries of group 0, in batches of about 1 MiB, in a log that says by its
configuration where it came from. Such a log becomes the file that it was, byte for byte.

What was written is read back and compared by SHA-256 with what was meant, before it gets its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from wal.compression import codec_of, decompress
from wal.cwal import CwalEntry, CwalError, CwalStop, entry_size
from wal.cwal_reader import MirrorReader, read_file
from wal.cwal_writer import CwalOptions, CwalWriter
from wal.errors import FrameError
from wal.excerpt import records_of, write_log
from wal.filesystem import Buffer, Filesystem, ReadFilesystem
from wal.frame import (
    HEADER_BYTES,
    Kind,
    Record,
    RecordHeader,
    batch_record,
    hard_state_record,
    record_of,
    split_batch_body,
)
from wal.recovery import GroupLog, Recovered
from wal.segment import LogIdentity, SegmentCheckpoint, decode_checkpoint
from wal.survey import Snapshot, recovered

__all__ = ["Conversion", "Shape", "from_cwal", "is_foreign", "to_cwal"]

Shape = Literal["records", "entries"]

FOREIGN: Final = b"cwal"
"""Configuration of group 0 in a log that was made of a foreign file."""
FOREIGN_OWNER: Final = LogIdentity(bytes(16), 0)
"""No node has the number 0: no node takes such a log for its own."""
BATCH_BYTES: Final = 1 << 20
BATCH_ENTRIES_MAX: Final = 16_384
PLAIN_BYTES_MAX: Final = 64 << 20
"""What a compressed batch may become here: eight times what a node allows."""
GATHERED_BYTES: Final = 1 << 20
"""Entries are written to a CWal file in parts of this size, each synced at the end only."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted. `left_out` is what stood behind the last valid entry of a CWal file."""

    shape: Shape
    entries: int
    bytes: int
    sha256: str
    left_out: str = ""
    copies_damaged: int = 0


class _Tally:
    """Counts and digests what passes through."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0
        self._digest = hashlib.sha256()

    def watch(self, items: Iterable[Sequence[Buffer]]) -> Iterator[Sequence[Buffer]]:
        for pieces in items:
            size = sum(map(len, pieces))
            self._digest.update(size.to_bytes(8, "little"))
            for piece in pieces:
                self._digest.update(piece)
            self.entries += 1
            self.bytes += size
            yield pieces

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


# ---- a log as a list of entries ----------------------------------------------------------------


def is_foreign(found: Recovered) -> bool:
    """Tell whether a log was made of a foreign CWal file, and of nothing else."""
    group = found.groups.get(0)
    return (
        found.identity == FOREIGN_OWNER
        and group is not None
        and group.config == FOREIGN
        and set(found.groups) == {0}
    )


def _identity_record(identity: LogIdentity) -> Record:
    return SegmentCheckpoint(identity, 0, 0, 0, False, ()).record()


_END: Final = record_of(RecordHeader(Kind.SEAL))


def _as_records(
    fs: ReadFilesystem, directory: str, found: Recovered
) -> Iterator[tuple[Buffer, Buffer]]:
    """Yield identity, live state and end, each as header and body."""
    assert found.identity is not None
    identity = _identity_record(found.identity)
    yield identity.header, identity.body
    for record in records_of(fs, directory, found.groups):
        yield record.header, record.body
    yield _END.header, _END.body


def _as_entries(fs: ReadFilesystem, directory: str, log: GroupLog) -> Iterator[tuple[Buffer]]:
    """Yield the data of one group's entries."""
    for record in records_of(fs, directory, {0: log}):
        header = RecordHeader.unpack(record.header)
        if header.kind is Kind.BATCH:
            body = decompress(codec_of(header.flags), record.body, PLAIN_BYTES_MAX)
            for entry in split_batch_body(header.count, body):
                yield (entry,)


def to_cwal(fs: Filesystem, directory: str, target: str, group: int | None = None) -> Conversion:
    """Write a log's live state to a new CWal file; `group`: the entries of one group alone.

    The log may be in use meanwhile. Raises CwalError if `target` exists, if there is nothing to
    convert, or if what was written is not what was meant; CorruptLogError, OSError.
    """
    _check_free(fs, target)
    found = recovered(fs, directory)
    if found.identity is None:
        raise CwalError(f"{directory}: an empty log; there is nothing to convert")
    shape: Shape = "entries" if group is not None or is_foreign(found) else "records"
    if group is not None and group not in found.groups:
        known = ", ".join(map(str, sorted(found.groups))) or "none"
        raise CwalError(f"{directory}: no group {group} in this log; there are: {known}")
    snapshot = Snapshot(fs, directory)

    def items() -> Iterator[Sequence[Buffer]]:
        if shape == "records":
            return _as_records(snapshot, directory, found)
        return _as_entries(snapshot, directory, found.groups[group or 0])

    partial, tally = _partial(fs, target), _Tally()
    writer = CwalWriter(fs, [partial], CwalOptions(0, empties="entries"))
    try:
        _write(writer, tally.watch(items()))
        writer.close()
    finally:
        writer.abort()
    _check_copy(fs, partial, tally)
    fs.rename(partial, target)
    fs.sync_dir(_parent(target))
    return Conversion(shape, tally.entries, tally.bytes, tally.sha256)


def _write(writer: CwalWriter, items: Iterable[Sequence[Buffer]]) -> None:
    part: list[Buffer] = []
    size = 0
    for pieces in items:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        part.append(data)
        size += entry_size(len(data))
        if size >= GATHERED_BYTES:
            writer.append_all(part)
            part, size = [], 0
    writer.append_all(part)


def _check_copy(fs: Filesystem, path: str, meant: _Tally) -> None:
    """Read a file back; CwalError unless it holds what was meant."""
    stop, back = CwalStop(), _Tally()
    for _ in back.watch((entry.data,) for entry in read_file(fs, path, stop)):
        pass
    if stop.reason or back.sha256 != meant.sha256:
        what = stop.reason or "other data than was meant"
        raise CwalError(f"{path}: reads back as {what} at byte {stop.offset}; check the disk")


# ---- a CWal file as a log ----------------------------------------------------------------------


def from_cwal(
    fs: Filesystem,
    paths: Sequence[str],
    target: str,
    *,
    salvage: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Write the log that a CWal file, or its copies, stand for, into a new directory.

    A damaged or incomplete file is refused (CwalError), unless `salvage`: then what stands before
    the damage is taken. `progress` is told the bytes read so far. Raises OSError.
    """
    _check_free(fs, target)
    stop, tally = CwalStop(), _Tally()
    with _Source(fs, paths, progress) as source:
        first = next(source.entries(CwalStop()), None)
    identity = None if first is None else _identity_in(first.data)
    shape: Shape = "entries" if identity is None else "records"
    if not salvage:
        _check_whole(fs, paths)
    partial = _partial(fs, target)
    with _Source(fs, paths, progress) as source:
        items = tally.watch((entry.data,) for entry in source.entries(stop))
        datas = (pieces[0] for pieces in items)
        if identity is None:
            write_log(fs, partial, FOREIGN_OWNER, _batches(datas))
        else:
            write_log(fs, partial, identity, _records(datas, salvage=salvage))
        damaged = source.copies_damaged
    if not (salvage and shape == "records"):
        _check_log(fs, partial, shape, tally)
    fs.rename(partial, target)
    fs.sync_dir(_parent(target))
    left_out = f"{stop.rest} bytes from byte {stop.offset}: {stop.reason}" if stop.reason else ""
    return Conversion(shape, tally.entries, tally.bytes, tally.sha256, left_out, damaged)


class _Source:
    """A CWal file, or copies of one. Of one file empty entries are taken as they are."""

    def __init__(
        self, fs: ReadFilesystem, paths: Sequence[str], progress: Callable[[int], None] | None
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._progress = progress
        self._mirror = MirrorReader(fs, paths) if len(paths) > 1 else None

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        if self._mirror is not None:
            self._mirror.__exit__()

    @property
    def copies_damaged(self) -> int:
        return 0 if self._mirror is None else self._mirror.damaged

    def entries(self, stop: CwalStop) -> Iterator[CwalEntry]:
        mirror = self._mirror
        found = mirror.entries(stop) if mirror else read_file(self._fs, self._paths[0], stop)
        for entry in found:
            if self._progress is not None:
                self._progress(entry.offset)
            yield entry
        if mirror is not None and mirror.differing:
            first = mirror.differing[0]
            raise CwalError(
                f"{first.path}: another entry than in the first copy stands at byte"
                f" {first.offset}; these are not copies of one log"
            )


def _check_whole(fs: ReadFilesystem, paths: Sequence[str]) -> None:
    """Raise CwalError if a file is damaged, before anything is written."""
    stop = CwalStop()
    with _Source(fs, paths, None) as source:
        for _ in source.entries(stop):
            pass
    if stop.damaged:
        raise CwalError(_damage_text(paths[0], stop))


def _damage_text(path: str, stop: CwalStop) -> str:
    behind = "" if stop.resumes is None else f" (a valid entry follows at byte {stop.resumes})"
    return (
        f"{path}: {stop.reason} at byte {stop.offset}{behind}; nothing was converted."
        " --salvage takes what stands before it"
    )


def _identity_in(data: Buffer) -> LogIdentity | None:
    """Return whose log a file of the first shape is; None for any other first entry."""
    try:
        record = _record_in(data)
        if RecordHeader.unpack(record.header).kind is not Kind.CHECKPOINT:
            return None
        return decode_checkpoint(record.body).identity
    except FrameError:
        return None


def _record_in(data: Buffer) -> Record:
    """Decode an entry that is a record of ours; FrameError if it is not."""
    view = memoryview(data)
    header = RecordHeader.unpack(view[:HEADER_BYTES])
    body = view[HEADER_BYTES:]
    if header.payload_len != len(body) or record_of(header, body).header != view[:HEADER_BYTES]:
        raise FrameError("the record in this entry does not add up")
    return Record(bytes(view[:HEADER_BYTES]), bytes(body))


def _records(datas: Iterator[Buffer], *, salvage: bool) -> Iterator[Record]:
    """Yield the records between identity and end; CwalError if the end is missing."""
    next(datas, None)
    for data in datas:
        try:
            record = _record_in(data)
        except FrameError as error:
            raise CwalError(f"an entry that is no record of a log ({error})") from None
        kind = RecordHeader.unpack(record.header).kind
        if kind is Kind.SEAL:
            if next(datas, None) is not None:
                raise CwalError("entries stand behind the end of the log")
            return
        yield record
    if not salvage:
        raise CwalError(
            "the end of the log is missing: the file is cut off, or damaged; nothing was converted."
            " --salvage takes what is there"
        )


def _batches(datas: Iterator[Buffer]) -> Iterator[Record]:
    """Yield a foreign file's entries as batches of group 0, behind the note where they are from."""
    yield hard_state_record(0, 1, 0, FOREIGN)
    part: list[Buffer] = []
    size, base = 0, 1
    for data in datas:
        if part and (size + len(data) > BATCH_BYTES or len(part) == BATCH_ENTRIES_MAX):
            yield batch_record(0, 1, base, part)
            part, size, base = [], 0, base + len(part)
        part.append(bytes(data))
        size += len(data)
    if part:
        yield batch_record(0, 1, base, part)


def _check_log(fs: Filesystem, directory: str, shape: Shape, meant: _Tally) -> None:
    """Read a log back; CwalError unless it stands for the entries that were meant."""
    found, back = recovered(fs, directory), _Tally()
    items: Iterator[Any] = (
        _as_records(fs, directory, found)
        if shape == "records"
        else _as_entries(fs, directory, found.groups[0])
    )
    for _ in back.watch(items):
        pass
    if back.sha256 != meant.sha256:
        raise CwalError(
            f"{directory}: does not read back as what was meant: the file holds more than the state"
            " of a log, or the disk damaged it"
        )


# ---- names -------------------------------------------------------------------------------------


def _check_free(fs: ReadFilesystem, target: str) -> None:
    if fs.exists(target):
        raise CwalError(f"{target}: exists; name a new one")


def _partial(fs: ReadFilesystem, target: str) -> str:
    """Return the name that a target has until it is whole."""
    partial = f"{target}.partial"
    if fs.exists(partial):
        raise CwalError(f"{partial}: left by a conversion that was interrupted; remove it first")
    return partial


def _parent(path: str) -> str:
    head, _, _ = path.rpartition("/")
    return head or ("/" if path.startswith("/") else ".")
