"""Linearizability: the cheapest way that decides, key by key.

An object for each key is linearizable exactly if all are (Herlihy and Wing 1990, locality), so keys
are judged one by one: by the committed order where the answers tell it (`witness`), by zones where
the values never repeat (`zones`), else by search (`wgl`). The searches share the budget: each gets
a slice, then a larger one, so that a key that is hard does not hide one that fails at once.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cluster.check.budget import Budget, OutOfBudgetError
from cluster.check.history import History, Operation
from cluster.check.models import Model, RegisterModel
from cluster.check.values import thaw
from cluster.check.verdict import Finding, Verdict
from cluster.check.wgl import Explainer, Search, Stuck
from cluster.check.witness import check_witness, has_positions
from cluster.check.zones import applies, check_zones

__all__ = ["NAME", "Counterexample", "Way", "check_linearizable"]

NAME: Final = "linearizable"
_SLICE: Final = 4_000
"""Steps of the first slice, some 20 ms; each round takes four times as many."""
_EXPLAIN_STEPS: Final = 200_000
"""How long to look for a longest prefix where the verdict is known already."""
_SHOWN_MAX: Final = 12
"""Operations of the longest prefix that are told; the picture shows more."""


class OpenOutcomesError(OutOfBudgetError):
    """Operations of unknown outcome may explain what the committed order alone does not."""


class Way(Enum):
    """How to decide."""

    AUTO = "auto"
    WITNESS = "witness"
    """By the positions alone: fails if these do not explain the answers."""
    ZONES = "zones"
    SEARCH = "wgl"


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The key that fails, all that was done to it, why, and how far an order goes."""

    key: Hashable
    operations: Sequence[Operation]
    reason: str
    culprits: tuple[Operation, ...] = ()
    stuck: Stuck | None = None


@dataclass(slots=True)
class _Judging:
    """What is known so far."""

    model: type[Model]
    budget: Budget
    way: Way
    ways: Counter[str] = field(default_factory=Counter)
    searches: list[tuple[Hashable, Search]] = field(default_factory=list)
    doubts: list[OutOfBudgetError] = field(default_factory=list)
    """Why keys are undecided that are not searched."""
    steps: int = 0
    notes: list[str] = field(default_factory=list)


def check_linearizable(
    history: History, model: type[Model], budget: Budget, way: Way = Way.AUTO
) -> tuple[Finding, Counterexample | None]:
    """Judge a history. Raises HistoryError if the model does not know an operation."""
    judging = _Judging(model, budget, way)
    keys = history.by_key()
    try:
        found = _decide(judging, keys)
    except OutOfBudgetError as error:
        waiting = len(judging.doubts)
        waiting += sum(not search.order for _, search in judging.searches)
        reason = f"{error}; {waiting} of {len(keys)} keys are undecided"
        finding = Finding(NAME, Verdict.UNKNOWN, reason, judging.notes)
        counterexample = None
    else:
        counterexample = found
        finding = _finding(keys, found)
        finding.lines += judging.notes
    finding.facts |= _facts(judging, len(keys), counterexample)
    return finding, counterexample


def _decide(judging: _Judging, keys: dict[Hashable, list[Operation]]) -> Counterexample | None:
    for key, operations in keys.items():
        try:
            found = _decide_quickly(judging, key, operations)
        except OutOfBudgetError as error:  # another key may fail for certain
            judging.doubts.append(error)
            continue
        if found is not None:
            return found
    found = _search(judging)
    if found is None and judging.doubts:
        raise judging.doubts[0]
    return found


def _decide_quickly(
    judging: _Judging, key: Hashable, operations: list[Operation]
) -> Counterexample | None:
    """Decide one key without a search, or prepare one."""
    way, model = judging.way, judging.model
    if way is Way.WITNESS or (way is Way.AUTO and has_positions(operations)):
        if has_positions(operations):
            complaint = check_witness(operations, model)
            if complaint is None:
                judging.ways["witness"] += 1
                return None
            if way is Way.WITNESS and not complaint.complete:
                raise OpenOutcomesError(
                    f"key {key!r}: {complaint.reason}; operations of unknown outcome may explain it,"
                    " which the search decides: --by wgl"
                )
            if way is Way.WITNESS:
                reason = f"the committed order does not explain it: {complaint.reason}"
                return Counterexample(key, operations, reason, complaint.operations)
            judging.notes.append(f"key {key!r}: not in the committed order: {complaint.reason}")
        else:
            raise OutOfBudgetError(f"key {key!r}: its answers tell no position in a log")
    is_register = issubclass(model, RegisterModel)
    if way in (Way.AUTO, Way.ZONES) and is_register and applies(operations):
        for operation in operations:
            model.action(operation)
        clash = check_zones(operations)
        judging.ways["zones"] += 1
        if clash is None:
            return None
        stuck = _explain(judging, operations)
        return Counterexample(key, operations, clash.reason, clash.operations, stuck)
    if way is Way.ZONES:
        raise OutOfBudgetError(f"key {key!r}: zones need reads and writes of values that differ")
    judging.searches.append((key, Search(operations, model)))
    return None


def _explain(judging: _Judging, operations: Sequence[Operation]) -> Stuck:
    """Look for a longest order, where it is known that none is complete."""
    search = Explainer(operations, judging.model)
    with contextlib.suppress(OutOfBudgetError):  # then the longest so far
        search.advance(_EXPLAIN_STEPS, judging.budget)
    judging.steps += search.steps
    return search.stuck()


def _search(judging: _Judging) -> Counterexample | None:
    """Advance all searches in turns; None if each ended with an order."""
    waiting = sorted(judging.searches, key=lambda pair: pair[1].size)
    judging.ways["wgl"] = len(waiting)
    steps = _SLICE
    while waiting:
        still = []
        for key, search in waiting:
            before = search.steps
            try:
                found = search.advance(steps, judging.budget)
            finally:
                judging.steps += search.steps - before
            if found is False:
                stuck = max(
                    search.stuck(), _explain(judging, search.operations),
                    key=lambda stuck: len(stuck.prefix),
                )  # fmt: skip
                reason = _reason(stuck)
                culprits = tuple(op for op, _ in stuck.next)
                return Counterexample(key, search.operations, reason, culprits, stuck)
            if found is None:
                still.append((key, search))
        waiting = still
        steps *= 4
    return None


def _reason(stuck: Stuck) -> str:
    """Say in one sentence where every order ends."""
    if not stuck.next:
        return "no order explains it"
    op, why = stuck.next[0]
    return f"every order ends; the longest after {len(stuck.prefix)} operations, where {op} {why}"


# ---- words ---------------------------------------------------------------------------------------


def _finding(keys: dict[Hashable, list[Operation]], found: Counterexample | None) -> Finding:
    if found is None:
        many = f"{len(keys)} keys, each of which" if len(keys) > 1 else "one object, which"
        return Finding(NAME, Verdict.PASS, f"{many} has an order that explains every answer")
    where = "" if found.key is None else f"key {found.key!r}: "
    return Finding(NAME, Verdict.FAIL, where + found.reason, list(_lines(found)))


def _lines(found: Counterexample) -> list[str]:
    if found.stuck is None:
        return [str(op) for op in found.culprits]
    stuck = found.stuck
    hidden = max(0, len(stuck.prefix) - _SHOWN_MAX)
    lines = [f"the longest order that explains its answers has {len(stuck.prefix)} operations:"]
    lines += [f"  … {hidden} more"] if hidden else []
    lines += [f"  {placed.operation}: now {placed.state}" for placed in stuck.prefix[hidden:]]
    lines.append("and none of these can follow:")
    lines += [f"  {op}: {why}" for op, why in stuck.next[:_SHOWN_MAX]]
    return lines


def _facts(judging: _Judging, keys: int, found: Counterexample | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "keys": keys,
        "by": {way: count for way, count in judging.ways.items() if count},
        "steps": judging.steps,
    }
    if judging.doubts and all(isinstance(doubt, OpenOutcomesError) for doubt in judging.doubts):
        facts["open_outcomes"] = len(judging.doubts)
    if found is not None:
        facts["counterexample"] = {
            "key": thaw(found.key),
            "operations": len(found.operations),
            "prefix": None if found.stuck is None else len(found.stuck.prefix),
            "lines": sorted({op.line for op in found.culprits if op.line}),
        }
    return facts
