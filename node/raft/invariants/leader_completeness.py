"""A committed entry is in the log of every later leader.

Checked when a node begins to lead (against the last batch that was committed in an earlier term: log
matching covers the rest), and when something is committed (against the leaders of later terms).
O(1), and a walk back over what is newer.
"""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture, NodePicture
from node.raft.invariants.rule import Rule, name_of
from node.raft.types import BatchMeta, Role

__all__ = ["RULE", "check_commit", "check_leader"]

RULE: Final = Rule(
    "leader completeness",
    "Raft figure 3: a committed entry is in the log of all later leaders;"
    " TLA+ LeaderCompletenessInv",
)


def check_leader(group: GroupPicture, seen: NodePicture, term: int) -> None:
    """Take the news that a node leads in `term`."""
    position = len(group.committed) - 1
    while position >= 0 and group.commit_terms[position] >= term:
        position -= 1
    if position >= 0:
        _must_hold(seen, group.committed[position], term)


def check_commit(group: GroupPicture, batch: BatchMeta, term: int) -> None:
    """Take the news that a node in `term` was the first to commit `batch`."""
    for seen in group.nodes.values():
        if seen.role is Role.LEADER and seen.last_term > term:
            _must_hold(seen, batch, seen.last_term)


def _must_hold(seen: NodePicture, committed: BatchMeta, term: int) -> None:
    if not seen.holds(committed):
        raise RULE.broken(
            f"node {seen.node}, leader of term {term}, lacks committed {name_of(committed)}"
        )
