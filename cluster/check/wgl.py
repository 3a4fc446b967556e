"""Is there one order that explains a history? The search of Wing and Gong, as Lowe made it fast.

Theory of operation
-------------------
An operation may come next if it began before the first completion of those still to be placed. The
search places one after the other, depth first, and remembers every configuration (what is placed,
and the state) that it has been in: to come back to one is useless (Lowe, "Testing for
linearizability", 2017; Wing and Gong 1993).

What is placed is a number (`base`: all completed operations before it, by invocation) and an
integer as a set of bits (those behind it), so a configuration is as wide as the concurrency and not
as the history. Operations of unknown outcome have a bit set of their own: they are never due.

Reductions, each of which keeps at least one order if there is any:

* An action that looks and fits is placed at once: it changes nothing, and later is never better.
* Of operations with equal actions, only the one that is due first is tried.
* A write that nobody sees, over a value that nobody sees, is placed at once: what follows it is a
  write too, here and there.
* An operation of unknown outcome is tried only if it helps (`Model.helps`).
* A configuration is given up if somebody waits in vain: for a value that is overwritten and will not
  be made again (`needs`), or as one of the looks that may come next (`Model.reaches`).

Nothing is remembered while there is no alternative to come back from.

A search is advanced in slices, so that many keys share a budget and the first that fails ends all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cluster.check.budget import Budget
from cluster.check.history import NEVER, Operation, Status
from cluster.check.models import ILLEGAL, Action, Model, State
from cluster.check.needs import Needs

__all__ = ["Explainer", "Placed", "Search", "Stuck"]

_CHECK_EVERY: Final = 2048
"""Steps between two looks at the budget: some 10 ms."""
_AHEAD_MAX: Final = 512
"""How many operations ahead the next look is searched; some 20 µs."""

Path = tuple[Any, ...]
"""Operations that are placed, newest first: (operation, state after it, the path before)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An operation in its place, and the state after it."""

    operation: Operation
    state: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """The longest order that could be found, and what could come next by time, with its why not.

    What is due first stands first in `next`: it is what the order fails on.
    """

    prefix: tuple[Placed, ...]
    state: str
    next: tuple[tuple[Operation, str], ...]


@dataclass(slots=True)
class _Branch:
    """A configuration with alternatives that have not been tried."""

    base: int
    mask: int
    crashed: int
    path: Path | None
    placed: int
    options: list[tuple[int, State]]
    """(operation, state after it), the best one last. An operation of unknown outcome counts from
    the number of completed ones on."""


class _Window(NamedTuple):
    """What may come next in a configuration."""

    fits: int
    """A look that fits the state, to be placed at once; -1: none. Then the rest is incomplete."""
    due: int
    """Rank of the first completion of what is not placed."""
    looks: list[int]
    """The looks among the enabled; if there is none, the first one ahead."""
    enabled: list[int]
    changers: list[Action]
    """Actions that change something and are called before the last completion of `looks`."""
    horizon: int
    """Rank of that completion."""


class Search:
    """The search over the operations of one object."""

    def __init__(self, operations: Sequence[Operation], model: type[Model]) -> None:
        """Prepare; `operations` are by invocation. Raises HistoryError if the model refuses one."""
        self.operations = operations
        self.model = model(operations)
        pairs = [(op, action) for op in operations if (action := model.action(op)) is not None]
        done = [pair for pair in pairs if pair[0].status is Status.OK]
        lost = [pair for pair in pairs if pair[0].status is Status.INFO]
        self._ops = [op for op, _ in done + lost]
        self._actions: list[Action] = [action for _, action in done + lost]
        self._done = len(done)
        self._calls = [op.call for op, _ in done]
        self._rets = [op.ret for op, _ in done]
        self._looks = [model.looks(action) for _, action in done]
        self._lost_calls = [op.call for op, _ in lost]
        self._needs = self._make_needs()
        self._seen: dict[int, set[tuple[int, int, State]]] = {}
        self._stack: list[_Branch] = []
        self._best: Path | None = None
        self._best_placed = -1
        self._started = False
        self.steps = 0
        self.order: tuple[Placed, ...] | None = None
        """An order that explains everything, once found."""

    def _make_needs(self) -> Needs | None:
        """Return who waits for what; None if the model's states are not single values."""
        needs = Needs(self._calls, self._rets, self._lost_calls)
        sees, makes, done = self.model.sees, self.model.makes, self._done
        if all(sees(action) is None for action in self._actions):
            return None
        for number, action in enumerate(self._actions):
            if number < done:
                needs.add(number, sees(action), makes(action))
            else:
                needs.add_lost(number - done, sees(action), makes(action))
        needs.settle()
        return needs

    @property
    def size(self) -> int:
        """Operations that have a say."""
        return len(self._ops)

    def advance(self, steps: int, budget: Budget) -> bool | None:
        """Search on; True: there is an order, False: there is none, None: not known yet.

        Raises OutOfBudgetError.
        """
        end = self.steps + steps
        stack = self._stack
        if not self._started:
            self._started = True
            if self._needs is not None and self._needs.impossible((self.model.initial,)):
                return False
            if self._descend(_Branch(0, 0, 0, None, 0, []), self.model.initial, budget):
                return True
        while stack:
            if self.steps >= end:
                return None
            branch = stack[-1]
            number, state = branch.options.pop()
            if not branch.options:
                stack.pop()
            if self._descend(self._after(branch, number, state), state, budget):
                return True
        self._seen.clear()
        return False

    def _after(self, at: _Branch, number: int, state: State) -> _Branch:
        """Return the configuration after one more operation."""
        path = (number, state, at.path)
        if number >= self._done:
            crashed = at.crashed | 1 << (number - self._done)
            return _Branch(at.base, at.mask, crashed, path, at.placed, [])
        base, mask = at.base, at.mask | 1 << (number - at.base)
        while mask & 1:
            mask >>= 1
            base += 1
        return _Branch(base, mask, at.crashed, path, at.placed + 1, [])

    def _descend(self, at: _Branch, state: State, budget: Budget) -> bool:
        """Place operations until there is a choice, or nothing left; True at the end."""
        done = self._done
        base, mask, crashed, path, placed = at.base, at.mask, at.crashed, at.path, at.placed
        while True:
            self.steps += 1
            if not self.steps % _CHECK_EVERY:
                self._check(budget, base)
            here = (mask, crashed, state)
            known = self._seen.setdefault(base, set()) if self._stack else None
            if known is not None and here in known:
                return False
            if placed > self._best_placed:
                self._best_placed, self._best = placed, path
            if base == done:
                self.order = self._told(path)
                return True
            window = self._window(base, mask, state)
            if window.fits >= 0:
                options = [(window.fits, state)]
            elif self._is_lost(window, crashed, state):
                return False
            else:
                options = self._options(state, window, base, mask, crashed)
            if known is not None:
                known.add(here)
            if len(options) != 1:
                if options:
                    self._stack.append(_Branch(base, mask, crashed, path, placed, options))
                return False
            ((number, state),) = options
            path = (number, state, path)
            if number >= done:
                crashed |= 1 << (number - done)
                continue
            placed += 1
            mask |= 1 << (number - base)
            while mask & 1:
                mask >>= 1
                base += 1

    def _window(self, base: int, mask: int, state: State) -> _Window:
        """Collect what may come next: what is called before the first completion that is due."""
        calls, rets, done = self._calls, self._rets, self._done
        due = horizon = NEVER
        number, ahead = base, base + _AHEAD_MAX
        enabled: list[int] = []
        looks: list[int] = []
        changers: list[Action] = []
        while number < done:
            call = calls[number]
            if call > due and (call > horizon or number > ahead):
                break
            if not mask & 1:
                action, ret = self._actions[number], rets[number]
                if not self._looks[number]:
                    changers.append(action)
                elif call < due and self.model.step(state, action) is not ILLEGAL:
                    return _Window(number, due, looks, enabled, changers, horizon)
                elif call < due or not looks:
                    looks.append(number)
                    horizon = ret if horizon == NEVER else max(horizon, ret)
                if call < due:
                    enabled.append(number)
                due = min(due, ret)
            mask >>= 1
            number += 1
        return _Window(-1, due, looks, enabled, changers, horizon)

    def _is_lost(self, window: _Window, crashed: int, state: State) -> bool:
        """Tell whether one of the next looks cannot come true any more."""
        if self._needs is not None or not window.looks:
            return False
        for place, call in enumerate(self._lost_calls):
            if call < window.horizon and not crashed >> place & 1:
                window.changers.append(self._actions[self._done + place])
        reaches = self.model.reaches
        actions = {self._actions[number] for number in window.looks}
        return not all(reaches(state, action, window.changers) for action in actions)

    def _options(
        self, state: State, window: _Window, base: int, mask: int, crashed: int
    ) -> list[tuple[int, State]]:
        """Return what is worth trying next and what would come of it, the first to try last."""
        step, actions, model = self.model.step, self._actions, self.model
        needs = self._needs
        unseen = self._unseen(state, window, base, mask, crashed)
        if unseen is not None:
            return [unseen]
        options: list[tuple[int, State]] = []
        tried: set[Action] = set()
        enabled = sorted(window.enabled, key=self._rets.__getitem__)
        for number in enabled:
            action = actions[number]
            if self._looks[number] or action in tried:
                continue
            tried.add(action)
            after = step(state, action)
            if after is ILLEGAL or (
                needs is not None
                and after != state
                and needs.unmet((state,), base, mask | 1 << (number - base), crashed)
            ):
                continue
            options.append((number, after))
        lost = [
            self._done + place
            for place, call in enumerate(self._lost_calls)
            if call < window.due and not crashed >> place & 1
        ]
        if lost:
            others = [actions[number] for number in enabled + lost]
            for number in lost:
                action = actions[number]
                if action in tried:
                    continue
                tried.add(action)
                after = step(state, action)
                if after is ILLEGAL or after == state or not model.helps(after, others):
                    continue
                taken = crashed | 1 << (number - self._done)
                if needs is None or not needs.unmet((state,), base, mask, taken):
                    options.append((number, after))
        if needs is not None:  # what a look waits for comes first: it costs nothing to be right
            awaited = {model.sees(actions[number]) for number in window.looks}
            options.sort(key=lambda option: (option[1],) in awaited, reverse=True)
        options.reverse()
        return options

    def _unseen(
        self, state: State, window: _Window, base: int, mask: int, crashed: int
    ) -> tuple[int, State] | None:
        """Return a write that nobody sees, over a value that nobody sees: it may come at once."""
        needs, model = self._needs, self.model
        if needs is None or not needs.idle((state,), base, mask, crashed):
            return None
        for number in window.enabled:
            action = self._actions[number]
            made = model.makes(action)
            if made is None or model.sees(action) is not None:
                continue
            if needs.idle(made, base, mask, crashed):
                return number, made[0]
        return None

    def _check(self, budget: Budget, base: int) -> None:
        """Forget what cannot be met again, and look at the budget."""
        if self._stack:
            lowest = self._stack[0].base
            for passed in [number for number in self._seen if number < lowest]:
                del self._seen[passed]
        else:
            self._seen.clear()
        # A set that is full grows fourfold.
        budget.check(4 * sys.getsizeof(self._seen.get(base)))

    # ---- words ---------------------------------------------------------------------------

    def stuck(self) -> Stuck:
        """Return the longest order that was found."""
        path, model = self._best, self.model
        placed = {number for number, _ in _links(path)}
        state = path[1] if path else model.initial
        open_ = [n for n in range(len(self._ops)) if n not in placed]
        due = min((self._rets[n] for n in open_ if n < self._done), default=NEVER)
        following = []
        for number in sorted(open_, key=lambda n: (self._ops[n].ret, self._ops[n].call)):
            operation = self._ops[number]
            if operation.call < due:
                possible = model.step(state, self._actions[number]) is not ILLEGAL
                why = "fits, and leads nowhere" if possible else f"finds {model.show(state)}"
                following.append((operation, why))
        return Stuck(self._told(path), model.show(state), tuple(following))

    def _told(self, path: Path | None) -> tuple[Placed, ...]:
        told = [Placed(self._ops[n], self.model.show(state)) for n, state in _links(path)]
        return tuple(reversed(told))


class Explainer(Search):
    """A search that goes on where a longer order is useless, since it tells more."""

    def _make_needs(self) -> Needs | None:
        return None

    def _is_lost(self, window: _Window, crashed: int, state: State) -> bool:
        return False


def _links(path: Path | None) -> Iterator[tuple[int, State]]:
    while path is not None:
        number, state, path = path
        yield number, state
