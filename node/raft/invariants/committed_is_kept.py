"""No replica loses what was committed: not in memory, not on its disk, not over a restart."""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture
from node.raft.invariants.rule import Rule, name_of
from node.raft.types import BatchMeta, NodeId

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "committed is kept",
    "Raft figure 3 (leader completeness): no replica removes it from its log",
)


def check(group: GroupPicture, node: NodeId, cut: BatchMeta) -> None:
    """Take the news that a batch is gone from a node's log. O(1)."""
    known = group.committed_at(cut.base_index)
    if known is not None and known.term == cut.term:
        raise RULE.broken(f"node {node} loses {name_of(cut)}")
