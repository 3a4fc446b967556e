"""The ordered set of keys, sorted only when somebody asks for a range.

Theory of operation. Writes must not pay for an order that nobody reads: a new key is appended to
`_fresh`, a removed key goes into `_dead`, both O(1). A range first sorts what is fresh and merges
it (two sorted runs, which list.sort detects and merges by galloping), then bisects and steps over
dead keys. Dead keys are swept out when they outnumber a quarter of the live ones, so their cost is
O(1) per removal, amortised, and the set never holds more than 5/4 of the live keys + 1,024.
A bucketed sorted list was the rejected option: it costs every new key 1 to 2 µs, and most runs
never read a range.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

__all__ = ["KeyIndex"]

_DEAD_FLOOR: Final = 1_024


class KeyIndex:
    """A set of keys with ordered iteration. The caller adds only keys that are not in it."""

    __slots__ = ("_dead", "_fresh", "_sorted")

    def __init__(self) -> None:
        self._sorted: list[bytes] = []
        self._fresh: list[bytes] = []
        self._dead: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._fresh) - len(self._dead)

    def add(self, key: bytes) -> None:
        """Add a key that is not in the set."""
        if self._dead and key in self._dead:
            self._dead.remove(key)
        else:
            self._fresh.append(key)

    def discard(self, key: bytes) -> None:
        """Remove a key that is in the set."""
        self._dead.add(key)
        if len(self._dead) > _DEAD_FLOOR + len(self) // 4:
            self._sorted = [k for k in self._sorted if k not in self._dead]
            self._fresh = [k for k in self._fresh if k not in self._dead]
            self._dead = set()

    def between(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys with start ≤ key < end in order; an empty end means no upper bound.

        The set must not change while the iterator is in use.
        """
        if self._fresh:
            self._fresh.sort()
            self._sorted += self._fresh
            self._sorted.sort()
            self._fresh = []
        keys = self._sorted
        dead = self._dead
        stop = bisect_left(keys, end) if end else len(keys)
        for position in range(bisect_left(keys, start), stop):
            key = keys[position]
            if key not in dead:
                yield key
