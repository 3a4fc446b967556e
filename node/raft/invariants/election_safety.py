"""At most one leader per term. Checked when a node is seen to lead: O(1)."""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture
from node.raft.invariants.rule import Rule
from node.raft.types import NodeId

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "election safety", "Raft figure 3: at most one leader per term; TLA+ ElectionSafetyInv"
)


def check(group: GroupPicture, node: NodeId, term: int) -> None:
    """Take the news that `node` leads in `term`."""
    other = group.leaders.setdefault(term, node)
    if other != node:
        raise RULE.broken(f"nodes {other} and {node} lead in term {term}")
