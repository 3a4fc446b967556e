"""Where frames come from: the one interface behind live, recorded and scripted pictures.

The screen asks and never waits: `latest` and `at` answer at once. Whoever feeds a source (a thread
on the supervisor's stream, a recording on disk, a test's script) does so behind it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

from cluster.frames import ClusterFrame, Event
from dashboard.presenter.history import Sample

__all__ = ["FakeSource", "FrameSource", "SourceKind"]

SourceKind = Literal["live", "replay"]


class FrameSource(Protocol):
    """Frames of one cluster in the order of time. Moments are `unix_ms` of frames. One thread."""

    @property
    def kind(self) -> SourceKind:
        """Whether the newest frame is now, or the end of a recording."""

    @property
    def problem(self) -> str | None:
        """Why no more frames come ("the supervisor is gone"); None while they do."""

    @property
    def edge(self) -> str:
        """Why time does not go back further than the oldest kept frame, in words."""

    def latest(self) -> ClusterFrame | None:
        """Return the newest frame; None before the first."""

    def at(self, unix_ms: int) -> ClusterFrame | None:
        """Return the newest kept frame at or before a moment; None if there is none."""

    def between(self, start_ms: int, end_ms: int, step_ms: int = 0) -> Iterator[ClusterFrame]:
        """Yield kept frames after `start_ms` up to `end_ms`, at least `step_ms` apart."""

    def span(self) -> tuple[int, int] | None:
        """Return the moments of the oldest and of the newest kept frame."""

    def moments(self, start_ms: int, end_ms: int) -> Sequence[int]:
        """Return the moments of the kept frames in a stretch, without decoding any."""

    def events(self) -> Sequence[Event]:
        """Return every event known, oldest first."""

    def take_past(self) -> Sequence[Sample]:
        """Return, once, samples of what was before the first frame that `latest` returned.

        They come some time after it, or never: whoever keeps a history puts them in front.
        """

    def close(self) -> None:
        """Let go of files, sockets and threads."""


class FakeSource:
    """Frames by script: the newest one is wherever `advance` has put the end."""

    def __init__(self, frames: Iterable[ClusterFrame], kind: SourceKind = "live") -> None:
        self.kind: SourceKind = kind
        self.problem: str | None = None
        self.edge = "the script begins here"
        self.past: tuple[Sample, ...] = ()
        self.closed = False
        self._frames = list(frames)
        self._count = len(self._frames) if kind == "replay" else min(1, len(self._frames))

    def advance(self, steps: int = 1) -> bool:
        """Let the next frames arrive; False if the script has ended."""
        before = self._count
        self._count = min(len(self._frames), self._count + steps)
        return self._count > before

    def extend(self, frames: Iterable[ClusterFrame]) -> None:
        """Add frames to the end of the script."""
        self._frames.extend(frames)

    def latest(self) -> ClusterFrame | None:
        """See `FrameSource.latest`."""
        return self._frames[self._count - 1] if self._count else None

    def at(self, unix_ms: int) -> ClusterFrame | None:
        """See `FrameSource.at`."""
        place = bisect_right(self._moments(), unix_ms)
        return self._frames[place - 1] if place else None

    def between(self, start_ms: int, end_ms: int, step_ms: int = 0) -> Iterator[ClusterFrame]:
        """See `FrameSource.between`."""
        last = start_ms - step_ms
        for frame in self._frames[: self._count]:
            if start_ms < frame.unix_ms <= end_ms and frame.unix_ms >= last + step_ms:
                last = frame.unix_ms
                yield frame

    def span(self) -> tuple[int, int] | None:
        """See `FrameSource.span`."""
        moments = self._moments()
        return (moments[0], moments[-1]) if moments else None

    def moments(self, start_ms: int, end_ms: int) -> Sequence[int]:
        """See `FrameSource.moments`."""
        return [moment for moment in self._moments() if start_ms < moment <= end_ms]

    def events(self) -> Sequence[Event]:
        """See `FrameSource.events`."""
        found = {event.sequence: event for f in self._frames[: self._count] for event in f.events}
        return [found[number] for number in sorted(found)]

    def take_past(self) -> Sequence[Sample]:
        """See `FrameSource.take_past`."""
        past, self.past = self.past, ()
        return past

    def close(self) -> None:
        """See `FrameSource.close`."""
        self.closed = True

    def _moments(self) -> list[int]:
        return [frame.unix_ms for frame in self._frames[: self._count]]
