"""Rates from what is remembered of each node's answers."""

from __future__ import annotations

from collections import deque

import pytest

from cluster.rates import HISTORY_MAX, Seen, rates_of, remember
from node.metrics import NodeSnapshot, WalSnapshot


def seen_at(at_s: float) -> Seen:
    """An answer of a node that syncs 100 times a second."""
    wal = WalSnapshot(fsyncs=round(at_s * 100), entries=round(at_s * 1_000))
    return Seen(at_s, NodeSnapshot(1, 1, 4711, 0, wal=wal))


@pytest.mark.parametrize("interval_s", [0.002, 0.005, 0.025, 0.1])
def test_rates_are_known_however_often_a_node_is_asked(interval_s: float) -> None:
    """A verb at work polls every few ms; rates once vanished from the screen while it did."""
    history: deque[Seen] = deque(maxlen=HISTORY_MAX)
    for step in range(round(3 / interval_s) + 1):
        remember(history, seen_at(step * interval_s))
        if step * interval_s >= 1.5:
            rates = rates_of(history)
            assert rates is not None
            assert rates.fsyncs_per_s == pytest.approx(100, rel=0.05)


def test_the_newest_answer_is_always_kept() -> None:
    history: deque[Seen] = deque(maxlen=HISTORY_MAX)
    for step in range(50):
        seen = seen_at(step * 0.005)
        remember(history, seen)
        assert history[-1] is seen
