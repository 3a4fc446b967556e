"""Time on the desk: the frames so far, the cursor in them, and jumps.

A living source has its history from every frame that arrived; a recording's history is filled from
the recording, as far before the cursor as the charts reach.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from cluster.events import MARK
from cluster.frames import ClusterFrame, Event
from dashboard.presenter.history import History
from dashboard.source import FrameSource

__all__ = ["Timeline"]

WARM_UP_MS: Final = 70_000
"""A cursor that jumps needs this much of the past for its charts."""
GAP_MS: Final = 3_000
"""A jump further than this fills the history with four frames a second instead of all."""
STEP_MS: Final = 250
MARKS_MAX: Final = 200
STRIDE_MS: Final = 5_000
"""Single frames are looked for this far away."""


class Timeline:
    """The frames of a source up to a cursor. `cursor_ms` is None at the newest frame of a living one."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self.history = History()
        self.frame: ClusterFrame | None = None
        self.events: Sequence[Event] = ()
        self.cursor_ms: int | None = None
        self._marks: list[Event] = []
        self._newest_ms = -1

    @property
    def now_ms(self) -> int:
        """The moment that is shown."""
        if self.cursor_ms is not None:
            return self.cursor_ms
        return self.frame.unix_ms if self.frame else 0

    @property
    def events_around(self) -> tuple[Sequence[Event], Sequence[Event]]:
        """The events up to the moment that is shown, and those after it."""
        events = self.events
        if not events or events[-1].unix_ms <= self.now_ms:
            return events, ()
        place = bisect_right(events, self.now_ms, key=lambda event: event.unix_ms)
        return events[:place], events[place:]

    def collect(self) -> bool:
        """Take what a living source has newer than before, wherever the cursor stands."""
        if past := self.source.take_past():
            self.history.put_before(past)
        newest = self.source.latest()
        if newest is None or newest.unix_ms <= self._newest_ms:
            return self.source.problem is not None
        self._newest_ms = newest.unix_ms
        self.history.add(newest)
        self._refresh_events()
        if self.cursor_ms is None:
            self.frame = newest
        return True

    def to_newest(self) -> None:
        """Follow a living source again."""
        self.cursor_ms = None
        self.frame = self.source.latest()

    def to_end(self) -> None:
        """Put the cursor on the last frame of a recording."""
        span = self.source.span()
        self.seek(span[1] if span else 0)

    @property
    def at_end(self) -> bool:
        """Whether the cursor is on the last frame."""
        span = self.source.span()
        return span is None or self.now_ms >= span[1]

    def seek(self, unix_ms: int) -> None:
        """Put the cursor on a kept moment; everything is shown as of it."""
        span = self.source.span()
        if span is None:
            return
        self.cursor_ms = min(span[1], max(span[0], unix_ms))
        if self.source.kind == "replay":
            self._warm_up(self.cursor_ms)
            self._refresh_events()
        self.frame = self.source.at(self.cursor_ms)

    def _warm_up(self, cursor_ms: int) -> None:
        newest = self.history.newest_ms
        start = cursor_ms - WARM_UP_MS
        if newest is None or not start <= newest <= cursor_ms:
            self.history = History()
            newest = start
        step = 0 if cursor_ms - newest < GAP_MS else STEP_MS
        for frame in self.source.between(newest, cursor_ms, step):
            self.history.add(frame)

    def event_moment(self, step: int, kinds: frozenset[str] | None) -> int | None:
        """Return the first frame that shows the next (or an earlier) event of some kinds."""
        span = self.source.span()
        if span is None:
            return None
        moments = sorted(
            {
                self.shown_at(event)
                for event in self.events
                if (kinds is None or event.kind in kinds) and span[0] <= event.unix_ms <= span[1]
            }
        )
        if step > 0:
            return next((moment for moment in moments if moment > self.now_ms), None)
        return next((moment for moment in reversed(moments) if moment < self.now_ms), None)

    def shown_at(self, event: Event) -> int:
        """Return the moment of the first frame that shows an event."""
        after = self.source.moments(event.unix_ms - 1, event.unix_ms + 2_000)
        return after[0] if after else event.unix_ms

    def mark(self, text: str) -> None:
        """Put a mark at the cursor. It is kept here only; its number, below 0, is no event's."""
        number = -1 - len(self._marks)
        self._marks.append(Event(number, self.now_ms, "user", MARK, None, text))
        del self._marks[:-MARKS_MAX]
        self._refresh_events()

    def _refresh_events(self) -> None:
        told = self.source.events()
        if self._marks:
            told = sorted((*told, *self._marks), key=lambda event: event.unix_ms)
        self.events = told

    def frame_moment(self, step: int) -> int | None:
        """Return the moment of the frame after (or before) the cursor."""
        now = self.now_ms
        if step > 0:
            after = self.source.moments(now, now + STRIDE_MS)
            return after[0] if after else None
        before = self.source.moments(now - STRIDE_MS, now - 1)
        return before[-1] if before else None
