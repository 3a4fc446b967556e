"""What the entries of a batch or of a request came to: one outcome per entry, kept compactly.

Nearly always every entry of a request is OK and its revision is the one before it plus one. Such a
*run* is two numbers, however many entries it has: it is made, cut, sent and read in O(1).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

__all__ = ["OkRun", "Outcome", "Outcomes"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state machine's answer to one entry (codes: docs/ARCHITECTURE.md §7)."""

    code: int
    revision: int
    detail: bytes = b""


@dataclass(frozen=True, slots=True)
class OkRun:
    """`count` outcomes that are OK, the first at `revision`, each one revision further."""

    revision: int
    count: int

    def __getitem__(self, position: int) -> Outcome:
        """Return one of them; the caller keeps to 0 ≤ position < count."""
        return Outcome(0, self.revision + position)


class Outcomes(Sequence[Outcome]):
    """A sequence of outcomes that only grows; equal to any sequence of the same outcomes."""

    __slots__ = ("_length", "_parts", "_starts")

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self._parts: list[Outcome | OkRun] = []
        self._starts: list[int] = []
        self._length = 0
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Append one outcome."""
        if outcome.code == 0 and not outcome.detail:
            self.add_run(outcome.revision, 1)
            return
        self._starts.append(self._length)
        self._parts.append(outcome)
        self._length += 1

    def add_run(self, revision: int, count: int) -> None:
        """Append `count` > 0 outcomes that are OK with consecutive revisions."""
        last = self._parts[-1] if self._parts else None
        if type(last) is OkRun and last.revision + last.count == revision:
            self._parts[-1] = OkRun(last.revision, last.count + count)
        else:
            self._starts.append(self._length)
            self._parts.append(OkRun(revision, count))
        self._length += count

    @property
    def run(self) -> OkRun | None:
        """The one run that all outcomes are; None if they are anything else, or nothing."""
        if len(self._parts) == 1:
            part = self._parts[0]
            if type(part) is OkRun:
                return part
        return None

    def split(self, counts: Sequence[int]) -> Iterator[Outcomes]:
        """Yield the outcomes in groups of the given sizes, which add up to no more than all."""
        start = 0
        for count in counts:
            yield self if count == self._length else self._cut(start, start + count)
            start += count

    def _cut(self, start: int, stop: int) -> Outcomes:
        cut = Outcomes()
        place = bisect_right(self._starts, start) - 1
        while start < stop:
            part, offset = self._parts[place], start - self._starts[place]
            if type(part) is OkRun:
                count = min(part.count - offset, stop - start)
                cut.add_run(part.revision + offset, count)
                start += count
            else:
                assert type(part) is Outcome
                cut.add(part)
                start += 1
            place += 1
        return cut

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Outcome: ...

    @overload
    def __getitem__(self, place: slice) -> Outcomes: ...

    def __getitem__(self, place: int | slice) -> Outcome | Outcomes:
        if isinstance(place, slice):
            start, stop, step = place.indices(self._length)
            if step == 1:
                return self._cut(start, stop)
            return Outcomes(self[position] for position in range(start, stop, step))
        position = place + self._length if place < 0 else place
        if not 0 <= position < self._length:
            raise IndexError(f"no outcome {place} of {self._length}")
        found = bisect_right(self._starts, position) - 1
        part = self._parts[found]
        return part[position - self._starts[found]] if type(part) is OkRun else self._one(found)

    def _one(self, found: int) -> Outcome:
        part = self._parts[found]
        assert type(part) is Outcome
        return part

    def __iter__(self) -> Iterator[Outcome]:
        for part in self._parts:
            if type(part) is OkRun:
                for position in range(part.count):
                    yield part[position]
            else:
                assert type(part) is Outcome
                yield part

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Outcomes):
            return self._parts == other._parts
        if isinstance(other, Sequence):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"Outcomes({self._parts})"
