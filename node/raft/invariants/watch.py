"""The onlooker: takes the news of a group, and asks each invariant about what has changed."""

from __future__ import annotations

from collections.abc import Sequence

from node.raft.core import Core
from node.raft.invariants import (
    ack_is_durable,
    commit_by_own_term,
    commit_on_a_quorum,
    committed_is_kept,
    election_safety,
    leader_append_only,
    leader_completeness,
    log_matching,
    monotonic_commit,
    monotonic_term,
    one_vote_per_term,
    order_of_indexes,
    promise_is_durable,
    recovery,
    state_machine_safety,
)
from node.raft.invariants.picture import GroupPicture, NodePicture
from node.raft.invariants.stored_log import Change, StoredLog
from node.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    NodeBeat,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
)
from node.raft.types import BatchMeta, HardState, Index, NodeId, Role

__all__ = ["RULES", "GroupInvariants"]

RULES = (
    election_safety.RULE,
    leader_append_only.RULE,
    log_matching.RULE,
    leader_completeness.RULE,
    state_machine_safety.RULE,
    commit_by_own_term.RULE,
    commit_on_a_quorum.RULE,
    committed_is_kept.RULE,
    monotonic_term.RULE,
    one_vote_per_term.RULE,
    monotonic_commit.RULE,
    order_of_indexes.RULE,
    promise_is_durable.RULE,
    ack_is_durable.RULE,
    recovery.RULE,
)


class GroupInvariants:
    """All replicas of one group, seen from outside."""

    def __init__(self, voters: Sequence[NodeId]) -> None:
        """Watch `voters`, none of which has started."""
        self._group = GroupPicture(voters)
        self._seen = self._group.nodes

    @property
    def committed(self) -> Sequence[BatchMeta]:
        """Every committed batch, in order, whatever became of the node that committed it."""
        return self._group.committed

    @property
    def committed_index(self) -> Index:
        """The last committed index of the group."""
        return self._group.committed_index

    # ---- storage -------------------------------------------------------------------------

    def stored(self, node: NodeId, change: Change) -> None:
        """Take the news that a node queued a record behind all earlier ones."""
        self._seen[node].pending.append(change)

    def synced(self, node: NodeId, count: int) -> None:
        """Take the news that the oldest `count` queued records of a node are durable."""
        seen = self._seen[node]
        for change in seen.pending[:count]:
            for cut in seen.durable.change(change):
                committed_is_kept.check(self._group, node, cut)
            if isinstance(change, HardState):
                self._group.durable_votes[node, change.term] = change.vote
        del seen.pending[:count]

    def stopped(self, node: NodeId) -> None:
        """Take the news that a node's process is gone, with all that it had not synced."""
        seen = self._seen[node]
        seen.unsynced += seen.pending
        seen.pending.clear()

    def durable(self, node: NodeId) -> StoredLog:
        """Return the picture of a node's durable log; not to be changed."""
        return self._seen[node].durable

    def started(self, core: Core) -> None:
        """Check what a node found when it started, and take it as the new durable state."""
        node = core.config.node
        seen = self._seen[node]
        # The core may start in a later term than the disk's: that of its last entry.
        found = StoredLog(core.durable_hard_state, list(core.log.batches), core.log.start)
        recovery.check(seen, found)
        for batch in seen.durable.batches:
            if not found.holds(batch):
                committed_is_kept.check(self._group, node, batch)
        seen.unsynced.clear()
        seen.durable = found
        seen.log = list(found.batches)
        seen.start = found.start.index
        self._group.durable_votes[node, found.hard_state.term] = found.hard_state.vote
        seen.role, seen.term, seen.vote = core.role, core.term, core.vote
        seen.last_term = core.term
        seen.commit = seen.applied = core.commit
        log_matching.check(self._group, seen, 0)

    # ---- cores ---------------------------------------------------------------------------

    def observe(self, core: Core, applied: Index) -> None:
        """Check what changed in a core since its last observation."""
        seen = self._seen[core.config.node]
        if core.term != seen.term or core.vote != seen.vote:
            monotonic_term.check(seen, core)
            one_vote_per_term.check(seen, core)
            seen.term, seen.vote = core.term, core.vote
        log = core.log
        size = len(log)
        mirror = seen.log
        if (
            size != len(mirror)
            or log.start.index != seen.start
            or (size and mirror[-1] is not log.batch_at(size - 1))
        ):
            self._follow_log(seen, core)
        if core.role is not seen.role or core.term != seen.last_term:
            if core.role is Role.LEADER:
                election_safety.check(self._group, seen.node, core.term)
                leader_completeness.check_leader(self._group, seen, core.term)
            seen.role, seen.last_term = core.role, core.term
        if core.commit != seen.commit:
            monotonic_commit.check(seen, core)
            for batch in order_of_indexes.newly_committed(seen, core):
                self._take_commit(core, batch)
            seen.commit = core.commit
        order_of_indexes.check(core, applied)

    def _follow_log(self, seen: NodePicture, core: Core) -> None:
        log, mirror = core.log, seen.log
        if log.start.index != seen.start:
            seen.start = log.start.index
            mirror[:] = [meta for meta in mirror if meta.last_index > seen.start]
        same = min(len(log), len(mirror))
        while same and mirror[same - 1] != log.batch_at(same - 1):
            same -= 1
        cut = mirror[same:]
        leader_append_only.check(seen, core.term, cut)
        for batch in cut:
            committed_is_kept.check(self._group, seen.node, batch)
        del mirror[same:]
        mirror.extend(log.batch_at(position) for position in range(same, len(log)))
        log_matching.check(self._group, seen, same)

    # ---- commit and apply ----------------------------------------------------------------

    def _take_commit(self, core: Core, batch: BatchMeta) -> None:
        group, node = self._group, core.config.node
        if not state_machine_safety.check_commit(group, node, batch):
            return
        commit_by_own_term.check(core, batch)
        commit_on_a_quorum.check(group, node, batch)
        group.positions[batch.base_index] = len(group.committed)
        group.committed.append(batch)
        group.commit_terms.append(core.term)
        leader_completeness.check_commit(group, batch, core.term)

    def applied(self, node: NodeId, batch: BatchMeta, outcome: object) -> None:
        """Check one applied batch; `outcome` is comparable and stands for what it did."""
        seen = self._seen[node]
        order_of_indexes.check_applied(seen, batch)
        seen.applied = batch.last_index
        state_machine_safety.check_applied(self._group, node, batch, outcome)

    # ---- promises ------------------------------------------------------------------------

    def sent(self, message: Message) -> None:
        """Check what a message promises against the sender's disk, at the moment it leaves."""
        if isinstance(message, PreVote | PreVoteReply | NodeBeat):
            return  # they promise nothing: a term named there need not be durable
        promise_is_durable.check_term(self._group, message)
        if isinstance(message, Heartbeat | HeartbeatReply | Append | TimeoutNow):
            return
        if isinstance(message, AppendReply):
            # A later term's leader may have cut what is acked since; then nobody counts the ack.
            state = self._seen[message.sender].durable.hard_state
            if message.ok and state.term == message.term:
                ack_is_durable.check(self._group, message)
        elif isinstance(message, Vote):
            self._check_vote(message.sender, message.term, message.sender)
        elif message.granted:
            self._check_vote(message.sender, message.term, message.to)

    def _check_vote(self, voter: NodeId, term: int, candidate: NodeId) -> None:
        promise_is_durable.check_vote(self._group, voter, term, candidate)
        one_vote_per_term.check_sent(self._group, voter, term, candidate)
