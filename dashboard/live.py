"""The live source: a thread on the supervisor's frame stream, and the last ten minutes of it.

Frames are kept as they came, compressed (some 4 kB for eleven nodes, so 24 MB for ten minutes),
and decoded again when somebody steps back to them. What was before the first of them is read from
the recording (`dashboard.past`), as far as the ten minutes reach.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgpack

from cluster.control import FrameStream
from cluster.exits import CommandError
from cluster.frames import ClusterFrame, Event
from cluster.paths import LOCK_FILE, FileLock
from dashboard.past import BREATH_S, NOT_RECORDED, Past, recall
from dashboard.presenter.history import Sample
from dashboard.source import SourceKind

__all__ = ["LiveSource"]

WAIT_S: Final = 0.25
FRAMES_MAX: Final = 6_000
WINDOW_MS: Final = 600_000
EVENTS_MAX: Final = 2_000
SILENT_LOOKS: Final = 4
"""After so many waits without a frame, the supervisor's lock is looked at."""
DECODED_MAX: Final = 64


class LiveSource:
    """Frames of a running cluster. Its threads add; the screen's thread reads."""

    def __init__(self, run_dir: Path, *, back_ms: int = WINDOW_MS) -> None:
        """Subscribe to the cluster in `run_dir`; `back_ms` of what was before are looked up."""
        self.kind: SourceKind = "live"
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._problem: str | None = None
        self._latest: ClusterFrame | None = None
        self._moments: list[int] = []
        self._packed: list[bytes] = []
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._decoded: dict[int, ClusterFrame] = {}
        self._back_ms = back_ms
        self._edge = "nothing is known yet of what was before"
        self._past: Past | None = None
        self._reader = threading.Lock()
        """Held while the recording is read: it serves one thread at a time."""
        self._samples: tuple[Sample, ...] = ()
        self._looking_back: threading.Thread | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="frames", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """See `FrameSource.problem`."""
        return self._problem

    @property
    def edge(self) -> str:
        """See `FrameSource.edge`."""
        span, past = self.span(), self._past
        if span is not None and span[0] <= span[1] - WINDOW_MS:
            return "ten minutes are kept here; what is older: raftdeck dash --replay"
        return "the recording begins here" if past is not None else self._edge

    def latest(self) -> ClusterFrame | None:
        """See `FrameSource.latest`."""
        return self._latest

    def at(self, unix_ms: int) -> ClusterFrame | None:
        """See `FrameSource.at`."""
        with self._lock:
            place = bisect_right(self._moments, unix_ms)
            past = self._past
            found = (self._moments[place - 1], self._packed[place - 1]) if place else None
        if found is not None:
            return self._decode(*found)
        if past is None:
            return None
        with self._reader:
            return past.at(unix_ms) if past is self._past else None

    def between(self, start_ms: int, end_ms: int, step_ms: int = 0) -> Iterator[ClusterFrame]:
        """See `FrameSource.between`."""
        last = start_ms - step_ms
        for moment in self.moments(start_ms, end_ms):
            frame = self.at(moment) if moment >= last + step_ms else None
            if frame is not None:
                last = moment
                yield frame

    def span(self) -> tuple[int, int] | None:
        """See `FrameSource.span`."""
        with self._lock:
            if not self._moments:
                return None
            oldest, newest = self._moments[0], self._moments[-1]
            if self._past is not None:
                oldest = min(oldest, max(self._past.start_ms, newest - WINDOW_MS))
            return oldest, newest

    def moments(self, start_ms: int, end_ms: int) -> Sequence[int]:
        """See `FrameSource.moments`."""
        with self._lock:
            first = bisect_right(self._moments, start_ms)
            found = self._moments[first : bisect_right(self._moments, end_ms)]
            past = self._past
        if past is None or start_ms >= past.end_ms:
            return found
        with self._reader:
            return [*past.moments(start_ms, end_ms), *found] if past is self._past else found

    def events(self) -> Sequence[Event]:
        """See `FrameSource.events`."""
        with self._lock:
            return tuple(self._events)

    def take_past(self) -> Sequence[Sample]:
        """See `FrameSource.take_past`."""
        with self._lock:
            samples, self._samples = self._samples, ()
        return samples

    def close(self) -> None:
        """End the subscription."""
        self._stopping.set()
        self._thread.join()
        if self._looking_back is not None:
            self._looking_back.join()
        if self._past is not None:
            self._past.close()

    def _decode(self, moment: int, packed: bytes) -> ClusterFrame:
        found = self._decoded.get(moment)
        if found is None:
            found = ClusterFrame.decode(msgpack.unpackb(zlib.decompress(packed)))
            if len(self._decoded) >= DECODED_MAX:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[moment] = found
        return found

    # ---- the threads -----------------------------------------------------------------------

    def _work(self) -> None:
        stream = FrameStream(self._run_dir)
        silent = 0
        try:
            while not self._stopping.is_set():
                found = stream.newest_packed(WAIT_S)
                if found is not None:
                    self._take(*found)
                    silent = 0
                    continue
                silent += 1
                if silent >= SILENT_LOOKS and not FileLock.is_held(self._run_dir / LOCK_FILE):
                    self._problem = "the supervisor is gone: the cluster is down"
        finally:
            stream.close()

    def _take(self, packed: bytes, frame: ClusterFrame) -> None:
        small = zlib.compress(packed, 1)
        known = self._latest
        if known is None or known.supervisor_pid != frame.supervisor_pid:
            self._begin_life(frame)
        with self._lock:
            if self._moments and frame.unix_ms <= self._moments[-1]:
                return  # the clock was set back: wait until it has passed
            self._moments.append(frame.unix_ms)
            self._packed.append(small)
            if len(self._moments) > FRAMES_MAX + 200:
                oldest = max(
                    len(self._moments) - FRAMES_MAX,
                    bisect_right(self._moments, frame.unix_ms - WINDOW_MS),
                )
                del self._moments[:oldest], self._packed[:oldest]
                self._leave_past()  # which is before what was just dropped
            newest = self._events[-1].sequence if self._events else 0
            self._events.extend(event for event in frame.events if event.sequence > newest)
            self._problem = None
            self._latest = frame

    def _begin_life(self, first: ClusterFrame) -> None:
        """Forget another life of the cluster, whose numbers mean nothing now; look back in this one."""
        if self._looking_back is not None:
            self._looking_back.join()
        with self._lock:
            self._moments.clear()
            self._packed.clear()
            self._events.clear()
            self._decoded = {}
            self._samples = ()
            self._leave_past()
        holder = FileLock.read_holder(self._run_dir / LOCK_FILE)
        if not self._back_ms or holder is None:
            self._edge = NOT_RECORDED
            return
        self._looking_back = threading.Thread(
            target=self._look_back, args=(Path(holder.data_dir), first), name="past", daemon=True
        )
        self._looking_back.start()

    def _leave_past(self) -> None:
        past, self._past = self._past, None
        if past is not None:
            with self._reader:
                past.close()

    def _look_back(self, data_dir: Path, first: ClusterFrame) -> None:
        """Read what was recorded before the first frame; its own thread."""
        self._edge = "the recording is being read"
        try:
            past = recall(data_dir, first, self._back_ms, self._stopping)
        except CommandError as error:
            self._edge = f"the recording cannot be read: {error}"
            return
        if past is None:
            self._edge = NOT_RECORDED
            return
        samples = []
        for sample in past.samples():
            samples.append(sample)
            if self._stopping.wait(BREATH_S):
                break
        with self._lock:
            oldest = self._events[0].sequence if self._events else 0
            events = [e for e in past.events() if e.sequence < oldest or not oldest]
            self._events = deque([*events, *self._events], EVENTS_MAX)
            self._samples = tuple(samples)
            self._past = past
