"""Whoever acknowledges entries has them on the disk, and they are its leader's. O(what is newer)."""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture
from node.raft.invariants.rule import Rule, name_of
from node.raft.messages import AppendReply
from node.raft.types import Role

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "ack is durable", "Raft §5.3, thesis §10.2.1: an ack names entries that are on the disk"
)


def check(group: GroupPicture, message: AppendReply) -> None:
    """Compare a successful reply with the sender's disk, and with its leader's log."""
    durable = group.nodes[message.sender].durable
    if message.index <= durable.start.index:  # nothing, or in a durable snapshot
        return
    batch = durable.ending_at(message.index)
    if batch is None:
        raise RULE.broken(
            f"node {message.sender} acks {message.index}, its disk ends elsewhere: {durable}"
        )
    leader = group.nodes[message.to]
    if leader.role is not Role.LEADER or leader.last_term != message.term:
        return
    for meta in reversed(leader.log):
        if meta.base_index <= batch.base_index:
            if (meta.term, meta.base_index) != (batch.term, batch.base_index):
                raise RULE.broken(
                    f"node {message.sender} acks {name_of(batch)}, its leader has {name_of(meta)}"
                )
            return
