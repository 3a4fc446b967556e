"""What happened in a cluster: a bounded, numbered list."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from cluster.frames import Cause, Event

__all__ = ["EventLog"]

EVENTS_KEPT_MAX: Final = 2_000
"""An hour of chaos at one event every two seconds; about 300 bytes each."""
TEXT_MAX: Final = 500


class EventLog:
    """The newest events of a supervisor's life; numbers never repeat, so a gap can be seen."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT_MAX)
        self._sequence = 0

    def add(self, kind: str, text: str, *, cause: Cause, node: int | None = None) -> Event:
        """Record an event that happens now."""
        self._sequence += 1
        unix_ms = time.time_ns() // 1_000_000
        event = Event(self._sequence, unix_ms, cause, kind, node, text[:TEXT_MAX])
        self._events.append(event)
        return event

    def since(self, sequence: int, limit: int = EVENTS_KEPT_MAX) -> tuple[Event, ...]:
        """Return the events after a number, oldest first, at most the newest `limit`."""
        count = min(limit, len(self._events), max(0, self._sequence - sequence))
        return tuple(self._events)[-count:] if count else ()
