"""Sequential specifications: what one copy of the object, used by one client at a time, would do.

A model turns each operation into an *action*, a hashable value. Two operations with equal actions
can stand for each other, which the search uses; an action that only looks (`looks`) changes nothing.
States are hashable; `step` returns the next one, or `ILLEGAL` if the action cannot happen so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, ClassVar, Final

from cluster.check.history import HistoryError, Operation, Status

__all__ = ["ILLEGAL", "Action", "CounterModel", "KvAppendModel", "Model", "RegisterModel", "State"]

Action = tuple[Any, ...]
"""(f, what it takes and what it says): equal actions are interchangeable."""
State = Hashable


class _Illegal:
    """The state after something impossible."""

    def __repr__(self) -> str:
        return "ILLEGAL"


class _Unseen:
    """A text that no get shows."""

    def __repr__(self) -> str:
        return "a text that no get shows"


ILLEGAL: Final = _Illegal()
UNSEEN: Final = _Unseen()


class Model(ABC):
    """One object. Made anew for each key, from the operations on it."""

    name: ClassVar[str]
    functions: ClassVar[tuple[str, ...]]
    """The operations that it understands."""
    initial: State = None

    def __init__(self, operations: Sequence[Operation] = ()) -> None:
        """Prepare for these operations (completed or open; none that failed)."""
        del operations

    @classmethod
    def action(cls, operation: Operation) -> Action | None:
        """Return what an operation does; None if it can be left out. Raises HistoryError."""
        if operation.f not in cls.functions:
            raise HistoryError(
                operation.line,
                f"{operation.f!r} is no operation of model {cls.name}, which knows"
                f" {', '.join(cls.functions)}; choose another --model",
            )
        if operation.status is Status.FAIL:
            return None
        return cls.translate(operation)

    @classmethod
    @abstractmethod
    def translate(cls, operation: Operation) -> Action | None:
        """Return the action of an operation that happened, or may have."""

    @abstractmethod
    def step(self, state: State, action: Action) -> State | _Illegal:
        """Return the state after an action."""

    @staticmethod
    @abstractmethod
    def looks(action: Action) -> bool:
        """Tell whether an action changes nothing."""

    def helps(self, after: State, enabled: Iterable[Action]) -> bool:
        """Tell whether an operation of unknown outcome is worth trying.

        `after` is the state it would leave, `enabled` are the other actions that could come next.
        False only if every continuation does as well without it.
        """
        return True

    def reaches(self, state: State, look: Action, changers: Iterable[Action]) -> bool:
        """Tell whether `look` can come true from `state` by some of `changers`, in any order.

        False only if that is certain.
        """
        return True

    @classmethod
    def sees(cls, action: Action) -> tuple[Hashable] | None:
        """Return the state that an action has to find, if its object's state is one value."""
        del action
        return None

    @classmethod
    def makes(cls, action: Action) -> tuple[Hashable] | None:
        """Return the state that an action leaves, whatever was there, if it is one value."""
        del action
        return None

    def show(self, state: State) -> str:
        """Return a state as a person reads it."""
        return "nil" if state is None else repr(state)

    def show_action(self, action: Action) -> str:
        """Return an action as a person reads it."""
        return " ".join([str(action[0]), *("nil" if a is None else repr(a) for a in action[1:])])


class RegisterModel(Model):
    """A register: read, write, and cas (write `new` if `old` is there). nil until it is written."""

    name = "register"
    functions = ("read", "write", "cas")

    @classmethod
    def translate(cls, operation: Operation) -> Action | None:
        """See `Model.translate`: what a read of unknown outcome saw is unknown too."""
        if operation.f == "read":
            return ("read", operation.result) if operation.status is Status.OK else None
        if operation.f == "write":
            return ("write", operation.argument)
        pair = operation.argument
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise HistoryError(operation.line, f"cas of {pair!r}; it takes [old new]")
        return ("cas", pair[0], pair[1])

    def step(self, state: State, action: Action) -> State | _Illegal:
        """See `Model.step`."""
        if action[0] == "write":
            after: State = action[1]
            return after
        if state != action[1]:
            return ILLEGAL
        return state if action[0] == "read" else action[2]

    @staticmethod
    def looks(action: Action) -> bool:
        """See `Model.looks`."""
        return bool(action[0] == "read")

    def helps(self, after: State, enabled: Iterable[Action]) -> bool:
        """See `Model.helps`: what is overwritten unseen might as well not have happened."""
        return any(action[0] != "write" and action[1] == after for action in enabled)

    @classmethod
    def sees(cls, action: Action) -> tuple[Hashable] | None:
        """See `Model.sees`."""
        return None if action[0] == "write" else (action[1],)

    @classmethod
    def makes(cls, action: Action) -> tuple[Hashable] | None:
        """See `Model.makes`: the last word of a write or a cas."""
        return None if action[0] == "read" else (action[-1],)


class KvAppendModel(Model):
    """A text that is put, appended to, and read (get). Empty at first; nil reads as empty.

    A text that no get begins with will be replaced by a put before it is seen: what it is does not
    matter, and all such texts are one state, `UNSEEN`. Without it, every order of a few appends in
    front of a put would be a state of its own.
    """

    name = "kv-append"
    functions = ("get", "put", "append")
    initial = ""

    def __init__(self, operations: Sequence[Operation] = ()) -> None:
        """Collect what is read."""
        actions = [action for op in operations if (action := self.action(op)) is not None]
        self._seen = sorted({action[1] for action in actions if action[0] == "get"})

    @classmethod
    def translate(cls, operation: Operation) -> Action | None:
        """See `Model.translate`."""
        if operation.f == "get":
            if operation.status is not Status.OK:
                return None
            return ("get", cls._text(operation, operation.result))
        return (operation.f, cls._text(operation, operation.argument))

    @staticmethod
    def _text(operation: Operation, value: Hashable) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise HistoryError(operation.line, f"{value!r} is no text; kv-append knows only text")
        return value

    def step(self, state: State, action: Action) -> State | _Illegal:
        """See `Model.step`."""
        if action[0] == "get":
            return state if state == action[1] else ILLEGAL
        if action[0] == "put":
            return self._known(action[1])
        return UNSEEN if state is UNSEEN else self._known(f"{state}{action[1]}")

    @staticmethod
    def looks(action: Action) -> bool:
        """See `Model.looks`."""
        return bool(action[0] == "get")

    def helps(self, after: State, enabled: Iterable[Action]) -> bool:
        """See `Model.helps`."""
        return after is not UNSEEN

    def reaches(self, state: State, look: Action, changers: Iterable[Action]) -> bool:
        """See `Model.reaches`: a text grows, or a put begins it anew."""
        text: str = look[1]
        if state is not UNSEEN and text.startswith(str(state)):
            return True
        return any(action[0] == "put" and text.startswith(action[1]) for action in changers)

    def _known(self, text: str) -> State:
        """Return the state of a text."""
        place = bisect_left(self._seen, text)
        seen = place < len(self._seen) and self._seen[place].startswith(text)
        return text if seen else UNSEEN

    def show(self, state: State) -> str:
        """See `Model.show`: the end of a long text, which is where it changes."""
        text = str(state)
        if state is UNSEEN:
            return text
        return repr(text) if len(text) <= 60 else f"…{text[-56:]!r} ({len(text)} characters)"


class CounterModel(Model):
    """A number: add (also a negative number) and read. 0 at first."""

    name = "counter"
    functions = ("read", "add", "increment", "inc", "decrement", "dec")
    initial = 0

    @classmethod
    def translate(cls, operation: Operation) -> Action | None:
        """See `Model.translate`."""
        if operation.f == "read":
            if operation.status is not Status.OK:
                return None
            return ("read", cls.number(operation, operation.result))
        value = 1 if operation.argument is None else cls.number(operation, operation.argument)
        return ("add", -value if operation.f.startswith("dec") else value)

    @staticmethod
    def number(operation: Operation, value: Hashable) -> int:
        """Return a value that has to be a whole number."""
        if type(value) is not int:
            raise HistoryError(operation.line, f"{operation.f} of {value!r}; a counter counts")
        return value

    def step(self, state: State, action: Action) -> State | _Illegal:
        """See `Model.step`."""
        if action[0] == "add":
            assert isinstance(state, int)
            total: int = state + action[1]
            return total
        return state if state == action[1] else ILLEGAL

    @staticmethod
    def looks(action: Action) -> bool:
        """See `Model.looks`."""
        return bool(action[0] == "read")

    def reaches(self, state: State, look: Action, changers: Iterable[Action]) -> bool:
        """See `Model.reaches`: between everything that lowers and everything that raises."""
        assert isinstance(state, int)
        distance: int = look[1] - state
        amounts: list[int] = [action[1] for action in changers]
        return sum(min(0, n) for n in amounts) <= distance <= sum(max(0, n) for n in amounts)
