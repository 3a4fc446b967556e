"""Released segments that wait for reuse: overwriting a recycled file changes no metadata.

Measured on ext4 (CALIBRATION): recycled or zero-filled files sync 1.8 to 2.8 times as often as
appended or fallocated ones at 4 to 64 KiB.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from wal.operations import Rename, Unlink
from wal.segment import segment_name, spare_name

__all__ = ["Spare", "SparePool"]


@dataclass(frozen=True, slots=True)
class Spare:
    """One spare file; `size` bytes of it can be overwritten in place."""

    name: str
    size: int


class SparePool:
    """The spare files of one log, oldest first; at most `spares_max` of at most `bytes_max` each.

    A spare is named after the segment that it was. Segment numbers are never used twice in the
    life of a log, so neither are the names of spares.
    """

    __slots__ = ("_bytes_max", "_spares", "_spares_max")

    def __init__(self, spares_max: int, bytes_max: int) -> None:
        """Start empty; recovery adds what it found."""
        self._spares: deque[Spare] = deque()
        self._spares_max = spares_max
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        """Return how many spares there are."""
        return len(self._spares)

    def add(self, spare: Spare) -> bool:
        """Keep a file for reuse; False if it is one too many, or was made by an oversized record."""
        if len(self._spares) >= self._spares_max or spare.size > self._bytes_max:
            return False
        self._spares.append(spare)
        return True

    def take(self) -> Spare | None:
        """Take the oldest spare, if there is one."""
        return self._spares.popleft() if self._spares else None

    def retire(self, number: int, size: int) -> Rename | Unlink:
        """Return the operation that gives a released segment back: reuse it or remove it."""
        name, spare = segment_name(number), Spare(spare_name(number), size)
        return Rename(name, spare.name) if self.add(spare) else Unlink(name)
