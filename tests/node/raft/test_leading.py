"""The leader's half of replication: Raft §5.3, §5.4.2, §8, windows, probes and budgets."""

from __future__ import annotations

from itertools import pairwise

import pytest

from node.raft.core import Core
from node.raft.messages import Append, AppendReply, Heartbeat, HeartbeatReply, Message
from node.raft.progress import Progress, ProgressState
from node.raft.types import Index, NodeId, Role, Term
from tests.node.raft.kit import BATCH_BYTES, MS, Cluster, Node, make_batch, make_log
from tests.node.raft.letters import ack, append, head, heartbeat_reply, refusal
from tests.node.raft.lone import Lone


def make_leader(voters: int = 3, log: tuple[int, ...] = (), **config: int) -> Cluster:
    """Node 1 leads term 1 (or the log's next), its empty batch committed everywhere."""
    cluster = Cluster(voters, **config)
    for number in cluster.nodes:
        cluster.preload(number, log)
    cluster.elect(1)
    cluster.heartbeat(1)
    return cluster


def make_lone(voters: int = 3, log: tuple[int, ...] = (), **config: int) -> Lone:
    """A leader whose peers are the test; its empty batch is durable and acknowledged by all."""
    lone = Lone(voters, make_log(log), **config)
    lone.lead()
    lone.sync()
    for peer in range(2, voters + 1):
        lone.step(ack((peer, 1), lone.core.term, lone.core.log.last_index))
    assert lone.core.commit == lone.core.log.last_index
    return lone


def progress_of(node: Node, peer: int = 2) -> Progress:
    return node.core.progress[NodeId(peer)]


def appends(messages: list[Message], to: int = 2) -> list[Append]:
    return [message for message in messages if isinstance(message, Append) and message.to == to]


def state_of(cluster: Cluster, peer: int) -> ProgressState:
    return progress_of(cluster.nodes[1], peer).state


# ---- commit (Raft §5.3, §5.4.2) ----------------------------------------------------------------


def test_a_new_leader_appends_an_empty_batch_at_once():
    """Raft §8; scenario 26. It is the first Append to everybody, and their first heartbeat."""
    lone = Lone(3, make_log([1, 1]))
    sent = lone.lead()
    batch = make_batch(2, 3)
    place = (Index(2), Term(1), Index(0))
    assert sent == [Append(*head((1, to), 2), *place, (batch,)) for to in (2, 3)]
    assert lone.ready.append == (batch,)


def test_an_entry_commits_on_a_majority_of_disks():
    """Raft §5.3."""
    lone = make_lone(5)
    lone.propose()
    lone.sync()
    lone.step(ack((2, 1), 1, 2))
    assert lone.core.commit == 1
    lone.step(ack((3, 1), 1, 2))
    assert lone.core.commit == 2


def test_the_leader_counts_its_own_disk_like_any_other():
    """Thesis §10.2.1; scenario 58: its entry is not held by itself before the fsync."""
    lone = make_lone()
    assert appends(lone.propose()), "the network does not wait for the disk"
    lone.step(ack((2, 1), 1, 2))
    assert lone.core.commit == 1
    lone.sync()
    assert lone.core.commit == 2


def test_a_leader_with_a_stalled_disk_commits_through_its_followers():
    """Thesis §10.2.1; scenario 61."""
    lone = make_lone()
    lone.propose()
    lone.step(ack((2, 1), 1, 2))
    lone.step(ack((3, 1), 1, 2))
    assert (lone.core.commit, lone.core.durable_index) == (2, 1)


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting():
    """Raft §5.4.2, figure 8; scenario 27. And 28: the leader's own entry commits it along."""
    lone = Lone(5, make_log([1, 2]))
    lone.lead()
    lone.sync()
    for peer in (2, 3):
        lone.step(ack((peer, 1), 3, 2))
    assert (progress_of(lone, 2).match, progress_of(lone, 3).match) == (2, 2)
    assert lone.core.commit == 0, "index 2 of term 2 is on three of five disks"
    for peer in (2, 3):
        lone.step(ack((peer, 1), 3, 3))
    assert lone.core.commit == 3


def test_followers_learn_the_commit_index_from_the_next_append_or_heartbeat():
    """Raft §5.3; scenario 38."""
    cluster = Cluster(3)
    cluster.elect(1)
    assert cluster.core(1).commit == 1
    assert cluster.core(2).commit == 0
    cluster.heartbeat(1)
    assert cluster.core(2).commit == 1


def test_a_leader_overwrites_uncommitted_entries_even_of_a_higher_term():
    """Raft §5.3, §5.4; scenario 24: what no quorum holds may go."""
    cluster = Cluster(3)
    cluster.preload(1, [1, 1], term=5)
    cluster.preload(2, [1], term=5)
    cluster.preload(3, [1, 4], term=5)
    cluster.isolate(3)
    cluster.elect(1)
    cluster.heal()
    cluster.heartbeat(1)
    cluster.heartbeat(1)
    assert [meta.term for meta in cluster.core(3).log.batches] == [1, 1, 6]
    assert cluster.core(3).commit == 3


# ---- refusals and probes (Raft §5.3) -------------------------------------------------------------


def test_a_refusal_moves_the_probe_back_by_a_whole_term():
    """Raft §5.3; scenario 33: their last term at or below 5 is 2, and ours is not, above 3."""
    lone = Lone(3, make_log([1, 1, 1, 4, 4, 4]))
    lone.lead()
    sent = lone.step(refusal((2, 1), 5, 6, (5, 2)))
    assert [(m.prev_index, m.prev_term) for m in appends(sent)] == [(3, 1)]


def test_a_refusal_of_what_was_acknowledged_is_an_old_one():
    """Scenario 35."""
    lone = make_lone(log=(1, 1, 1))
    for prev in (0, 3, 4):
        assert appends(lone.step(refusal((2, 1), 2, prev))) == []
    assert progress_of(lone).state is ProgressState.REPLICATE


def test_a_hint_beyond_the_refused_place_is_not_followed():
    """A peer's mistake may cost a probe, never the node: 4 lies within a batch."""
    lone = Lone(3, [make_batch(1, 1), make_batch(1, 2, count=3)])
    lone.lead()
    sent = lone.step(refusal((2, 1), 2, 4, (99, 99)))
    assert [m.prev_index for m in appends(sent)] == [1]


@pytest.mark.parametrize("prev", [0, 1, 2, 9])
def test_a_stale_refusal_changes_nothing_while_probing(prev):
    """Scenario 35: only the answer to the outstanding probe counts."""
    lone = Lone(3, make_log([1, 1, 1]))
    lone.lead()
    assert appends(lone.step(refusal((2, 1), 2, prev))) == []
    assert progress_of(lone).next == 4


def test_an_ack_beyond_the_leaders_log_is_ignored():
    lone = make_lone()
    lone.step(ack((2, 1), 1, 99))
    assert (lone.core.commit, progress_of(lone).match) == (1, 1)


def test_replies_to_a_former_leader_are_ignored():
    cluster = make_leader()
    core = cluster.core(2)
    core.step(ack((3, 2), 1, 1), cluster.now)
    core.step(heartbeat_reply((3, 2), 1, 5), cluster.now)
    assert not core.has_ready()


def test_acks_in_the_wrong_order_leave_match_monotonic():
    """Scenarios 34 and 35."""
    lone = make_lone()
    for _ in range(3):
        lone.propose()
    lone.sync()
    for index, commit in ((3, 3), (2, 3), (4, 4), (1, 4)):
        lone.step(ack((2, 1), 1, index))
        assert lone.core.commit == commit
    progress = progress_of(lone)
    assert (progress.match, progress.next, len(progress.inflight)) == (4, 5, 0)


def test_while_probing_one_append_is_under_way():
    """Raft §5.3 as in etcd's tracker; scenario 37."""
    lone = make_lone()
    for _ in range(3):
        lone.propose()
    sent = lone.step(refusal((2, 1), 1, 3, (1, 1)))  # the Append behind 1 was lost
    assert [(m.prev_index, len(m.batches)) for m in appends(sent)] == [(1, 3)]
    assert progress_of(lone).state is ProgressState.PROBE
    assert appends(lone.step(refusal((2, 1), 1, 2, (1, 1)))) == [], "refused with the first"
    assert appends(lone.propose()) == []
    assert appends(lone.turn()) == []
    sent = lone.step(ack((2, 1), 1, 4))
    assert [(m.prev_index, len(m.batches)) for m in appends(sent)] == [(4, 1)]


def test_a_probe_is_repeated_at_a_heartbeat_reply():
    """Scenario 37: the probe or its answer was lost."""
    lone = make_lone()
    lone.propose()
    first = lone.step(refusal((2, 1), 1, 2, (1, 1)))
    lone.now += lone.config.heartbeat_ns
    again = lone.step(heartbeat_reply((2, 1), 1, commit=1))
    assert appends(again) == appends(first) != []


@pytest.mark.parametrize("state", [ProgressState.PROBE, ProgressState.REPLICATE])
def test_heartbeat_replies_in_quick_succession_repeat_nothing(state):
    """Scenario 37: read rounds bring a reply per turn; a probe may carry a megabyte each time."""
    lone = make_lone()
    lone.propose()
    if state is ProgressState.PROBE:
        lone.step(refusal((2, 1), 1, 2, (1, 1)))
    assert progress_of(lone).state is state
    repeated = []
    for _ in range(3):
        lone.now += lone.config.heartbeat_ns
        sent = []
        for _ in range(10):
            lone.now += 1
            sent += lone.step(heartbeat_reply((2, 1), 1))
        repeated.append(len(appends(sent)))
    assert max(repeated) == 1
    assert sum(repeated) >= 2, "but it is repeated"


def test_a_lost_append_is_found_by_the_next_append():
    """Raft §5.3: what follows a gap is refused, and the leader goes back."""
    cluster = make_leader()
    cluster.propose(1, "a")
    cluster.drop(to=2, kind=Append)
    cluster.propose(1, "b")
    cluster.settle()
    cluster.heartbeat(1)
    assert cluster.core(2).log.batches == cluster.core(1).log.batches


def test_a_lost_append_with_nothing_behind_it_is_found_at_heartbeats():
    """Scenario 37; sends are lossy, and the window stays open until then."""
    cluster = make_leader()
    cluster.propose(1, "a")
    assert cluster.drop(to=2, kind=Append)
    cluster.settle()
    cluster.heartbeat(1)
    assert cluster.core(2).log.last_index == 1
    cluster.heartbeat(1)
    assert cluster.core(2).log.last_index == 2
    cluster.heartbeat(1)
    assert cluster.core(2).commit == 2


def test_a_lost_ack_is_found_at_heartbeats():
    cluster = make_leader()
    cluster.isolate(3)
    cluster.propose(1, "a")
    cluster.deliver(*cluster.between(to=2))
    cluster.persist(1)
    cluster.persist(2)
    assert cluster.drop(sender=2, kind=AppendReply)
    cluster.heartbeat(1)
    cluster.heartbeat(1)
    assert cluster.core(1).commit == 2


def test_a_full_window_reopens_after_everything_in_it_was_lost():
    """Scenario 36: a heartbeat reply frees exactly one probe, and the answer the rest."""
    cluster = make_leader(3, window_messages_max=3)
    for number in range(6):
        cluster.propose(1, str(number))
    assert len(cluster.drop(to=2, kind=Append)) == 3
    cluster.settle()
    cluster.heartbeat(1)
    cluster.heartbeat(1)
    assert cluster.core(2).log.last_index == 7


def test_the_window_bounds_messages_in_flight():
    """Scenario 36."""
    lone = make_lone(window_messages_max=2)
    sent = [appends(lone.propose()) for _ in range(4)]
    assert [len(part) for part in sent] == [1, 1, 0, 0]
    freed = lone.step(ack((2, 1), 1, 3))  # one ack frees all up to its index
    assert [(m.prev_index, len(m.batches)) for m in appends(freed)] == [(3, 2)]


def test_the_window_bounds_bytes_in_flight():
    """Scenario 36."""
    window = 2 * BATCH_BYTES
    lone = make_lone(window_bytes_max=window, message_bytes_max=window)
    sent = [appends(lone.propose()) for _ in range(4)]
    assert [len(part) for part in sent] == [1, 1, 0, 0]
    freed = lone.step(ack((2, 1), 1, 2))
    assert [(m.prev_index, len(m.batches)) for m in appends(freed)] == [(3, 2)]


def test_appends_are_packed_with_whole_batches_up_to_their_size():
    lone = make_lone(message_bytes_max=2 * BATCH_BYTES + 50)
    for index in range(2, 7):
        lone.core.propose(make_batch(1, index))
    sent = appends(lone.turn())
    assert [(m.prev_index, len(m.batches)) for m in sent] == [(1, 2), (3, 2), (5, 1)]


def test_a_batch_larger_than_a_message_travels_alone():
    lone = make_lone(message_bytes_max=BATCH_BYTES // 2)
    for index in (2, 3):
        lone.core.propose(make_batch(1, index))
    assert [len(m.batches) for m in appends(lone.turn())] == [1, 1]


# ---- restarted followers ---------------------------------------------------------------------------


def test_a_restarted_follower_learns_the_commit_index_with_nothing_to_replicate():
    """HeartbeatReply.commit: the leader shows again that the logs match."""
    cluster = make_leader()
    cluster.propose(1)
    cluster.settle()
    cluster.heartbeat(1)
    cluster.crash(2)
    assert cluster.core(2).commit == 0
    cluster.heartbeat(1)
    assert cluster.core(2).commit == 2


def test_a_restarted_follower_that_lost_unsynced_entries_gets_them_again():
    cluster = make_leader()
    cluster.propose(1, "a")
    cluster.deliver(*cluster.between(to=2))
    cluster.crash(2)
    assert cluster.core(2).log.last_index == 1
    cluster.settle()
    cluster.heartbeat(1)
    cluster.heartbeat(1)
    assert cluster.core(2).log.last_index == 2
    assert cluster.core(2).commit == 2


def test_a_quiet_cluster_exchanges_heartbeats_and_nothing_else():
    """No probe goes on for ever: each one has an end."""
    cluster = make_leader()
    cluster.propose(1)
    cluster.settle()
    cluster.crash(2)
    for _ in range(3):
        cluster.heartbeat(1)
    cluster.now += cluster.core(1).config.heartbeat_ns
    sent = cluster.tick(1)
    assert {type(message) for message in sent} == {Heartbeat}
    while cluster.network:
        replies = cluster.deliver(cluster.network[0])
        assert {type(message) for message in replies} <= {HeartbeatReply}


def test_a_follower_that_needs_compacted_entries_is_not_sent_any():
    """Until snapshots exist it waits; the leader neither loops nor fails (etcd-io/raft#31)."""
    cluster = make_leader()
    cluster.isolate(3)
    for _ in range(3):
        cluster.propose(1)
        cluster.settle()
    core = cluster.core(1)
    core.log.compact(Index(3))
    cluster.heal()
    for _ in range(3):
        cluster.heartbeat(1)
    assert state_of(cluster, 3) is ProgressState.COMPACTED
    cluster.now += core.config.heartbeat_ns
    assert appends(cluster.step(heartbeat_reply((3, 1), 1)), to=3) == []
    cluster.propose(1)
    cluster.settle()
    assert core.commit == 5, "the others are served"


def test_a_refusal_may_show_that_entries_are_gone():
    """Scenario 45."""
    lone = Lone(3, make_log([1, 1, 1]))
    lone.step(append((2, 1), 1, (3, 1), commit=3))
    lone.core.log.compact(Index(2))
    lone.sync()
    lone.lead()
    assert appends(lone.step(refusal((2, 1), 2, 3, (0, 0)))) == []
    assert progress_of(lone).state is ProgressState.COMPACTED
    lone.step(ack((2, 1), 2, 3))  # as after a snapshot
    assert progress_of(lone).state is ProgressState.REPLICATE


def test_compaction_may_overtake_a_probe():
    """Its next place is gone when the repeat is due."""
    lone = Lone(3)
    lone.lead()
    lone.sync()
    lone.step(ack((3, 1), 1, 1))
    lone.core.log.compact(Index(1))
    lone.now += lone.config.heartbeat_ns
    assert appends(lone.step(heartbeat_reply((2, 1), 1))) == []
    assert progress_of(lone).state is ProgressState.COMPACTED


# ---- budgets ---------------------------------------------------------------------------------------


def test_a_leader_has_a_budget_of_uncommitted_bytes():
    """Scenario 39: refused above it, given back by commits."""
    lone = make_lone(uncommitted_bytes_max=3 * BATCH_BYTES)
    core = lone.core
    for _ in range(3):
        assert core.accepts(BATCH_BYTES)
        lone.propose()
    assert core.uncommitted_bytes == 3 * BATCH_BYTES
    assert not core.accepts(1)
    lone.sync()
    lone.step(ack((2, 1), 1, 3))
    assert core.uncommitted_bytes == BATCH_BYTES
    assert core.accepts(2 * BATCH_BYTES)
    assert not core.accepts(2 * BATCH_BYTES + 1)


def test_a_new_leader_takes_over_the_uncommitted_bytes_and_its_empty_batch_always_fits():
    """Scenario 39."""
    cluster = Cluster(3, uncommitted_bytes_max=BATCH_BYTES)
    cluster.preload(1, [1, 1, 1])
    cluster.isolate(3)
    cluster.elect_without_replication(1)
    core = cluster.core(1)
    assert core.uncommitted_bytes == 4 * BATCH_BYTES
    cluster.heartbeat(1)
    assert core.uncommitted_bytes == 0


def test_the_budget_ends_with_the_leadership():
    """Scenario 39."""
    cluster = make_leader()
    cluster.isolate(1)
    cluster.propose(1)
    core = cluster.core(1)
    core.step(append((2, 1), 9, (1, 1)), cluster.now)
    assert core.uncommitted_bytes == 0
    assert not core.accepts(0)
    core.step(append((2, 1), 9, (2, 1), commit=2), cluster.now)
    assert core.uncommitted_bytes == 0, "a follower's commits refund nothing"


def test_only_a_leader_appends():
    """Scenario 40: refused loudly, never lost silently."""
    core: Core = Cluster(3).core(1)
    assert not core.accepts(0)
    with pytest.raises(AssertionError, match="only a leader"):
        core.propose(make_batch(0, 1))


def test_a_proposal_is_built_for_the_leaders_term_and_next_index():
    core = make_leader().core(1)
    with pytest.raises(AssertionError):
        core.propose(make_batch(2, 2))
    with pytest.raises(AssertionError):
        core.propose(make_batch(core.term, 3))


def test_a_deposed_and_re_elected_leader_believes_its_disk_about_the_same_entries():
    """Scenario 60: a completion of an earlier term is true as long as nothing was cut."""
    cluster = make_leader()
    cluster.propose(1, "a")
    cluster.network.clear()
    core = cluster.core(1)
    core.step(ack((3, 1), 2, 0), cluster.now)
    assert (core.role, core.term) == (Role.FOLLOWER, 2)
    cluster.turn(1)
    cluster.persist(1)
    assert core.durable_index == 2
    cluster.elect(1)
    cluster.heartbeat(1)
    assert core.commit == 3
    assert core.log.term_at(3) == Term(3)


def test_heartbeats_leave_at_their_interval():
    cluster = make_leader()
    core = cluster.core(1)
    start = cluster.now
    beats = []
    while cluster.now < start + 1000 * MS:
        sent = cluster.at_deadline(1)
        if any(isinstance(message, Heartbeat) for message in sent):
            beats.append(cluster.now)
        cluster.settle()
    gaps = {later - earlier for earlier, later in pairwise(beats)}
    assert gaps == {core.config.heartbeat_ns}
