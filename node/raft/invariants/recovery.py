"""A restart finds all that was durable, and a prefix of what was not. O(the log), once per start."""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import NodePicture
from node.raft.invariants.rule import Rule
from node.raft.invariants.stored_log import StoredLog

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "recovery",
    "Raft figure 2: a restart finds all that was durable, and a prefix of what was not",
)


def check(seen: NodePicture, found: StoredLog) -> None:
    """Compare what a node found when it started with what its disk was asked for."""
    state = seen.durable.copy()
    for change in seen.unsynced:
        if state == found:
            break
        state.change(change)
    if state != found:
        raise RULE.broken(f"node {seen.node} found {found}, had {seen.durable}")
