"""How far logs may be compacted: what every voter has on its disk, the leader's own included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.raft.messages import Heartbeat
from node.raft.progress import releasable
from node.raft.types import Index, NodeId
from tests.node.raft.kit import make_log, make_view
from tests.node.raft.letters import ack
from tests.node.raft.lone import Lone


def indexes(*values: int) -> list[Index]:
    return [Index(value) for value in values]


def test_nothing_is_released_that_the_slowest_voter_lacks() -> None:
    log = make_view([1] * 10)
    assert releasable(log, indexes(9, 7, 4), log.bytes) == 4
    assert releasable(log, indexes(9, 9, 0), log.bytes) == 0


def test_a_voter_that_lags_too_far_is_not_waited_for() -> None:
    log = make_view([1] * 10)
    per_batch = log.bytes // 10
    assert releasable(log, indexes(9, 8, 0), 4 * per_batch) == 6
    assert releasable(log, indexes(9, 8, 7), 4 * per_batch) == 7


@given(count=st.integers(1, 30), limit=st.integers(0, 40), bytes_min=st.integers(0, 40))
def test_what_is_kept_behind_a_release_is_never_less_than_asked(count, limit, bytes_min) -> None:
    log = make_view([1] * count)
    per_batch = log.bytes // count
    end = log.end_with_bytes_behind(limit, bytes_min * per_batch)
    assert end <= limit
    kept = log.bytes_after(end)
    assert end == 0 or kept >= bytes_min * per_batch
    # One more batch would be too many.
    assert end == min(limit, count) or kept - per_batch < bytes_min * per_batch


def test_a_leader_with_a_slow_disk_does_not_count_itself_as_having_what_it_committed() -> None:
    """Found by the simulator: it could not reach its own log's end after a power cut."""
    lone = Lone(3, make_log([1, 1]))
    lone.lead()
    lone.sync()
    stored = lone.core.durable_index
    for peer in (2, 3):
        lone.step(ack((peer, 1), lone.core.term, stored))
    lone.propose()
    last = lone.core.log.last_index
    for peer in (2, 3):
        lone.step(ack((peer, 1), lone.core.term, last))
    assert lone.core.commit == last > lone.core.durable_index
    lone.now += lone.core.config.heartbeat_ns
    lone.core.tick(lone.now)
    beats = [message for message in lone.turn() if isinstance(message, Heartbeat)]
    assert {beat.release for beat in beats} == {stored}


def test_a_follower_takes_the_limit_only_as_far_as_it_has_committed() -> None:
    lone = Lone(3, make_log([1, 1, 1]))
    head = (lone.core.config.group, NodeId(2), NodeId(1), lone.core.term)
    lone.step(Heartbeat(*head, Index(3), 0, Index(3)))
    assert lone.core.release_limit == lone.core.commit == 0
