"""What the records of a log mean: one fold per group, from its first record to its last.

`wal.committer` follows the same rules while it writes (`GroupTail`); each checkpoint is compared
with what was replayed up to it, so the two cannot drift apart unnoticed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from wal.errors import FrameError
from wal.frame import Buffer, Fields, Kind, body_of_hard_state
from wal.segment import GroupCheckpoint

__all__ = ["BatchRef", "GroupLog"]

_BATCH: Final = int(Kind.BATCH)
_HARD_STATE: Final = int(Kind.HARD_STATE)
_TRUNCATE: Final = int(Kind.TRUNCATE)
_RELEASE: Final = int(Kind.RELEASE)


@dataclass(frozen=True, slots=True)
class BatchRef:
    """Where a batch lies. `size` is the body's length in bytes."""

    term: int
    base_index: int
    count: int
    size: int
    position: int

    @property
    def last_index(self) -> int:
        """Index of the batch's last entry."""
        return self.base_index + self.count - 1


@dataclass(slots=True)
class GroupLog:
    """What recovery found of one group; `batches` are contiguous behind `released_index`."""

    term: int = 0
    vote: int = 0
    config: bytes = b""
    released_index: int = 0
    released_term: int = 0
    batches: deque[BatchRef] = field(default_factory=deque)
    elsewhere: int = 0
    """Last index of what lies in segments before the oldest; above `released_index` it is missed,
    if a later record did not release or cut it. 0 in what `recover` returns."""

    @property
    def last_index(self) -> int:
        """Index of the last entry, or of the last released one."""
        if self.batches:
            return self.batches[-1].last_index
        return max(self.elsewhere, self.released_index)

    def begin(self, checkpoint: GroupCheckpoint) -> None:
        """Start from the checkpoint of the oldest segment."""
        self.term, self.vote, self.config = checkpoint.term, checkpoint.vote, checkpoint.config
        self.released_index = checkpoint.released_index
        self.released_term = checkpoint.released_term
        self.elsewhere = checkpoint.last_index

    def agrees_with(self, checkpoint: GroupCheckpoint) -> bool:
        """Tell whether a later checkpoint says what was replayed up to it."""
        return (
            self.term == checkpoint.term
            and self.vote == checkpoint.vote
            and self.config == checkpoint.config
            and self.released_index == checkpoint.released_index
            and self.released_term == checkpoint.released_term
            and self.last_index == max(checkpoint.last_index, self.released_index)
        )

    def take(self, fields: Fields, body: Buffer, position: int) -> None:
        """Follow one record; FrameError if it makes no sense here."""
        kind, group, count, term, index, size = fields
        if kind == _BATCH:
            expected = (self.batches[-1].last_index if self.batches else self.last_index) + 1
            if index != expected or not count:
                raise self._misplaced(group, index, expected)
            self.batches.append(BatchRef(term, index, count, size, position))
        elif kind == _HARD_STATE:
            self.term = term
            self.vote, self.config = body_of_hard_state(body)
        elif kind == _TRUNCATE:
            self._truncate(index)
        elif kind == _RELEASE:
            self._release(index, term)

    def _misplaced(self, group: int, index: int, expected: int) -> FrameError:
        if index < expected:
            return FrameError(f"a batch at index {index} overwrites the log")
        if index > expected:
            missing = f"entries {expected} to {index - 1} are missing"
            return FrameError(f"group {group}: {missing}")
        return FrameError("a batch without entries")

    def _truncate(self, index: int) -> None:
        batches = self.batches
        while batches and batches[-1].base_index >= index:
            batches.pop()
        if batches and batches[-1].last_index >= index:
            raise FrameError(f"a cut at index {index}, inside a batch")
        self.elsewhere = min(self.elsewhere, index - 1)

    def _release(self, index: int, term: int) -> None:
        if index <= self.released_index:
            return
        self.released_index, self.released_term = index, term
        batches = self.batches
        while batches and batches[0].last_index <= index:
            batches.popleft()
        if batches and batches[0].base_index <= index:
            raise FrameError(f"a release up to index {index}, inside a batch")
