"""What `status --wait` waits for: `leader=1,healthy=5` → a condition on frames. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame, ProcessState

__all__ = ["QUANTITIES", "Conditions", "parse_conditions"]

_TERM = re.compile(r"([a-z]+)(>=|=)([0-9]{1,3}|all)")


def _in_state(*states: ProcessState) -> Callable[[ClusterFrame], int]:
    return lambda frame: sum(part.process.state in states for part in frame.nodes)


def _leaders(frame: ClusterFrame) -> int:
    return sum(frame.leader(group) is not None for group in range(frame.groups))


QUANTITIES: Final[Mapping[str, tuple[str, Callable[[ClusterFrame], int]]]] = {
    "leader": ("groups that have a leader (one group: 0 or 1)", _leaders),
    "healthy": ("nodes that run, answer and know the leader", lambda frame: len(frame.healthy())),
    "caughtup": (
        "healthy nodes that have applied all that is committed",
        lambda frame: len(frame.caught_up()),
    ),
    "up": ("nodes that run", _in_state(ProcessState.RUNNING)),
    "frozen": ("nodes that are paused", _in_state(ProcessState.FROZEN)),
    "down": (
        "nodes that are killed, stopped or crashed",
        _in_state(ProcessState.KILLED, ProcessState.STOPPED, ProcessState.CRASHED),
    ),
}


@dataclass(frozen=True, slots=True)
class _Condition:
    name: str
    relation: str
    wanted: int | None
    """None: as many as there are (groups for `leader`, else nodes)."""

    def count(self, frame: ClusterFrame) -> tuple[int, int]:
        """Return how many there are, and how many are wanted."""
        total = frame.groups if self.name == "leader" else len(frame.nodes)
        wanted = total if self.wanted is None else self.wanted
        return QUANTITIES[self.name][1](frame), wanted

    def holds(self, frame: ClusterFrame) -> bool:
        have, wanted = self.count(frame)
        return have >= wanted if self.relation == ">=" else have == wanted


@dataclass(frozen=True, slots=True)
class Conditions:
    """All of them must hold in one frame."""

    terms: tuple[_Condition, ...]

    def __call__(self, frame: ClusterFrame) -> bool:
        """Say whether a frame meets every condition."""
        return all(term.holds(frame) for term in self.terms)

    def missing(self, frame: ClusterFrame) -> str:
        """Say what does not hold, for a person."""
        parts = []
        for term in self.terms:
            have, wanted = term.count(frame)
            if not term.holds(frame):
                parts.append(f"{term.name} is {have}, wanted {term.relation}{wanted}")
        return "; ".join(parts)


def parse_conditions(text: str) -> Conditions:
    """Parse `NAME=N` or `NAME>=N`, comma-separated; N may be `all`. Usage error otherwise."""
    terms = []
    for part in text.split(","):
        match = _TERM.fullmatch(part.strip())
        if not match or match[1] not in QUANTITIES:
            names = ", ".join(QUANTITIES)
            raise CommandError(
                Exit.USAGE,
                f"--wait {part!r}: write NAME=N or NAME>=N, where NAME is one of {names}"
                " and N a number or 'all'",
            )
        terms.append(_Condition(match[1], match[2], None if match[3] == "all" else int(match[3])))
    return Conditions(tuple(terms))
