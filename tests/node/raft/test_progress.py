"""A follower as its leader sees it: probe, window, losses (etcd-io/raft `tracker`)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.raft.progress import Progress, ProgressState
from node.raft.types import Index

PROBE, REPLICATE, COMPACTED = ProgressState


def make(match: int, sends: tuple[int, ...] = ()) -> Progress:
    """A replicating follower that acknowledged `match`; Appends of 10 bytes are in flight."""
    progress = Progress(Index(match + 1))
    progress.acknowledged(Index(match))
    for last in sends:
        progress.sent(Index(last), 10)
    return progress


def test_a_probe_goes_out_once():
    progress = Progress(Index(5))
    assert progress.may_send(1, 1)
    progress.sent(Index(9), 10)
    assert not progress.may_send(99, 999)
    assert (progress.next, progress.match, progress.inflight_bytes) == (5, 0, 0)


def test_an_ack_turns_a_probe_into_replication_behind_it():
    progress = Progress(Index(5))
    progress.sent(Index(9), 10)
    assert progress.acknowledged(Index(9))
    assert (progress.state, progress.match, progress.next) == (REPLICATE, 9, 10)
    assert progress.may_send(1, 1)


def test_replication_runs_ahead_within_the_window():
    progress = make(4, sends=(6, 9))
    assert (progress.match, progress.next, progress.inflight_bytes) == (4, 10, 20)
    assert progress.may_send(3, 21)
    assert not progress.may_send(2, 21), "messages"
    assert not progress.may_send(3, 20), "bytes"


def test_one_ack_frees_all_up_to_its_index():
    progress = make(4, sends=(6, 9, 12))
    assert progress.acknowledged(Index(9))
    assert (progress.match, progress.next, list(progress.inflight)) == (9, 13, [(12, 10)])
    assert not progress.acknowledged(Index(6)), "old: it frees and moves nothing"
    assert (progress.match, progress.next, progress.inflight_bytes) == (9, 13, 10)


def test_an_ack_ahead_of_what_was_sent_moves_next():
    progress = make(4)
    assert progress.acknowledged(Index(8))
    assert (progress.match, progress.next) == (8, 9)


def test_a_refusal_ends_replication_and_empties_the_window():
    progress = make(4, sends=(6, 9))
    assert progress.refused(Index(6), Index(6))
    assert (progress.state, progress.next, progress.inflight_bytes) == (PROBE, 6, 0)
    assert progress.may_send(1, 1)


def test_a_refusal_never_moves_next_to_what_is_matched():
    progress = make(4, sends=(6, 9))
    assert progress.refused(Index(9), Index(2))
    assert progress.next == 5
    assert not progress.refused(Index(4), Index(2)), "matched: an old refusal"


def test_a_refusal_from_before_an_earlier_retreat_is_an_old_one():
    progress = make(4, sends=(6, 9))
    assert not progress.refused(Index(10), Index(8))
    assert (progress.state, progress.next) == (REPLICATE, 10)


def test_a_probe_is_refused_only_by_its_own_answer():
    progress = Progress(Index(8))
    assert not progress.refused(Index(6), Index(3))
    assert progress.refused(Index(7), Index(3))
    assert progress.next == 3
    assert progress.refused(Index(2), Index(9)), "a hint ahead of the refused place"
    assert progress.next == 2


def test_losses_are_looked_for_once_per_interval():
    progress = make(4)
    asked = [0, 1, 99, 100, 150, 250]
    assert [now for now in asked if progress.may_repeat(now, 100)] == [0, 100, 250]


def test_a_window_without_progress_is_stalled():
    progress = make(4, sends=(6,))
    assert [progress.stalled() for _ in range(3)] == [False, True, True]
    progress.acknowledged(Index(5))
    assert [progress.stalled() for _ in range(2)] == [False, True]
    progress.acknowledged(Index(6))
    assert [progress.stalled() for _ in range(3)] == [False] * 3, "nothing is outstanding"
    progress.sent(Index(7), 10)
    assert [progress.stalled() for _ in range(2)] == [False, True]


def test_an_old_ack_does_not_hide_a_stall():
    progress = make(4, sends=(6,))
    assert not progress.stalled()
    progress.acknowledged(Index(3))
    assert progress.stalled()


def test_a_follower_behind_the_compaction_point_is_sent_nothing_until_it_acknowledges():
    progress = make(4, sends=(6,))
    progress.compacted()
    assert progress.state is COMPACTED
    assert not progress.may_send(99, 999)
    progress.acknowledged(Index(20))
    assert (progress.state, progress.next, progress.inflight_bytes) == (REPLICATE, 21, 0)


ACTS = st.lists(
    st.tuples(st.sampled_from(["send", "ack", "refuse", "pause"]), st.integers(0, 40)), max_size=60
)


@given(st.integers(1, 20), ACTS)
def test_match_stays_below_next_and_the_window_is_what_lies_between(next_index, acts):
    """The invariant of the class, under any answers of a peer within the log."""
    progress, last = Progress(Index(next_index)), next_index - 1
    for act, number in acts:
        before = progress.match
        match act:
            case "send" if progress.may_send(8, 100):
                last = max(last, progress.next) + number % 3
                progress.sent(Index(last), 10)
            case "ack":
                progress.acknowledged(Index(min(number, last)))
            case "refuse":
                progress.refused(Index(number), Index(min(number, max(1, number - 2))))
            case "pause":
                progress.paused = False
        assert before <= progress.match < progress.next <= last + 1
        assert progress.inflight_bytes == sum(size for _, size in progress.inflight)
        assert len(progress.inflight) <= 8
        assert progress.state is REPLICATE or not progress.inflight
        ends = [end for end, _ in progress.inflight]
        assert ends == sorted(set(ends))
        assert not ends or (progress.match < ends[0] and ends[-1] < progress.next)
