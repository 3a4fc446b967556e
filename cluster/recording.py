"""Reads what a recorder wrote: frames and events of one life of a supervisor, at random.

A `Recording` keeps an index of every record (28 bytes each, 3 MB for a full one) and the events;
frames are unpacked when they are asked for. It may be read while it is being written (`refresh`).
What stands behind a record that is cut or damaged in a file is not read; the next file is.
"""

from __future__ import annotations

import os
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from cluster.chunks import (
    EVENTS,
    FULL,
    HEADER_BYTES_MAX,
    ChunkHeader,
    decode_body,
    decode_header,
    entries,
    patched,
)
from cluster.closing import Closing
from cluster.exits import CommandError, Exit
from cluster.frames import EVENTS_MAX, ClusterFrame, Event

__all__ = [
    "EVENTS_KEPT_MAX",
    "RECORDING_DIRECTORY",
    "Recording",
    "RunSummary",
    "chunk_paths",
    "list_recordings",
]

RECORDING_DIRECTORY: Final = "recording"
"""In the data directory of a cluster."""
EVENTS_KEPT_MAX: Final = 20_000
"""Of one life: 10 MB of them; the newest are kept."""
FRAMES_CACHED: Final = 16
FULLS_CACHED: Final = 4
READ_BYTES: Final = 4 << 20
"""Bytes looked through at once: 10 ms, and more than any record has."""

_CHUNK: Final = re.compile(r"[0-9]{8}\.rec")
_Value = TypeVar("_Value")
_EVENT_FIELDS: Final = frozenset(spec.name for spec in fields(Event))


def chunk_paths(directory: Path) -> list[Path]:
    """Return the chunk files of a directory, oldest first; [] if there is none."""
    try:
        names = sorted(name for name in os.listdir(directory) if _CHUNK.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [directory / name for name in names]


@dataclass(slots=True)
class _Chunk:
    """One file, open: it may be removed meanwhile. `read_to`: up to where it was looked through."""

    path: Path
    descriptor: int
    header: ChunkHeader
    read_to: int


@dataclass(slots=True)
class _Index:
    """Every frame of the life, in order, column by column."""

    unix_ms: array[int] = field(default_factory=lambda: array("Q"))
    sequence: array[int] = field(default_factory=lambda: array("Q"))
    offset: array[int] = field(default_factory=lambda: array("Q"))
    length: array[int] = field(default_factory=lambda: array("L"))
    chunk: array[int] = field(default_factory=lambda: array("L"))
    base: array[int] = field(default_factory=lambda: array("L"))
    """Position, in this index, of the whole frame that a frame builds on; its own if it is whole."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One life in a directory: its files, oldest first."""

    number: int
    """From 1, the oldest of which something is left."""
    header: ChunkHeader
    paths: tuple[Path, ...]
    bytes: int


def list_recordings(place: Path) -> list[RunSummary]:
    """Return the lives recorded in a data directory, a recording directory or one file.

    A file that is no recording is passed over; `CommandError` if there is nothing else.
    """
    runs, foreign = _survey(place)
    if foreign and not runs:
        raise foreign[0]
    return runs


def _survey(place: Path) -> tuple[list[RunSummary], list[CommandError]]:
    """Return the lives recorded somewhere, and what is wrong with the files of none."""
    found: dict[str, tuple[ChunkHeader, list[Path]]] = {}
    foreign: list[CommandError] = []
    for path in _paths_at(place):
        try:
            header = _header_of(path)
        except CommandError as error:
            foreign.append(error)
            continue
        if header is not None:
            found.setdefault(header.run, (header, []))[1].append(path)
    runs = [
        RunSummary(number, header, tuple(paths), sum(map(_size, paths)))
        for number, (header, paths) in enumerate(found.values(), 1)
    ]
    return runs, foreign


def _paths_at(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return chunk_paths(place / RECORDING_DIRECTORY) or chunk_paths(place)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _header_of(path: Path) -> ChunkHeader | None:
    try:
        with path.open("rb") as file:
            found = decode_header(file.read(HEADER_BYTES_MAX), str(path))
    except FileNotFoundError:
        return None  # the recorder has just made room
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{path}: {error.strerror}") from None
    return found[0] if found else None


class Recording(Closing):
    """Frames and events of one life; read by `dashboard.replay` and `.past`. One thread."""

    def __init__(self, place: Path, number: int | None = None) -> None:
        """Open the files, and look into none of them yet; see `open`."""
        runs, foreign = _survey(place)
        if foreign and not runs:
            raise foreign[0]
        chosen = [run for run in runs if number in (None, run.number)][-1:]
        if not chosen:
            which = f"no run {number}; there are {len(runs)}" if runs else "nothing is recorded"
            raise CommandError(Exit.UNKNOWN, f"{place}: {which}; see: raftdeck runs ls")
        self.header = chosen[0].header
        self.number = chosen[0].number
        self._place = place
        self._foreign = [str(error) for error in foreign]
        self._chunks: list[_Chunk] = []
        self._looking = 0
        self._index = _Index()
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT_MAX)
        self._frames: OrderedDict[int, ClusterFrame] = OrderedDict()
        self._fulls: OrderedDict[int, dict[str, Any]] = OrderedDict()
        for path in chosen[0].paths:
            self._open(path)

    @classmethod
    def open(cls, place: Path, number: int | None = None) -> Self:
        """Open a data directory, recording directory or file; the newest life, or that `number`.

        `CommandError`: nothing recorded there, or no whole frame (unknown); no recording (usage), or
        one of a newer schema (unfit).
        """
        recording = cls(place, number)
        recording.refresh()
        if not len(recording):
            why = "; ".join(("", *recording.damage))
            recording.close()
            raise CommandError(
                Exit.UNKNOWN, f"{place}: run {recording.number} holds no whole frame{why}"
            )
        return recording

    def close(self) -> None:
        """Close the files."""
        for chunk in self._chunks:
            os.close(chunk.descriptor)
        self._chunks.clear()

    @property
    def damage(self) -> tuple[str, ...]:
        """What there is and cannot be read, in words; the end of a file that is being written, too."""
        found = list(self._foreign)
        for chunk in self._chunks:
            left = os.fstat(chunk.descriptor).st_size - chunk.read_to
            if left > 0:
                found.append(
                    f"{chunk.path}: the record at byte {chunk.read_to:,} is cut or damaged;"
                    f" {left:,} bytes are not read"
                )
        return tuple(found)

    # --- frames -----------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self._index.sequence)

    def span(self) -> tuple[int, int] | None:
        """Return the times of the first and of the last frame (unix ms); None if there is none."""
        times = self._index.unix_ms
        return (times[0], times[-1]) if times else None

    def latest(self) -> ClusterFrame | None:
        """Return the newest frame."""
        return self._frame(len(self) - 1) if len(self) else None

    def frame_at(self, unix_ms: int) -> ClusterFrame | None:
        """Return the newest frame of that time or before it; None if there is none."""
        position = bisect_right(self._index.unix_ms, unix_ms) - 1
        return self._frame(position) if position >= 0 else None

    def frames_since(self, sequence: int) -> Iterator[ClusterFrame]:
        """Yield the frames after a number, oldest first."""
        return self._range(bisect_right(self._index.sequence, sequence), len(self))

    def frames(self, start_ms: int, end_ms: int) -> Iterator[ClusterFrame]:
        """Yield the frames of a span of time, both ends included, oldest first."""
        times = self._index.unix_ms
        return self._range(bisect_left(times, start_ms), bisect_right(times, end_ms))

    def moments(self, start_ms: int, end_ms: int) -> list[int]:
        """Return the times of the frames after one moment up to another; none is unpacked."""
        times = self._index.unix_ms
        return list(times[bisect_right(times, start_ms) : bisect_right(times, end_ms)])

    def thinned(self, step_ms: int) -> Iterator[ClusterFrame]:
        """Yield frames that are so far apart, those that first show an event, and the last."""
        times = self._index.unix_ms
        shown = {bisect_left(times, event.unix_ms) for event in self._events}
        last = -step_ms
        for position, unix_ms in enumerate(times):
            if unix_ms >= last + step_ms or position in shown or position == len(times) - 1:
                last = unix_ms
                yield self._frame(position)

    def _range(self, begin: int, end: int) -> Iterator[ClusterFrame]:
        for position in range(begin, end):
            yield self._frame(position)

    # --- events -----------------------------------------------------------------------

    def events(self) -> tuple[Event, ...]:
        """Return the events, oldest first; of very many, the newest."""
        return tuple(self._events)

    # --- reading ----------------------------------------------------------------------

    def refresh(self) -> None:
        """Take in what was written since; nothing that was read is forgotten."""
        while self.look():
            pass

    def look(self) -> bool:
        """Take in the next few MB; return whether there may be more. For who must not wait."""
        if self._looking < len(self._chunks):
            more = self._look_through(self._looking, self._chunks[self._looking])
            if more or self._looking + 1 < len(self._chunks):
                self._looking += not more
                return True
        before = len(self._chunks)
        for path in _paths_at(self._place):
            if not self._chunks or path > self._chunks[-1].path:
                self._open(path)
        if len(self._chunks) == before:
            return False
        self._looking = max(0, before - 1)  # once more: it may have grown to its end meanwhile
        return True

    def _open(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # the recorder has just made room
        try:
            found = decode_header(os.pread(descriptor, HEADER_BYTES_MAX, 0), str(path))
        except CommandError:
            found = None  # told of when it was surveyed
        if found is None or found[0].run != self.header.run:
            os.close(descriptor)
            return
        self._chunks.append(_Chunk(path, descriptor, *found))

    def _look_through(self, number: int, chunk: _Chunk) -> bool:
        data = os.pread(chunk.descriptor, READ_BYTES, chunk.read_to)
        taken = 0
        for entry in entries(data, chunk.read_to):
            if entry.kind == EVENTS:
                self._take_events(data[taken : taken + entry.length])
            else:
                self._take_frame(number, entry)
            taken += entry.length
        chunk.read_to += taken
        return bool(taken) and len(data) == READ_BYTES

    def _take_frame(self, chunk: int, entry: Any) -> None:
        index, position = self._index, len(self)
        whole = entry.kind == FULL
        if not whole and (not position or index.chunk[-1] != chunk):
            return  # a difference against nothing
        index.unix_ms.append(max(entry.unix_ms, index.unix_ms[-1] if position else 0))
        index.sequence.append(entry.sequence)
        index.offset.append(entry.offset)
        index.length.append(entry.length)
        index.chunk.append(chunk)
        index.base.append(position if whole else index.base[-1])

    def _take_events(self, record: bytes) -> None:
        last = self._events[-1].sequence if self._events else 0
        for document in decode_body(record):
            event = Event(**{key: document[key] for key in _EVENT_FIELDS & document.keys()})
            if event.sequence > last:
                self._events.append(event)

    def _frame(self, position: int) -> ClusterFrame:
        frame = self._frames.get(position)
        if frame is None:
            document = self._document(position)
            newest = document.pop("events_to", 0)
            document["events"] = []
            frame = ClusterFrame.decode(document)
            frame = frame.with_events(self._events_to(newest))
            _keep(self._frames, position, frame, FRAMES_CACHED)
        return frame

    def _document(self, position: int) -> dict[str, Any]:
        base = self._index.base[position]
        full = self._fulls.get(base)
        if full is None:
            full = decode_body(self._record(base))
            _keep(self._fulls, base, full, FULLS_CACHED)
        changes = {} if base == position else decode_body(self._record(position))
        return patched(full, changes)

    def _record(self, position: int) -> bytes:
        index = self._index
        descriptor = self._chunks[index.chunk[position]].descriptor
        return os.pread(descriptor, index.length[position], index.offset[position])

    def _events_to(self, sequence: int) -> tuple[Event, ...]:
        """Return the events that a frame showed: up to a number, the newest of them."""
        end = bisect_right(self._events, sequence, key=lambda event: event.sequence)
        return tuple(self._events[at] for at in range(max(0, end - EVENTS_MAX), end))


def _keep(cache: OrderedDict[int, _Value], key: int, value: _Value, size: int) -> None:
    cache[key] = value
    if len(cache) > size:
        cache.popitem(last=False)
