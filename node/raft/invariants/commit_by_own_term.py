"""A leader counts replicas only for entries of its own term; older ones are committed with them."""

from __future__ import annotations

from typing import Final

from node.raft.core import Core
from node.raft.invariants.rule import Rule, name_of
from node.raft.types import BatchMeta, Role

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "commit by own term", "Raft §5.4.2: only entries of the leader's term commit by counting"
)


def check(core: Core, batch: BatchMeta) -> None:
    """Take the news that a node is the first to commit `batch`."""
    is_last = batch.last_index == core.commit
    if is_last and core.role is Role.LEADER and batch.term != core.term:
        raise RULE.broken(
            f"node {core.config.node}, leader of term {core.term}, commits {name_of(batch)}"
            " by counting"
        )
