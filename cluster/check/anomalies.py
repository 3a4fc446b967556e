"""Cycles of dependencies, each under the name of the weakest promise that it breaks.

Adya, "Weak consistency" (1999), §4: G0 (write cycles), G1c (circular information flow), G-single (one
anti-dependency), G2 (several). A cycle that is closed only by real time has the suffix `-realtime`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cluster.check.cycles import Edge, Graph, Kind

__all__ = ["FORBIDDEN", "Consistency", "Cycle", "find_cycles"]

_CYCLES_MAX: Final = 3
"""Cycles told per kind; one is enough to fail."""
_EDGES_TRIED_MAX: Final = 1_000
"""Edges of one part from which a way back is searched, each in linear time."""


class Consistency(Enum):
    """What a history is held to."""

    READ_COMMITTED = "read-committed"
    SERIALIZABLE = "serializable"
    STRICT = "strict-serializable"


@dataclass(frozen=True, slots=True)
class CycleClass:
    """A kind of cycle: it has an edge of one kind, and a way back by others."""

    name: str
    edge: Kind
    back: Kind


@dataclass(frozen=True, slots=True)
class Cycle:
    """A cycle: each edge ends where the next begins, the last where the first does."""

    name: str
    edges: tuple[Edge, ...]


_COMMITTED: Final = (
    CycleClass("G0", Kind.WW, Kind.WW),
    CycleClass("G1c", Kind.WR, Kind.WW | Kind.WR),
)
_SERIAL: Final = (
    *_COMMITTED,
    CycleClass("G-single", Kind.RW, Kind.WW | Kind.WR),
    CycleClass("G2", Kind.RW, Kind.WW | Kind.WR | Kind.RW),
)
_TIMED: Final = tuple(
    CycleClass(f"{known.name}-realtime", known.edge, known.back | Kind.TIME) for known in _SERIAL
)
FORBIDDEN: Final[Mapping[Consistency, tuple[CycleClass, ...]]] = {
    Consistency.READ_COMMITTED: _COMMITTED,
    Consistency.SERIALIZABLE: _SERIAL,
    Consistency.STRICT: _SERIAL + _TIMED,
}
"""What each consistency forbids, the worst first."""


def find_cycles(graph: Graph, forbidden: Sequence[CycleClass]) -> list[Cycle]:
    """Return short cycles of the forbidden kinds: per tangle, of the worst kind that it holds.

    None are returned only if there is none: O(nodes + edges) then.
    """
    kinds = Kind(0)
    for known in forbidden:
        kinds |= known.edge | known.back
    found: list[Cycle] = []
    for part in graph.components(kinds):
        found += _classify(graph, part, forbidden)
        if len(found) >= _CYCLES_MAX * len(forbidden):
            break
    return found


def _classify(graph: Graph, part: list[int], forbidden: Sequence[CycleClass]) -> list[Cycle]:
    """Find the worst kind of cycle in one part."""
    within = set(part)
    for known in forbidden:
        cycles = []
        for edge in _some(graph.edges(known.edge, within)):
            back = graph.path(edge.to, edge.from_, known.back, within)
            if back is not None:
                cycles.append(Cycle(known.name, (edge, *back)))
        if cycles:
            return _distinct(cycles)
    edges = [edge for kind in Kind for edge in graph.edges(kind, within)]
    return [Cycle("cycle", tuple(edges[:_CYCLES_MAX]))]


def _some(edges: Iterator[Edge]) -> Iterator[Edge]:
    return (edge for _, edge in zip(range(_EDGES_TRIED_MAX), edges, strict=False))


def _distinct(cycles: list[Cycle]) -> list[Cycle]:
    """Return the shortest cycles, each set of transactions once."""
    found: dict[frozenset[int], Cycle] = {}
    for cycle in sorted(cycles, key=lambda cycle: len(cycle.edges)):
        found.setdefault(frozenset(edge.from_ for edge in cycle.edges), cycle)
    return list(found.values())[:_CYCLES_MAX]
