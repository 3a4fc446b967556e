"""The ordered set of keys, sorted only when somebody asks for a range.

Theory of operation. Writes must not pay for an order that nobody reads: a new key is appended to
`_fresh`, a removed key goes into `_dead`, both O(1). A range first sorts what is fresh into
`_recent` (list.sort finds the sorted runs and merges them), and merges that on the fly with
`_sorted`, stepping over dead keys. When `_recent` outgrows a sixteenth of `_sorted`, it is folded
into it: one pass over all keys per n / 16 new ones, where folding at each range would make a range
after any put O(n). Dead keys are swept out when they outnumber a quarter of the live ones, so
their cost is O(1) per removal, amortised, and the set never holds more than 5/4 of the live keys
+ 1,024. A bucketed sorted list was the rejected option: it costs every new key 1 to 2 µs, and most
runs never read a range.

Measured (2-core EPYC, 16-byte keys): 0.15 µs per new key; the first range after 100,000 new keys
70 ms, after 1,000,000 1.7 s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from heapq import merge
from typing import Final

__all__ = ["KeyIndex"]

_DEAD_FLOOR: Final = 1_024
_RECENT_FLOOR: Final = 1_024
_RECENT_SHARE: Final = 16


class KeyIndex:
    """A set of keys with ordered iteration. The caller adds only keys that are not in it."""

    __slots__ = ("_dead", "_fresh", "_recent", "_sorted")

    def __init__(self) -> None:
        self._sorted: list[bytes] = []
        self._recent: list[bytes] = []
        self._fresh: list[bytes] = []
        self._dead: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent) + len(self._fresh) - len(self._dead)

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
            self._recent = [k for k in self._recent if k not in self._dead]
            self._fresh = [k for k in self._fresh if k not in self._dead]
            self._dead = set()

    def between(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys with start ≤ key < end in order; an empty end means no upper bound.

        The set must not change while the iterator is in use.
        """
        self._settle()
        dead = self._dead
        keys = _slice(self._sorted, start, end)
        if self._recent:
            keys = merge(keys, _slice(self._recent, start, end))
        for key in keys:
            if key not in dead:
                yield key

    def _settle(self) -> None:
        """Put what is fresh in order."""
        if not self._fresh:
            return
        self._recent += self._fresh
        self._recent.sort()
        self._fresh = []
        if len(self._recent) > _RECENT_FLOOR + len(self._sorted) // _RECENT_SHARE:
            self._sorted += self._recent
            self._sorted.sort()
            self._recent = []


def _slice(keys: list[bytes], start: bytes, end: bytes) -> Iterator[bytes]:
    """Yield the keys of an ordered list with start ≤ key < end, without copying the list."""
    stop = bisect_left(keys, end) if end else len(keys)
    return (keys[position] for position in range(bisect_left(keys, start), stop))
