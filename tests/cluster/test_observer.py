"""What the observer tells of disk faults."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cluster.events import EventLog
from cluster.observer import Observer
from node.metrics import NodeSnapshot, WalSnapshot

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
