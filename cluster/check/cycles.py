"""Dependencies between transactions, and the shortest cycles among chosen kinds of them.

Nodes are numbers. Real time would need an edge for each pair that does not overlap; instead time is
a chain of *moments* (nodes of their own): who has ended points at a moment, a moment at the next,
and at who begins behind it. O(n) edges mean the same, and moments vanish when a cycle is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from itertools import pairwise
from typing import Final

__all__ = ["Edge", "Graph", "Kind", "components"]


class Kind(IntFlag):
    """How one transaction depends on another (Adya 1999)."""

    WW = 1
    """It overwrote what the other wrote."""
    WR = 2
    """It read what the other wrote."""
    RW = 4
    """It overwrote what the other read (an anti-dependency)."""
    TIME = 8
    """It began after the other had ended."""


@dataclass(frozen=True, slots=True)
class Edge:
    """`to` comes after `from_`, by this kind of dependency."""

    from_: int
    to: int
    kind: Kind


class Graph:
    """Edges by kind between nodes 0 … `nodes` - 1, and moments behind these."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._size = nodes
        self._next: dict[Kind, list[set[int]]] = {
            kind: [set() for _ in range(nodes)] for kind in Kind
        }

    def add(self, from_: int, to: int, kind: Kind) -> None:
        """Add a dependency; one on itself is none."""
        if from_ != to:
            self._next[kind][from_].add(to)

    def add_time(self, spans: Sequence[tuple[int, int | None]]) -> None:
        """Add real time: per node, when it began and when it ended (None: never)."""
        began = [(call, 1, node) for node, (call, _) in enumerate(spans)]
        ended = [(ret, 0, node) for node, (_, ret) in enumerate(spans) if ret is not None]
        moment: int | None = None
        fresh = False
        for _, begins, node in sorted(began + ended):
            if not begins:
                if not fresh:
                    moment, fresh = self._add_moment(moment), True
                assert moment is not None
                self._next[Kind.TIME][node].add(moment)
            elif moment is not None:
                self._next[Kind.TIME][moment].add(node)
                fresh = False

    def _add_moment(self, before: int | None) -> int:
        moment = self._size
        self._size += 1
        for following in self._next.values():
            following.append(set())
        if before is not None:
            self._next[Kind.TIME][before].add(moment)
        return moment

    def following(self, node: int, kinds: Kind) -> Iterator[int]:
        """Yield what comes after a node by the given kinds."""
        for kind, following in self._next.items():
            if kind & kinds:
                yield from following[node]

    def edges(self, kind: Kind, within: Iterable[int]) -> Iterator[Edge]:
        """Yield the edges of one kind among some nodes, in order."""
        inside = set(within)
        for node in sorted(inside):
            for to in sorted(self._next[kind][node] & inside):
                yield Edge(node, to, kind)

    def path(self, from_: int, to: int, kinds: Kind, within: set[int]) -> list[Edge] | None:
        """Return a shortest path, moments taken out; None if there is none."""
        came: dict[int, int] = {from_: from_}
        queue = deque([from_])
        while queue and to not in came:
            node = queue.popleft()
            for following in sorted(self.following(node, kinds)):
                if following in within and following not in came:
                    came[following] = node
                    queue.append(following)
        if to not in came:
            return None
        nodes = [to]
        while nodes[-1] != from_:
            nodes.append(came[nodes[-1]])
        nodes = [node for node in reversed(nodes) if node < self.nodes]
        return [self._edge(a, b, kinds) for a, b in pairwise(nodes)]

    def _edge(self, from_: int, to: int, kinds: Kind) -> Edge:
        """Name the strongest direct dependency; if there is none, time passed between them."""
        for kind in (Kind.WW, Kind.WR, Kind.RW):
            if kind & kinds and to in self._next[kind][from_]:
                return Edge(from_, to, kind)
        return Edge(from_, to, Kind.TIME)

    def components(self, kinds: Kind) -> list[list[int]]:
        """Return the strongly connected parts with more than one node."""
        return components(self._size, lambda node: self.following(node, kinds))


_UNSEEN: Final = -1


def components(size: int, following: Callable[[int], Iterator[int]]) -> list[list[int]]:
    """Return the strongly connected parts of more than one node (Tarjan 1972, without recursion)."""
    order = [_UNSEEN] * size
    lowest = [0] * size
    on_stack = [False] * size
    stack: list[int] = []
    found: list[list[int]] = []
    count = 0
    for root in range(size):
        if order[root] != _UNSEEN:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, following(root))]
        order[root] = lowest[root] = count
        count += 1
        stack.append(root)
        on_stack[root] = True
        while work:
            node, rest = work[-1]
            for to in rest:
                if order[to] == _UNSEEN:
                    order[to] = lowest[to] = count
                    count += 1
                    stack.append(to)
                    on_stack[to] = True
                    work.append((to, following(to)))
                    break
                if on_stack[to]:
                    lowest[node] = min(lowest[node], order[to])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    part = _pop(stack, node)
                    for member in part:
                        on_stack[member] = False
                    if len(part) > 1:
                        found.append(sorted(part))
    return found


def _pop(stack: list[int], node: int) -> list[int]:
    """Take everything off a stack down to a node."""
    part = []
    while True:
        part.append(stack.pop())
        if part[-1] == node:
            return part
