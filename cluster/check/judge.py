"""Which judges a model has: the table behind `raftdeck check --model`."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cluster.check.anomalies import Consistency
from cluster.check.bank import check_bank
from cluster.check.budget import Budget
from cluster.check.counters import check_counter
from cluster.check.history import History, HistoryError, Operation, Status
from cluster.check.linearizable import Counterexample, Way, check_linearizable
from cluster.check.list_append import check_list_append
from cluster.check.models import CounterModel, KvAppendModel, Model, RegisterModel
from cluster.check.queues import check_queue
from cluster.check.sets import check_set
from cluster.check.verdict import Finding, Verdict, worst

__all__ = ["JUDGES", "Judgement", "Rules", "judge"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be chosen."""

    budget: Budget
    way: Way = Way.AUTO
    consistency: Consistency = Consistency.STRICT
    total: int | None = None


@dataclass(slots=True)
class Judgement:
    """What came of a history."""

    findings: list[Finding] = field(default_factory=list)
    counterexample: Counterexample | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict over all judges."""
        return worst(self.findings)


def judge(history: History, model: str, rules: Rules) -> Judgement:
    """Let the judges of a model speak. Raises HistoryError for what the model does not know."""
    began = time.monotonic()
    judgement = JUDGES[model](history, rules)
    if len(judgement.findings) == 1:
        judgement.findings[0].seconds = time.monotonic() - began
    return judgement


def _linearizable(model: type[Model]) -> Callable[[History, Rules], Judgement]:
    def run(history: History, rules: Rules) -> Judgement:
        began = time.monotonic()
        found = separated(history if model is not RegisterModel else _in_our_words(history))
        finding, counterexample = check_linearizable(found, model, rules.budget, rules.way)
        finding.seconds = time.monotonic() - began
        return Judgement([finding], counterexample)

    return run


def _counter(history: History, rules: Rules) -> Judgement:
    """Bounds first: they fail at once. Then whether the reads fit together."""
    bounds = check_counter(separated(history, CounterModel.functions))
    if bounds.verdict is not Verdict.PASS:
        return Judgement([bounds])
    judgement = _linearizable(CounterModel)(history, rules)
    judgement.findings.insert(0, bounds)
    return judgement


def _each(history: History, check: Callable[[History], Finding]) -> Judgement:
    """Judge each key's object by itself; the worst finding, with its key, stands for all."""
    found = {
        key: check(replace(history, operations=operations))
        for key, operations in history.by_key().items()
    }
    if len(found) == 1:
        return Judgement([next(iter(found.values()))])
    verdict = worst(found.values())
    key, finding = next((key, one) for key, one in found.items() if one.verdict is verdict)
    finding.reason = f"{len(found)} keys; {key!r}: {finding.reason}"
    return Judgement([finding])


JUDGES: Final[Mapping[str, Callable[[History, Rules], Judgement]]] = {
    "register": _linearizable(RegisterModel),
    "cas": _linearizable(RegisterModel),
    "kv-append": _linearizable(KvAppendModel),
    "list-append": lambda history, rules: Judgement(
        [check_list_append(history, rules.consistency)]
    ),
    "set": lambda history, _: _each(separated(history), check_set),
    "queue": lambda history, _: _each(separated(history), check_queue),
    "counter": _counter,
    "bank": lambda history, rules: _each(history, lambda one: check_bank(one, rules.total)),
}


_SHOWN_MAX: Final = 40
_LOOKS: Final = ("read", "get", "dequeue", "drain")
_WORDS: Final = {
    "r": "read", "get": "read", "w": "write", "put": "write", "compare-and-set": "cas",
}  # fmt: skip
"""What others call the operations of a register."""


def _in_our_words(history: History) -> History:
    """Call the operations of registers read, write and cas."""
    if all(op.f not in _WORDS for op in history.operations):
        return history
    operations = [replace(op, f=_WORDS.get(op.f, op.f)) for op in history.operations]
    return replace(history, operations=operations)


def separated(history: History, plain: Container[str] = ("put", "append")) -> History:
    """Take values apart that are `[key value]` (Jepsen's `independent`), if reads show that they are.

    A read of one object is invoked with nil; one of many names its key. Where nothing is read, a cas of
    `[key [old new]]` shows it, or one of `plain`, which never take a pair. Raises HistoryError if only
    some operations do.
    """
    looks = [op.argument for op in history.operations if op.f in _LOOKS and op.key is None]
    if not any(map(_is_pair, looks)) and (
        None in looks or not any(_names_its_key(op, plain) for op in history.operations)
    ):
        return history
    operations = []
    for op in history.operations:
        if not isinstance(op.argument, tuple) or len(op.argument) != 2:
            raise HistoryError(op.line, f"{op.argument!r} is no [key value], as other lines have")
        key, argument = op.argument
        names_it = isinstance(op.result, tuple) and len(op.result) == 2 and op.result[0] == key
        if op.f in _LOOKS and op.status is Status.OK and op.result is not None and not names_it:
            raise HistoryError(
                op.line, f"{_shown(op.result)} answers {op.argument!r}; another key?"
            )
        result = _last(op.result) if names_it else None
        operations.append(replace(op, key=key, argument=argument, result=result))
    return replace(history, operations=_without_versions(operations))


def _shown(value: Hashable) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _without_versions(operations: list[Operation]) -> list[Operation]:
    """Take `[version value]` apart (Jepsen's tests of etcd): invoked as `[nil value]` throughout."""
    if not all(map(_has_version, operations)):
        return operations
    return [replace(op, argument=_last(op.argument), result=_last(op.result)) for op in operations]


def _has_version(op: Operation) -> bool:
    """Tell `[nil value]`, and of a cas `[nil [old new]]`, from what else begins with nil."""
    if not isinstance(op.argument, tuple) or len(op.argument) != 2 or op.argument[0] is not None:
        return False
    return op.f != "cas" or _is_pair(op.argument[1])


def _last(value: Hashable) -> Hashable:
    return value[1] if isinstance(value, tuple) and len(value) == 2 else value


def _names_its_key(op: Operation, plain: Container[str]) -> bool:
    """Tell whether an operation that looks at nothing shows that values are `[key value]`."""
    if op.key is not None or not _is_pair(op.argument):
        return False
    assert isinstance(op.argument, tuple)
    key, value = op.argument
    if op.f == "cas":
        return _is_pair(value) and not _is_pair(key)
    return op.f in plain


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2
