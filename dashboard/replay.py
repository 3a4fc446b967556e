"""The replay source: a recording as frames, with the same face as a living cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from cluster.frames import ClusterFrame, Event
from dashboard.presenter.history import Sample
from dashboard.source import SourceKind

__all__ = ["Recorded", "ReplaySource"]


class Recorded(Protocol):
    """What is asked of a recording; `cluster.recording.Recording` has it."""

    def latest(self) -> ClusterFrame | None:
        """Return the newest frame."""

    def frame_at(self, unix_ms: int) -> ClusterFrame | None:
        """Return the newest frame of a time or before it."""

    def frames(self, start_ms: int, end_ms: int) -> Iterator[ClusterFrame]:
        """Yield the frames of a span of time, both ends included."""

    def moments(self, start_ms: int, end_ms: int) -> Sequence[int]:
        """Return the times of the frames after one moment up to another."""

    def events(self) -> tuple[Event, ...]:
        """Return the events, oldest first."""

    def span(self) -> tuple[int, int] | None:
        """Return the times of the first and of the last frame."""

    def close(self) -> None:
        """Close the files."""


class ReplaySource:
    """A recording; satisfies `dashboard.source.FrameSource`."""

    def __init__(self, recording: Recorded) -> None:
        """Show `recording`, which is closed with this source."""
        self.kind: SourceKind = "replay"
        self.problem: str | None = None
        self._recording = recording

    @property
    def edge(self) -> str:
        """See `FrameSource.edge`."""
        return "the recording begins here"

    def latest(self) -> ClusterFrame | None:
        """See `FrameSource.latest`."""
        return self._recording.latest()

    def at(self, unix_ms: int) -> ClusterFrame | None:
        """See `FrameSource.at`."""
        return self._recording.frame_at(unix_ms)

    def between(self, start_ms: int, end_ms: int, step_ms: int = 0) -> Iterator[ClusterFrame]:
        """See `FrameSource.between`; with a step, only what is yielded is decoded."""
        if not step_ms:
            yield from self._recording.frames(start_ms + 1, end_ms)
            return
        span = self._recording.span()
        last = start_ms
        first = max(start_ms, span[0] if span else end_ms)
        for moment in range(first + step_ms, end_ms + 1, step_ms):
            frame = self._recording.frame_at(moment)
            if frame is not None and frame.unix_ms > last:
                last = frame.unix_ms
                yield frame

    def span(self) -> tuple[int, int] | None:
        """See `FrameSource.span`."""
        return self._recording.span()

    def moments(self, start_ms: int, end_ms: int) -> Sequence[int]:
        """See `FrameSource.moments`."""
        return self._recording.moments(start_ms, end_ms)

    def events(self) -> Sequence[Event]:
        """See `FrameSource.events`."""
        return self._recording.events()

    def take_past(self) -> Sequence[Sample]:
        """See `FrameSource.take_past`; a recording's past is read around its cursor."""
        return ()

    def close(self) -> None:
        """See `FrameSource.close`."""
        self._recording.close()
