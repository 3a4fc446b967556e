"""What the nodes' own logs say, read frame by frame: for assertions that trust nobody's word."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wal import Kind, OsFilesystem
from wal.frame import body_of_hard_state
from wal.reader import Stop, read_frames
from wal.recovery import segment_numbers
from wal.segment import segment_name


@dataclass
class WalFacts:
    """One node's log: hard states in order, and every batch ever written (also cut ones)."""

    node: int
    hard_states: list[tuple[int, int]] = field(default_factory=list)
    batches: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """(term, base index) → (count, payload CRC)."""


def read_facts(node: int, directory: Path) -> WalFacts:
    """Read the log of a node that is down."""
    facts = WalFacts(node)
    filesystem = OsFilesystem()
    for number in segment_numbers(filesystem, str(directory)):
        file = filesystem.open_read(f"{directory}/{segment_name(number)}")
        try:
            for frame in read_frames(file, number, Stop()):
                header = frame.header
                if header.kind is Kind.HARD_STATE:
                    vote, _ = body_of_hard_state(frame.body)
                    facts.hard_states.append((header.term, vote))
                elif header.kind is Kind.BATCH:
                    key = (header.term, header.base_index)
                    facts.batches[key] = (header.count, header.payload_crc)
        finally:
            file.close()
    return facts


def assert_election_safety(all_facts: list[WalFacts]) -> None:
    """Terms never fall, one vote per term and node, one leader per term (Raft figure 3)."""
    leaders: dict[int, set[tuple[int, int, int]]] = {}
    for facts in all_facts:
        votes: dict[int, int] = {}
        highest = 0
        for term, vote in facts.hard_states:
            assert term >= highest, f"n{facts.node}: term fell from {highest} to {term}"
            highest = term
            if vote:
                first = votes.setdefault(term, vote)
                assert first == vote, f"n{facts.node}: voted n{first} and n{vote} in term {term}"
        for (term, base), (count, crc) in facts.batches.items():
            leaders.setdefault(term, set()).add((base, count, crc))
    for term, batches in leaders.items():
        bases = [base for base, *_ in batches]
        assert len(bases) == len(set(bases)), f"term {term}: two different batches at one index"
    # A majority can have voted for one node only.
    for term in leaders:
        winners = {
            vote
            for vote in range(1, len(all_facts) + 1)
            if sum((term, vote) in facts.hard_states for facts in all_facts) * 2 > len(all_facts)
        }
        assert len(winners) <= 1, f"term {term}: {winners} have majorities"
