"""Election timeouts (Raft §5.2, §9.3) and the pure rules of an election."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.raft.election import (
    draw_below,
    election_timeout_ns,
    forget_delay_ns,
    is_up_to_date,
    may_grant_vote,
    timeouts_in_force,
)
from node.raft.types import HardState, Index, NodeId, Term
from tests.node.raft.kit import MS, START, make_config, make_view
from tests.node.raft.letters import heartbeat
from tests.node.raft.lone import make_node

ROUNDS = 1000


def timeouts(node: int, seed: int = 1) -> list[int]:
    config = replace(make_config(node, 15), seed=seed)
    in_force = timeouts_in_force(config, 0)
    return [election_timeout_ns(config, in_force, number) for number in range(ROUNDS)]


def test_timeouts_lie_within_their_range_and_fill_it_evenly():
    """Scenario 8. Ten equal parts of the range; 1,000 draws; ±5 standard deviations of 9.5."""
    config = make_config()
    drawn = timeouts(1)
    assert config.election_ns_min <= min(drawn) <= max(drawn) <= config.election_ns_max
    width = (config.election_ns_max - config.election_ns_min) / 10
    parts = [0] * 10
    for timeout in drawn:
        parts[min(9, int((timeout - config.election_ns_min) / width))] += 1
    assert all(52 <= part <= 148 for part in parts), parts


@pytest.mark.parametrize("nodes", [(1, 2), (1, 15), (7, 8)])
def test_two_nodes_rarely_collide(nodes):
    """Scenario 8: with 150 ms of spread, two draws lie within 10 ms in about 13 % of rounds."""
    pairs = zip(*(timeouts(node) for node in nodes), strict=True)
    collisions = sum(abs(one - other) < 10 * MS for one, other in pairs)
    assert 80 <= collisions <= 200, collisions


def test_draws_depend_on_seed_node_and_number_and_on_nothing_else():
    assert timeouts(1) == timeouts(1)
    assert len({tuple(timeouts(node, seed)) for node in (1, 2) for seed in (1, 2)}) == 4
    assert len(set(timeouts(1))) > 990


def test_a_fixed_timeout_is_possible():
    config = replace(make_config(), election_ns_min=200 * MS, election_ns_max=200 * MS)
    in_force = timeouts_in_force(config, 0)
    assert {election_timeout_ns(config, in_force, number) for number in range(50)} == {200 * MS}


def test_every_value_of_a_small_range_is_drawn():
    assert {draw_below(7, 1, 2, number) for number in range(200)} == set(range(7))
    assert {draw_below(1, 1, 2, number) for number in range(9)} == {0}


def test_delays_after_a_leaders_death_are_spread_and_are_another_stream():
    config = make_config()
    delays = [forget_delay_ns(config, number, 30 * MS) for number in range(ROUNDS)]
    assert 0 <= min(delays) < 1 * MS
    assert 29 * MS < max(delays) <= 30 * MS
    assert delays != [draw_below(30 * MS + 1, 1, 1, number) for number in range(ROUNDS)]


@pytest.mark.parametrize(
    ("last", "expected"),
    [((3, 5), True), ((4, 5), True), ((1, 6), True), ((2, 5), False), ((9, 4), False)],
)
def test_logs_are_compared_by_last_term_then_length(last, expected):
    """Raft §5.4.1."""
    log = make_view([1, 5, 5])
    assert is_up_to_date(log, Index(last[0]), Term(last[1])) is expected


@pytest.mark.parametrize(
    ("vote", "leader_known", "expected"),
    [(0, False, True), (0, True, False), (2, False, True), (2, True, True), (3, False, False)],
)
def test_the_vote_of_a_term_is_free_or_already_the_candidates(vote, leader_known, expected):
    """Raft §5.2."""
    state = HardState(Term(4), NodeId(vote))
    assert may_grant_vote(state, NodeId(2), leader_known=leader_known) is expected


@pytest.mark.parametrize(
    "changes",
    [
        {"heartbeat_ns": 0},
        {"heartbeat_ns": 150 * MS},
        {"election_ns_min": 301 * MS},
        {"message_bytes_max": 9 << 20},
        {"node": 9},
        {"voters": (1, 2, 2)},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(changes):
    with pytest.raises(AssertionError):
        replace(make_config(), **changes)


# ---- timeouts in force, and ranks ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("configured", "lag", "expected"),
    [
        ((150, 300), 0, (150, 300)),
        ((150, 300), 15, (150, 300)),
        ((150, 300), 16, (160, 320)),
        ((150, 300), 50, (500, 1000)),
        ((150, 300), 100, (1000, 2000)),
        ((150, 300), 5000, (1000, 2000)),
        ((100, 400), 30, (300, 1200)),
        ((100, 400), 900, (500, 2000)),
        ((200, 200), 500, (2000, 2000)),
        ((1500, 3000), 1000, (1500, 3000)),
    ],
)
def test_timeouts_follow_the_lag_in_their_proportions_and_end_at_two_seconds(
    configured, lag, expected
):
    """DESIGN §4: max(configured, 10 × p99 loop lag), capped at 2 s; what is longer stays."""
    low, high = (ms * MS for ms in configured)
    config = replace(make_config(), election_ns_min=low, election_ns_max=high)
    in_force = timeouts_in_force(config, lag * MS)
    assert (in_force.low, in_force.high) == tuple(ms * MS for ms in expected)


def test_a_stretched_core_draws_from_the_stretched_range():
    node = make_node()
    node.core.timeouts = timeouts_in_force(node.config, 50 * MS)
    deadlines = set()
    for _ in range(50):
        node.core.step(heartbeat((2, 1), 1), START)
        deadlines.add(node.core.next_deadline - START)
    assert min(deadlines) >= 500 * MS
    assert max(deadlines) > 900 * MS
    assert max(deadlines) <= 1000 * MS


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_share_the_range_out_in_their_order(ranks):
    config = make_config(1, 5)
    in_force = timeouts_in_force(config, 0)
    part = (in_force.high - in_force.low) / ranks
    for rank in range(ranks):
        ranked = replace(config, rank=rank, ranks=ranks)
        drawn = [election_timeout_ns(ranked, in_force, number) for number in range(ROUNDS)]
        start = in_force.low + rank * part
        assert start - 1 <= min(drawn) < start + part / 20
        assert start + part * 0.95 < max(drawn) <= start + part + 1
        delays = [forget_delay_ns(ranked, number, 30 * MS) for number in range(ROUNDS)]
        share = 30 * MS / ranks
        assert rank * share - 1 <= min(delays)
        assert max(delays) <= (rank + 1) * share + 1
