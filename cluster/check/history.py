"""What clients did and were told: events as they were recorded, operations as they are judged.

A history is a sequence of events in real-time order. An operation begins with `invoke` and ends
with `ok` (it happened), `fail` (it certainly did not) or `info` (nobody knows). What ends with
`info`, or does not end at all, stays open for ever: it may take effect at any later time, or never.

Real time is the order of the events (*ranks*), not their clock: clocks tie, ranks do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import Final, NamedTuple

__all__ = [
    "NEMESIS",
    "NEVER",
    "Event",
    "EventType",
    "History",
    "HistoryError",
    "Operation",
    "Status",
    "build_history",
]

NEVER: Final = 1 << 62
"""Rank of a completion that was never seen."""
BEFORE: Final = -1
"""Rank of an invocation that stands in front of the file."""
NEMESIS: Final = "nemesis"
"""The process that injects faults; its events are kept, and are no operations."""
_WARNINGS_MAX: Final = 20


class HistoryError(Exception):
    """Input that cannot be judged; the text says which line, what is wrong, and what to do."""

    def __init__(self, line: int, text: str) -> None:
        """Name the line (from 1; 0: the whole file)."""
        super().__init__(f"line {line}: {text}" if line else text)
        self.line = line


class EventType(Enum):
    """What an event says of its operation."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Status(Enum):
    """How an operation ended."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Event(NamedTuple):
    """One line of a history."""

    process: Hashable
    type: EventType
    f: str
    value: Hashable = None
    key: Hashable = None
    time: int | None = None
    """Nanoseconds of any clock that all events share; None: not recorded."""
    position: int | None = None
    """Where the operation stands in the committed order (index or revision), if the answer says."""
    error: str | None = None
    line: int = 0
    number: int | None = None
    """Jepsen's index: where the event stands in real time; None: not recorded."""


@dataclass(slots=True)
class Operation:
    """One operation, from its invocation to its completion; ranks count the history's events."""

    number: int
    process: Hashable
    f: str
    key: Hashable
    argument: Hashable
    """The value of the invocation."""
    call: int
    result: Hashable = None
    """The value of the completion; what was seen."""
    ret: int = NEVER
    """Rank of the completion; NEVER unless the outcome is known."""
    ended: int = NEVER
    """Rank of the completion, `info` included."""
    status: Status = Status.INFO
    call_ns: int | None = None
    ret_ns: int | None = None
    position: int | None = None
    error: str | None = None
    line: int = 0

    def __str__(self) -> str:
        """Return the operation as a person reads it."""
        key = "" if self.key is None else f" {_shown(self.key)}"
        what = f"{self.f}{key}"
        if self.argument is not None:
            what += f" {_shown(self.argument)}"
        if self.status is Status.OK and self.result != self.argument:
            what += f" → {_shown(self.result)}"
        ends = {Status.OK: "", Status.FAIL: ", failed", Status.INFO: ", outcome unknown"}
        where = f", line {self.line}" if self.line else ""
        return f"{what} (process {self.process}{where}{ends[self.status]})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}…{text[-16:]}"


@dataclass(slots=True)
class History:
    """All operations, by invocation, and the events of the nemesis."""

    operations: list[Operation] = field(default_factory=list)
    nemesis: list[Event] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What was odd and could be read all the same; 20 at most."""

    def warn(self, text: str) -> None:
        """Note an oddity."""
        if len(self.warnings) < _WARNINGS_MAX:
            self.warnings.append(text)

    def count(self, status: Status) -> int:
        """Return how many operations ended so."""
        return sum(operation.status is status for operation in self.operations)

    def by_key(self) -> dict[Hashable, list[Operation]]:
        """Return the operations of each key; keys by first use."""
        found: dict[Hashable, list[Operation]] = {}
        for operation in self.operations:
            found.setdefault(operation.key, []).append(operation)
        return found

    def events(self) -> Iterator[Event]:
        """Yield the events of all operations in real-time order."""
        ranked: list[tuple[int, Event]] = []
        for op in self.operations:
            began = Event(
                op.process, EventType.INVOKE, op.f, op.argument, op.key, op.call_ns, line=op.line
            )
            ranked.append((op.call, began))
            if op.ended != NEVER:
                ended = Event(
                    op.process, EventType(op.status.value), op.f, op.result, op.key, op.ret_ns,
                    op.position, op.error, op.line,
                )  # fmt: skip
                ranked.append((op.ended, ended))
        ranked.sort(key=lambda pair: pair[0])
        return (event for _, event in ranked)


def build_history(events: Iterable[Event]) -> History:
    """Pair invocations with completions.

    The events' order counts. If all have a number, that is the order; else, if all have times and
    these are out of order (a file put together from several clients' files), the times are, and what
    has the same time overlaps. A process
    that invokes again while an operation of its own is open has given that one up: its outcome is
    unknown.
    Raises HistoryError.
    """
    ordered = _in_order(list(events))
    history = History()
    open_now: dict[Hashable, Operation] = {}
    for rank, event in enumerate(ordered):
        if event.process == NEMESIS:
            history.nemesis.append(event)
        elif event.type is EventType.INVOKE:
            left = open_now.get(event.process)
            if left is not None:
                history.warn(f"line {event.line}: process {event.process} gave up: {left}")
            operation = Operation(
                len(history.operations), event.process, event.f, event.key, event.value, rank,
                call_ns=event.time, line=event.line, position=event.position,
            )  # fmt: skip
            open_now[event.process] = operation
            history.operations.append(operation)
        else:
            began = open_now.pop(event.process, None)
            if began is None and event.f == "txn":
                began = _begun_before(history, event)
            _complete(began, event, rank)
    return history


def _begun_before(history: History, event: Event) -> Operation:
    """Return the transaction that an event ends whose beginning is not in the file (Elle's examples).

    It may have begun at any time before: what claims least.
    """
    history.warn(
        f"line {event.line}: process {event.process} ends a transaction of unknown beginning"
    )
    operation = Operation(
        len(history.operations), event.process, event.f, event.key, event.value, BEFORE,
        line=event.line,
    )  # fmt: skip
    history.operations.append(operation)
    return operation


def _complete(operation: Operation | None, event: Event, rank: int) -> None:
    """Let an operation end."""
    if operation is None:
        raise HistoryError(
            event.line,
            f"process {event.process} ends {event.f!r} ({event.type.value}), which it has not begun;"
            " a completion needs an invocation before it",
        )
    if operation.f != event.f or (event.key is not None and event.key != operation.key):
        raise HistoryError(
            event.line,
            f"process {event.process} ends {event.f!r}, and had begun {operation.f!r} in line"
            f" {operation.line}; a process does one thing at a time",
        )
    operation.status = Status(event.type.value)
    operation.ret_ns = event.time
    operation.error = event.error
    operation.ended = rank
    if event.position is not None:
        operation.position = event.position
    if event.type is EventType.INFO:
        return
    operation.ret = rank
    operation.result = event.value


def _in_order(events: Sequence[Event]) -> Sequence[Event]:
    """Return the events in real-time order; numbers that tie stay as they were."""
    for order in (_by_number, _by_time):
        known = [order(event) for event in events]
        if None not in known:
            if known == sorted(known):  # type: ignore[type-var]  # there is no None among them
                return events
            ordered = sorted(events, key=order)  # type: ignore[arg-type]  # likewise
            if order is _by_number:
                return ordered
            return [
                event for _, tied in groupby(ordered, _by_time) for event in _untied(list(tied))
            ]
    return events


def _untied(events: list[Event]) -> list[Event]:
    """Order what happened at one time in files that were put together: nobody saw which came first.

    Each process keeps its order, everybody begins as early as they can, and who has nothing more to do
    ends last: what may have overlapped does.
    """
    lines: dict[Hashable, deque[Event]] = {}
    for event in events:
        lines.setdefault(event.process, deque()).append(event)
    found: list[Event] = []
    while len(found) < len(events):
        beginning = [line for line in lines.values() if line and line[0].type is EventType.INVOKE]
        going_on = [line for line in lines.values() if len(line) > 1]
        for line in beginning or going_on or [line for line in lines.values() if line]:
            found.append(line.popleft())
    return found


def _by_number(event: Event) -> int | None:
    return event.number


def _by_time(event: Event) -> int | None:
    return event.time
