"""What the observer remembers of each node's answers."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest

from cluster.events import EventLog
from cluster.observer import HISTORY_MAX, Observer, _rates, _remember, _Seen
from node.metrics import NodeSnapshot, WalSnapshot


def seen_at(at_s: float) -> _Seen:
    """An answer of a node that syncs 100 times a second."""
    wal = WalSnapshot(fsyncs=round(at_s * 100), entries=round(at_s * 1_000))
    return _Seen(at_s, NodeSnapshot(1, 1, 4711, 0, wal=wal))


@pytest.mark.parametrize("interval_s", [0.002, 0.005, 0.025, 0.1])
def test_rates_are_known_however_often_a_node_is_asked(interval_s: float) -> None:
    """A verb at work polls every few ms; rates once vanished from the screen while it did."""
    history: deque[_Seen] = deque(maxlen=HISTORY_MAX)
    for step in range(round(3 / interval_s) + 1):
        _remember(history, seen_at(step * interval_s))
        if step * interval_s >= 1.5:
            rates = _rates(history)
            assert rates is not None
            assert rates.fsyncs_per_s == pytest.approx(100, rel=0.05)


def test_the_newest_answer_is_always_kept() -> None:
    history: deque[_Seen] = deque(maxlen=HISTORY_MAX)
    for step in range(50):
        seen = seen_at(step * 0.005)
        _remember(history, seen)
        assert history[-1] is seen


BITES = "n1's disk fault takes effect: "


def told_of(*answers: tuple[int, int]) -> list[str]:
    """What is told of a node's answers: faults that stand, and bites so far."""
    events = EventLog()
    observer = Observer.__new__(Observer)  # its memory of faults, without a cluster
    observer._events, observer._bites = events, {}
    seen = [WalSnapshot(faults=faults, fault_bites=bites) for faults, bites in answers]
    for before, after in pairwise(seen):
        observer._note_faults(before, NodeSnapshot(1, 1, 4711, 0, wal=after))
    return [f"{event.text}: {event.effect}" for event in events.since(0)]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([(0, 0), (0, 0)], []),
        ([(0, 0), (1, 0), (1, 0)], []),
        ([(0, 0), (1, 0), (1, 2), (1, 5), (0, 7)], [BITES, "7 operations hit"]),
        ([(0, 0), (1, 0), (0, 0)], ["it never took effect"]),
        ([(0, 0), (0, 1), (0, 1)], [BITES, "1 operation hit"]),
        ([(0, 5), (1, 6), (0, 6), (0, 8)], [BITES, "1 operation hit", BITES, "2 operations hit"]),
    ],
)
def test_what_a_fault_did_is_told_even_if_it_was_over_between_two_looks(
    answers: list[tuple[int, int]], told: list[str]
) -> None:
    healthy = "n1's disk is healthy again: "
    assert told_of(*answers) == [text if text == BITES else healthy + text for text in told]
