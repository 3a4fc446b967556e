"""One group's Raft state machine: messages and times in, a `Ready` out.

Theory of operation
-------------------
The core never acts; it changes its state and remembers what it wants done, and `ready()` takes
that in one value (contract: `types.Ready`). Durability is an input: what was asked to be stored
counts only when `persisted` says so, the leader's own log included. Three rules carry the safety:

* A term or vote is durable before any message that depends on it leaves: votes, vote requests and
  append replies go to `send_after_sync`; heartbeat replies join them while the term is not durable.
* The leader counts `durable_index`, not its last index, towards the quorum (thesis §10.2.1), and
  commits only entries of its own term by counting (Raft §5.4.2).
* A follower commits only what it has verified against the log of the *current* leader.

Time: an election deadline for followers and candidates, a heartbeat time and a quorum check for
leaders. Elections use PreVote (thesis §9.6), leader stickiness and CheckQuorum (thesis §6.2).
"""

from __future__ import annotations

from node.raft.election import (
    election_timeout_ns,
    forget_delay_ns,
    is_up_to_date,
    may_grant_vote,
)
from node.raft.log_view import LogView
from node.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
)
from node.raft.progress import Progress, ProgressState, releasable
from node.raft.quorum import Tally, VoteResult, quorum_index, quorum_size
from node.raft.reads import PendingReads
from node.raft.replication import Refused, judge_append
from node.raft.types import (
    NO_INDEX,
    NO_NODE,
    NO_TERM,
    Batch,
    BatchMeta,
    CoreConfig,
    GroupId,
    HardState,
    Index,
    NodeId,
    NoopBuilder,
    PersistToken,
    ReadContext,
    ReadGrant,
    Ready,
    Role,
    Term,
)

__all__ = ["Core"]

_NEVER = -(1 << 62)


class Core:
    """The Raft state of one group on one node. Single-threaded; all times in ns (one clock)."""

    def __init__(
        self,
        config: CoreConfig,
        hard_state: HardState,
        log: LogView,
        make_noop: NoopBuilder,
        now: int,
    ) -> None:
        """Start as a follower of the persisted term; everything in `log` is durable.

        A torn write may have kept an entry and lost the record of its term, which nothing has
        depended on then: such a term is taken from the log, without a vote.
        """
        self.config = config
        self.log = log
        self.term = max(hard_state.term, log.last_term)
        self.vote = hard_state.vote if hard_state.term == self.term else NO_NODE
        self.role = Role.FOLLOWER
        self.leader = NO_NODE
        self.commit = log.start.index
        self.release_limit = log.start.index
        """Nobody compacts beyond: as far as the leader knows, no voter needs what is before it."""
        self.durable_index = log.last_index
        self.durable_hard_state = hard_state
        self.progress: dict[NodeId, Progress] = {}
        self.elections_started = 0
        self.uncommitted_bytes = 0
        self._make_noop = make_noop
        self._peers = tuple(node for node in config.voters if node != config.node)
        self._epoch = 0
        self._verified = NO_INDEX
        self._heard_at = _NEVER
        self._draws = 0
        self._tally = Tally(config.voters)
        self._reads = PendingReads()
        self._heartbeat_at = 0
        self._quorum_check_at = 0
        self._election_at = 0
        self._lateness_forgiven = False
        self._reset_election_timer(now)
        self._hard_dirty = self.durable_hard_state != self._hard_state()
        self._truncate_from: Index | None = None
        self._append: list[Batch] = []
        self._send_now: list[Message] = []
        self._send_after_sync: list[Message] = []
        self._grants: list[ReadGrant] = []

    # ---- what the runtime asks -----------------------------------------------------------

    @property
    def next_deadline(self) -> int:
        """When `tick` must be called next (ns)."""
        if self.role is Role.LEADER:
            return min(self._heartbeat_at, self._quorum_check_at)
        return self._election_at

    def accepts(self, size: int) -> bool:
        """Tell whether `size` more bytes fit the uncommitted budget of a leader."""
        if self.role is not Role.LEADER:
            return False
        return self.uncommitted_bytes + size <= self.config.uncommitted_bytes_max

    def tick(self, now: int) -> None:
        """Act on the timers that are due. Drain the inbox first (DESIGN §4)."""
        if self.role is Role.LEADER:
            lost = now >= self._quorum_check_at and not self._check_quorum(now)
            if not lost and now >= self._heartbeat_at:
                self._send_heartbeats(now)
        elif now >= self._election_at:
            if self.role is Role.CANDIDATE and not self._hard_state_is_durable():
                # Our disk is slow: nobody has been asked yet, so there is nothing to start over.
                self._reset_election_timer(now)
            else:
                self._start_pre_vote(now)

    def extend_election_timer(self, now: int, lateness: int) -> None:
        """Give a turn that came `lateness` ns late that time back: we slept, not our peers.

        A leader's quorum check is extended likewise. At most one shortest timeout (by then the
        living have been heard), and once per armed timer (who is always late must still act).
        """
        if self._lateness_forgiven:
            return
        self._lateness_forgiven = True
        grace = now + min(lateness, self.config.election_ns_min)
        self._election_at = max(self._election_at, grace)
        self._quorum_check_at = max(self._quorum_check_at, grace)

    def forget_leader(self, now: int, jitter_ns: int) -> None:
        """Drop the leader, known to be dead, and campaign within `jitter_ns` (etcd ForgetLeader).

        No-op unless we follow one. Safe: PreVote and the quorum still decide.
        """
        if self.role is not Role.FOLLOWER or self.leader == NO_NODE:
            return
        self.leader = NO_NODE
        self._heard_at = _NEVER
        self._draws += 1
        delay = forget_delay_ns(self.config, self._draws, jitter_ns)
        self._election_at = min(self._election_at, now + delay)

    def propose(self, batch: Batch) -> None:
        """Append a batch built for exactly (`term`, `log.last_index` + 1) as the leader."""
        assert self.role is Role.LEADER, "only a leader appends"
        assert batch.meta.term == self.term
        self.log.append(batch.meta)
        self._append.append(batch)
        self.uncommitted_bytes += batch.meta.size

    def restored(self, index: Index) -> None:
        """Learn at the start that the state up to the batch end `index` came from a snapshot."""
        assert self.commit <= index <= self.durable_index
        self.commit = index

    def compact(self, index: Index) -> None:
        """Drop the log up to the batch end `index`, which a durable snapshot covers."""
        assert index <= min(self.commit, self.durable_index, self.release_limit)
        self.log.compact(index)

    def read(self, context: ReadContext) -> None:
        """Ask for a linearizable read point; the answer is a `ReadGrant` in a later `Ready`."""
        if self.role is Role.LEADER:
            self._reads.add(context)
        else:
            self._grants.append(ReadGrant(context, NO_INDEX, False))

    def step(self, message: Message, now: int) -> None:
        """Take in one message from a peer; ignore strangers, other receivers, other groups."""
        config = self.config
        if message.sender not in self._peers:
            return
        if message.to != config.node or message.group != config.group:
            return
        if isinstance(message, PreVote):
            self._on_pre_vote(message, now)
            return
        if isinstance(message, Vote) and self._sticky(now):
            return
        if isinstance(message, PreVoteReply) and message.granted:
            self._on_pre_vote_reply(message, now)
            return
        if message.term > self.term:
            self._become_follower(message.term, now)
        if message.term < self.term:
            self._answer_stale(message)
            return
        self._dispatch(message, now)

    def persisted(self, token: PersistToken, now: int) -> None:
        """Learn that the storage request named by `token`, and all before it, are durable."""
        self.durable_hard_state = HardState(token.term, token.vote)
        if token.epoch == self._epoch and token.last_index > self.durable_index:
            assert self.log.term_at(token.last_index) == token.last_term
            self.durable_index = token.last_index
        if self.role is Role.LEADER:
            self._advance_commit()
        elif self.role is Role.CANDIDATE and self._hard_state_is_durable():
            self._reset_election_timer(now)  # the vote requests leave now, not before
            result = self._tally.record(self.config.node, granted=True)
            self._conclude_election(result, now)

    def has_ready(self) -> bool:
        """Tell whether `ready()` would carry anything to do."""
        stores = self._hard_dirty or self._append or self._truncate_from is not None
        sends = self._send_now or self._send_after_sync or self._grants
        return bool(stores or sends or self.role is Role.LEADER)

    def ready(self, now: int) -> Ready:
        """Take what there is to do; see `types.Ready` for the caller's duties."""
        if self.role is Role.LEADER:
            self._start_read_round(now)
            for peer in self._peers:
                self._replicate_to(peer)
        hard_state = self._hard_state() if self._hard_dirty else None
        stores = hard_state is not None or self._append or self._truncate_from is not None
        ready = Ready(
            hard_state=hard_state,
            truncate_from=self._truncate_from,
            append=tuple(self._append),
            token=self._token() if stores else None,
            send_now=tuple(self._send_now),
            send_after_sync=tuple(self._send_after_sync),
            commit=self.commit,
            reads=tuple(self._grants),
        )
        self._hard_dirty = False
        self._truncate_from = None
        self._append.clear()
        self._send_now.clear()
        self._send_after_sync.clear()
        self._grants.clear()
        return ready

    # ---- roles ---------------------------------------------------------------------------

    def _become_follower(self, term: Term, now: int, leader: NodeId = NO_NODE) -> None:
        assert term >= self.term, "terms never fall"
        if term > self.term:
            self.term = term
            self.vote = NO_NODE
            self._hard_dirty = True
            self._verified = NO_INDEX
        if self.role is Role.LEADER:
            self._grants += self._reads.abort()
            self.progress = {}
            self.uncommitted_bytes = 0
            # As leader it verified its own log against nobody.
            self._verified = NO_INDEX
        self.role = Role.FOLLOWER
        self.leader = leader
        self._heard_at = now if leader != NO_NODE else _NEVER
        self._reset_election_timer(now)

    def _start_pre_vote(self, now: int) -> None:
        self.role = Role.PRE_CANDIDATE
        self.leader = NO_NODE
        self._heard_at = _NEVER
        self.elections_started += 1
        self._reset_election_timer(now)
        self._tally = Tally(self.config.voters)
        result = self._tally.record(self.config.node, granted=True)
        if result is VoteResult.WON:
            self._become_candidate(now)
            return
        log = self.log
        for peer in self._peers:
            head = (self.config.group, self.config.node, peer, Term(self.term + 1))
            self._send_now.append(PreVote(*head, log.last_index, log.last_term))

    def _become_candidate(self, now: int) -> None:
        """Enter a new term; the own vote counts when it is durable (`persisted`)."""
        self.role = Role.CANDIDATE
        self.term = Term(self.term + 1)
        self.vote = self.config.node
        self._hard_dirty = True
        self._verified = NO_INDEX
        self._reset_election_timer(now)
        self._tally = Tally(self.config.voters)
        log = self.log
        for peer in self._peers:
            self._send_after_sync.append(Vote(*self._head(peer), log.last_index, log.last_term))

    def _become_leader(self, now: int) -> None:
        assert self.role is Role.CANDIDATE
        assert self._hard_state_is_durable(), "the own vote is durable first"
        self.role = Role.LEADER
        self.leader = self.config.node
        self._reads = PendingReads()
        next_index = Index(self.log.last_index + 1)
        self.progress = {peer: Progress(next_index) for peer in self._peers}
        self.uncommitted_bytes = self.log.bytes_after(self.commit)
        self._heartbeat_at = now + self.config.heartbeat_ns
        self._arm_quorum_check(now)
        self.propose(self._make_noop(self.term, next_index))

    def _conclude_election(self, result: VoteResult, now: int) -> None:
        if result is VoteResult.LOST:
            self._become_follower(self.term, now)
        elif result is VoteResult.WON and self._hard_state_is_durable():
            self._become_leader(now)

    def _check_quorum(self, now: int) -> bool:
        """Step down unless a majority answered since the last check (thesis §6.2); True: we lead on."""
        alive = 1 + sum(progress.active for progress in self.progress.values())
        if alive < quorum_size(len(self.config.voters)):
            self._become_follower(self.term, now)
            return False
        for progress in self.progress.values():
            progress.active = False
        self._arm_quorum_check(now)
        return True

    # ---- elections -----------------------------------------------------------------------

    def _sticky(self, now: int) -> bool:
        """Tell whether a leader is known to be alive, so that its voters stay with it."""
        if self.role is Role.LEADER:
            return True
        return self.leader != NO_NODE and now - self._heard_at < self.config.election_ns_min

    def _on_pre_vote(self, message: PreVote, now: int) -> None:
        grant = (
            message.term > self.term
            and not self._sticky(now)
            and is_up_to_date(self.log, message.last_index, message.last_term)
        )
        term = message.term if grant else self.term
        head = (self.config.group, self.config.node, message.sender, term)
        self._send_now.append(PreVoteReply(*head, grant))

    def _on_pre_vote_reply(self, message: PreVoteReply, now: int) -> None:
        """A refusal of our own term comes through `_dispatch`, a higher one demotes before."""
        if self.role is not Role.PRE_CANDIDATE:
            return
        if message.granted and message.term != self.term + 1:
            return
        result = self._tally.record(message.sender, granted=message.granted)
        if result is VoteResult.WON:
            self._become_candidate(now)
        elif result is VoteResult.LOST:
            self._become_follower(self.term, now)

    def _on_vote(self, message: Vote, now: int) -> None:
        grant = may_grant_vote(
            self._hard_state(), message.sender, leader_known=self.leader != NO_NODE
        ) and is_up_to_date(self.log, message.last_index, message.last_term)
        if grant:
            if self.vote != message.sender:
                self.vote = message.sender
                self._hard_dirty = True
            self._reset_election_timer(now)
        self._send_after_sync.append(VoteReply(*self._head(message.sender), grant))

    def _on_vote_reply(self, message: VoteReply, now: int) -> None:
        if self.role is Role.CANDIDATE:
            result = self._tally.record(message.sender, granted=message.granted)
            self._conclude_election(result, now)

    # ---- following -----------------------------------------------------------------------

    def _follow(self, leader: NodeId, now: int) -> None:
        assert self.role is not Role.LEADER, "two leaders in one term"
        if self.role is Role.FOLLOWER and self.leader == leader:
            self._heard_at = now
            self._reset_election_timer(now)
        else:
            self._become_follower(self.term, now, leader)

    def _on_append(self, message: Append, now: int) -> None:
        self._follow(message.sender, now)
        outcome = judge_append(self.log, self.commit, message)
        if outcome is None:
            return
        if isinstance(outcome, Refused):
            self._refuse_append(message.sender, message.prev_index, outcome)
            return
        if outcome.truncate_from is not None:
            self._truncate(outcome.truncate_from)
        for batch in outcome.new:
            self.log.append(batch.meta)
            self._append.append(batch)
        self._verified = Index(max(self._verified, outcome.verified))
        self._commit_up_to(min(message.commit, self._verified))
        self._acknowledge(message.sender, outcome.verified)

    def _truncate(self, index: Index) -> None:
        """Cut a conflicting suffix; in-flight completions of it become void (epoch)."""
        assert index > self.commit, "a committed entry is never removed"
        stored_last = self._append[0].meta.base_index - 1 if self._append else self.log.last_index
        self.log.truncate_from(index)
        self._epoch += 1
        self.durable_index = Index(min(self.durable_index, index - 1))
        self._append = [batch for batch in self._append if batch.meta.base_index < index]
        # What was acknowledged in this turn and is cut again will never have been durable.
        self._send_after_sync = [
            message
            for message in self._send_after_sync
            if not (isinstance(message, AppendReply) and message.ok and message.index >= index)
        ]
        if index <= stored_last:
            # An earlier cut of this turn lies above: what it left of the log ends at stored_last.
            self._truncate_from = index

    def _acknowledge(self, leader: NodeId, index: Index) -> None:
        """Queue the ack of a durable match; one per turn and leader, the highest index wins."""
        for position, waiting in enumerate(self._send_after_sync):
            if isinstance(waiting, AppendReply) and waiting.ok and waiting.term == self.term:
                index = Index(max(index, waiting.index))
                del self._send_after_sync[position]
                break
        reply = AppendReply(*self._head(leader), True, index, NO_INDEX, NO_TERM)
        self._send_after_sync.append(reply)

    def _refuse_append(self, leader: NodeId, index: Index, refused: Refused) -> None:
        head = self._head(leader)
        reply = AppendReply(*head, False, index, refused.hint_index, refused.hint_term)
        self._send_after_sync.append(reply)

    def _on_heartbeat(self, message: Heartbeat, now: int) -> None:
        self._follow(message.sender, now)
        self._commit_up_to(min(message.commit, self._verified))
        self.release_limit = Index(max(self.release_limit, min(message.release, self.commit)))
        reply = HeartbeatReply(*self._head(message.sender), message.round, self.commit)
        durable = self.durable_hard_state.term == self.term
        (self._send_now if durable else self._send_after_sync).append(reply)

    def _answer_stale(self, message: Message) -> None:
        """Tell a leader or candidate of an older term about ours; ignore stale replies."""
        if isinstance(message, Append | Heartbeat):
            self._refuse_append(message.sender, NO_INDEX, Refused(NO_INDEX, NO_TERM))
        elif isinstance(message, Vote):
            self._send_after_sync.append(VoteReply(*self._head(message.sender), False))

    # ---- leading -------------------------------------------------------------------------

    def _on_append_reply(self, message: AppendReply, now: int) -> None:
        progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.active = True
        if message.ok:
            if message.index > self.log.last_index:
                return
            if progress.acknowledged(message.index):
                self._advance_commit()
            return
        below = min(message.hint_index, message.index - 1)
        resume, _ = self.log.hint_for(below, message.hint_term)
        if progress.refused(message.index, Index(resume + 1)):
            behind = message.hint_index < self.log.start.index
            if behind and progress.next - 1 <= self.log.start.index:
                progress.compacted()

    def _on_heartbeat_reply(self, message: HeartbeatReply, now: int) -> None:
        progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.active = True
        if message.round > progress.round:
            progress.round = message.round
            self._confirm_reads()
        # Half an interval: the replies' jitter must not make us miss every other one.
        if not progress.may_repeat(now, self.config.heartbeat_ns // 2):
            return
        progress.paused = False
        if progress.state is ProgressState.REPLICATE and not self._is_compacted(progress):
            lags = message.commit < min(progress.match, self.commit)
            if progress.stalled() or lags:
                self._send_append(message.sender, Index(progress.next - 1), ())

    def _is_compacted(self, progress: Progress) -> bool:
        """Note, and tell, that a follower needs entries behind the compaction point."""
        if progress.next <= self.log.start.index:
            progress.compacted()
        return progress.state is ProgressState.COMPACTED

    def _replicate_to(self, peer: NodeId) -> None:
        progress = self.progress[peer]
        config = self.config
        while progress.may_send(config.window_messages_max, config.window_bytes_max):
            if progress.next > self.log.last_index or self._is_compacted(progress):
                return
            batches = self.log.batches_from(progress.next, config.message_bytes_max)
            self._send_append(peer, Index(progress.next - 1), batches)
            progress.sent(batches[-1].last_index, sum(meta.size for meta in batches))

    def _send_append(self, peer: NodeId, prev_index: Index, batches: tuple[BatchMeta, ...]) -> None:
        prev_term = self.log.term_at(prev_index)
        assert prev_term is not None, "a probe never reaches behind the compaction point"
        head = self._head(peer)
        self._send_now.append(Append(*head, prev_index, prev_term, self.commit, batches))

    def _send_heartbeats(self, now: int) -> None:
        self._heartbeat_at = now + self.config.heartbeat_ns
        # The own disk counts like any other: a leader may commit what only the others have stored.
        own = min(self.commit, self.durable_index)
        matches = [own, *(progress.match for progress in self.progress.values())]
        limit = releasable(self.log, matches, self.config.hold_bytes_max)
        self.release_limit = limit = max(self.release_limit, limit)
        for peer in self._peers:
            beat = Heartbeat(*self._head(peer), self.commit, self._reads.round, limit)
            self._send_now.append(beat)

    def _advance_commit(self) -> None:
        """Commit what a quorum holds durably, if it is of this term (Raft §5.4.2)."""
        matches = [progress.match for progress in self.progress.values()]
        index = Index(quorum_index([self.durable_index, *matches]))
        if index > self.commit and self.log.term_at(index) == self.term:
            self._commit_up_to(index)

    def _commit_up_to(self, index: int) -> None:
        if index <= self.commit:
            return
        assert index <= self.log.last_index
        if self.role is Role.LEADER:
            self.uncommitted_bytes -= self.log.bytes_between(self.commit, index)
        self.commit = Index(index)

    def _start_read_round(self, now: int) -> None:
        """Send a heartbeat round for the reads of this turn, once the term has a commit."""
        if self.log.term_at(self.commit) == self.term and self._reads.register(self.commit):
            self._send_heartbeats(now)
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        rounds = [progress.round for progress in self.progress.values()]
        self._grants += self._reads.confirmed(quorum_index([self._reads.round, *rounds]))

    # ---- small parts ---------------------------------------------------------------------

    def _dispatch(self, message: Message, now: int) -> None:
        getattr(self, _HANDLERS[type(message)])(message, now)

    def _hard_state(self) -> HardState:
        return HardState(self.term, self.vote)

    def _hard_state_is_durable(self) -> bool:
        return self.durable_hard_state == self._hard_state()

    def _head(self, to: NodeId) -> tuple[GroupId, NodeId, NodeId, Term]:
        """The fields that every message starts with."""
        return self.config.group, self.config.node, to, self.term

    def _token(self) -> PersistToken:
        return PersistToken(
            self._epoch, self.term, self.vote, self.log.last_index, self.log.last_term
        )

    def _arm_quorum_check(self, now: int) -> None:
        self._quorum_check_at = now + self.config.election_ns_max
        self._lateness_forgiven = False

    def _reset_election_timer(self, now: int) -> None:
        self._draws += 1
        self._lateness_forgiven = False
        self._election_at = now + election_timeout_ns(self.config, self._draws)


_HANDLERS: dict[type[Message], str] = {  # by name: a subclass may override; PreVote: see `step`
    Append: "_on_append",
    AppendReply: "_on_append_reply",
    Heartbeat: "_on_heartbeat",
    HeartbeatReply: "_on_heartbeat_reply",
    PreVoteReply: "_on_pre_vote_reply",
    Vote: "_on_vote",
    VoteReply: "_on_vote_reply",
}
