"""Replica equality: the same state at the same position, on every replica.

Deterministic state machines that applied the same log up to the same position are equal (Raft figure
3, state machine safety). Replicas at different positions cannot be compared: unknown.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "Replica", "check_replicas"]

NAME: Final = "replica equality"
_SHOWN_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica holds: its name, how far it has applied, and its items (versions included)."""

    name: str
    position: int
    items: Mapping[Hashable, Hashable]


def check_replicas(replicas: Sequence[Replica]) -> Finding:
    """Compare each replica with the first of those at the same position. O(items)."""
    by_position: dict[int, list[Replica]] = {}
    for replica in replicas:
        by_position.setdefault(replica.position, []).append(replica)
    lines: list[str] = []
    differing = set()
    for same in by_position.values():
        first = same[0]
        for other in same[1:]:
            found = _differences(first, other)
            if found:
                differing.add(other.name)
                lines += found
    positions = {replica.name: replica.position for replica in replicas}
    facts = {"positions": positions, "differing": sorted(differing)}
    if lines:
        return Finding(NAME, Verdict.FAIL, lines[0], lines[:_SHOWN_MAX], facts)
    if len(by_position) != 1 or len(replicas) < 2:
        reason = f"they stand at different positions: {positions}"
        if len(replicas) < 2:
            reason = "there is nothing to compare with"
        return Finding(NAME, Verdict.UNKNOWN, reason, [], facts)
    reason = f"{len(replicas)} replicas are equal at position {replicas[0].position}"
    return Finding(NAME, Verdict.PASS, reason, [], facts)


def _differences(one: Replica, two: Replica) -> list[str]:
    """Name the keys on which two replicas differ, a few of them."""
    if one.items == two.items:
        return []
    found = []
    for key in sorted({*one.items, *two.items}, key=repr):
        left, right = one.items.get(key, "absent"), two.items.get(key, "absent")
        if left != right:
            found.append(f"{key!r} at {one.position}: {one.name} {left!r}, {two.name} {right!r}")
        if len(found) == _SHOWN_MAX:
            break
    return found
