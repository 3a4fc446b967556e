"""A node votes for one candidate per term: in its memory, and in what it tells others. O(1)."""

from __future__ import annotations

from typing import Final

from node.raft.core import Core
from node.raft.invariants.picture import GroupPicture, NodePicture
from node.raft.invariants.rule import Rule
from node.raft.types import NO_NODE, NodeId

__all__ = ["RULE", "check", "check_sent"]

RULE: Final = Rule(
    "one vote per term", "Raft figure 2: votedFor changes once per term, restarts included"
)


def check(seen: NodePicture, core: Core) -> None:
    """Compare a node's vote with the last one that was seen."""
    if core.term == seen.term and seen.vote not in (core.vote, NO_NODE):
        raise RULE.broken(
            f"node {seen.node} changed its vote in term {core.term} from {seen.vote} to {core.vote}"
        )


def check_sent(group: GroupPicture, voter: NodeId, term: int, candidate: NodeId) -> None:
    """Take the news that a voter tells of its vote."""
    told = group.votes.setdefault((voter, term), candidate)
    if told != candidate:
        raise RULE.broken(
            f"node {voter} votes for {candidate} in term {term}, and had voted for {told}"
        )
