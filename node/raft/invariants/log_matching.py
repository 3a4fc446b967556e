"""Same index and term, same entry and same prefix. Checked for what was appended: O(1) per batch.

A batch is identified by (term, base index). If each identity has one length and one predecessor
everywhere, equal identities mean equal prefixes, by induction (Raft §5.3).
"""

from __future__ import annotations

from typing import Final

from node.raft.invariants.picture import GroupPicture, NodePicture
from node.raft.invariants.rule import Rule, name_of

__all__ = ["RULE", "check"]

RULE: Final = Rule(
    "log matching", "Raft figure 3: same index and term, same entry and prefix; TLA+ LogMatchingInv"
)


def check(group: GroupPicture, seen: NodePicture, position: int) -> None:
    """Compare each batch of a node's log from `position` on with what its identity means elsewhere."""
    log = seen.log
    before = log[position - 1] if position else None
    if before is None and seen.start:
        position, before = 1, log[0] if log else None  # its predecessor is compacted away
    for batch in log[position:]:
        name = (batch.term, batch.base_index)
        here = (batch.count, before.term, before.base_index) if before else (batch.count, 0, 0)
        known = group.previous.setdefault(name, here)
        if known != here:
            raise RULE.broken(
                f"node {seen.node} has {name_of(batch)} as (count, previous) {here},"
                f" another has {known}"
            )
        before = batch
