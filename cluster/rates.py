"""Rates of a node, from what it said over the last second or so."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from cluster.frames import NodeRates
from node.metrics import NodeSnapshot

__all__ = ["HISTORY_MAX", "Seen", "rates_of", "remember"]

RATE_WINDOW_S: Final = 1.0
GAP_S: Final = 0.05
"""Snapshots closer than this to the one before do not both stay: an operation polls every 5 ms."""
HISTORY_MAX: Final = 32
"""Snapshots kept per node for rates: 1 s at 10 Hz, with room for forced polls."""


class Seen(NamedTuple):
    """A snapshot and when it arrived (monotonic seconds)."""

    at_s: float
    snapshot: NodeSnapshot


def remember(history: deque[Seen], seen: Seen) -> None:
    """Keep a snapshot; of those that were asked for in between, the newest only.

    An operation polls every few ms: kept all, they would push the window's start out of the history,
    and no rate would be known while it lasts.
    """
    if len(history) > 1 and history[-1].at_s - history[-2].at_s < GAP_S:
        history.pop()
    history.append(seen)


def rates_of(history: deque[Seen]) -> NodeRates | None:
    """Return rates between the newest snapshot and the newest one a window older; None if none is.

    A window shorter than half of the wanted one is not used: counts over 10 ms are noise.
    """
    newest = history[-1]
    older = [seen for seen in history if seen.at_s <= newest.at_s - RATE_WINDOW_S / 2]
    if not older:
        return None
    wanted = newest.at_s - RATE_WINDOW_S
    start = min(older, key=lambda seen: abs(seen.at_s - wanted))
    elapsed = newest.at_s - start.at_s
    new, old = newest.snapshot, start.snapshot
    fsyncs = new.wal.fsyncs - old.wal.fsyncs
    entries = new.wal.entries - old.wal.entries
    return NodeRates(
        fsyncs_per_s=_eighths(fsyncs / elapsed),
        entries_per_fsync=_eighths(entries / fsyncs) if fsyncs else None,
        wal_bytes_per_s=_eighths((new.wal.bytes_written - old.wal.bytes_written) / elapsed),
        applied_per_s=_eighths((_applied(new) - _applied(old)) / elapsed),
        acks_per_s=_eighths((new.traffic.acks - old.traffic.acks) / elapsed),
        received_bytes_per_s=_eighths((_received(new) - _received(old)) / elapsed),
        sent_bytes_per_s=_eighths((_sent(new) - _sent(old)) / elapsed),
    )


def _eighths(value: float) -> float:
    """Round to 1/8: the digits behind are noise, and take 6 bytes of 8 in every recorded frame."""
    return round(value * 8) / 8


def _received(snapshot: NodeSnapshot) -> int:
    return sum(lane.bytes_in for lane in snapshot.traffic.lanes)


def _sent(snapshot: NodeSnapshot) -> int:
    return sum(lane.bytes_out for lane in snapshot.traffic.lanes)


def _applied(snapshot: NodeSnapshot) -> int:
    return sum(group.applied for group in snapshot.groups)
