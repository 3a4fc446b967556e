"""What is committed is on the disks of a majority; whoever leads may be among them, or not yet."""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture
from node.raft.invariants.rule import Rule, name_of
from node.raft.types import BatchMeta, NodeId

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "commit on a quorum",
    "thesis §10.2.1: committed means durable on a majority, whoever leads;"
    " TLA+ CommittedIsDurableInv, QuorumLogInv",
)


def check(group: GroupPicture, node: NodeId, batch: BatchMeta) -> None:
    """Take the news that `node` is the first to commit `batch`. O(nodes × what is newer)."""
    holders = [voter for voter, seen in group.nodes.items() if seen.durable.holds(batch)]
    if len(holders) < group.quorum:
        raise RULE.broken(f"node {node} commits {name_of(batch)}, durable on nodes {holders} only")
