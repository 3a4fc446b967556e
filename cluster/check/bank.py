"""A bank: money moves between accounts, and every reader sees all of it.

After Jepsen's bank. `transfer` moves an amount, `read` returns every account's balance, as a map or
a list. The total never changes and no balance is negative: a read that says otherwise saw half of a
transfer. That a snapshot is *recent* is not judged, nor that a transfer moved what it said.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final

from cluster.check.history import History, HistoryError, Operation, Status
from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "check_bank"]

NAME: Final = "bank"
_KNOWN: Final = ("transfer", "read")
_SHOWN_MAX: Final = 10


def check_bank(history: History, total: int | None = None) -> Finding:
    """Judge every read. Without a `total`, the first read sets it. Raises HistoryError."""
    accounts: frozenset[Hashable] | None = None
    lines = []
    reads = 0
    for op in history.operations:
        if op.f not in _KNOWN:
            raise HistoryError(op.line, f"{op.f!r} is no operation of a bank: {', '.join(_KNOWN)}")
        if op.f != "read" or op.status is not Status.OK:
            continue
        reads += 1
        balances = _balances(op)
        if None in balances.values():
            lines.append(f"an account without a balance: {op}")
            continue
        sum_ = sum(balances.values())
        if accounts is None:
            accounts = frozenset(balances)
            total = sum_ if total is None else total
        if sum_ != total:
            lines.append(f"a total of {sum_} instead of {total}: {op}")
        elif any(balance < 0 for balance in balances.values()):
            lines.append(f"a negative balance: {op}")
        elif frozenset(balances) != accounts:
            lines.append(f"other accounts than in the first read: {op}")
    facts = {"reads": reads, "bad": len(lines), "total": total}
    if lines:
        return Finding(NAME, Verdict.FAIL, lines[0], lines[:_SHOWN_MAX], facts)
    if not reads:
        return Finding(NAME, Verdict.UNKNOWN, "nothing was read", [], facts)
    return Finding(NAME, Verdict.PASS, f"all {reads} reads add up to {total}", [], facts)


def _balances(op: Operation) -> Mapping[Hashable, int]:
    """Return what a read saw; the balance of an account that it did not see is None."""
    value = op.result
    if isinstance(value, tuple):
        value = dict(enumerate(value))  # type: ignore[assignment]  # local; no history holds it
    if not isinstance(value, Mapping) or any(
        n is not None and type(n) is not int for n in value.values()
    ):
        raise HistoryError(op.line, f"a read of {op.result!r}; it returns every account's balance")
    return value
