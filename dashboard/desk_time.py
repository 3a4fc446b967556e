"""The desk's side of time: freeze, live, jumps, seeking, playing, the list of events, marks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cluster.events import MARK
from cluster.frames import ClusterFrame
from dashboard.deeds import Deeds
from dashboard.event_list import EventList
from dashboard.presenter.events import ELECTIONS, FAULTS, MARKS
from dashboard.presenter.view import View
from dashboard.source import FrameSource
from dashboard.timeline import Timeline

__all__ = ["TimeDesk"]

SEEK_MS: Final = 10_000
SPEEDS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class TimeDesk(ABC):
    """What moves the cursor. `dashboard.desk.Desk` makes and owns what is declared here."""

    view: View
    time: Timeline
    _source: FrameSource
    _clock_ms: Callable[[], int]
    _deeds: Deeds | None
    _list: EventList
    _played_at_ms: int | None

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line for some seconds."""

    @abstractmethod
    def _greet(self, frame: ClusterFrame) -> None:
        """Follow the nodes of a frame with what is selected."""

    @abstractmethod
    def _finish_verbs(self) -> bool:
        """Take in what verbs have brought; say whether anything did."""

    @property
    def frame(self) -> ClusterFrame | None:
        """The frame of the cursor."""
        return self.time.frame

    # ---- time ------------------------------------------------------------------------------

    def _do_freeze(self) -> None:
        if self.view.mode == "replay":
            self._played_at_ms = self._clock_ms()
            self.view = replace(self.view, speed=0.0 if self.view.speed else 1.0)
        elif self.view.mode == "frozen":
            self._do_live()
        elif self.frame is not None:
            self._freeze_at(self.frame.unix_ms)

    def _do_live(self) -> None:
        if self.view.mode == "replay":
            self.time.to_end()
            return
        self.time.to_newest()
        self.view = replace(self._list.left(self.view), mode="live")

    def _freeze_at(self, unix_ms: int | None) -> None:
        if unix_ms is None:
            return
        if self.view.mode == "live":
            self.view = replace(self.view, mode="frozen")
        self._seek(unix_ms)

    def _seek(self, unix_ms: int) -> None:
        span = self._source.span()
        if span is not None and unix_ms < span[0]:
            self.say(self._source.edge)
        self.time.seek(unix_ms)
        if self.time.frame is not None:
            self._greet(self.time.frame)

    def _do_event_back(self) -> None:
        self._jump(-1, None)

    def _do_event_forward(self) -> None:
        self._jump(1, None)

    def _do_election_back(self) -> None:
        self._jump(-1, ELECTIONS)

    def _do_election_forward(self) -> None:
        self._jump(1, ELECTIONS)

    def _do_fault_back(self) -> None:
        self._jump(-1, FAULTS)

    def _do_fault_forward(self) -> None:
        self._jump(1, FAULTS)

    def _jump(self, step: int, kinds: frozenset[str] | None) -> None:
        """Go to the first frame that shows the next (or an earlier) event of some kinds."""
        moment = self.time.event_moment(step, kinds)
        if moment is None:
            edge = f"before this moment: {self._source.edge}" if step < 0 else "after this moment"
            self.say(f"there is no such event {edge}")
        self._freeze_at(moment)

    def _do_seek_back(self) -> None:
        self._freeze_at(self.time.now_ms - SEEK_MS)

    def _do_seek_forward(self) -> None:
        self._freeze_at(self.time.now_ms + SEEK_MS)

    def _do_frame_back(self) -> None:
        self._freeze_at(self.time.frame_moment(-1))

    def _do_frame_forward(self) -> None:
        self._freeze_at(self.time.frame_moment(1))

    def _do_beginning(self) -> None:
        self._freeze_at(0)

    def _do_slower(self) -> None:
        self._change_speed(-1)

    def _do_faster(self) -> None:
        self._change_speed(1)

    def _change_speed(self, step: int) -> None:
        speed = self.view.speed or 1.0
        place = min(range(len(SPEEDS)), key=lambda i: abs(SPEEDS[i] - speed)) + step
        self._played_at_ms = self._clock_ms()
        self.view = replace(self.view, speed=SPEEDS[max(0, min(place, len(SPEEDS) - 1))])

    # ---- the list of events, and marks -------------------------------------------------------

    def _do_choose_event(self) -> None:
        if self.view.listing:
            self.view = self._list.left(self.view)
        elif (opened := self._list.opened(self.view)) is None:
            self.say("there is no event to choose")
        else:
            self.view = opened

    def _go_to_chosen(self) -> None:
        event, span = self._list.chosen(self.view), self._source.span()
        if event is not None and span is not None:
            self._freeze_at(self.time.shown_at(event))
            if event.unix_ms < span[0]:
                self.say(f"that was before the oldest frame: {self._source.edge}")

    def _do_mark(self) -> None:
        self._mark(f"mark {1 + sum(event.kind == MARK for event in self.time.events)}")

    def _mark(self, text: str) -> None:
        """Put a mark where the cursor is: into the recording if that is now, else into memory."""
        if self._deeds is not None and self.view.mode == "live":
            self._deeds.mark(text)
            self._finish_verbs()
            return
        self.time.mark(text)
        why = {"replay": "a recording is not written to", "frozen": "this is the past"}
        self.say(f"{text!r} is kept until you leave: {why.get(self.view.mode, '--readonly')}")

    def _do_mark_back(self) -> None:
        self._jump(-1, MARKS)

    def _do_mark_forward(self) -> None:
        self._jump(1, MARKS)
