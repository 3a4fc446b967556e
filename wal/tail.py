"""What a log that is being written remembers of each group, in the order of submission.

The batches of a group lie in the order of their indexes, but for those that were appended again
(`Log.append_again`): a copy takes the place of its batch, nearer to the head. So a tail counts its
batches per segment: a segment is needed while a group has one there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from wal.frame import Fields, Kind, Record, body_of_hard_state
from wal.segment import GroupCheckpoint, number_of_position

__all__ = ["GroupTail"]

_BATCH: Final = int(Kind.BATCH)
_HARD_STATE: Final = int(Kind.HARD_STATE)
_TRUNCATE: Final = int(Kind.TRUNCATE)
_RELEASE: Final = int(Kind.RELEASE)

Live = tuple[int, int, int]
"""(base index, last index, position) of a batch."""


@dataclass(slots=True)
class GroupTail:
    """The end of one group's log, as far as it is needed."""

    term: int = 0
    vote: int = 0
    config: bytes = b""
    released_index: int = 0
    released_term: int = 0
    live: deque[Live] = field(default_factory=deque)
    """The batches that are neither cut nor released, by index."""
    segments: dict[int, int] = field(default_factory=dict)
    """Segment number → how many of `live` lie there; none with 0."""

    @property
    def last_index(self) -> int:
        """Index of the last entry, or of the last released one."""
        return self.live[-1][1] if self.live else self.released_index

    def checkpoint(self, group: int) -> GroupCheckpoint:
        """Return the group's part of a segment checkpoint."""
        first, last = (self.live[0][2], self.live[-1][1]) if self.live else (0, 0)
        return GroupCheckpoint(
            group,
            self.term,
            self.vote,
            self.released_index,
            self.released_term,
            first,
            last,
            self.config,
        )

    def add(self, base: int, last: int, position: int) -> None:
        """Take a batch behind all others."""
        self.live.append((base, last, position))
        number = number_of_position(position)
        self.segments[number] = self.segments.get(number, 0) + 1

    def take(self, record: Record, fields: Fields, position: int) -> int:
        """Follow one record, as `wal.replay` does when it is read back; return its new entries."""
        kind, _, count, term, index, _ = fields
        live = self.live
        if kind == _BATCH:
            if live and index <= live[-1][1]:
                self._move(index, index + count - 1, position)
                return 0
            # As `add` does, without the call: this runs once per frame.
            live.append((index, index + count - 1, position))
            number = position >> 32
            self.segments[number] = self.segments.get(number, 0) + 1
            return count
        if kind == _HARD_STATE:
            self.term = term
            self.vote, self.config = body_of_hard_state(record.body)
        elif kind == _TRUNCATE:
            while live and live[-1][0] >= index:
                self._drop(live.pop())
            assert not live or live[-1][1] < index, f"a cut at index {index}, inside a batch"
        elif kind == _RELEASE and index > self.released_index:
            self.released_index, self.released_term = index, term
            while live and live[0][1] <= index:
                self._drop(live.popleft())
            assert not live or live[0][0] > index, f"a release up to {index}, inside a batch"
        return 0

    def _move(self, base: int, last: int, position: int) -> None:
        """Let a copy stand for its batch."""
        place = bisect_left(self.live, base, key=itemgetter(0))
        batch = self.live[place]
        assert batch[:2] == (base, last), f"a copy of {base} to {last}, where {batch} is"
        self._drop(batch)
        self.live[place] = (base, last, position)
        number = number_of_position(position)
        self.segments[number] = self.segments.get(number, 0) + 1

    def _drop(self, batch: Live) -> None:
        number = number_of_position(batch[2])
        left = self.segments[number] - 1
        if left:
            self.segments[number] = left
        else:
            del self.segments[number]
