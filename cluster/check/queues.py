"""A queue: what went in comes out, once. The order in which it comes out is not judged.

After Jepsen's total-queue. `enqueue` takes a value, `dequeue` returns one (nil: it was empty),
`drain` returns all that are left. *Lost*: acknowledged, and never came out, though the queue was
emptied. *Duplicated*: came out more often than it went in. *Unexpected*: never went in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Final

from cluster.check.history import NEVER, History, HistoryError, Operation, Status
from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "check_queue"]

NAME: Final = "queue"
_KNOWN: Final = ("enqueue", "dequeue", "drain")
_SHOWN_MAX: Final = 10


def check_queue(history: History) -> Finding:
    """Judge a queue. Raises HistoryError for an operation that it does not know."""
    began: dict[Hashable, int] = {}
    tried: Counter[Hashable] = Counter()
    acked: Counter[Hashable] = Counter()
    out: Counter[Hashable] = Counter()
    taken: list[tuple[Hashable, Operation]] = []
    last_enqueue, emptied_at, crashed = -1, -1, 0
    for op in history.operations:
        if op.f not in _KNOWN:
            raise HistoryError(op.line, f"{op.f!r} is no operation of a queue: {', '.join(_KNOWN)}")
        if op.f == "enqueue":
            if op.status is not Status.FAIL:
                tried[op.argument] += 1
                began[op.argument] = min(began.get(op.argument, NEVER), op.call)
            if op.status is Status.OK:
                acked[op.argument] += 1
                last_enqueue = max(last_enqueue, op.ret)
            continue
        values = _values(op)
        crashed += op.status is Status.INFO
        taken += [(value, op) for value in values]
        out.update(values)
        is_empty = op.f == "drain" or not values
        if is_empty and op.status is not Status.INFO:
            emptied_at = max(emptied_at, op.call)
    lines = [f"unexpected: {value!r} in {op}" for value, op in taken if value not in tried]
    lines += [
        f"before it went in: {value!r} in {op}"
        for value, op in taken if op.ret < began.get(value, -1)
    ]  # fmt: skip
    lines += [
        f"duplicated: {value!r} went in {tried[value]} times and came out {count} times"
        for value, count in out.items() if 0 < tried[value] < count
    ]  # fmt: skip
    missing = acked - out
    is_drained = emptied_at > last_enqueue
    if missing and is_drained and crashed < missing.total():
        lines += [f"lost: {value!r}, acknowledged and never seen again" for value in missing]
    finding = Finding(NAME, Verdict.PASS, f"{out.total()} of {acked.total()} acknowledged came out")
    finding.lines = lines[:_SHOWN_MAX]
    finding.facts = {"enqueued": acked.total(), "dequeued": out.total(), "left": missing.total()}
    if lines:
        finding.verdict, finding.reason = Verdict.FAIL, lines[0]
    elif missing:
        finding.verdict = Verdict.UNKNOWN
        finding.reason = f"{missing.total()} acknowledged are not seen again: " + (
            f"{crashed} takers were not answered" if is_drained else "the queue was never emptied"
        )
    elif not out:
        finding.verdict, finding.reason = Verdict.UNKNOWN, "nothing was taken out"
    return finding


def _values(op: Operation) -> tuple[Hashable, ...]:
    """Return what an operation is known to have taken out."""
    if op.status is not Status.OK:
        return ()
    if op.f == "drain":
        if not isinstance(op.result, tuple):
            raise HistoryError(op.line, f"a drain of {op.result!r}; it returns a list")
        return op.result
    return () if op.result is None else (op.result,)
