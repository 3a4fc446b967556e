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

The rooms: `state` holds what a core knows, `electing`, `following` and `leading` what each role
does; here is what the runtime calls.
"""

from __future__ import annotations

from node.raft.electing import Electing
from node.raft.election import forget_delay_ns
from node.raft.following import Following
from node.raft.leading import Leading
from node.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from node.raft.state import FOREVER, NEVER
from node.raft.types import (
    NO_INDEX,
    NO_NODE,
    HardState,
    Index,
    NodeId,
    PersistToken,
    ReadContext,
    ReadGrant,
    Ready,
    Role,
)

__all__ = ["Core"]


class Core(Electing, Following, Leading):
    """The Raft state of one group on one node. Single-threaded; all times in ns (one clock)."""

    # ---- what the runtime asks -----------------------------------------------------------

    @property
    def next_deadline(self) -> int:
        """When `tick` must be called next (ns); a resting group has no deadline."""
        if self.resting:
            return FOREVER
        if self.role is Role.LEADER:
            return min(self._heartbeat_at, self._quorum_check_at)
        return self._election_at

    @property
    def votes(self) -> tuple[NodeId, ...]:
        """Who has granted the present campaign so far; nobody if there is none."""
        campaigns = self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)
        return self._tally.granted if campaigns else ()

    def accepts(self, size: int) -> bool:
        """Tell whether `size` more bytes fit the uncommitted budget of a leader."""
        if self.role is not Role.LEADER:
            return False
        return self.uncommitted_bytes + size <= self.config.uncommitted_bytes_max

    def tick(self, now: int) -> None:
        """Act on the timers that are due. Drain the inbox first (DESIGN §4)."""
        if self.resting:
            return
        if self.role is Role.LEADER:
            self._tick_leader(now)
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
        grace = now + min(lateness, self.timeouts.low)
        self._election_at = max(self._election_at, grace)
        self._quorum_check_at = max(self._quorum_check_at, grace)

    def forget_leader(self, now: int, jitter_ns: int) -> None:
        """Drop the leader, known to be dead, and campaign within `jitter_ns` (etcd ForgetLeader).

        No-op unless we follow one. Safe: PreVote and the quorum still decide.
        """
        if self.role is not Role.FOLLOWER or self.leader == NO_NODE:
            return
        self.leader = NO_NODE
        self._heard_at = NEVER
        self._draws += 1
        at = now + forget_delay_ns(self.config, self._draws, jitter_ns)
        self._election_at = at if self.resting else min(self._election_at, at)
        self.resting = False

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
        if self.resting:
            self._stir(message, now)
        if isinstance(message, PreVote):
            self._on_pre_vote(message, now)
            return
        if isinstance(message, Vote):
            self._note_campaign(message, now)
            if self._sticky(now) and not message.transfer:
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
            while self._unsynced and self._unsynced[0][0] <= token.last_index:
                self._unsynced.popleft()
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
        leads = self.role is Role.LEADER and not self.resting
        return bool(stores or sends or leads)

    def ready(self, now: int) -> Ready:
        """Take what there is to do; see `types.Ready` for the caller's duties."""
        if self.role is Role.LEADER:
            self._start_read_round(now)
            for peer in self._peers:
                self._replicate_to(peer)
            if self._append:
                self._unsynced.append((self.log.last_index, now))
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

    # ---- small parts ---

    def _dispatch(self, message: Message, now: int) -> None:
        getattr(self, _HANDLERS[type(message)])(message, now)


_HANDLERS: dict[type[Message], str] = {  # by name: a subclass may override; PreVote: see `step`
    Append: "_on_append",
    AppendReply: "_on_append_reply",
    Heartbeat: "_on_heartbeat",
    HeartbeatReply: "_on_heartbeat_reply",
    PreVoteReply: "_on_pre_vote_reply",
    TimeoutNow: "_on_timeout_now",
    Vote: "_on_vote",
    VoteReply: "_on_vote_reply",
}
