"""A queue: what went in comes out, once. The order in which it comes out is not judged.

After Jepsen's total-queue. `enqueue` takes a value, `dequeue` returns one (nil: it was empty),
`drain` returns all that are left. *Lost*: acknowledged, and never came out, though the queue was
emptied. *Duplicated*: came out more often than it went in. *Unexpected*: never went in.

The queue was emptied where, behind the last acknowledged enqueue, a drain was answered or a dequeue
found nothing (nil, or a failure that gives no other reason). A dequeue without an answer that began
before may have taken one value out, such a drain any number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final

from cluster.check.history import History, HistoryError, Operation, Status
from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "check_queue"]

NAME: Final = "queue"
_KNOWN: Final = ("enqueue", "dequeue", "drain")
_EMPTY: Final = ("empty", "exhausted", "nothing")
"""What the error of a dequeue says that failed because nothing was there."""
_SHOWN_MAX: Final = 10


def check_queue(history: History) -> Finding:
    """Judge a queue. Raises HistoryError for an operation that it does not know."""
    ins: dict[Hashable, list[int]] = {}
    """Per value, when each of its enqueues began."""
    acked: Counter[Hashable] = Counter()
    outs: dict[Hashable, list[Operation]] = {}
    takers: list[Operation] = []
    last_enqueue = -1
    for op in history.operations:
        if op.f not in _KNOWN:
            raise HistoryError(op.line, f"{op.f!r} is no operation of a queue: {', '.join(_KNOWN)}")
        if op.f != "enqueue":
            takers.append(op)
            for value in _values(op):
                outs.setdefault(value, []).append(op)
        elif op.status is not Status.FAIL:
            ins.setdefault(op.argument, []).append(op.call)
            if op.status is Status.OK:
                acked[op.argument] += 1
                last_enqueue = max(last_enqueue, op.ret)
    lines = [
        line for value in outs for line in _wrongly_out(value, ins.get(value, []), outs[value])
    ]
    out = Counter({value: len(ops) for value, ops in outs.items()})
    missing = acked - out
    emptied_at = min(
        (op.ret for op in takers if op.call > last_enqueue and _found_it_empty(op)), default=None
    )
    doubt = _doubt(takers, emptied_at, missing.total())
    if missing and doubt is None:
        lines += [f"lost: {value!r}, acknowledged and never seen again" for value in missing]
    finding = Finding(NAME, Verdict.PASS, f"{out.total()} of {acked.total()} acknowledged came out")
    finding.lines = lines[:_SHOWN_MAX]
    finding.facts = {"enqueued": acked.total(), "dequeued": out.total(), "left": missing.total()}
    if lines:
        finding.verdict, finding.reason = Verdict.FAIL, lines[0]
    elif missing:
        finding.verdict = Verdict.UNKNOWN
        finding.reason = f"{missing.total()} acknowledged are not seen again: {doubt}"
    elif not any(op.status is Status.OK for op in takers):
        finding.verdict, finding.reason = Verdict.UNKNOWN, "nothing was taken out"
    return finding


def _wrongly_out(value: Hashable, ins: Sequence[int], outs: Sequence[Operation]) -> list[str]:
    """Return what is wrong with how often, and when, a value came out."""
    if not ins:
        return [f"unexpected: {value!r} in {op}" for op in outs]
    by_end = sorted(outs, key=lambda op: op.ret)
    lines = [
        f"before it went in: {value!r} in {op}"
        for began, op in zip(sorted(ins), by_end, strict=False) if op.ret < began
    ]  # fmt: skip
    if len(ins) < len(outs):
        lines.append(
            f"duplicated: {value!r} went in {len(ins)} times and came out {len(outs)} times"
        )
    return lines


def _doubt(takers: Sequence[Operation], emptied_at: int | None, missing: int) -> str | None:
    """Say why values that are missing may not be lost; None: they are."""
    if emptied_at is None:
        return "the queue was never emptied"
    crashed = [op for op in takers if op.status is Status.INFO and op.call < emptied_at]
    if any(op.f == "drain" for op in crashed) or len(crashed) >= missing:
        return f"{len(crashed)} takers were not answered"
    return None


def _found_it_empty(op: Operation) -> bool:
    """Tell whether nothing was left behind by a taker. One that failed for another reason does not tell."""
    if op.f == "drain" or op.status is Status.INFO:
        return op.status is Status.OK
    if op.status is Status.OK:
        return op.result is None
    said = [text.lower() for text in (op.result, op.error) if isinstance(text, str)]
    return not said or any(word in text for word in _EMPTY for text in said)


def _values(op: Operation) -> tuple[Hashable, ...]:
    """Return what an operation is known to have taken out."""
    if op.status is not Status.OK:
        return ()
    if op.f == "drain":
        if op.result is not None and not isinstance(op.result, tuple | frozenset):
            raise HistoryError(op.line, f"a drain of {op.result!r}; it returns a list")
        return tuple(op.result or ())
    return () if op.result is None else (op.result,)
