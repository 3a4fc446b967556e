"""Exactly once: what a session was told of its operations, against what they did.

An operation is named by (session, sequence number), however often it was sent. Acknowledged as
having had an effect: exactly one effect. Refused for certain: none. Unknown: one at most. An effect
that nobody asked for is worse than all of these. O(n).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cluster.check.history import Status
from cluster.check.verdict import Finding, Verdict

__all__ = ["NAME", "Attempt", "Effect", "check_exactly_once"]

NAME: Final = "exactly-once"
_SHOWN_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Attempt:
    """An operation that should change something, and what its caller was told."""

    session: int
    seq: int
    status: Status


@dataclass(frozen=True, slots=True)
class Effect:
    """One change that a state machine made for an operation, at a position of its log."""

    session: int
    seq: int
    position: int


def check_exactly_once(attempts: Iterable[Attempt], effects: Iterable[Effect]) -> Finding:
    """Compare what was told with what happened (on one replica, or in the committed log)."""
    happened = Counter((effect.session, effect.seq) for effect in effects)
    told = {(attempt.session, attempt.seq): attempt.status for attempt in attempts}
    kinds: Counter[str] = Counter()
    lines: list[str] = []
    for name, status in told.items():
        count = happened.get(name, 0)
        wrong = _wrong(status, count)
        if wrong:
            kinds[wrong] += 1
            lines.append(f"{wrong}: session {name[0]}, operation {name[1]}: {count} effects")
    for name in happened.keys() - told.keys():
        kinds["unasked"] += 1
        lines.append(f"unasked: session {name[0]}, operation {name[1]}")
    facts = {"operations": len(told), "effects": happened.total(), "wrong": dict(kinds)}
    if lines:
        return Finding(NAME, Verdict.FAIL, lines[0], sorted(lines)[:_SHOWN_MAX], facts)
    if not told:
        return Finding(NAME, Verdict.UNKNOWN, "nobody asked for anything", [], facts)
    reason = f"{len(told)} operations had {happened.total()} effects"
    return Finding(NAME, Verdict.PASS, reason, [], facts)


def _wrong(status: Status, count: int) -> str:
    """Name what is wrong with an operation that had `count` effects; empty if nothing is."""
    if count > 1:
        return "duplicated"
    if status is Status.OK and not count:
        return "lost"
    if status is Status.FAIL and count:
        return "refused and applied"
    return ""
