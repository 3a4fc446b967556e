"""Transactions of list appends: `[["append", key, value], ["r", key, [values]] …]`, by outcome.

Every appended value is unique in its list, so a read tells the whole past of its list: who wrote
what it holds, and in which order. That is what makes `list_append` linear (Kingsbury and Alvaro,
"Elle", 2020).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from cluster.check.history import History, HistoryError, Operation, Status

__all__ = ["Append", "Read", "Transaction", "transactions"]


@dataclass(frozen=True, slots=True)
class Append:
    """One value put at the end of one list."""

    key: Hashable
    value: Hashable


@dataclass(frozen=True, slots=True)
class Read:
    """One list, as it was seen; `values` is None where nobody was told."""

    key: Hashable
    values: tuple[Hashable, ...] | None


@dataclass(slots=True)
class Transaction:
    """One transaction. `number` counts those that may have happened, from 0; -1: it did not."""

    operation: Operation
    steps: tuple[Append | Read, ...]
    number: int = -1
    appended: dict[Hashable, list[Hashable]] = field(default_factory=dict)
    """Per list, what it appended, in order."""

    def __str__(self) -> str:
        """Return the transaction as a person reads it."""
        return f"T{self.operation.number} [{', '.join(map(_told, self.steps))}]" + (
            f" (line {self.operation.line})" if self.operation.line else ""
        )


def _told(step: Append | Read) -> str:
    if isinstance(step, Append):
        return f"append {step.key} {step.value}"
    if step.values is None:
        return f"read {step.key}"
    return f"read {step.key} → [{' '.join(str(value) for value in _ends(step.values))}]"


def _ends(values: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    return values if len(values) <= 8 else ("…", *values[-7:])


def transactions(history: History) -> list[Transaction]:
    """Return all transactions of a history. Raises HistoryError for what is none."""
    found = []
    for op in history.operations:
        if op.f not in ("txn", "append", "r", "read", "w"):
            raise HistoryError(op.line, f"{op.f!r} is no operation of model list-append: txn")
        value = op.result if op.status is Status.OK else op.argument
        if not isinstance(value, tuple):
            raise HistoryError(op.line, f"{value!r} is no list of [f key value]")
        steps = tuple(_step(op, step, is_told=op.status is Status.OK) for step in value)
        transaction = Transaction(op, steps)
        for step in steps:
            if isinstance(step, Append):
                transaction.appended.setdefault(step.key, []).append(step.value)
        found.append(transaction)
    return found


def _step(op: Operation, step: Hashable, *, is_told: bool) -> Append | Read:
    if not isinstance(step, tuple) or len(step) != 3:
        raise HistoryError(op.line, f"{step!r} is no [f key value]")
    f, key, value = step
    f = f.removeprefix(":") if isinstance(f, str) else f
    if f == "append":
        return Append(key, value)
    if f not in ("r", "read"):
        raise HistoryError(op.line, f"{f!r} in a transaction; it knows append and r")
    if not is_told:
        return Read(key, None)
    if value is not None and not isinstance(value, tuple):
        raise HistoryError(op.line, f"a read of {value!r}; it sees a list, or nil")
    return Read(key, value or ())
