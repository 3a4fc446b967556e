"""Whoever names a term, or votes, has it on the disk. Checked as each message leaves: O(1).

PreVotes and beats promise nothing: a term named there need not be durable.
"""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture
from node.raft.invariants.rule import Rule
from node.raft.messages import Message
from node.raft.types import NodeId

__all__ = ["RULE", "check_term", "check_vote"]

RULE: Final = Rule(
    "promise is durable", "Raft figure 2: persistent state is on stable storage before any reply"
)


def check_term(group: GroupPicture, message: Message) -> None:
    """Compare the term that a message names with the sender's disk."""
    state = group.nodes[message.sender].durable.hard_state
    if state.term < message.term:
        raise RULE.broken(
            f"node {message.sender} sends {type(message).__name__} of term {message.term};"
            f" its disk says {state.term}"
        )


def check_vote(group: GroupPicture, voter: NodeId, term: int, candidate: NodeId) -> None:
    """Compare a vote that is told with the voter's disk."""
    stored = group.durable_votes.get((voter, term))
    # A vote may reach the disk only as a later term, in which no vote of this one is left.
    outlived = group.nodes[voter].durable.hard_state.term > term and not stored
    if stored != candidate and not outlived:
        raise RULE.broken(
            f"node {voter} votes for {candidate} in term {term}; its disk says {stored}"
        )
