"""Applied, commit and last index stand in this order; commits are batch ends; nothing is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from node.raft.core import Core
from node.raft.invariants.picture import NodePicture
from node.raft.invariants.rule import Rule, name_of
from node.raft.types import BatchMeta, Index

__all__ = ["RULE", "check", "check_applied", "newly_committed"]

RULE: Final = Rule("order of indexes", "Raft figure 2: lastApplied ≤ commitIndex ≤ last index")


def check(core: Core, applied: Index) -> None:
    """Compare the three indexes of a node."""
    if not applied <= core.commit <= core.log.last_index:
        raise RULE.broken(
            f"node {core.config.node}: applied {applied}, commit {core.commit},"
            f" last {core.log.last_index}"
        )


def check_applied(seen: NodePicture, batch: BatchMeta) -> None:
    """Take the news that a node applied a batch: the next one."""
    if batch.base_index != seen.applied + 1:
        raise RULE.broken(f"node {seen.node} applies {name_of(batch)} after {seen.applied}")


def newly_committed(seen: NodePicture, core: Core) -> Iterator[BatchMeta]:
    """Yield the batches between the commit index last seen and the one of now: whole ones."""
    index = seen.commit
    while index < core.commit:
        batch = core.log.batch_of(Index(index + 1))
        if batch is None or batch.base_index != index + 1 or batch.last_index > core.commit:
            raise RULE.broken(
                f"node {seen.node}: commit {core.commit} is not the end of a batch in its log"
            )
        yield batch
        index = batch.last_index
