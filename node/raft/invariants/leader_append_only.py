"""A leader only appends. Checked when the end of a node's log has changed: O(what was cut)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from node.raft.invariants.picture import NodePicture
from node.raft.invariants.rule import Rule, name_of
from node.raft.types import BatchMeta, Role

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "leader append-only", "Raft figure 3: a leader never removes or overwrites its own entries"
)


def check(seen: NodePicture, term: int, cut: Sequence[BatchMeta]) -> None:
    """Take the news that `cut` is gone from the log of a node that is in `term` now."""
    if cut and seen.role is Role.LEADER and seen.last_term == term:
        raise RULE.broken(f"node {seen.node}, term {term}, removed {name_of(cut[0])}")
