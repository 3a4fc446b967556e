"""Which values are still needed: who waits to see a value, and who could still make it.

For objects whose state is one value that an operation makes (a register). A value that is overwritten
while somebody who has to see it is left needs a maker that is left too, and that is called before the
completion of who waits. If there is none, no order can be completed. Every value is looked at when it
is overwritten, so nothing else has to be looked at: O(log n) and the few operations around.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence

from cluster.check.history import NEVER

__all__ = ["Needs"]


class _Waiting:
    """Completed operations that have to see one value."""

    __slots__ = ("earliest", "numbers")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.earliest: list[int] = []
        """Per place, the first completion from there on."""


class Needs:
    """Readers and makers of each value. Operations are numbers, by invocation."""

    def __init__(
        self, calls: Sequence[int], rets: Sequence[int], lost_calls: Sequence[int]
    ) -> None:
        self._calls = calls
        self._rets = rets
        self._lost_calls = lost_calls
        self._waiting: dict[Hashable, _Waiting] = {}
        self._makers: dict[Hashable, list[int]] = {}
        self._lost_makers: dict[Hashable, list[int]] = {}
        self._lost_seers: dict[Hashable, list[int]] = {}

    def add(self, number: int, sees: Hashable | None, makes: Hashable | None) -> None:
        """Take a completed operation: what it sees and makes, each as a tuple of one, or None."""
        if sees is not None:
            self._waiting.setdefault(sees, _Waiting()).numbers.append(number)
        if makes is not None:
            self._makers.setdefault(makes, []).append(number)

    def add_lost(self, place: int, sees: Hashable | None, makes: Hashable | None) -> None:
        """Take an operation of unknown outcome: it waits for nothing, and may happen."""
        if sees is not None:
            self._lost_seers.setdefault(sees, []).append(place)
        if makes is not None:
            self._lost_makers.setdefault(makes, []).append(place)

    def settle(self) -> None:
        """Finish, once everything is added."""
        for waiting in self._waiting.values():
            first = NEVER
            for number in reversed(waiting.numbers):
                first = min(first, self._rets[number])
                waiting.earliest.append(first)
            waiting.earliest.reverse()

    def impossible(self, initial: Hashable) -> bool:
        """Tell whether some value can never be seen, whatever comes first."""
        return any(value != initial and self.unmet(value, 0, 0, 0) for value in self._waiting)

    def unmet(self, value: Hashable, base: int, mask: int, crashed: int) -> bool:
        """Tell whether somebody waits in vain, once the state is not `value` any more.

        `base`, `mask` and `crashed` say what is placed (see `wgl`).
        """
        waiting = self._waiting.get(value)
        if waiting is None:
            return False
        numbers = waiting.numbers
        place = bisect_left(numbers, base)
        if place == len(numbers):
            return False
        made = self._next_made(value, base, mask, crashed)
        if made < waiting.earliest[place]:
            return False
        top = base + mask.bit_length()
        while place < len(numbers) and numbers[place] < top:
            number = numbers[place]
            if not mask >> (number - base) & 1 and self._rets[number] < made:
                return True
            place += 1
        return place < len(numbers) and waiting.earliest[place] < made

    def idle(self, value: Hashable, base: int, mask: int, crashed: int) -> bool:
        """Tell whether nobody that is left sees a value: nor waits for it, nor may come upon it."""
        waiting = self._waiting.get(value)
        numbers = () if waiting is None else waiting.numbers
        for number in numbers[bisect_left(numbers, base) :]:
            if not mask >> (number - base) & 1:
                return False
        return all(crashed >> place & 1 for place in self._lost_seers.get(value, ()))

    def _next_made(self, value: Hashable, base: int, mask: int, crashed: int) -> int:
        """Return when the first maker that is left is called; behind NEVER if there is none."""
        call = NEVER + 1
        makers = self._makers.get(value, ())
        for number in makers[bisect_left(makers, base) :] if makers else ():
            if not mask >> (number - base) & 1:
                call = self._calls[number]
                break
        for place in self._lost_makers.get(value, ()):
            if not crashed >> place & 1:
                return min(call, self._lost_calls[place])
        return call
