"""Majorities: which index a quorum holds, and who won a vote."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from node.raft.types import NodeId

__all__ = ["Tally", "VoteResult", "quorum_index", "quorum_size"]


def quorum_size(voters: int) -> int:
    """Return the smallest majority of `voters` nodes (1 → 1, 2 → 2, 3 → 2, 4 → 3, 5 → 3)."""
    assert voters > 0
    return voters // 2 + 1


def quorum_index(acknowledged: Iterable[int]) -> int:
    """Return the highest value that a majority has reached, given one value per voter."""
    descending = sorted(acknowledged, reverse=True)
    return descending[quorum_size(len(descending)) - 1]


class VoteResult(Enum):
    """State of one round of voting."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


class Tally:
    """Counts one round of votes; a voter's first answer counts."""

    __slots__ = ("_answers", "_voters")

    def __init__(self, voters: tuple[NodeId, ...]) -> None:
        """Start a round among `voters`."""
        self._voters = voters
        self._answers: dict[NodeId, bool] = {}

    def record(self, voter: NodeId, *, granted: bool) -> VoteResult:
        """Note an answer and return the state of the round."""
        if voter in self._voters:
            self._answers.setdefault(voter, granted)
        return self.result()

    def result(self) -> VoteResult:
        """Return the state of the round."""
        need = quorum_size(len(self._voters))
        yes = sum(self._answers.values())
        no = len(self._answers) - yes
        if yes >= need:
            return VoteResult.WON
        if len(self._voters) - no < need:
            return VoteResult.LOST
        return VoteResult.PENDING

    @property
    def granted(self) -> tuple[NodeId, ...]:
        """Who granted, in the order of the voters."""
        return tuple(voter for voter in self._voters if self._answers.get(voter, False))
