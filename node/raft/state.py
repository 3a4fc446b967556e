"""What one group's core knows, and the few moves that every role shares. See `core`.

`CoreState` is the common ground of `electing`, `following` and `leading`, which `core.Core` joins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping

from node.raft.election import election_timeout_ns, timeouts_in_force
from node.raft.log_view import LogView
from node.raft.messages import Message
from node.raft.progress import Progress
from node.raft.quorum import Tally
from node.raft.reads import PendingReads
from node.raft.types import (
    NO_INDEX,
    NO_NODE,
    Batch,
    CoreConfig,
    GroupId,
    HardState,
    Index,
    NodeId,
    NoopBuilder,
    PersistToken,
    ReadGrant,
    Role,
    Term,
)

__all__ = ["FOREVER", "NEVER", "CoreState"]

NEVER = -(1 << 62)
FOREVER = 1 << 62


class CoreState(ABC):
    """The fields of a core, the timers, and the step down. All times in ns (one clock)."""

    def __init__(
        self,
        config: CoreConfig,
        hard_state: HardState,
        log: LogView,
        make_noop: NoopBuilder,
        now: int,
        *,
        contacts: Mapping[NodeId, int] | None = None,
    ) -> None:
        """Start as a follower of the persisted term; everything in `log` is durable.

        `contacts`, which the caller keeps, says when each peer's node was last heard (ns), in
        whatever group; without it this group never rests.

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
        self.led_since = NEVER
        """When this node took the lead that it holds, or held last."""
        self.uncommitted_bytes = 0
        self.resting = False
        """Nothing is due and nothing is sent until something wakes us: see `rest`."""
        self.timeouts = timeouts_in_force(config, 0)
        """The election timeouts in force; the caller stretches them when its loop lags."""
        self.shared_stalls = 0
        """How often our disk stalled as leader and the others' no less: no reason to step down."""
        self._contacts = contacts
        self._make_noop = make_noop
        self._peers = tuple(node for node in config.voters if node != config.node)
        self._epoch = 0
        self._verified = NO_INDEX
        self._heard_at = NEVER
        self._draws = 0
        self._tally = Tally(config.voters)
        self._reads = PendingReads()
        self._heartbeat_at = 0
        self._quorum_check_at = 0
        self._election_at = 0
        self._quiet_beats = 0
        self._rest_round = 0
        self._rest_agreed: set[NodeId] = set()
        self._unsynced: deque[tuple[Index, int]] = deque()
        """As leader: last indexes that our own disk was asked to store, and when."""
        self._stall_counted = NO_INDEX
        self._transfer_at = NEVER
        self._lateness_forgiven = False
        self._reset_election_timer(now)
        self._hard_dirty = self.durable_hard_state != self._hard_state()
        self._truncate_from: Index | None = None
        self._append: list[Batch] = []
        self._send_now: list[Message] = []
        self._send_after_sync: list[Message] = []
        self._grants: list[ReadGrant] = []

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
            self._unsynced.clear()
            # As leader it verified its own log against nobody.
            self._verified = NO_INDEX
        self.role = Role.FOLLOWER
        self.leader = leader
        self.resting = False
        self._heard_at = now if leader != NO_NODE else NEVER
        self._reset_election_timer(now)

    def _commit_up_to(self, index: int) -> None:
        if index <= self.commit:
            return
        assert index <= self.log.last_index
        if self.role is Role.LEADER:
            self.uncommitted_bytes -= self.log.bytes_between(self.commit, index)
        self.commit = Index(index)

    @abstractmethod
    def _become_leader(self, now: int) -> None:
        """Take the lead: see `leading`."""

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
        self._quorum_check_at = now + self.timeouts.high
        self._lateness_forgiven = False

    def _reset_election_timer(self, now: int) -> None:
        self._draws += 1
        self._lateness_forgiven = False
        self._election_at = now + election_timeout_ns(self.config, self.timeouts, self._draws)
