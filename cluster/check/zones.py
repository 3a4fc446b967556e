"""A register whose written values never repeat: linearizable or not, decided in O(n log n).

Gibbons and Korach, "Testing shared memories" (1997), §4: a value's write and the reads that saw it
form a cluster. With f the first completion and s the last invocation in it, the cluster occupies a
zone: forward from f to s if f < s (the value must have been there all that time), else backward from
s to f (it was there at some moment in between). The history is linearizable if and only if no read
ended before its write began, no two forward zones overlap, and no backward zone lies within a
forward one. The first value, nil, was written before everything.

A write of unknown outcome that nobody saw might as well not have happened; one that was seen is a
write that never completed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter

from cluster.check.history import NEVER, Operation, Status

__all__ = ["Clash", "applies", "check_zones"]


@dataclass(frozen=True, slots=True)
class Clash:
    """Why no order exists, and the operations that show it."""

    reason: str
    operations: tuple[Operation, ...]


@dataclass(slots=True)
class _Cluster:
    """A value: who wrote it and who saw it."""

    value: Hashable
    write: Operation | None = None
    reads: list[Operation] = field(default_factory=list)
    first_ret: int = NEVER
    last_call: int = -1
    first: Operation | None = None
    """Who completed first."""
    last: Operation | None = None
    """Who was invoked last."""

    def add(self, operation: Operation) -> None:
        """Stretch the zone over one more operation."""
        if operation.ret < self.first_ret:
            self.first_ret, self.first = operation.ret, operation
        if operation.call > self.last_call:
            self.last_call, self.last = operation.call, operation

    @property
    def ends(self) -> tuple[Operation, ...]:
        """The operations that make the zone."""
        return tuple(op for op in (self.first, self.last) if op is not None)

    def __str__(self) -> str:
        """Return what the zone says."""
        value = "nil" if self.value is None else repr(self.value)
        since = "from the start on" if self.first is None else f"since {self.first}"
        return f"{value} was there {since}, and still is for {self.last}"


def applies(operations: Sequence[Operation]) -> bool:
    """Tell whether these are reads and writes only, and no value is written twice (nor nil)."""
    written: set[Hashable] = {None}
    for op in operations:
        if op.f == "write":
            if op.status is Status.FAIL:
                continue
            if op.argument in written:
                return False
            written.add(op.argument)
        elif op.f != "read":
            return False
    return True


def check_zones(operations: Sequence[Operation]) -> Clash | None:
    """Judge a register to which `applies` holds; None: it is linearizable."""
    clusters: dict[Hashable, _Cluster] = {None: _Cluster(None, first_ret=-1)}
    for op in operations:
        if op.f == "write" and op.status is not Status.FAIL:
            clusters[op.argument] = _Cluster(op.argument, op)
    for op in operations:
        if op.f == "read" and op.status is Status.OK:
            cluster = clusters.get(op.result)
            if cluster is None:
                return Clash(f"{op} saw a value that nobody wrote", (op,))
            if cluster.write is not None and op.ret < cluster.write.call:
                return Clash(f"{op} ended before {cluster.write} began", (op, cluster.write))
            cluster.reads.append(op)
            cluster.add(op)
    used = []
    for cluster in clusters.values():
        if cluster.write is not None and (cluster.reads or cluster.write.status is Status.OK):
            cluster.add(cluster.write)
            used.append(cluster)
        elif cluster.write is None and cluster.reads:
            used.append(cluster)
    return _overlap(used)


def _overlap(clusters: list[_Cluster]) -> Clash | None:
    forward = [c for c in clusters if c.first_ret < c.last_call]
    backward = [c for c in clusters if c.first_ret > c.last_call]
    forward.sort(key=attrgetter("first_ret"))
    backward.sort(key=attrgetter("last_call"))
    for before, after in pairwise(forward):
        if after.first_ret < before.last_call:
            return Clash(f"{before}; but {after}", before.ends + after.ends)
    place = 0
    for cluster in backward:
        while place < len(forward) and forward[place].last_call < cluster.last_call:
            place += 1
        if place == len(forward):
            break
        around = forward[place]
        if around.first_ret < cluster.last_call and cluster.first_ret < around.last_call:
            return Clash(f"{around}; but meanwhile: {cluster.first}", around.ends + cluster.ends)
    return None
