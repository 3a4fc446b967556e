"""Records a history while it happens, for a live workload and for the simulator alike.

    recorder = HistoryRecorder(stream, time.monotonic_ns, "register")
    process = recorder.invoke("write", key, value)      # before it is submitted
    recorder.answered(process, outcome)                  # or .ok, .fail, .info

Who invokes gets a free process number, so any number of operations may be under way. A process
whose operation ended without an answer is never used again: its operation stays open for ever.

The lines are `raftdeck.history/1` (see `read_json`). Methods may be called from any thread; the
lines stand in the order of the calls, and since an invocation is recorded before it is submitted and
a completion after it arrived, every interval holds the real one.
"""

from __future__ import annotations

import heapq
import json
import threading
from collections.abc import Callable, Hashable
from typing import TextIO

from cluster.check.exports import line_of
from cluster.check.history import NEMESIS, Event, EventType
from cluster.check.read_json import HISTORY_SCHEMA
from cluster.client_types import DefiniteError, GetResult
from node.commands import OutcomeCode
from node.ports import Outcome

__all__ = ["HistoryRecorder"]


class HistoryRecorder:
    """Writes one line per event. `clock` returns ns; `model` says what the operations are."""

    def __init__(self, stream: TextIO, clock: Callable[[], int], model: str) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._processes = 0
        self._open: dict[int, tuple[str, Hashable, Hashable]] = {}
        stream.write(json.dumps({"schema": HISTORY_SCHEMA, "model": model}) + "\n")

    def invoke(self, f: str, key: Hashable, value: Hashable = None) -> int:
        """Record that an operation begins, before it is submitted; return its process."""
        with self._lock:
            if self._free:
                process = heapq.heappop(self._free)
            else:
                process, self._processes = self._processes, self._processes + 1
            self._open[process] = (f, key, value)
            self._write(process, EventType.INVOKE, value)
            return process

    def ok(self, process: int, value: Hashable, position: int | None = None) -> None:
        """Record that the operation happened, and what it returned."""
        self._end(process, EventType.OK, value, position)

    def fail(self, process: int, error: str) -> None:
        """Record that the operation certainly did not happen."""
        self._end(process, EventType.FAIL, self._open[process][2], None, error)

    def info(self, process: int, error: str) -> None:
        """Record that nobody knows whether the operation happened."""
        self._end(process, EventType.INFO, self._open[process][2], None, error)

    def answered(self, process: int, answer: Outcome | GetResult | BaseException) -> None:
        """Record what a client of the key-value store was told; the revision is the position.

        A write that ended with ABSENT or CONFLICT changed nothing, and is a failure.
        """
        f, _, value = self._open[process]
        if isinstance(answer, GetResult):
            item = answer.item
            self.ok(process, None if item is None else item.value, answer.revision)
        elif isinstance(answer, Outcome):
            if answer.code == OutcomeCode.OK:
                self.ok(process, value, answer.revision)
            else:
                self.fail(process, OutcomeCode(answer.code).name.lower())
        elif isinstance(answer, DefiniteError) or f in ("read", "get"):
            self.fail(process, str(answer))
        else:
            self.info(process, str(answer))

    def fault(self, f: str, value: Hashable = None) -> None:
        """Record what was done to the cluster."""
        with self._lock:
            event = Event(NEMESIS, EventType.INFO, f, value, None, self._clock())
            self._stream.write(line_of(event) + "\n")

    def _end(
        self, process: int, type_: EventType, value: Hashable, position: int | None,
        error: str | None = None,
    ) -> None:  # fmt: skip
        with self._lock:
            self._write(process, type_, value, position, error)
            del self._open[process]
            if type_ is not EventType.INFO:
                heapq.heappush(self._free, process)

    def _write(
        self, process: int, type_: EventType, value: Hashable, position: int | None = None,
        error: str | None = None,
    ) -> None:  # fmt: skip
        f, key, _ = self._open[process]
        event = Event(process, type_, f, value, key, self._clock(), position, error)
        self._stream.write(line_of(event) + "\n")
