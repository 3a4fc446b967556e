"""Who leads which group, since when nobody did, and how long that lasted. Pure; times in seconds.

A leader is *lost* when the supervisor sees that its process ended or stands still: to the
millisecond, as far as a pidfd tells. Who leads next says itself since when (`led_at_ns`), so that
the gap is exact though nodes are asked ten times a second, or once. A leader that gave way
while its process lives (it was cut off, or handed over) was lost at a time that nobody saw: then no
duration is invented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.metrics import GroupSnapshot, NodeSnapshot

__all__ = ["Takeover", "Vacancies"]

GROUPS_WATCHED: Final = 16
"""Elections of more groups than these would push everything else out of the event list."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """A new leader of a group, and what is known of the time before it."""

    group: int
    term: int
    node: int
    effect: str


@dataclass(slots=True)
class _Lead:
    """The newest leader known of a group; `lost_s`: since when it leads no more, if that was seen."""

    term: int
    node: int
    lost_s: float | None = None


class Vacancies:
    """The leads of the first `GROUPS_WATCHED` groups."""

    def __init__(self) -> None:
        self._leads: dict[int, _Lead] = {}

    def lost(self, node: int, at_s: float) -> int:
        """Note that a node ended or froze; return how many of the groups have lost their leader."""
        led = [lead for lead in self._leads.values() if lead.node == node and lead.lost_s is None]
        for lead in led:
            lead.lost_s = at_s
        return len(led)

    def seen(self, snapshot: NodeSnapshot, at_s: float) -> list[Takeover]:
        """Take in what a running node said; return the leads that it has taken since."""
        found = []
        for group in snapshot.groups[:GROUPS_WATCHED]:
            if group.role != "leader":
                continue
            known = self._leads.get(group.group)
            if known is not None and (known.term, known.node) == (group.term, snapshot.node):
                known.lost_s = None  # it was frozen, and leads on
            elif known is None or group.term > known.term:
                self._leads[group.group] = _Lead(group.term, snapshot.node)
                led_ns = snapshot.uptime_ns - group.led_at_ns if group.led_at_ns >= 0 else None
                effect = _effect(known, group, at_s, led_ns)
                found.append(Takeover(group.group, group.term, snapshot.node, effect))
        return found


def _effect(before: _Lead | None, group: GroupSnapshot, at_s: float, led_ns: int | None) -> str:
    """Say what is known of the time before a lead that was seen at `at_s`, `led_ns` after it began."""
    if before is None:
        return ""
    if before.lost_s is None:
        return f"after n{before.node} in term {before.term}"
    took_s = at_s - (led_ns or 0) / 1e9
    gap_ms = max(0.0, took_s - before.lost_s) * 1000
    words = f"{'at most ' if led_ns is None else ''}{gap_ms:.0f} ms leaderless"
    if _commits(group):
        words += f" · commits again within {max(0.0, at_s - before.lost_s) * 1000:.0f} ms"
    return words


def _commits(group: GroupSnapshot) -> bool:
    """Tell whether a leader has committed an entry of its own term."""
    return len(group.log) >= 2 and group.log[-1] == group.term and group.commit >= group.log[-2]
