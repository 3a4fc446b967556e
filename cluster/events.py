"""What happened in a cluster: a bounded, numbered list."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from cluster.frames import Cause, Event

__all__ = ["MARK", "EventLog"]

MARK: Final = "mark"
"""Kind of the events that are put in by hand, or by a scenario that has measured something."""

EVENTS_KEPT_MAX: Final = 2_000
"""An hour of chaos at one event every two seconds; about 300 bytes each."""
TEXT_MAX: Final = 500


class EventLog:
    """The newest events of a supervisor's life; numbers never repeat, so a gap can be seen."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT_MAX)
        self._steps: dict[int, str] = {}
        self._sequence = 0

    @property
    def sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._sequence

    @contextlib.contextmanager
    def credited(self, nodes: Iterable[int], step: str) -> Iterator[None]:
        """Name a scenario's step as the cause of what happens to nodes meanwhile through a verb."""
        credited = dict.fromkeys(nodes, step) if step else {}
        self._steps |= credited
        try:
            yield
        finally:
            for node in credited:
                self._steps.pop(node, None)

    def add(
        self,
        kind: str,
        text: str,
        *,
        cause: Cause,
        node: int | None = None,
        effect: str = "",
        group: int | None = None,
        step: str = "",
    ) -> Event:
        """Record an event that happens now; `step` names a scenario's step that brought it about."""
        self._sequence += 1
        unix_ms = time.time_ns() // 1_000_000
        if cause == "user" and node is not None:
            step = step or self._steps.get(node, "")
        event = Event(
            self._sequence, unix_ms, cause, kind, node, text[:TEXT_MAX],
            effect=effect[:TEXT_MAX], step=step, group=group,
        )  # fmt: skip
        self._events.append(event)
        return event

    def mark(self, text: str, effect: str, step: str) -> Event:
        """Record a person's (or a scenario's) own words, to be found again later."""
        return self.add(MARK, text, cause="user", effect=effect, step=step)

    def since(self, sequence: int, limit: int = EVENTS_KEPT_MAX) -> tuple[Event, ...]:
        """Return the events after a number, oldest first, at most the newest `limit`."""
        count = min(limit, len(self._events), max(0, self._sequence - sequence))
        return tuple(self._events)[-count:] if count else ()
