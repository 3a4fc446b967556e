"""A counter: every read lies between what was acknowledged and what was tried.

After Jepsen's counter, for additions of either sign: when a read begins, at least the additions
acknowledged before it are in; when it ends, at most those begun by then. One pass, O(n log n), and a
value outside is a certain failure. That a value lies inside does not prove that all reads fit
together; `judge` lets the search decide that.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

from cluster.check.history import History, Status
from cluster.check.models import CounterModel
from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "check_counter"]

NAME: Final = "counter"
_SHOWN_MAX: Final = 10


def check_counter(history: History) -> Finding:
    """Compare every read with its bounds, per key. Raises HistoryError for what does not count."""
    outside: list[str] = []
    reads = 0
    for operations in history.by_key().values():
        found = [(op, action) for op in operations if (action := CounterModel.action(op))]
        adds = [(op, action[1]) for op, action in found if action[0] == "add"]
        lowest = _Sum([(op.ret, n) for op, n in adds if n > 0 and op.status is Status.OK])
        lowest_begun = _Sum([(op.call, n) for op, n in adds if n < 0])
        highest = _Sum([(op.call, n) for op, n in adds if n > 0])
        highest_done = _Sum([(op.ret, n) for op, n in adds if n < 0 and op.status is Status.OK])
        for op, action in found:
            if action[0] != "read":
                continue
            reads += 1
            low = lowest.before(op.call) + lowest_begun.before(op.ret)
            high = highest.before(op.ret) + highest_done.before(op.call)
            if not low <= action[1] <= high:
                outside.append(f"{op}: it was between {low} and {high}")
    facts = {"reads": reads, "outside": len(outside)}
    if outside:
        return Finding(NAME, Verdict.FAIL, outside[0], outside[:_SHOWN_MAX], facts)
    if not reads:
        return Finding(NAME, Verdict.UNKNOWN, "nothing was read", [], facts)
    return Finding(NAME, Verdict.PASS, f"{reads} reads lie within their bounds", [], facts)


class _Sum:
    """Sums of amounts by rank."""

    def __init__(self, amounts: list[tuple[int, int]]) -> None:
        amounts.sort()
        self._ranks = [rank for rank, _ in amounts]
        self._sums = [0, *accumulate(amount for _, amount in amounts)]

    def before(self, rank: int) -> int:
        """Return the sum of everything in front of a rank."""
        return self._sums[bisect_left(self._ranks, rank)]
