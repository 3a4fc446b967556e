"""Records what a supervisor sees, into the data directory: bounded, cheap, and never in the way.

Theory of operation
-------------------
The supervisor hands over each frame that it makes, encoded, and the events since the last one. A
thread of the recorder's own packs and writes them (`cluster.chunks` draws the bytes): the disk may
fail or hang, the supervisor's loop does not notice. Every `FULL_EVERY` frames one is whole, the
others are differences against it. Files are a sixteenth of the bound; before a new one begins, the
oldest ones go, whichever life of the cluster wrote them. Nothing is synced: a killed supervisor
loses the record that it was writing, a power cut the last seconds.

Arithmetic: a frame of 11 nodes takes 0.9 KB at rest and 1.8 KB under load. At 10 Hz, while somebody
watches, 64 MiB hold the last one to two hours; at 1 Hz the last ten to twenty.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from cluster.chunks import (
    DELTA,
    EVENTS,
    FULL,
    ChunkHeader,
    changes_between,
    encode_header,
    encode_record,
)
from cluster.frames import EVENTS_MAX, Event
from cluster.recording import Recording, chunk_paths
from node.metrics import plain

__all__ = [
    "Recorder",
    "Recording",
]

CHUNKS: Final = 16
CHUNK_BYTES_MIN: Final = 16 << 10
FILES_MAX: Final = 256
"""Lives of a cluster may be short, and each begins a file."""
FULL_EVERY: Final = 50
"""Frames: 5 s of watching. A jump unpacks one whole frame and one difference."""
QUEUE_MAX: Final = 64
"""Frames that wait for a slow disk, 6 s of watching; later ones are dropped and counted."""
RETRY_S: Final = 10.0
NEWS_MAX: Final = 20
CLOSE_S: Final = 2.0
"""How long the last frames may take to be written when the cluster goes down."""


class Recorder:
    """Writes the recording of one life of a supervisor. Main thread; `close` ends the thread."""

    def __init__(self, directory: Path, header: ChunkHeader, bytes_max: int) -> None:
        """Keep the files of a directory, of all lives together, below `bytes_max`."""
        self.dropped = 0
        """Frames that came while the disk was too slow."""
        self._writer = _Writer(directory, header, bytes_max)
        self._queue: queue.Queue[tuple[dict[str, Any], Sequence[Event]] | None]
        self._queue = queue.Queue(QUEUE_MAX)
        self._told = False
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    @property
    def works(self) -> bool:
        """Whether what is handed over is written."""
        return not self._writer.stopped

    @property
    def failures(self) -> int:
        """How often the disk refused something."""
        return self._writer.failures

    def record(self, frame: dict[str, Any], events: Sequence[Event]) -> bool:
        """Take an encoded frame, which nobody changes any more, and the events since the last one.

        Returns whether it was taken: if not, the events are to be handed over again.
        """
        try:
            self._queue.put_nowait((frame, events))
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def news(self) -> str | None:
        """Return, once each, that the recording has stopped, goes on, or has gaps; None if nothing."""
        if self.dropped and not self._told:
            self._told = True
            return "gaps in the recording: the disk is too slow; the cluster goes on"
        return self._writer.news.popleft() if self._writer.news else None

    def close(self) -> None:
        """Write what waits, unless the disk hangs, and end."""
        with contextlib.suppress(queue.Full):  # it hangs: the thread dies with the process
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._writer.write(*item)
        self._writer.close()


class _Writer:
    """The files. Recorder's thread."""

    def __init__(self, directory: Path, header: ChunkHeader, bytes_max: int) -> None:
        self.failures = 0
        self.stopped = False
        self.news: deque[str] = deque()
        self._news_left = NEWS_MAX
        self._missing = 0
        self._directory = directory
        self._header = header
        self._bytes_max = bytes_max
        self._chunk_bytes = max(CHUNK_BYTES_MIN, bytes_max // CHUNKS)
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._size = 0
        self._frames = 0
        """Whole ones in the file."""
        self._full: dict[str, Any] = {}
        self._since_full = 0
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._retry_at = 0.0

    def write(self, frame: dict[str, Any], events: Sequence[Event]) -> None:
        """Write a frame and the events before it; a failure is counted and tried again later."""
        self._events += events
        if self._file is None and time.monotonic() < self._retry_at:
            self._missing += 1
            return
        try:
            if self._file is None or self._size >= self._chunk_bytes:
                self._begin_chunk()
                events = tuple(self._events)
            if events:
                told = [plain(event) for event in events]
                newest = events[-1]
                self._append(encode_record(EVENTS, newest.unix_ms, newest.sequence, told))
            self._append(self._encoded(frame))
            self._frames += 1
        except OSError as error:
            self.failures += 1
            self._missing += 1
            self._retry_at = time.monotonic() + RETRY_S
            self.close()  # what may stand half-written at its end is cut by whoever reads it
            self._remove_empty()
            if not self.stopped:
                why = f"{error.strerror}: {error.filename or self._directory}"
                self._tell(f"not recorded: {why}; the cluster goes on")
            self.stopped = True
        else:
            if self.stopped:
                self._tell(f"recorded again: {self._missing:,} frames are missing")
            self.stopped, self._missing = False, 0

    def _tell(self, words: str) -> None:
        """Leave news; of a disk that is full now and then not for ever."""
        if self._news_left:
            self._news_left -= 1
            self.news.append(words)

    def _remove_empty(self) -> None:
        """Remove a file without a frame: for too many of them, the oldest files would have to go."""
        if self._path is not None and not self._frames:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._path = None

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # nothing is buffered; a full disk may say so again
                file.close()

    def _encoded(self, frame: dict[str, Any]) -> bytes:
        """Return a frame as a record: whole, or what changed since the last whole one."""
        events = frame["events"]
        newest = events[-1]["sequence"] if events else 0
        document = {key: value for key, value in frame.items() if key != "events"}
        document["events_to"] = newest
        changes = None
        if self._full and self._since_full < FULL_EVERY:
            changes = changes_between(self._full, document)
        if changes is None:
            self._full, self._since_full = document, 1
            return encode_record(FULL, frame["unix_ms"], frame["sequence"], document)
        self._since_full += 1
        return encode_record(DELTA, frame["unix_ms"], frame["sequence"], changes)

    def _append(self, record: bytes) -> None:
        assert self._file is not None
        if self._file.write(record) < len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._directory))
        self._size += len(record)

    def _begin_chunk(self) -> None:
        """Make room, then begin a file."""
        self.close()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        paths = chunk_paths(self._directory)
        number = int(paths[-1].stem) + 1 if paths else 1
        sizes = {path: path.stat().st_size for path in paths}
        room = self._bytes_max - self._chunk_bytes
        while paths and (sum(sizes.values()) > room or len(paths) >= FILES_MAX):
            oldest = paths.pop(0)
            oldest.unlink(missing_ok=True)
            del sizes[oldest]
        path = self._directory / f"{number:08d}.rec"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
        self._path, self._size, self._frames = path, 0, 0
        self._full = {}
        self._append(encode_header(self._header))
