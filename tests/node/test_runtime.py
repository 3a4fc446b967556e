"""One group's runtime, over a real core, log and state machine: who is answered what, and when."""

from __future__ import annotations

import pytest

import node.runtime
from node.client_wire import ReadReply, Refusal, Status, WriteReply
from node.limits import BATCH_BYTES_TARGET, BATCH_ENTRIES_MAX, JOIN_BYTES_MAX
from node.outcomes import Outcome
from node.raft.messages import Append, Heartbeat
from node.raft.types import GroupId, Index, NodeId, Role, Term
from tests.node.rig import GROUP, MS, SESSION, Cluster, Node, batch_of, put_entry, read_of, write_of


@pytest.fixture
def alone() -> Node:
    """The only voter, leading, its first batch applied."""
    node = Node()
    node.lead_alone()
    return node


@pytest.fixture
def three() -> Cluster:
    """Three nodes; 1 leads, and everything is applied everywhere."""
    cluster = Cluster(3)
    cluster.elect(1)
    return cluster


def statuses(node: Node) -> list[tuple[int, Status]]:
    """(request id, status) of every refusal, OK for replies; what was told is taken."""
    told = []
    for _, reply in node.replies.take():
        status = reply.status if isinstance(reply, Refusal) else Status.OK
        told.append((reply.origin.request_id, status))
    return told


def session_of(node: Node) -> int:
    """Open a session at a lone leader."""
    node.runtime.write(write_of(SESSION))
    node.rest()
    [(_, reply)] = node.replies.take()
    assert isinstance(reply, WriteReply)
    return int.from_bytes(reply.outcomes[0].detail, "little")


def new_leader_append(
    term: int, prev: tuple[int, int], *batches, commit: int = 0, sender: int = 2
) -> Append:
    """What a leader of a later term sends to node 1."""
    prev_index, prev_term = prev
    return Append(
        GroupId(0), NodeId(sender), NodeId(1), Term(term), Index(prev_index), Term(prev_term),
        Index(commit), batches,
    )  # fmt: skip


# --- writes ---------------------------------------------------------------------------


def test_a_write_is_answered_when_it_is_durable_and_applied_and_not_before(alone):
    session = session_of(alone)
    alone.runtime.write(write_of(put_entry(session, 1), request_id=7, client=b"me"))
    alone.turn()
    alone.turn()
    assert alone.replies.take() == [], "nothing is on the disk yet"
    alone.sync()
    alone.turn()
    [(client, reply)] = alone.replies.take()
    assert client == b"me"
    assert isinstance(reply, WriteReply)
    assert (reply.origin.request_id, reply.origin.leader, reply.origin.term) == (7, 1, 1)
    assert reply.outcomes == [Outcome(0, 1)]
    assert alone.runtime.entries_acked == 2


def test_the_requests_of_a_turn_are_one_batch_and_each_gets_its_own_part(alone):
    session = session_of(alone)
    before = len(alone.core.log)
    entries = [put_entry(session, seq, b"k%d" % seq) for seq in range(1, 7)]
    alone.runtime.write(write_of(*entries[:1], request_id=1, client=b"a"))
    alone.runtime.write(write_of(*entries[1:4], request_id=2, client=b"b"))
    alone.runtime.write(write_of(*entries[4:], request_id=3, client=b"a"))
    alone.rest()
    assert len(alone.core.log) == before + 1
    told = [
        (who, r.origin.request_id, [o.revision for o in r.outcomes])
        for who, r in alone.replies.take()
    ]
    assert told == [(b"a", 1, [1]), (b"b", 2, [2, 3, 4]), (b"a", 3, [5, 6])]


def test_a_large_request_is_a_batch_of_its_own_among_small_ones(alone):
    session = session_of(alone)
    sizes = [10, 10, JOIN_BYTES_MAX, 10, JOIN_BYTES_MAX, JOIN_BYTES_MAX, 10, 10]
    for seq, size in enumerate(sizes, 1):
        entry = put_entry(session, seq, value=b"x" * size)
        alone.runtime.write(write_of(entry, request_id=seq))
    before = len(alone.core.log)
    alone.rest()
    assert [meta.count for meta in alone.core.log.batches[before:]] == [2, 1, 1, 1, 1, 2]
    told = [(r.origin.request_id, r.outcomes[0].revision) for _, r in alone.replies.take()]
    assert told == [(seq, seq) for seq in range(1, 9)]


def test_a_turn_of_many_bytes_is_several_batches_of_about_the_target_size(alone):
    session = session_of(alone)
    value = b"x" * (BATCH_BYTES_TARGET // 9)
    for seq in range(1, 33):
        alone.runtime.write(write_of(put_entry(session, seq, value=value), request_id=seq))
    before = len(alone.core.log)
    alone.rest()
    sizes = [meta.size for meta in alone.core.log.batches[before:]]
    assert len(sizes) == 4
    assert max(sizes) <= BATCH_BYTES_TARGET + 1_000
    assert [number for number, _ in statuses(alone)] == list(range(1, 33))


def test_one_request_larger_than_the_target_is_a_batch_alone(alone):
    session = session_of(alone)
    value = b"x" * (2 * BATCH_BYTES_TARGET)
    for seq in (1, 2, 3):
        content = value if seq == 2 else b"small"
        alone.runtime.write(write_of(put_entry(session, seq, value=content), request_id=seq))
    before = len(alone.core.log)
    alone.rest()
    assert len(alone.core.log) == before + 3
    assert [status for _, status in statuses(alone)] == [Status.OK] * 3


def test_no_batch_holds_more_entries_than_one_slice_can_apply(alone):
    for number in range(1, 6):
        alone.runtime.write(write_of(*[b""] * (BATCH_ENTRIES_MAX // 2), request_id=number))
    before = len(alone.core.log)
    alone.rest()
    counts = [meta.count for meta in alone.core.log.batches[before:]]
    assert counts == [BATCH_ENTRIES_MAX, BATCH_ENTRIES_MAX, BATCH_ENTRIES_MAX // 2]
    assert len(statuses(alone)) == 5


def test_a_write_elsewhere_than_at_the_leader_is_refused_and_names_the_leader(three):
    follower = three[2]
    follower.runtime.write(write_of(SESSION, request_id=9))
    [(_, reply)] = follower.replies.take()
    assert isinstance(reply, Refusal)
    assert reply.status is Status.NOT_LEADER
    assert (reply.origin.leader, reply.origin.term, reply.origin.request_id) == (1, 1, 9)


def test_a_write_without_a_leader_is_refused_and_names_nobody():
    node = Node(1, voters=3)
    node.runtime.write(write_of(SESSION))
    [(_, reply)] = node.replies.take()
    assert (reply.status, reply.origin.leader) == (Status.NOT_LEADER, 0)  # type: ignore[union-attr]  # a refusal


def test_a_write_that_was_gathered_by_a_leader_that_falls_in_that_turn_is_definitely_refused(three):
    leader = three[1]
    leader.runtime.write(write_of(SESSION, request_id=3))
    last = leader.core.log.last_index
    leader.turn(Heartbeat(GROUP, NodeId(2), NodeId(1), Term(5), Index(0), 0))
    assert statuses(leader) == [(3, Status.NOT_LEADER)]
    assert leader.core.log.last_index == last


def test_more_than_the_uncommitted_budget_is_refused_as_busy(three):
    """What this turn has gathered counts as well."""
    leader = three[1]
    three.cut = {2, 3}
    budget = leader.core.config.uncommitted_bytes_max
    entry = b"x" * ((4 << 20) - 1_000)
    for number in range(1, 40):
        leader.runtime.write(write_of(entry, request_id=number))
        if number % 3 == 0:
            leader.turn()
    told = statuses(leader)
    assert {status for _, status in told} == {Status.BUSY}
    assert len(told) == 39 - budget // (4 << 20)
    assert leader.core.uncommitted_bytes <= budget


# --- a full disk ----------------------------------------------------------------------


def fill_disk(node: Node) -> None:
    """Leave no byte of space, and let the log find out."""
    node.disk.capacity = sum(len(inode.seen) for inode in node.disk.names.values())
    while not node.store.disk_full:
        node.runtime.write(write_of(b"x" * 50_000, request_id=1 << 20))
        node.turn()
        node.sync()
    node.replies.take()


def test_a_full_disk_refuses_writes_serves_reads_and_takes_writes_again(alone):
    session = session_of(alone)
    alone.runtime.write(write_of(put_entry(session, 1, b"key", b"safe")))
    alone.rest()
    statuses(alone)
    fill_disk(alone)
    alone.runtime.write(write_of(put_entry(session, 2), request_id=5))
    assert statuses(alone) == [(5, Status.DISK_FULL)]
    alone.runtime.read(read_of([1, b"key"], request_id=6))
    alone.turn()
    [(_, reply)] = alone.replies.take()
    assert isinstance(reply, ReadReply)
    assert reply.results[0][1][1] == b"safe"  # type: ignore[index]  # an item
    alone.disk.capacity = None
    alone.store.log.retry()
    alone.rest()
    alone.replies.take()
    alone.runtime.write(write_of(put_entry(session, 2), request_id=8))
    alone.rest()
    assert statuses(alone) == [(8, Status.OK)]


def test_a_follower_with_a_full_disk_says_that_it_is_no_leader(three):
    three[2].disk.capacity = 0
    three[2].runtime.write(write_of(SESSION, request_id=2))
    assert statuses(three[2]) == [(2, Status.NOT_LEADER)]


def test_a_log_with_too_much_queued_refuses_more_as_busy(alone, monkeypatch):
    """Else the log itself would refuse, and the node end, on a disk that is only slow."""
    monkeypatch.setattr(node.runtime, "QUEUED_BYTES_MAX", 100_000)
    alone.runtime.write(write_of(b"x" * 60_000, request_id=1))
    alone.turn()
    alone.runtime.write(write_of(b"x" * 60_000, request_id=2))
    assert statuses(alone) == [(2, Status.BUSY)]
    alone.rest()
    assert statuses(alone) == [(1, Status.OK)]
    alone.runtime.write(write_of(b"x" * 60_000, request_id=3))
    alone.rest()
    assert statuses(alone) == [(3, Status.OK)]


# --- the lead is lost -----------------------------------------------------------------


def test_writes_that_are_not_committed_when_the_lead_is_lost_are_indefinite(three):
    leader = three[1]
    three.cut = {2, 3}
    for number in (1, 2):
        leader.runtime.write(write_of(SESSION, request_id=number))
        leader.turn()
    leader.turn(Heartbeat(GROUP, NodeId(2), NodeId(1), Term(5), Index(0), 0))
    assert statuses(leader) == [(1, Status.LEAD_LOST), (2, Status.LEAD_LOST)]
    assert leader.runtime._waiting == {}


def test_writes_that_are_committed_when_the_lead_is_lost_are_answered_with_their_outcome(three):
    """Committed is committed: who leads now does not matter."""
    leader = three[1]
    leader.runtime.write(write_of(SESSION, request_id=1))
    leader.runtime.apply_next = lambda: False  # busy elsewhere: nothing is applied meanwhile
    for _ in range(6):
        for n in (2, 3):
            three[n].sync()
        leader.sync()
        three.deliver()
    assert leader.runtime.applied < leader.core.commit
    leader.turn(Heartbeat(GROUP, NodeId(2), NodeId(1), Term(5), Index(0), 0))
    assert leader.core.role is Role.FOLLOWER
    assert statuses(leader) == []
    del leader.runtime.apply_next
    leader.rest()
    assert statuses(leader) == [(1, Status.OK)]


def test_everybody_is_answered_when_a_new_leaders_batches_lie_across_ours(three):
    """Its commit covers our index, its batch does not begin there: nothing would ever pop ours."""
    leader = three[1]
    three.cut = {2, 3}
    last, term = leader.core.log.last_index, leader.core.term
    for number in range(1, 6):
        leader.runtime.write(write_of(SESSION, request_id=number))
        leader.turn()
    assert leader.core.log.last_index == last + 5
    theirs = batch_of(7, last + 1, *[SESSION] * 8)
    leader.turn(new_leader_append(7, (last, term), theirs, commit=last + 8))
    leader.rest()
    assert leader.core.commit == leader.runtime.applied == last + 8
    assert statuses(leader) == [(number, Status.LEAD_LOST) for number in range(1, 6)]
    assert leader.runtime._waiting == {}


def test_a_batch_at_our_index_by_another_leader_is_not_taken_for_ours(three):
    leader = three[1]
    three.cut = {2, 3}
    last, term = leader.core.log.last_index, leader.core.term
    leader.runtime.write(write_of(SESSION, request_id=1))
    leader.turn()
    theirs = batch_of(7, last + 1, SESSION)
    leader.turn(new_leader_append(7, (last, term), theirs, commit=last + 1))
    leader.rest()
    assert statuses(leader) == [(1, Status.LEAD_LOST)]


def test_who_was_told_that_the_lead_was_lost_is_told_nothing_more_after_a_re_election(three):
    leader = three[1]
    three.cut = {2, 3}
    leader.runtime.write(write_of(SESSION, request_id=1))
    leader.turn()
    leader.turn(Heartbeat(GROUP, NodeId(2), NodeId(1), Term(5), Index(0), 0))
    assert statuses(leader) == [(1, Status.LEAD_LOST)]
    three.heal()
    three.elect(1)
    assert leader.core.commit == leader.core.log.last_index, "the old batch is committed now"
    assert statuses(leader) == []
    leader.runtime.write(write_of(SESSION, request_id=2))
    three.settle()
    assert statuses(leader) == [(2, Status.OK)]


# --- reads ----------------------------------------------------------------------------


def value_read(node: Node) -> bytes | None:
    [(_, reply)] = node.replies.take()
    assert isinstance(reply, ReadReply), reply
    [[_, item]] = reply.results
    return None if item is None else item[1]  # type: ignore[index]  # an item


def test_a_linearizable_read_waits_for_a_quorum_and_sees_what_was_acknowledged(three):
    leader = three[1]
    leader.runtime.write(write_of(SESSION))
    three.settle()
    session = int.from_bytes(leader.replies.take()[0][1].outcomes[0].detail, "little")
    leader.runtime.write(write_of(put_entry(session, 1, b"k", b"new")))
    three.settle()
    leader.replies.take()
    leader.runtime.read(read_of([1, b"k"]))
    leader.turn()
    assert leader.replies.told == []
    three.settle()
    assert value_read(leader) == b"new"


def test_a_read_granted_ahead_of_the_state_machine_waits_for_it(alone):
    session = session_of(alone)
    alone.runtime.write(write_of(put_entry(session, 1, b"k", b"v1")))
    alone.turn()
    alone.sync()
    held, alone.runtime.apply_next = alone.runtime.apply_next, lambda: False
    alone.turn()
    assert alone.multi.has_backlog
    alone.runtime.read(read_of([1, b"k"]))
    alone.turn()
    assert alone.replies.take() == [], "granted, but the put is not applied yet"
    alone.runtime.apply_next = held
    alone.turn()
    kinds = [type(reply) for _, reply in alone.replies.told]
    assert kinds == [WriteReply, ReadReply]
    alone.replies.told = alone.replies.told[1:]
    assert value_read(alone) == b"v1"


def test_a_local_read_is_served_by_anybody_from_what_it_has_applied(three):
    three[3].runtime.read(read_of([1, b"nothing"], local=True))
    three[3].turn()
    assert value_read(three[3]) is None


def test_a_linearizable_read_elsewhere_is_refused_and_names_the_leader(three):
    three[2].runtime.read(read_of([1, b"k"], request_id=4))
    [(_, reply)] = three[2].replies.take()
    assert (reply.status, reply.origin.leader) == (Status.NOT_LEADER, 1)


def test_reads_that_wait_when_the_lead_is_lost_are_aborted(three):
    leader = three[1]
    three.cut = {2, 3}
    for number in (1, 2):
        leader.runtime.read(read_of([1, b"k"], request_id=number))
        leader.turn()
    leader.turn(Heartbeat(GROUP, NodeId(2), NodeId(1), Term(5), Index(0), 0))
    assert statuses(leader) == [(1, Status.READ_ABORTED), (2, Status.READ_ABORTED)]
    assert leader.runtime._reads == {}


def test_a_leader_cut_off_from_everybody_answers_no_read(three):
    leader = three[1]
    three.cut = {2, 3}
    leader.runtime.read(read_of([1, b"k"], request_id=1))
    leader.pass_time(1_000 * MS)
    assert leader.core.role is not Role.LEADER, "CheckQuorum"
    assert statuses(leader) == [(1, Status.READ_ABORTED)]


def test_reads_are_bounded_wherever_they_wait(alone, monkeypatch):
    """Those that are granted and wait for the state machine count as well, and so do local ones."""
    monkeypatch.setattr(node.runtime, "READS_PENDING_MAX", 5)
    alone.runtime.apply_next = lambda: False
    for number in range(1, 8):
        local = number % 2 == 0
        alone.runtime.read(read_of([1, b"k"], request_id=number, local=local))
        alone.turn()
    assert statuses(alone) == [(6, Status.BUSY), (7, Status.BUSY)]
    del alone.runtime.apply_next
    alone.turn()
    assert statuses(alone) == [(number, Status.OK) for number in range(1, 6)]


def test_many_reads_take_slices_like_batches_do(alone):
    """One range may cost milliseconds: a thousand of them must not cost the lead."""
    for number in range(1, 101):
        alone.runtime.read(read_of([1, b"k"], request_id=number, local=number % 2 == 0))
    alone.clock.step = 1 * MS
    alone.turn(apply_ns=5 * MS)
    assert 1 <= len(alone.replies.told) <= 6
    assert alone.multi.has_backlog, "the loop must come back at once"
    while alone.multi.has_backlog:
        alone.turn()
    assert len(alone.replies.told) == 100


def test_reads_do_not_starve_writes_nor_writes_reads(alone):
    session = session_of(alone)
    for seq in range(1, 11):
        alone.runtime.write(write_of(put_entry(session, seq), request_id=seq))
        alone.turn()
        alone.runtime.read(read_of([1, b"k"], request_id=100 + seq, local=True))
    alone.sync()
    alone.turn(apply_ns=0)
    alone.turn(apply_ns=0)
    alone.turn(apply_ns=0)
    kinds = {type(reply) for _, reply in alone.replies.told}
    assert kinds == {WriteReply, ReadReply}


def test_a_query_that_the_machine_refuses_is_a_bad_request(alone):
    alone.runtime.read(read_of([9, b"k"], request_id=3, local=True))
    alone.turn()
    assert statuses(alone) == [(3, Status.BAD_REQUEST)]


# --- time and restarts ----------------------------------------------------------------


def times(node: Node) -> list[int]:
    return [
        node.store.read(GROUP, meta.base_index).leader_time_ms for meta in node.core.log.batches
    ]


def test_replicated_time_follows_the_leaders_clock_and_never_falls(three):
    leader = three[1]
    for _ in range(3):
        leader.runtime.write(write_of(SESSION))
        three.settle()
        leader.clock.now += 40 * MS
    assert times(leader)[1:] == [0, 40, 80]
    for other in three.nodes.values():
        other.clock.now = leader.clock.now
    three.elect(2)
    three[2].clock.now += 10_000 * MS  # before its first write: no time has passed since
    for _ in range(2):
        three[2].runtime.write(write_of(SESSION))
        three.settle()
        three[2].clock.now += 5 * MS
    written = [time for time in times(three[2]) if time]
    assert written == sorted(written)
    assert written[-2:] == [80, 85]
    assert three[2].runtime.machine.leader_time_ms == 85


def test_a_restarted_node_applies_its_log_again_to_the_same_state(alone):
    session = session_of(alone)
    for seq in range(1, 30):
        alone.runtime.write(write_of(put_entry(session, seq, b"k%d" % (seq % 5), b"v%d" % seq)))
        alone.rest()
    digest = alone.runtime.machine.digest()
    alone.boot()
    assert alone.runtime.applied == 0, "nothing counts as committed before a leader says so"
    alone.lead_alone()
    assert alone.runtime.machine.digest() == digest


def test_a_batch_with_lengths_that_do_not_add_up_cannot_break_apply(three):
    """The edge refuses such a batch; a state machine that met one must still not raise."""
    machine = three[1].runtime.machine
    sound = batch_of(1, 99, b"one", b"two")
    for body in (b"", b"\xff" * 8, bytes(sound.body)[:-1], bytes(sound.body) + b"x"):
        assert [o.code for o in machine.apply(sound.meta, 0, body)] == [5, 5]
