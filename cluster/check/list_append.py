"""Transactions over lists: anomalies as Adya named them, found as Elle finds them. Linear.

Theory of operation
-------------------
The longest read of a list is its history; every other read must be a beginning of it. So we know for
each list the order of its writers (ww), for each read who wrote its last value (wr) and who wrote
the next one (rw). A cycle of these means that no order of the transactions exists:

    G0        ww only                      dirty write
    G1c       ww and wr                    circular information flow
    G-single  exactly one rw               read skew
    G2        more than one rw             write skew
    …-realtime                             a cycle only together with real time

and without a graph: G1a (read of an aborted append), G1b (read of what a transaction overwrote
itself), internal (a transaction contradicts itself), incompatible-order (two reads of which neither
is a beginning of the other), duplicate (a value twice), unwritten (a value that nobody appended).

An append that no read shows comes after all that were read, if its transaction is known to have
happened. A transaction of unknown outcome counts once somebody has seen a value of it.
Sources: Adya 1999 §4; Kingsbury and Alvaro, "Elle: inferring isolation anomalies", VLDB 2020.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cluster.check.anomalies import FORBIDDEN, Consistency, find_cycles
from cluster.check.cycles import Edge, Graph, Kind
from cluster.check.history import NEVER, History, HistoryError, Status
from cluster.check.transactions import Append, Read, Transaction, transactions
from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "Anomaly", "check_list_append"]

NAME: Final = "list-append"
_ANOMALIES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One thing that must not happen: its name, and the lines that show it."""

    name: str
    lines: tuple[str, ...]


def check_list_append(history: History, consistency: Consistency = Consistency.STRICT) -> Finding:
    """Judge a history of transactions. Raises HistoryError for what is none."""
    inference = _Inference(transactions(history), consistency)
    anomalies = inference.run()
    counts = Counter(anomaly.name for anomaly in anomalies)
    facts = {
        "consistency": consistency.value,
        "transactions": len(inference.known),
        "lists": len(inference.orders),
        "anomalies": dict(sorted(counts.items())),
    }
    if anomalies:
        lines = [line for anomaly in anomalies for line in (f"{anomaly.name}:", *anomaly.lines)]
        names = ", ".join(sorted(counts))
        return Finding(NAME, Verdict.FAIL, f"not {consistency.value}: {names}", lines, facts)
    if not inference.has_read:
        return Finding(NAME, Verdict.UNKNOWN, "nothing was read, so nothing is shown", [], facts)
    reason = f"{len(inference.known)} transactions have an order ({consistency.value})"
    return Finding(NAME, Verdict.PASS, reason, [], facts)


class _Inference:
    """What follows from the reads."""

    def __init__(self, found: Sequence[Transaction], consistency: Consistency) -> None:
        self._all = found
        self._consistency = consistency
        self._anomalies: list[Anomaly] = []
        self._writer: dict[tuple[Hashable, Hashable], Transaction] = {}
        for transaction in found:
            for key, values in transaction.appended.items():
                for value in values:
                    other = self._writer.setdefault((key, value), transaction)
                    if other.operation.status is Status.FAIL:  # it certainly did not append it
                        self._writer[key, value] = transaction
                    elif transaction.operation.status is Status.FAIL:
                        continue
                    elif other is not transaction or values.count(value) > 1:
                        raise HistoryError(
                            transaction.operation.line,
                            f"{value!r} is appended to {key!r} a second time (first in line"
                            f" {other.operation.line}); values must be unique to be traced",
                        )
        self._reads = [
            (transaction, step)
            for transaction in found if transaction.operation.status is Status.OK
            for step in transaction.steps if isinstance(step, Read)
        ]  # fmt: skip
        self.has_read = bool(self._reads)
        self.orders: dict[Hashable, tuple[Hashable, ...]] = {}
        """Per list, its longest read."""
        self.known: list[Transaction] = []
        """Transactions that happened, by number."""

    def run(self) -> list[Anomaly]:
        """Return all anomalies, those without a graph first."""
        for transaction in self._all:
            if transaction.operation.status is Status.OK:
                self._check_internal(transaction)
        self._order_lists()
        if not any(a.name in ("incompatible-order", "duplicate") for a in self._anomalies):
            for cycle in find_cycles(self._graph(), FORBIDDEN[self._consistency]):
                members = (f"  {self.known[edge.from_]}" for edge in cycle.edges)
                self._tell(cycle.name, *members, *map(self._because, cycle.edges))
        return self._anomalies[:_ANOMALIES_MAX]

    def _tell(self, name: str, *lines: str) -> None:
        self._anomalies.append(Anomaly(name, lines))

    # ---- one transaction, one read -------------------------------------------------------

    def _check_internal(self, transaction: Transaction) -> None:
        """A transaction sees its own appends, none that it makes later, and nothing else changes under it.

        Under read-committed, others may come in between two of its reads.
        """
        seen: dict[Hashable, tuple[Hashable, ...]] = {}
        done: Counter[Hashable] = Counter()
        told: Counter[Hashable] = Counter()
        for step in transaction.steps:
            key = step.key
            if isinstance(step, Append):
                done[key] += 1
                continue
            values = step.values or ()
            own = transaction.appended.get(key, [])
            mine = tuple(own[told[key] : done[key]])
            if self._consistency is Consistency.READ_COMMITTED:
                fits = not done[key] or own[done[key] - 1] in values
            elif key in seen:
                fits = values == seen[key] + mine
            else:
                fits = not mine or values[-len(mine) :] == mine
            # A later append in front of another's makes a cycle with that one.
            if not fits or (values and values[-1] in own[done[key] :]):
                self._tell("internal", f"  {transaction} contradicts itself in list {key}")
                return
            seen[key], told[key] = values, done[key]

    def _order_lists(self) -> None:
        """Find the longest read of each list; all others are beginnings of it.

        Values are looked at in the longest reads, and in what is no beginning of these: reads of
        long lists hold the same values over and over.
        """
        longest: dict[Hashable, tuple[Transaction, Read]] = {}
        for transaction, read in self._reads:
            known = longest.get(read.key)
            if known is None or len(read.values or ()) > len(known[1].values or ()):
                longest[read.key] = (transaction, read)
        for transaction, read in longest.values():
            self._check_values(transaction, read)
        for transaction, read in self._reads:
            other, whole = longest[read.key]
            values = read.values or ()
            self._check_last(transaction, read)
            if (whole.values or ())[: len(values)] != values:
                self._check_values(transaction, read)
                self._tell(
                    "incompatible-order", f"  list {read.key} in {transaction}",
                    f"  list {read.key} in {other}",
                )  # fmt: skip
        self.orders = {key: read.values or () for key, (_, read) in longest.items()}
        for key, order in self.orders.items():
            self._check_program_order(key, order)

    def _check_values(self, transaction: Transaction, read: Read) -> None:
        """Everything that is read was appended, once, by somebody who did not fail."""
        values = read.values or ()
        if len(set(values)) != len(values):
            twice = next(value for value, count in Counter(values).items() if count > 1)
            self._tell("duplicate", f"  {transaction} sees {twice} twice in list {read.key}")
        for value in values:
            writer = self._writer.get((read.key, value))
            if writer is None:
                self._tell("unwritten", f"  {transaction} sees {value}, which nobody appended")
            elif writer.operation.status is Status.FAIL:
                self._tell("G1a", f"  {transaction} sees {value}", f"  {writer} had failed")

    def _check_program_order(self, key: Hashable, order: Sequence[Hashable]) -> None:
        """What a transaction appends to a list stands there as it appended it, the first value first."""
        shown: Counter[int] = Counter()
        for value in order:
            writer = self._writer.get((key, value))
            if writer is None or writer.operation.status is Status.FAIL:
                continue
            own = writer.appended[key]
            place = shown[id(writer)]
            if place < len(own) and own[place] != value:
                self._tell(
                    "internal", f"  list {key} holds {value} without {own[place]} in front of it",
                    f"  {writer} appended that first",
                )  # fmt: skip
                return
            shown[id(writer)] += 1

    def _check_last(self, transaction: Transaction, read: Read) -> None:
        """Nobody sees a list in the middle of somebody else's transaction."""
        if not read.values:
            return
        writer = self._writer.get((read.key, read.values[-1]))
        if writer is not None and writer is not transaction:
            last = writer.appended[read.key][-1]
            if last != read.values[-1]:
                self._tell(
                    "G1b", f"  {transaction} sees list {read.key} up to {read.values[-1]}",
                    f"  {writer} appended {last} behind it",
                )  # fmt: skip

    # ---- the graph -----------------------------------------------------------------------

    def _graph(self) -> Graph:
        """Number the transactions that happened, and connect them."""
        seen = {
            id(self._writer[key, value])
            for key, order in self.orders.items() for value in order
            if (key, value) in self._writer
        }  # fmt: skip
        for transaction in self._all:
            status = transaction.operation.status
            if status is Status.OK or (status is Status.INFO and id(transaction) in seen):
                transaction.number = len(self.known)
                self.known.append(transaction)
        graph = Graph(len(self.known))
        unread = self._unread()
        for key, order in self.orders.items():
            writers = [self._number(key, value) for value in order]
            self._connect(graph, writers, unread.get(key, []))
        for transaction, read in self._reads:
            order, size = self.orders[read.key], len(read.values or ())
            reader = transaction.number
            if size:
                self._add(graph, self._number(read.key, order[size - 1]), reader, Kind.WR)
            if size < len(order):
                self._add(graph, reader, self._number(read.key, order[size]), Kind.RW)
            else:
                for writer in unread.get(read.key, []):
                    graph.add(reader, writer, Kind.RW)
        if self._consistency is Consistency.STRICT:
            graph.add_time(
                [
                    (t.operation.call, None if t.operation.ret == NEVER else t.operation.ret)
                    for t in self.known
                ]
            )
        return graph

    def _unread(self) -> dict[Hashable, list[int]]:
        """Return, per list, who appended for certain what no read shows."""
        shown = {key: set(order) for key, order in self.orders.items()}
        unread: dict[Hashable, list[int]] = {}
        for transaction in self.known:
            for key, values in transaction.appended.items():
                if any(value not in shown.get(key, ()) for value in values):
                    unread.setdefault(key, []).append(transaction.number)
        return unread

    def _connect(self, graph: Graph, writers: Sequence[int], unread: Sequence[int]) -> None:
        for before, after in pairwise(writers):
            self._add(graph, before, after, Kind.WW)
        for after in unread if writers else ():
            self._add(graph, writers[-1], after, Kind.WW)

    @staticmethod
    def _add(graph: Graph, from_: int, to: int, kind: Kind) -> None:
        if from_ >= 0 and to >= 0:
            graph.add(from_, to, kind)

    def _number(self, key: Hashable, value: Hashable) -> int:
        writer = self._writer.get((key, value))
        return -1 if writer is None else writer.number

    # ---- words ---------------------------------------------------------------------------

    def _because(self, edge: Edge) -> str:
        """Say why one transaction comes after another."""
        before, after = self.known[edge.from_], self.known[edge.to]
        names = f"  T{before.operation.number} → T{after.operation.number} ({_WORDS[edge.kind]})"
        if edge.kind is Kind.TIME:
            return f"{names}: the first ended before the second began"
        return f"{names}: {self._reason(edge, before, after)}"

    def _reason(self, edge: Edge, before: Transaction, after: Transaction) -> str:
        if edge.kind is Kind.WR:
            for read in _reads_of(after):
                if read.values and self._number(read.key, read.values[-1]) == before.number:
                    return f"list {read.key} was read up to {read.values[-1]}, which it appended"
        if edge.kind is Kind.RW:
            for read in _reads_of(before):
                order, size = self.orders[read.key], len(read.values or ())
                values: Sequence[Hashable] = after.appended.get(read.key, ())
                if size < len(order) and order[size] in values:
                    return f"list {read.key} was read without {order[size]}, which was appended"
                if size == len(order) and any(value not in order for value in values):
                    return f"list {read.key} was read without {values[-1]}, which was appended"
        for key, earlier in before.appended.items():
            known = self.orders.get(key, ())
            for value in after.appended.get(key, ()):
                place = known.index(value) if value in known else len(known)
                if place and known[place - 1] in earlier:
                    return f"list {key} holds {known[place - 1]} right before {value}"
        return "by the order of a list"


_WORDS: Final = {
    Kind.WW: "ww",
    Kind.WR: "wr",
    Kind.RW: "rw",
    Kind.TIME: "real time",
}


def _reads_of(transaction: Transaction) -> Iterator[Read]:
    return (step for step in transaction.steps if isinstance(step, Read))
