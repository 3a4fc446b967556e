"""A set that only grows: `add` one element, `read` all. Decided exactly, in O(n log n) and the reads.

The reads of such a set must form a chain, each a part of the next, and that fixes the order of all
operations up to those that commute: what a read saw stands in front of it, what it did not see
behind. So one order is made and compared with real time (as in `witness`); if it does not fit, none
does. The evidence is named as Jepsen's set-full names it: *lost* (acknowledged, and missing from the
last read), *stale* (missing from a read that began later, seen by another), *unexpected*.

An element that is added twice is there from the first that takes effect.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from cluster.check.history import NEVER, History, HistoryError, Operation, Status
from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "check_set"]

NAME: Final = "set"
_SHOWN_MAX: Final = 10


@dataclass(slots=True)
class _Element:
    """When an element may have come (`call`, of the first add), and by when it was there (`ret`)."""

    add: Operation
    call: int
    ret: int = NEVER
    seen: bool = False


@dataclass(frozen=True, slots=True)
class _Read:
    operation: Operation
    elements: frozenset[Hashable]


class _ClashError(Exception):
    """Two operations that no order can hold."""


def check_set(history: History) -> Finding:
    """Judge a set. Raises HistoryError for an operation that is neither add nor read."""
    added = _added(history)
    reads, repeated = _reads(history)
    lost = unexpected = 0
    finding = Finding(NAME, Verdict.PASS, "")
    if not reads:
        finding.verdict, finding.reason = Verdict.UNKNOWN, "nothing was read, so nothing is shown"
    else:
        last = max(reads, key=lambda read: read.operation.call)
        missing = [
            element for value, element in added.items()
            if element.ret < last.operation.call and value not in last.elements
        ]  # fmt: skip
        strange = [
            (value, read.operation)
            for read in reads for value in read.elements if value not in added
        ]  # fmt: skip
        lost, unexpected = len(missing), len({value for value, _ in strange})
        lines = [f"lost: {element.add}" for element in missing[:_SHOWN_MAX]]
        lines += [f"unexpected: {value!r} in {op}" for value, op in strange[:_SHOWN_MAX]]
        lines += [f"twice in one read: {text}" for text in repeated[:_SHOWN_MAX]]
        if not lines:
            lines = _order(added, reads)
        finding.lines = lines
        finding.verdict = Verdict.FAIL if lines else Verdict.PASS
        finding.reason = (
            lines[0] if lines else f"{len(added)} elements, {len(reads)} reads: a chain"
        )
    finding.facts = {
        "added": len(added),
        "reads": len(reads),
        "lost": lost,
        "unexpected": unexpected,
        "duplicated": len(repeated),
    }
    return finding


def _added(history: History) -> dict[Hashable, _Element]:
    """Return every element that may have been added."""
    added: dict[Hashable, _Element] = {}
    for op in history.operations:
        if op.f not in ("add", "read"):
            raise HistoryError(op.line, f"{op.f!r} is no operation of model set: add, read")
        if op.f == "add" and op.status is not Status.FAIL:
            element = added.setdefault(op.argument, _Element(op, op.call))
            element.ret = min(element.ret, op.ret)
    return added


def _reads(history: History) -> tuple[list[_Read], list[str]]:
    """Return what was read, and where an element stood twice in one read."""
    reads, repeated = [], []
    for op in history.operations:
        if op.f != "read" or op.status is not Status.OK:
            continue
        if not isinstance(op.result, tuple | frozenset):
            raise HistoryError(op.line, f"a read of {op.result!r}; a set is read as a list")
        elements = frozenset(op.result)
        if len(elements) != len(op.result):
            repeated.append(str(op))
        reads.append(_Read(op, elements))
    return reads, repeated


def _order(added: dict[Hashable, _Element], reads: Sequence[_Read]) -> list[str]:
    """Put everything in the only order that there can be; return what contradicts it."""
    ordered = sorted(reads, key=lambda read: (len(read.elements), read.operation.call))
    time = _Time()
    seen: frozenset[Hashable] = frozenset()
    before: _Read | None = None
    try:
        for elements, same in groupby(ordered, key=lambda read: read.elements):
            together = list(same)
            if not seen <= elements:
                gone = next(iter(seen - elements))
                assert before is not None
                text = (
                    f"not a chain: {before.operation} saw {gone!r} and fewer elements than"
                    f" {together[0].operation}, which did not"
                )
                return [text]
            for element in _by_call(added[value] for value in elements - seen):
                element.seen = True
                time.place(element.add, element.call, element.ret)
            for read in together:
                time.place(read.operation, read.operation.call, read.operation.ret)
            seen, before = elements, together[-1]
        for element in _by_call(e for e in added.values() if not e.seen and e.ret != NEVER):
            time.place(element.add, element.call, element.ret)
    except _ClashError as clash:
        return [str(clash)]
    return []


def _by_call(elements: Iterable[_Element]) -> list[_Element]:
    return sorted(elements, key=lambda element: element.call)


class _Time:
    """Follows an order, and knows which of its operations began last."""

    def __init__(self) -> None:
        self._call = -1
        self._operation: Operation | None = None

    def place(self, operation: Operation, call: int, ret: int) -> None:
        """Put an operation behind all others. _ClashError if it ended before one of them began."""
        if ret < self._call:
            assert self._operation is not None
            later, what = self._operation, "took place"
            if operation.f == "add" and later.f == "read":
                raise _ClashError(f"stale: {later} misses what was there before it: {operation}")
            raise _ClashError(f"{operation} {what} after {later} by what was seen, and ended first")
        if call > self._call:
            self._call, self._operation = call, operation
