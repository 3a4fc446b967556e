"""Every invariant, seen red once by hand, and what it must not complain about."""

import re
from pathlib import Path

import pytest

from node.codec import noop_builder
from node.raft.core import Core
from node.raft.invariants import INVARIANTS, GroupInvariants, InvariantError, StoredLog
from node.raft.log_view import LogView
from node.raft.messages import AppendReply, Heartbeat, PreVoteReply, Vote, VoteReply
from node.raft.types import (
    BatchMeta,
    CoreConfig,
    GroupId,
    HardState,
    Index,
    LogStart,
    NodeId,
    Role,
    Term,
)

GROUP = GroupId(0)
VOTERS = (NodeId(1), NodeId(2), NodeId(3))


def meta(term: int, base: int, count: int = 1) -> BatchMeta:
    return BatchMeta(Term(term), Index(base), count, 100)


class Stage:
    """Three cores that a test moves by hand, and the onlooker."""

    def __init__(self) -> None:
        self.watch = GroupInvariants(VOTERS)
        self.cores = {node: self.core(node) for node in VOTERS}
        for core in self.cores.values():
            self.watch.started(core)

    def core(self, node: int, state: HardState = HardState(), batches=()) -> Core:  # noqa: B008
        config = CoreConfig(GROUP, NodeId(node), VOTERS, seed=1)
        return Core(config, state, LogView(LogStart(), batches), noop_builder(GROUP), 0)

    def store(self, node: int, *changes, synced: bool = True) -> None:
        for change in changes:
            self.watch.stored(NodeId(node), change)
        if synced:
            self.watch.synced(NodeId(node), len(changes))

    def lead(self, node: int, term: int) -> Core:
        core = self.cores[NodeId(node)]
        core.term, core.vote, core.role = Term(term), NodeId(node), Role.LEADER
        self.store(node, HardState(Term(term), NodeId(node)))
        self.look(node)
        return core

    def hold(self, node: int, *batches: BatchMeta, synced: bool = True) -> None:
        """Append batches to a node's log, in memory and on disk."""
        for batch in batches:
            self.cores[NodeId(node)].log.append(batch)
        self.store(node, *batches, synced=synced)
        self.look(node)

    def commit(self, node: int, index: int) -> None:
        self.cores[NodeId(node)].commit = Index(index)
        self.look(node)

    def look(self, node: int, applied: int = 0) -> None:
        self.watch.observe(self.cores[NodeId(node)], Index(applied))


def red(name: str):
    return pytest.raises(InvariantError, match=f"^{name}: ")


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_two_leaders_of_one_term(stage: Stage) -> None:
    stage.lead(1, 3)
    stage.lead(2, 4)
    with red("election safety"):
        stage.lead(3, 4)


def test_a_leader_that_removes_its_own_entry(stage: Stage) -> None:
    core = stage.lead(1, 1)
    stage.hold(1, meta(1, 1), meta(1, 2))
    core.log.truncate_from(Index(2))
    with red("leader append-only"):
        stage.look(1)


def test_a_follower_may_remove_an_uncommitted_entry(stage: Stage) -> None:
    stage.hold(1, meta(1, 1), meta(1, 2))
    stage.cores[NodeId(1)].log.truncate_from(Index(2))
    stage.look(1)


def test_one_identity_with_two_predecessors(stage: Stage) -> None:
    stage.hold(1, meta(1, 1), meta(3, 2))
    with red("log matching"):
        stage.hold(2, meta(2, 1), meta(3, 2))


def test_one_identity_with_two_lengths(stage: Stage) -> None:
    stage.hold(1, meta(1, 1, 2))
    with red("log matching"):
        stage.hold(2, meta(1, 1, 3))


def committed_in_term_one(stage: Stage) -> None:
    for node in (1, 2):
        stage.hold(node, meta(1, 1))
    stage.lead(1, 1)
    stage.commit(1, 1)


def test_a_later_leader_without_a_committed_entry(stage: Stage) -> None:
    committed_in_term_one(stage)
    with red("leader completeness"):
        stage.lead(3, 2)


def test_a_commit_of_an_older_leader_that_the_newer_one_lacks(stage: Stage) -> None:
    for node in (1, 2):
        stage.hold(node, meta(1, 1))
    stage.lead(1, 1)
    stage.lead(3, 2)
    with red("leader completeness"):
        stage.commit(1, 1)


def test_a_leader_of_an_older_term_need_not_hold_what_a_newer_one_committed(stage: Stage) -> None:
    for node in (1, 2):
        stage.hold(node, meta(5, 1))
    stage.lead(1, 5)
    stage.commit(1, 1)
    stage.lead(3, 4)


def test_two_entries_committed_at_one_index(stage: Stage) -> None:
    committed_in_term_one(stage)
    stage.hold(3, meta(2, 1))
    with red("state machine safety"):
        stage.commit(3, 1)


def test_two_outcomes_of_one_batch(stage: Stage) -> None:
    stage.watch.applied(NodeId(1), meta(1, 1), ["one"])
    stage.watch.applied(NodeId(2), meta(1, 1), ["one"])
    with red("state machine safety"):
        stage.watch.applied(NodeId(3), meta(1, 1), ["other"])


def test_a_leader_that_commits_an_entry_of_an_older_term_by_counting(stage: Stage) -> None:
    for node in (1, 2):
        stage.hold(node, meta(1, 1))
    stage.lead(1, 2)
    with red("commit by own term"):
        stage.commit(1, 1)


def test_a_commit_that_only_a_minority_has_on_disk(stage: Stage) -> None:
    stage.lead(1, 1)
    stage.hold(1, meta(1, 1))
    stage.hold(2, meta(1, 1), synced=False)
    with red("commit on a quorum"):
        stage.commit(1, 1)


def test_a_commit_without_the_leaders_own_disk_holds(stage: Stage) -> None:
    stage.lead(1, 1)
    stage.hold(1, meta(1, 1), synced=False)
    for node in (2, 3):
        stage.hold(node, meta(1, 1))
    stage.commit(1, 1)
    assert stage.watch.committed_index == 1


def test_a_committed_entry_that_is_cut_from_memory_or_disk(stage: Stage) -> None:
    committed_in_term_one(stage)
    stage.cores[NodeId(2)].log.truncate_from(Index(1))
    with red("committed is kept"):
        stage.look(2)
    with red("committed is kept"):
        stage.store(2, Index(1))


def test_a_term_that_falls(stage: Stage) -> None:
    stage.lead(1, 3)
    stage.cores[NodeId(1)].term = Term(2)
    with red("monotonic term"):
        stage.look(1)


def test_a_vote_that_changes_within_a_term(stage: Stage) -> None:
    core = stage.cores[NodeId(1)]
    core.term, core.vote = Term(2), NodeId(2)
    stage.look(1)
    core.vote = NodeId(3)
    with red("one vote per term"):
        stage.look(1)


def test_a_second_vote_after_a_restart(stage: Stage) -> None:
    stage.store(1, HardState(Term(2), NodeId(2)))
    stage.watch.sent(VoteReply(GROUP, NodeId(1), NodeId(2), Term(2), True))
    stage.store(1, HardState(Term(2), NodeId(3)))
    with red("one vote per term"):
        stage.watch.sent(VoteReply(GROUP, NodeId(1), NodeId(3), Term(2), True))


def test_a_commit_index_that_falls(stage: Stage) -> None:
    committed_in_term_one(stage)
    stage.cores[NodeId(1)].commit = Index(0)
    with red("monotonic commit"):
        stage.look(1)


def test_applied_beyond_commit(stage: Stage) -> None:
    committed_in_term_one(stage)
    with red("order of indexes"):
        stage.look(1, applied=2)


def test_a_commit_inside_a_batch(stage: Stage) -> None:
    for node in (1, 2):
        stage.hold(node, meta(1, 1, 3))
    stage.lead(1, 1)
    with red("order of indexes"):
        stage.commit(1, 2)


def test_a_batch_applied_out_of_order(stage: Stage) -> None:
    with red("order of indexes"):
        stage.watch.applied(NodeId(1), meta(1, 5), [])


def test_a_heartbeat_of_a_term_that_is_not_on_disk(stage: Stage) -> None:
    with red("promise is durable"):
        stage.watch.sent(Heartbeat(GROUP, NodeId(1), NodeId(2), Term(4), Index(0), 1))


def test_a_vote_that_is_not_on_disk(stage: Stage) -> None:
    stage.store(1, HardState(Term(2), NodeId(0)))
    with red("promise is durable"):
        stage.watch.sent(VoteReply(GROUP, NodeId(1), NodeId(2), Term(2), True))
    with red("promise is durable"):
        stage.watch.sent(Vote(GROUP, NodeId(1), NodeId(2), Term(2), Index(0), Term(0)))


def test_a_vote_that_reached_the_disk_as_a_later_term_is_kept_too(stage: Stage) -> None:
    stage.store(1, HardState(Term(3), NodeId(0)))
    stage.watch.sent(VoteReply(GROUP, NodeId(1), NodeId(2), Term(2), True))


def test_refusals_and_pre_votes_promise_nothing(stage: Stage) -> None:
    stage.watch.sent(PreVoteReply(GROUP, NodeId(1), NodeId(2), Term(9), True))
    stage.store(1, HardState(Term(2), NodeId(3)))
    stage.watch.sent(VoteReply(GROUP, NodeId(1), NodeId(2), Term(2), False))


def ack(index: int, term: int = 1) -> AppendReply:
    return AppendReply(
        GROUP, NodeId(2), NodeId(1), Term(term), True, Index(index), Index(0), Term(0)
    )


def test_an_ack_of_what_is_not_on_disk(stage: Stage) -> None:
    stage.lead(1, 1)
    stage.store(2, HardState(Term(1), NodeId(1)))
    stage.hold(2, meta(1, 1), synced=False)
    with red("ack is durable"):
        stage.watch.sent(ack(1))
    stage.watch.synced(NodeId(2), 1)
    stage.hold(1, meta(1, 1))
    stage.watch.sent(ack(1))


def test_an_ack_of_something_else_than_the_leader_has(stage: Stage) -> None:
    stage.lead(1, 2)
    stage.hold(1, meta(2, 1))
    stage.store(2, HardState(Term(2), NodeId(1)))
    stage.hold(2, meta(1, 1))
    with red("ack is durable"):
        stage.watch.sent(ack(1, term=2))


def restart(stage: Stage, state: HardState, *batches: BatchMeta) -> None:
    stage.watch.stopped(NodeId(2))
    stage.watch.started(stage.core(2, state, batches))


def test_a_restart_finds_what_was_durable_or_a_prefix_of_what_was_not(stage: Stage) -> None:
    state = HardState(Term(1), NodeId(1))
    stage.store(2, state, meta(1, 1))
    stage.store(2, meta(1, 2), Index(2), meta(2, 2), synced=False)
    restart(stage, state, meta(1, 1), meta(1, 2))
    assert stage.watch.durable(NodeId(2)) == StoredLog(state, [meta(1, 1), meta(1, 2)])


@pytest.mark.parametrize(
    ("state", "batches"),
    [
        (HardState(Term(1), NodeId(1)), ()),
        (HardState(Term(1), NodeId(0)), (meta(1, 1),)),
        (HardState(Term(1), NodeId(1)), (meta(1, 1), meta(1, 2))),
    ],
    ids=["a durable batch is gone", "a durable vote is gone", "a later record without an earlier"],
)
def test_a_restart_that_finds_something_else(stage: Stage, state, batches) -> None:
    stage.store(2, HardState(Term(1), NodeId(1)), meta(1, 1))
    stage.store(2, HardState(Term(2)), meta(1, 2), synced=False)
    with red("recovery"):
        restart(stage, state, *batches)


def test_compaction_is_followed_on_disk_and_in_memory(stage: Stage) -> None:
    for node in (1, 2):
        stage.hold(node, meta(1, 1, 2), meta(1, 3), meta(1, 4))
    stage.lead(1, 1)
    stage.commit(1, 4)
    stage.cores[NodeId(1)].log.compact(Index(3))
    stage.store(1, LogStart(Index(3), Term(1)))
    stage.look(1)
    stage.hold(1, meta(1, 5))
    stored = stage.watch.durable(NodeId(1))
    assert stored.batches == [meta(1, 4), meta(1, 5)]
    assert stored.holds(meta(1, 3))
    stage.watch.stopped(NodeId(1))
    config = stage.cores[NodeId(1)].config
    log = LogView(LogStart(Index(3), Term(1)), [meta(1, 4), meta(1, 5)])
    core = Core(config, HardState(Term(1), NodeId(1)), log, noop_builder(GROUP), 0)
    stage.watch.started(core)
    stage.cores[NodeId(1)] = core
    stage.lead(1, 2)
    stage.hold(1, meta(2, 6))


def test_every_invariant_is_seen_red_in_this_file() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'with red\("([^"]+)"\)', source)) == set(INVARIANTS)
