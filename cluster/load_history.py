"""The history of a load: what `raftdeck load --history` writes, and `raftdeck check` judges.

A register per key. A value is told by the first 16 digits of its SHA-256: two of them are alike by
chance once in 10^19, and a line stays short. The run's keys are its own (`prefix`), so that nothing
else, not even an earlier run, has written what it reads: each register begins as nil.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TextIO

from cluster.check.recording import HistoryRecorder
from cluster.client_types import GetResult

if TYPE_CHECKING:
    from cluster.client_bulk import BulkResult
    from cluster.client_types import ClientError
    from node.ports import Outcome

__all__ = ["HISTORY_MODEL", "LoadHistory"]

HISTORY_MODEL: Final = "register"
_DIGITS: Final = 16


class LoadHistory:
    """Records the operations of one run. Memory: one entry per operation under way.

    A stream that fails (OSError: the disk is full) ends the recording, not the client's thread:
    `failure` says why, and nothing more is recorded.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write the first line. Raises OSError."""
        self._stream = stream
        self._recorder = HistoryRecorder(stream, time.monotonic_ns, HISTORY_MODEL)
        self.prefix = b"h%s-" % os.urandom(4).hex().encode()
        """What the keys of this run begin with."""
        self.failure: OSError | None = None

    def write(self, key: bytes, value: bytes) -> int:
        """Record that a put begins; return its process, or -1 if nothing is recorded any more."""
        return self._invoke("write", key, _digest(value))

    def read(self, key: bytes) -> int:
        """Record that a get begins; return its process, or -1."""
        return self._invoke("read", key, None)

    def answered(self, process: int, answer: Outcome | GetResult | ClientError) -> None:
        """Record what an operation came to. Called on the client's thread."""
        if process < 0 or self.failure is not None:
            return
        if isinstance(answer, GetResult) and answer.item is not None:
            seen = _digest(answer.item.value)
            answer = replace(answer, item=replace(answer.item, value=seen.encode()))
        try:
            self._recorder.answered(process, answer)
        except OSError as error:
            self.failure = error

    def bulk_answered(
        self, processes: Sequence[int], answer: BulkResult | ClientError
    ) -> None:  # fmt: skip
        """Record what each put of a bulk came to; an error is that of all."""
        for place, process in enumerate(processes):
            whole: Any = answer
            if not isinstance(answer, Exception):
                whole = answer.errors.get(place) or answer[place]
            self.answered(process, whole)

    def flush(self) -> None:
        """Give what is recorded to the operating system: lines of a run that is killed stay."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.failure = error

    def close(self) -> None:
        """Write the rest, and close the stream."""
        self.flush()
        try:
            self._stream.close()
        except OSError as error:
            self.failure = self.failure or error

    def _invoke(self, f: str, key: bytes, value: str | None) -> int:
        if self.failure is not None:
            return -1
        try:
            return self._recorder.invoke(f, key, value)
        except OSError as error:
            self.failure = error
            return -1


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:_DIGITS]
