"""Commit indexes never fall while a node runs. O(1)."""

from __future__ import annotations

from typing import Final

from node.raft.core import Core
from node.raft.invariants.picture import NodePicture
from node.raft.invariants.rule import Rule

__all__ = ["RULE", "check"]

RULE: Final = Rule("monotonic commit", "Raft figure 2: commitIndex increases monotonically")


def check(seen: NodePicture, core: Core) -> None:
    """Compare a node's commit index with the last one that was seen."""
    if core.commit < seen.commit:
        raise RULE.broken(f"node {seen.node} went from {seen.commit} to {core.commit}")
