"""What a committer takes and gives: append handles, jobs, and where a log ends. Values, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from wal.errors import WalError
from wal.frame import Record, frame_size
from wal.operations import Operation

__all__ = ["AppendHandle", "Head", "Job"]


class AppendHandle:
    """Says when the records of one `append` are durable, and where they lie.

    The handle of a `flush` has no records: it completes when everything before it is durable.
    """

    __slots__ = (
        "_settled", "_waiting", "again", "context", "error", "positions", "records", "remaining",
        "size", "synced",
    )  # fmt: skip

    def __init__(self, records: Sequence[Record], context: object, *, again: bool = False) -> None:
        """Made by `Committer.submit` and its like only."""
        self.records = tuple(records)
        self.again = again
        """Whether the records are copies, which only move what is in the log already."""
        self.size = 0
        for record in self.records:
            self.size += frame_size(len(record.body))
        self.remaining = len(self.records) or 1
        self.positions: list[int] = []
        self.context = context
        self.error: WalError | None = None
        self.synced = False
        """Whether all was durable when the handle completed: not so in a buffered log."""
        self._settled = False
        self._waiting: Lock | None = None
        """Held until `settle`: a lock costs a tenth of an `Event`, and most handles are not waited for
        before they are settled."""
        if context is None:
            self._waiting = Lock()
            self._waiting.acquire()

    @property
    def complete(self) -> bool:
        """Whether every record is as safe as the log's policy promises."""
        return self.remaining == 0 and self.error is None

    @property
    def durable(self) -> bool:
        """Whether every record is known to be durable."""
        return self.synced and self.error is None

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until complete (handles without a context only).

        Raises the log's error, or TimeoutError. A log that waits for space lets its callers wait.
        """
        assert self._waiting is not None, "handles with a context complete through on_complete"
        if not self._settled:
            if not self._waiting.acquire(timeout=-1 if timeout_s is None else timeout_s):
                raise TimeoutError(f"not durable after {timeout_s} s")
            self._waiting.release()  # for others that wait
        if self.error is not None:
            raise self.error

    def settle(self) -> None:
        """Wake a waiter; called by the driver once `complete` or `error` is set."""
        if self._waiting is not None and not self._settled:
            self._settled = True
            self._waiting.release()


@dataclass(slots=True)
class Job:
    """Operations to perform in order, and what they make durable. Nobody changes one.

    Not frozen, for making it so takes 2 µs: as long as a small record takes in all.
    """

    operations: tuple[Operation, ...]
    handles: tuple[AppendHandle, ...]
    """One per record, in order, and those of flushes."""
    end: int
    """Position behind the last frame."""
    frames: int
    entries: int
    bytes_written: int
    number: int
    durable: int
    """Everything before this position is durable once the operations are done."""
    syncs: int = 1
    """How many of the operations make the content of a segment durable."""
    alone: bool = False
    """Whether no other job may be under way with it: it gives back a segment."""


@dataclass(slots=True)
class Head:
    """Where the log ends. `number` 0 means that no segment exists yet."""

    number: int = 0
    uid: int = 0
    offset: int = 0
    filled_to: int = 0
    """Bytes of the file that hold zeros or old data: no metadata changes when they are written."""
    sequence: int = 0
    durable: int = 0
    oldest: int = 1
    """Number of the oldest segment in use."""
    dropped_to: int = 0
    """Bytes of the file that were told to leave the page cache."""
    dirty: int = 0
    """Bytes written since the last sync, or since their writing was asked for."""

    @property
    def position(self) -> int:
        """Position behind the last frame."""
        return self.number << 32 | self.offset  # `position_at`, without a call: it is asked per job
