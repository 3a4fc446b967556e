"""Draws that depend on nothing but (seed, stream, counter).

No generator carries a state from one decision to the next: taking one fault out of a schedule, or
one message off a link, leaves the draws of all other streams as they were. That keeps a shrunk
schedule the same story.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from wal.checksum import crc32c

__all__ = ["Stream", "draw"]

_MASK = (1 << 64) - 1
_T = TypeVar("_T")


def draw(seed: int, stream: int, number: int) -> int:
    """Return the `number`-th 64-bit draw of a stream: SplitMix64's finaliser over the three."""
    value = (seed * 0xD6E8FEB86659FD93 + stream * 0x9E3779B97F4A7C15 + number) & _MASK
    value = ((value ^ (value >> 32)) * 0xD1B54A32D192ED03) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Stream:
    """One named sequence of draws, for one kind of decision about one thing."""

    __slots__ = ("_count", "_seed", "_stream")

    def __init__(self, seed: int, *names: object) -> None:
        """Name the stream, for instance `Stream(seed, "loss", source, target)`."""
        self._seed = seed
        self._stream = crc32c("/".join(map(str, names)).encode())
        self._count = 0

    def bits(self) -> int:
        """Return the next 64 bits."""
        self._count += 1
        return draw(self._seed, self._stream, self._count)

    def below(self, bound: int) -> int:
        """Return the next draw in [0, `bound`)."""
        return self.bits() % bound

    def between(self, low: int, high: int) -> int:
        """Return the next draw in [`low`, `high`]."""
        return low + self.bits() % (high - low + 1)

    def chance(self, permille: int) -> bool:
        """Return True in `permille` of a thousand draws."""
        return self.bits() % 1000 < permille

    def pick(self, choices: Sequence[_T]) -> _T:
        """Return one of the choices."""
        return choices[self.bits() % len(choices)]

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """Return the items in a drawn order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(len(left))]
