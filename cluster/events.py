"""What happened in a cluster: a bounded, numbered list."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
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
    ) -> Event:
        """Record an event that happens now."""
        self._sequence += 1
        unix_ms = time.time_ns() // 1_000_000
        step = self._steps.get(node, "") if cause == "user" and node is not None else ""
        event = Event(
            self._sequence, unix_ms, cause, kind, node, text[:TEXT_MAX],
            effect=effect[:TEXT_MAX], step=step, group=group,
        )  # fmt: skip
        self._events.append(event)
        return event

    def since(self, sequence: int, limit: int = EVENTS_KEPT_MAX) -> tuple[Event, ...]:
        """Return the events after a number, oldest first, at most the newest `limit`."""
        count = min(limit, len(self._events), max(0, self._sequence - sequence))
        return tuple(self._events)[-count:] if count else ()
