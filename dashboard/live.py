"""The live source: a thread on the supervisor's frame stream, and the last ten minutes of it.

Frames are kept as they came, compressed (some 4 kB for eleven nodes, so 24 MB for ten minutes),
and decoded again when somebody steps back to them.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgpack

from cluster.actions import Action
from cluster.api import ActionResult
from cluster.control import FrameStream
from cluster.frames import ClusterFrame, Event
from cluster.local import LocalCluster
from cluster.paths import LOCK_FILE, FileLock
from dashboard.source import SourceKind

__all__ = ["LiveHands", "LiveSource"]

WAIT_S: Final = 0.25
FRAMES_MAX: Final = 6_000
WINDOW_MS: Final = 600_000
EVENTS_MAX: Final = 2_000
SILENT_LOOKS: Final = 4
"""After so many waits without a frame, the supervisor's lock is looked at."""
DECODED_MAX: Final = 64


class LiveSource:
    """Frames of a running cluster. The thread adds; the screen's thread reads."""

    def __init__(self, run_dir: Path) -> None:
        """Subscribe to the cluster in `run_dir`."""
        self.kind: SourceKind = "live"
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._problem: str | None = None
        self._latest: ClusterFrame | None = None
        self._moments: list[int] = []
        self._packed: list[bytes] = []
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._decoded: dict[int, ClusterFrame] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="frames", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """See `FrameSource.problem`."""
        return self._problem

    def latest(self) -> ClusterFrame | None:
        """See `FrameSource.latest`."""
        return self._latest

    def at(self, unix_ms: int) -> ClusterFrame | None:
        """See `FrameSource.at`."""
        with self._lock:
            place = bisect_right(self._moments, unix_ms)
            if not place:
                return None
            moment, packed = self._moments[place - 1], self._packed[place - 1]
        return self._decode(moment, packed)

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
            return (self._moments[0], self._moments[-1]) if self._moments else None

    def moments(self, start_ms: int, end_ms: int) -> Sequence[int]:
        """See `FrameSource.moments`."""
        with self._lock:
            first = bisect_right(self._moments, start_ms)
            return self._moments[first : bisect_right(self._moments, end_ms)]

    def events(self) -> Sequence[Event]:
        """See `FrameSource.events`."""
        with self._lock:
            return tuple(self._events)

    def close(self) -> None:
        """End the subscription."""
        self._stopping.set()
        self._thread.join()

    def _decode(self, moment: int, packed: bytes) -> ClusterFrame:
        found = self._decoded.get(moment)
        if found is None:
            found = ClusterFrame.decode(msgpack.unpackb(zlib.decompress(packed)))
            if len(self._decoded) >= DECODED_MAX:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[moment] = found
        return found

    # ---- the thread ------------------------------------------------------------------------

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
            known = self._events[-1].sequence if self._events else 0
            self._events.extend(event for event in frame.events if event.sequence > known)
            self._problem = None
            self._latest = frame


class LiveHands:
    """Acts on a running cluster, one verb at a time, in a thread with its own connection."""

    def __init__(self, run_dir: Path) -> None:
        """Connect when the first verb comes."""
        self._run_dir = run_dir
        self._cluster: LocalCluster | None = None
        self._thread = ThreadPoolExecutor(1, "hands")

    def submit(self, action: Action, selector: str) -> Future[ActionResult]:
        """Begin a verb; the future's error is a `CommandError` that says why not."""
        return self._thread.submit(self._act, action, selector)

    def _act(self, action: Action, selector: str) -> ActionResult:
        if self._cluster is None:
            self._cluster = LocalCluster(self._run_dir)
        return action.run(self._cluster, selector, None)

    def close(self) -> None:
        """Let go, once a verb that is at work has ended."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=True)

    def _disconnect(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
