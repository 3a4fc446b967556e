"""The event heap: virtual time in ns, and one order of events for one seed."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

__all__ = ["EventHeap"]

Action = Callable[..., None]


class EventHeap:
    """Events by time, and by the order in which they were scheduled where times are equal."""

    __slots__ = ("_counter", "_events", "now", "steps")

    def __init__(self) -> None:
        """Start at time 0 without events."""
        self.now = 0
        self.steps = 0
        self._counter = 0
        self._events: list[tuple[int, int, Action, tuple[Any, ...]]] = []

    def __len__(self) -> int:
        """Return how many events wait."""
        return len(self._events)

    def at(self, time: int, action: Action, *arguments: Any) -> None:
        """Call `action(*arguments)` at `time`, which is not in the past."""
        assert time >= self.now, "time does not run backwards"
        self._counter += 1
        heappush(self._events, (time, self._counter, action, arguments))

    def after(self, delay: int, action: Action, *arguments: Any) -> None:
        """Call `action(*arguments)` in `delay` ns."""
        self._counter += 1
        heappush(self._events, (self.now + delay, self._counter, action, arguments))

    def run_until(self, end: int) -> None:
        """Run every event up to and including `end`; time stands at `end` afterwards."""
        events = self._events
        while events and events[0][0] <= end:
            self.now, _, action, arguments = heappop(events)
            self.steps += 1
            action(*arguments)
        self.now = max(self.now, end)
