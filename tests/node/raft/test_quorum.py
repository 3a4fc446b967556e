"""Majorities (Raft §5.2, §5.3): a table, and the definition by brute force."""

from __future__ import annotations

from itertools import product

import pytest

from node.raft.quorum import Tally, VoteResult, quorum_index, quorum_size
from node.raft.types import NodeId


@pytest.mark.parametrize(
    ("voters", "size"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4), (15, 8)]
)
def test_a_majority_is_more_than_half(voters, size):
    assert quorum_size(voters) == size


def test_any_two_majorities_share_a_voter():
    for voters in range(1, 16):
        assert 2 * quorum_size(voters) > voters >= quorum_size(voters)


@pytest.mark.parametrize(
    ("acknowledged", "index"),
    [
        ([7], 7),
        ([7, 3], 3),
        ([7, 3, 5], 5),
        ([7, 7, 0], 7),
        ([9, 7, 5, 3], 5),  # three of four
        ([9, 9, 3, 3], 3),  # half is not enough
        ([1, 2, 3, 4, 5], 3),
        ([0, 0, 0, 9, 9], 0),
    ],
)
def test_the_quorum_index_of_a_table(acknowledged, index):
    assert quorum_index(acknowledged) == index


def test_the_quorum_index_is_the_highest_that_a_majority_has_reached():
    for voters in range(1, 6):
        for values in product(range(4), repeat=voters):
            reached = [i for i in range(4) if 2 * sum(v >= i for v in values) > voters]
            assert quorum_index(values) == max(reached)


def test_a_round_of_votes_agrees_with_the_definition():
    for voters in range(1, 6):
        nodes = tuple(NodeId(number) for number in range(1, voters + 1))
        for answers in product((True, False, None), repeat=voters):
            tally = Tally(nodes)
            for node, granted in zip(nodes, answers, strict=True):
                if granted is not None:
                    tally.record(node, granted=granted)
            can_win = 2 * sum(answer is not False for answer in answers) > voters
            won = 2 * sum(answer is True for answer in answers) > voters
            expected = VoteResult.WON if won else VoteResult.PENDING if can_win else VoteResult.LOST
            assert tally.result() is expected, answers
            assert tally.granted == tuple(
                node for node, answer in zip(nodes, answers, strict=True) if answer
            )


def test_strangers_and_second_thoughts_do_not_count():
    tally = Tally((NodeId(1), NodeId(2), NodeId(3)))
    for stranger in (7, 8, 9):
        assert tally.record(NodeId(stranger), granted=True) is VoteResult.PENDING
    assert tally.record(NodeId(1), granted=False) is VoteResult.PENDING
    assert tally.record(NodeId(1), granted=True) is VoteResult.PENDING
    assert tally.record(NodeId(2), granted=False) is VoteResult.LOST
