"""Terms never fall. O(1)."""

from __future__ import annotations

from typing import Final

from node.raft.core import Core
from node.raft.invariants.picture import NodePicture
from node.raft.invariants.rule import Rule

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "monotonic term", "Raft figure 2: currentTerm increases monotonically, restarts included"
)


def check(seen: NodePicture, core: Core) -> None:
    """Compare a node's term with the last one that was seen."""
    if core.term < seen.term:
        raise RULE.broken(f"node {seen.node} went from term {seen.term} to {core.term}")
