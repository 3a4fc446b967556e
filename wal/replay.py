"""What the records of a log mean: one fold per group, from its first record to its last.

`wal.tail` follows the same rules while the log is written; each checkpoint is compared with what
was replayed up to it, so the two cannot drift apart unnoticed.

A batch that is live already is a copy, and moves there: same term, base, count and size. A copy may
also stand for a batch in a segment that was given back since (`elsewhere`); those are found in any
order, and `settle` puts them in front of the others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from wal.errors import FrameError
from wal.frame import Buffer, Fields, Kind, body_of_hard_state
from wal.segment import GroupCheckpoint

__all__ = ["BatchRef", "GroupLog"]

_BATCH: Final = int(Kind.BATCH)
_HARD_STATE: Final = int(Kind.HARD_STATE)
_TRUNCATE: Final = int(Kind.TRUNCATE)
_RELEASE: Final = int(Kind.RELEASE)


@dataclass(slots=True)
class BatchRef:
    """Where a batch lies. `size` is the body's length in bytes. Nobody changes one.

    Not frozen, for recovery makes one per frame, and that would take a fifth of its time.
    """

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
    """Last index of what lay in segments before the oldest; above `released_index` it is missed,
    if a later record did not release, cut or copy it. 0 in what `recover` returns."""
    copied: dict[int, BatchRef] = field(default_factory=dict)
    """Base index → the newest copy of a batch that lay elsewhere, cut and released ones included.
    Empty in what `recover` returns."""

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
            batches = self.batches
            expected = (batches[-1].last_index if batches else self.last_index) + 1
            ref = BatchRef(term, index, count, size, position)
            if index == expected and count:
                batches.append(ref)
            elif index > expected or not count:
                raise self._misplaced(group, index, expected)
            else:
                self._move(ref)
        elif kind == _HARD_STATE:
            self.term = term
            self.vote, self.config = body_of_hard_state(body)
        elif kind == _TRUNCATE:
            self._truncate(index)
        else:
            assert kind == _RELEASE, f"a record of kind {kind} belongs to no group"
            self._release(index, term)

    def settle(self) -> tuple[int, int] | None:
        """Put the copies where they belong, at the end; return (first, last) of what is missing."""
        missing, following = None, self.released_index + 1
        found = [
            ref
            for base, ref in sorted(self.copied.items())
            if self.released_index < base and ref.last_index <= self.elsewhere
        ]
        for ref in found:
            if ref.base_index != following:
                missing = following, ref.base_index - 1
                break
            following = ref.last_index + 1
        if missing is None and following <= self.elsewhere:
            missing = following, self.elsewhere
        self.batches.extendleft(reversed(found))
        self.elsewhere = 0
        self.copied = {}
        return missing

    def _move(self, ref: BatchRef) -> None:
        """Let a copy stand for its batch; FrameError if it is not the copy of a live one."""
        base = ref.base_index
        if base > max(self.elsewhere, self.released_index):
            place = bisect_left(self.batches, base, key=attrgetter("base_index"))
            batch = self.batches[place] if place < len(self.batches) else None
        else:
            place = -1
            batch = self.copied.get(base, ref)
        same = batch is not None and _name_of(batch) == _name_of(ref)
        if base <= self.released_index or not same:
            raise FrameError(f"a batch at index {base} overwrites the log")
        if place < 0:
            self.copied[base] = ref
        else:
            self.batches[place] = ref

    def _misplaced(self, group: int, index: int, expected: int) -> FrameError:
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


def _name_of(ref: BatchRef) -> tuple[int, int, int, int]:
    """Return what a batch and its copies share."""
    return ref.term, ref.base_index, ref.count, ref.size
