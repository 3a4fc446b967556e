"""One entry, and one outcome, per index. Checked at each commit and each apply: O(1) per batch."""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture
from node.raft.invariants.rule import Rule, name_of
from node.raft.types import BatchMeta, NodeId

__all__ = ["RULE", "check_applied", "check_commit"]

RULE: Final = Rule(
    "state machine safety", "Raft figure 3: one entry, and one outcome, per applied index"
)


def check_commit(group: GroupPicture, node: NodeId, batch: BatchMeta) -> bool:
    """Take the news that a node commits a batch; tell whether it is the first to do so."""
    known = group.committed_at(batch.base_index)
    if known is not None:
        if (known.term, known.count) != (batch.term, batch.count):
            raise RULE.broken(
                f"node {node} commits {name_of(batch)} where {name_of(known)} was committed"
            )
        return False
    if batch.base_index != group.committed_index + 1:
        raise RULE.broken(f"node {node} commits {name_of(batch)} across the end of another batch")
    return True


def check_applied(group: GroupPicture, node: NodeId, batch: BatchMeta, outcome: object) -> None:
    """Take the news that a node applied a batch; `outcome` is comparable."""
    known = group.committed_at(batch.base_index)
    if known is not None and (known.term, known.count) != (batch.term, batch.count):
        raise RULE.broken(f"node {node} applies {name_of(batch)}, not {name_of(known)}")
    elsewhere = group.outcomes.setdefault(batch.base_index, outcome)
    if elsewhere != outcome:
        raise RULE.broken(
            f"node {node}: {name_of(batch)} came out as {outcome}, elsewhere as {elsewhere}"
        )
