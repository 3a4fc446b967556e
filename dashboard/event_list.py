"""Choosing an event in the list: which one, as the view has it. Nothing here moves time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

from cluster.frames import Event
from dashboard.presenter.events import filtered
from dashboard.presenter.view import TABS, View
from dashboard.timeline import Timeline

__all__ = ["EventList"]


class EventList:
    """The events of a timeline that pass the view's filter, also those after the cursor."""

    def __init__(self, time: Timeline) -> None:
        self._time = time
        self._tab_before = 0

    def opened(self, view: View) -> View | None:
        """Choose the newest event up to the cursor, and show the list; None if there is no event."""
        events = filtered(self._time.events, view.filter)
        if not events:
            return None
        place = bisect_right(events, self._time.now_ms, key=lambda event: event.unix_ms)
        self._tab_before = view.tab
        chosen = events[max(0, place - 1)].sequence
        return replace(view, chosen=chosen, tab=TABS.index("events"))

    def moved(self, view: View, step: int) -> View:
        """Choose another event, so many further."""
        numbers = [event.sequence for event in filtered(self._time.events, view.filter)]
        if not numbers:
            return self.left(view)
        place = numbers.index(view.chosen) if view.chosen in numbers else len(numbers)
        return replace(view, chosen=numbers[max(0, min(len(numbers) - 1, place + step))])

    def chosen(self, view: View) -> Event | None:
        """Return the chosen event, if it is still known."""
        events = filtered(self._time.events, view.filter)
        return next((event for event in events if event.sequence == view.chosen), None)

    def left(self, view: View) -> View:
        """Close the list."""
        if view.chosen is None:
            return view
        return replace(view, chosen=None, tab=self._tab_before)
