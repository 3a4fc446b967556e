"""Does the committed order explain the history? One sort and one pass: O(n log n).

Where every answer tells its position in the committed order (a log index or a revision), nothing
has to be searched: the operations in that order, a change before the looks at the same position,
are replayed through the model, and each answer compared. The order respects real time if none of
its operations was completed before an earlier one of the order began, so a running maximum of the
calls is enough.

An order that passes is a proof, whoever proposed it. One that does not pass proves that the
positions do not explain the answers; another order might. Operations of unknown outcome are placed
where an answer needs them: one, or a few that build on each other (a delete, and a compare-and-set that
expects nothing). That is the cheap part of a search and no more: where other places for them are left,
a complaint is not complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.check.history import Operation, Status
from cluster.check.models import ILLEGAL, Action, Model, State

__all__ = ["NoWitness", "check_witness", "has_positions"]

_CHAIN_MAX: Final = 4
"""So many operations of unknown outcome in a row are tried where an answer needs some."""
_STEPS_MAX: Final = 20_000
"""Per such answer: enough for all pairs of 140, and a tenth of a second."""


@dataclass(frozen=True, slots=True)
class NoWitness:
    """Why the order is none, and the operations that show it."""

    reason: str
    operations: tuple[Operation, ...]
    complete: bool = True
    """Whether no place for the operations of unknown outcome could mend it."""


def has_positions(operations: Sequence[Operation]) -> bool:
    """Tell whether every completed operation says where it stands."""
    return all(op.position is not None for op in operations if op.status is Status.OK)


def check_witness(operations: Sequence[Operation], model: type[Model]) -> NoWitness | None:
    """Check the operations of one object; None: their order of positions is a linearization."""
    return _Replay(operations, model).run()


class _Replay:
    """One pass in the order of positions."""

    def __init__(self, operations: Sequence[Operation], model: type[Model]) -> None:
        self._model = model(operations)
        self._placed: list[tuple[int, bool, int, Operation, Action]] = []
        self._loose: list[tuple[Operation, Action]] = []
        """Unknown outcome and unknown place, by invocation."""
        for op in operations:
            action = model.action(op)
            if action is None:
                continue
            if op.position is None:
                assert op.status is Status.INFO, "has_positions was asked"
                self._loose.append((op, action))
            else:
                self._placed.append((op.position, model.looks(action), op.call, op, action))
        self._placed.sort(key=lambda place: place[:3])
        self._state: State = self._model.initial
        self._chosen = False
        """Whether operations of unknown outcome were placed: others might have done as well."""
        self._steps = 0
        """How many more may be tried for the answer at hand."""
        self._latest: Operation | None = None
        """The operation of the order that was called last."""
        self._latest_sure: Operation | None = None
        """The same without those of unknown outcome."""

    def run(self) -> NoWitness | None:
        """Replay everything."""
        model = self._model
        for position, _, _, op, action in self._placed:
            after = model.step(self._state, action)
            if after is ILLEGAL:
                self._place_loose_ones(op, action)
                after = model.step(self._state, action)
            if after is ILLEGAL:
                reason = f"at position {position} the state is {model.show(self._state)}, not as in"
                others = self._chosen or any(loose.call <= op.ret for loose, _ in self._loose)
                return NoWitness(f"{reason}: {op}", (op,), complete=not others)
            self._state = after
            for latest in (self._latest_sure, self._latest):
                if latest is not None and op.ret < latest.call:
                    return NoWitness(
                        f"{op} ended before {latest} began, and stands behind it in the order",
                        (op, latest),
                        complete=latest.position is not None,
                    )
            self._latest = _later(self._latest, op)
            self._latest_sure = _later(self._latest_sure, op)
        return None

    def _place_loose_ones(self, op: Operation, action: Action) -> None:
        """Place the fewest operations of unknown outcome that make `action` possible, if any do."""
        self._steps = _STEPS_MAX
        chain: tuple[int, ...] | None = None
        for length in range(1, _CHAIN_MAX + 1):
            chain = chain or self._chain(self._state, (), length, op.ret, action)
        self._chosen = self._chosen or chain is not None
        for number in chain or ():
            loose, change = self._loose[number]
            self._state = self._model.step(self._state, change)
            self._latest = _later(self._latest, loose)
        self._loose = [
            each for number, each in enumerate(self._loose) if number not in (chain or ())
        ]

    def _chain(
        self, state: State, used: tuple[int, ...], length: int, until: int, action: Action
    ) -> tuple[int, ...] | None:
        """Return `used` and so many more, in an order after which `action` is possible; None: none."""
        model = self._model
        for number, (loose, change) in enumerate(self._loose):
            if loose.call > until or self._steps <= 0:
                return None
            if number in used:
                continue
            self._steps -= 1
            after = model.step(state, change)
            if after is ILLEGAL:
                continue
            taken = (*used, number)
            if length > 1:
                found = self._chain(after, taken, length - 1, until, action)
                if found is not None:
                    return found
            elif model.step(after, action) is not ILLEGAL:
                return taken
        return None


def _later(one: Operation | None, other: Operation) -> Operation:
    """Return which of two was called later."""
    return other if one is None or other.call > one.call else one
