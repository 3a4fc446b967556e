"""What must always hold in one group, checked by an onlooker who sees every replica. Pure.

Theory of operation
-------------------
Whoever drives a cluster in one place (the simulator; a test) tells a `GroupInvariants` four kinds
of things: `stored` / `synced` (what a node's disk was asked for, and what of it is truly durable),
`observe` (a core, after each of its turns), `sent` (a message that leaves now) and `applied`.
The onlooker keeps its own picture of each node's durable log, fed by the disk and not by the core:
what a core *claims* to be durable is exactly what is on trial.

Every check is incremental: it looks at what changed since the node's last observation, so that its
cost follows the work done and not the length of the log. Two ideas make that enough: a batch is
identified by (term, base index), and each identity has one predecessor everywhere, so that equal
identities mean equal prefixes (Raft §5.3, by induction).

A violation raises `InvariantError`, which names the property; `INVARIANTS` gives its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from node.raft.core import Core
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
from node.raft.quorum import quorum_size
from node.raft.types import (
    NO_INDEX,
    NO_NODE,
    NO_TERM,
    BatchMeta,
    HardState,
    Index,
    LogStart,
    NodeId,
    Role,
)

__all__ = ["INVARIANTS", "Change", "GroupInvariants", "InvariantError", "StoredLog"]

INVARIANTS: dict[str, str] = {
    "election safety": "Raft figure 3: at most one leader per term",
    "leader append-only": "Raft figure 3: a leader never removes or overwrites its own entries",
    "log matching": "Raft figure 3: same index and term, same entry and same prefix",
    "leader completeness": "Raft figure 3: a committed entry is in the log of all later leaders",
    "state machine safety": "Raft figure 3: one entry, and one outcome, per applied index",
    "commit by own term": "Raft §5.4.2: only entries of the leader's term commit by counting",
    "commit on a quorum": "thesis §10.2.1: committed means durable on a majority, whoever leads",
    "committed is kept": "Raft figure 3 (leader completeness): no replica removes it from its log",
    "monotonic term": "Raft figure 2: currentTerm increases monotonically, restarts included",
    "one vote per term": "Raft figure 2: votedFor changes once per term, restarts included",
    "monotonic commit": "Raft figure 2: commitIndex increases monotonically",
    "order of indexes": "Raft figure 2: lastApplied ≤ commitIndex ≤ last index",
    "promise is durable": "Raft figure 2: persistent state is on stable storage before any reply",
    "ack is durable": "Raft §5.3, thesis §10.2.1: an ack names entries that are on the disk",
    "recovery": "Raft figure 2: a restart finds all that was durable, and a prefix of what was not",
}
"""Every property that is checked here, with its source."""


class InvariantError(AssertionError):
    """A property of the protocol does not hold: `name` is a key of `INVARIANTS`."""

    def __init__(self, name: str, detail: str) -> None:
        """Say which property and what was seen."""
        self.name = name
        self.detail = detail
        super().__init__(f"{name}: {detail} ({INVARIANTS[name]})")


Change = BatchMeta | HardState | LogStart | Index | None
"""One stored record: a batch, a hard state, the compaction point, the index from which the log is
cut; None: of another group, or of none."""


@dataclass(slots=True)
class StoredLog:
    """What storage holds of one group: hard state and batches, as a model of the disk."""

    hard_state: HardState = HardState()  # noqa: RUF009 - frozen
    batches: list[BatchMeta] = field(default_factory=list)
    start: LogStart = LogStart()  # noqa: RUF009 - frozen

    def copy(self) -> StoredLog:
        """Return an independent copy."""
        return StoredLog(self.hard_state, list(self.batches), self.start)

    def change(self, change: Change) -> list[BatchMeta]:
        """Follow one record; return the batches that it cut off the end of the log."""
        if change is None:
            return []
        if isinstance(change, BatchMeta):
            self.batches.append(change)
            return []
        if isinstance(change, HardState):
            self.hard_state = change
            return []
        if isinstance(change, LogStart):
            self.start = change
            self.batches = [meta for meta in self.batches if meta.last_index > change.index]
            return []
        keep = len(self.batches)
        while keep and self.batches[keep - 1].base_index >= change:
            keep -= 1
        cut = self.batches[keep:]
        del self.batches[keep:]
        return cut

    def ending_at(self, index: int) -> BatchMeta | None:
        """Return the batch whose last entry stands at `index`."""
        for meta in reversed(self.batches):
            if meta.last_index <= index:
                return meta if meta.last_index == index else None
        return None

    def holds(self, wanted: BatchMeta) -> bool:
        """Tell whether the batch (term, base index) is stored; what is compacted away is."""
        if wanted.last_index <= self.start.index:
            return True
        for meta in reversed(self.batches):
            if meta.base_index <= wanted.base_index:
                return meta.base_index == wanted.base_index and meta.term == wanted.term
        return False


class _Seen:
    """What was last seen of one node, and what is known of its disk."""

    __slots__ = (
        "applied",
        "commit",
        "durable",
        "last_term",
        "log",
        "pending",
        "role",
        "start",
        "term",
        "unsynced",
        "vote",
    )

    def __init__(self) -> None:
        self.term = NO_TERM
        self.vote = NO_NODE
        self.last_term = NO_TERM
        self.role = Role.FOLLOWER
        self.commit = NO_INDEX
        self.applied = NO_INDEX
        self.start = NO_INDEX
        """The compaction point; `log` holds what is behind it."""
        self.log: list[BatchMeta] = []
        self.durable = StoredLog()
        self.pending: list[Change] = []
        """Queued and not durable."""
        self.unsynced: list[Change] = []
        """What was pending when the node stopped: it may be found again, as a prefix."""


class GroupInvariants:
    """All replicas of one group, seen from outside."""

    def __init__(self, voters: Sequence[NodeId]) -> None:
        """Watch `voters`, none of which has started."""
        self.committed: list[BatchMeta] = []
        """Every committed batch, in order, whatever became of the node that committed it."""
        self._quorum = quorum_size(len(voters))
        self._seen = {voter: _Seen() for voter in voters}
        self._leaders: dict[int, NodeId] = {}
        self._votes: dict[tuple[NodeId, int], NodeId] = {}
        """(voter, term) → the candidate that was told so."""
        self._durable_votes: dict[tuple[NodeId, int], NodeId] = {}
        self._previous: dict[tuple[int, int], tuple[int, int, int]] = {}
        """(term, base index) → (count, term and base index of the batch before)."""
        self._commit_terms: list[int] = []
        """Per committed batch, the term of the node that committed it first."""
        self._positions: dict[int, int] = {}
        """Base index → position in `committed`."""
        self._outcomes: dict[int, object] = {}

    @property
    def committed_index(self) -> Index:
        """The last committed index of the group."""
        return self.committed[-1].last_index if self.committed else NO_INDEX

    # ---- storage -------------------------------------------------------------------------

    def stored(self, node: NodeId, change: Change) -> None:
        """Take the news that a node queued a record behind all earlier ones."""
        self._seen[node].pending.append(change)

    def synced(self, node: NodeId, count: int) -> None:
        """Take the news that the oldest `count` queued records of a node are durable."""
        seen = self._seen[node]
        for change in seen.pending[:count]:
            for cut in seen.durable.change(change):
                self._must_not_be_committed(node, cut)
            if isinstance(change, HardState):
                self._durable_votes[node, change.term] = change.vote
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
        state = seen.durable.copy()
        for change in seen.unsynced:
            if state == found:
                break
            state.change(change)
        if state != found:
            raise InvariantError(
                "recovery", f"node {node} found {_brief(found)}, had {_brief(seen.durable)}"
            )
        for batch in seen.durable.batches:
            if not found.holds(batch):
                self._must_not_be_committed(node, batch)
        seen.unsynced.clear()
        seen.durable = found
        seen.log = list(found.batches)
        seen.start = found.start.index
        self._durable_votes[node, found.hard_state.term] = found.hard_state.vote
        seen.role, seen.term, seen.vote = core.role, core.term, core.vote
        seen.last_term = core.term
        seen.commit = seen.applied = core.commit
        self._register(node, 0)

    # ---- cores ---------------------------------------------------------------------------

    def observe(self, core: Core, applied: Index) -> None:
        """Check what changed in a core since its last observation."""
        node = core.config.node
        seen = self._seen[node]
        if core.term != seen.term or core.vote != seen.vote:
            self._check_term(node, seen, core)
        log = core.log
        size = len(log)
        mirror = seen.log
        if (
            size != len(mirror)
            or log.start.index != seen.start
            or (size and mirror[-1] is not log.batch_at(size - 1))
        ):
            self._follow_log(node, seen, core)
        if core.role is not seen.role or core.term != seen.last_term:
            if core.role is Role.LEADER:
                self._check_leader(node, core)
            seen.role, seen.last_term = core.role, core.term
        if core.commit != seen.commit:
            self._check_commit(node, seen, core)
        if not applied <= core.commit <= log.last_index:
            raise InvariantError(
                "order of indexes",
                f"node {node}: applied {applied}, commit {core.commit}, last {log.last_index}",
            )

    def _check_term(self, node: NodeId, seen: _Seen, core: Core) -> None:
        if core.term < seen.term:
            raise InvariantError(
                "monotonic term", f"node {node} went from term {seen.term} to {core.term}"
            )
        if core.term == seen.term and seen.vote != NO_NODE:
            raise InvariantError(
                "one vote per term",
                f"node {node} changed its vote in term {core.term} from {seen.vote} to {core.vote}",
            )
        seen.term, seen.vote = core.term, core.vote

    def _follow_log(self, node: NodeId, seen: _Seen, core: Core) -> None:
        log, mirror = core.log, seen.log
        if log.start.index != seen.start:
            seen.start = log.start.index
            mirror[:] = [meta for meta in mirror if meta.last_index > seen.start]
        same = min(len(log), len(mirror))
        while same and mirror[same - 1] != log.batch_at(same - 1):
            same -= 1
        cut = mirror[same:]
        if cut and seen.role is Role.LEADER and seen.last_term == core.term:
            raise InvariantError(
                "leader append-only", f"node {node}, term {core.term}, removed {_name(cut[0])}"
            )
        for batch in cut:
            self._must_not_be_committed(node, batch)
        del mirror[same:]
        mirror.extend(log.batch_at(position) for position in range(same, len(log)))
        self._register(node, same)

    def _register(self, node: NodeId, position: int) -> None:
        """Compare each batch from `position` on with what its identity means elsewhere."""
        log = self._seen[node].log
        before = log[position - 1] if position else None
        if before is None and self._seen[node].start:
            position, before = 1, log[0] if log else None  # its predecessor is compacted away
        for batch in log[position:]:
            name = (batch.term, batch.base_index)
            here = (batch.count, before.term, before.base_index) if before else (batch.count, 0, 0)
            if self._previous.setdefault(name, here) != here:
                raise InvariantError(
                    "log matching",
                    f"node {node} has {_name(batch)} as (count, previous) {here},"
                    f" another has {self._previous[name]}",
                )
            before = batch

    def _check_leader(self, node: NodeId, core: Core) -> None:
        other = self._leaders.setdefault(core.term, node)
        if other != node:
            raise InvariantError(
                "election safety", f"nodes {other} and {node} lead in term {core.term}"
            )
        position = len(self.committed) - 1
        while position >= 0 and self._commit_terms[position] >= core.term:
            position -= 1
        if position >= 0:
            self._must_hold(core.config.node, self.committed[position], core.term)

    def _must_hold(self, leader: NodeId, committed: BatchMeta, term: int) -> None:
        seen = self._seen[leader]
        memory = StoredLog(batches=seen.log, start=LogStart(seen.start))
        if not memory.holds(committed):
            raise InvariantError(
                "leader completeness",
                f"node {leader}, leader of term {term}, lacks committed {_name(committed)}",
            )

    # ---- commit and apply ----------------------------------------------------------------

    def _check_commit(self, node: NodeId, seen: _Seen, core: Core) -> None:
        if core.commit < seen.commit:
            raise InvariantError(
                "monotonic commit", f"node {node} went from {seen.commit} to {core.commit}"
            )
        index = seen.commit
        while index < core.commit:
            batch = core.log.batch_of(index + 1)
            if batch is None or batch.base_index != index + 1 or batch.last_index > core.commit:
                raise InvariantError(
                    "order of indexes",
                    f"node {node}: commit {core.commit} is not the end of a batch in its log",
                )
            self._take_commit(node, core, batch)
            index = batch.last_index
        seen.commit = core.commit

    def _take_commit(self, node: NodeId, core: Core, batch: BatchMeta) -> None:
        position = self._positions.get(batch.base_index)
        if position is not None:
            known = self.committed[position]
            if (known.term, known.count) != (batch.term, batch.count):
                raise InvariantError(
                    "state machine safety",
                    f"node {node} commits {_name(batch)} where {_name(known)} was committed",
                )
            return
        if batch.base_index != self.committed_index + 1:
            raise InvariantError(
                "state machine safety",
                f"node {node} commits {_name(batch)} across the end of another batch",
            )
        if batch.last_index == core.commit and core.role is Role.LEADER and batch.term != core.term:
            raise InvariantError(
                "commit by own term",
                f"node {node}, leader of term {core.term}, commits {_name(batch)} by counting",
            )
        holders = [voter for voter, seen in self._seen.items() if seen.durable.holds(batch)]
        if len(holders) < self._quorum:
            raise InvariantError(
                "commit on a quorum",
                f"node {node} commits {_name(batch)}, durable on nodes {holders} only",
            )
        self._positions[batch.base_index] = len(self.committed)
        self.committed.append(batch)
        self._commit_terms.append(core.term)
        for other, seen in self._seen.items():
            if seen.role is Role.LEADER and seen.last_term > core.term:
                self._must_hold(other, batch, seen.last_term)

    def _must_not_be_committed(self, node: NodeId, cut: BatchMeta) -> None:
        position = self._positions.get(cut.base_index)
        if position is not None and self.committed[position].term == cut.term:
            raise InvariantError("committed is kept", f"node {node} loses {_name(cut)}")

    def applied(self, node: NodeId, batch: BatchMeta, outcome: object) -> None:
        """Check one applied batch; `outcome` is comparable and stands for what it did."""
        seen = self._seen[node]
        position = self._positions.get(batch.base_index)
        known = None if position is None else self.committed[position]
        if known is not None and (known.term, known.count) != (batch.term, batch.count):
            raise InvariantError(
                "state machine safety", f"node {node} applies {_name(batch)}, not {_name(known)}"
            )
        if batch.base_index != seen.applied + 1:
            raise InvariantError(
                "order of indexes", f"node {node} applies {_name(batch)} after {seen.applied}"
            )
        seen.applied = batch.last_index
        if self._outcomes.setdefault(batch.base_index, outcome) != outcome:
            raise InvariantError(
                "state machine safety",
                f"node {node}: {_name(batch)} came out as {outcome},"
                f" elsewhere as {self._outcomes[batch.base_index]}",
            )

    # ---- promises ------------------------------------------------------------------------

    def sent(self, message: Message) -> None:
        """Check what a message promises against the sender's disk, at the moment it leaves."""
        if isinstance(message, PreVote | PreVoteReply | NodeBeat):
            return  # they promise nothing: a term named there need not be durable
        durable = self._seen[message.sender].durable
        state = durable.hard_state
        if state.term < message.term:
            raise InvariantError(
                "promise is durable",
                f"node {message.sender} sends {type(message).__name__} of term {message.term};"
                f" its disk says {state.term}",
            )
        if isinstance(message, Heartbeat | HeartbeatReply | Append | TimeoutNow):
            return
        if isinstance(message, AppendReply):
            # A later term's leader may have cut what is acked since; then nobody counts the ack.
            if message.ok and state.term == message.term:
                self._check_ack(message, durable)
        elif isinstance(message, Vote):
            self._check_vote(message.sender, message.term, message.sender)
        elif message.granted:
            self._check_vote(message.sender, message.term, message.to)

    def _check_ack(self, message: AppendReply, durable: StoredLog) -> None:
        if message.index <= durable.start.index:  # nothing, or in a durable snapshot
            return
        batch = durable.ending_at(message.index)
        if batch is None:
            raise InvariantError(
                "ack is durable",
                f"node {message.sender} acks {message.index}, its disk ends elsewhere:"
                f" {_brief(durable)}",
            )
        leader = self._seen[message.to]
        if leader.role is not Role.LEADER or leader.last_term != message.term:
            return
        for meta in reversed(leader.log):
            if meta.base_index <= batch.base_index:
                if (meta.term, meta.base_index) != (batch.term, batch.base_index):
                    raise InvariantError(
                        "ack is durable",
                        f"node {message.sender} acks {_name(batch)}, its leader has {_name(meta)}",
                    )
                return

    def _check_vote(self, voter: NodeId, term: int, candidate: NodeId) -> None:
        stored = self._durable_votes.get((voter, term))
        # A vote may reach the disk only as a later term, in which no vote of this one is left.
        outlived = self._seen[voter].durable.hard_state.term > term and not stored
        if stored != candidate and not outlived:
            raise InvariantError(
                "promise is durable",
                f"node {voter} votes for {candidate} in term {term}; its disk says {stored}",
            )
        if self._votes.setdefault((voter, term), candidate) != candidate:
            raise InvariantError(
                "one vote per term",
                f"node {voter} votes for {candidate} in term {term},"
                f" and had voted for {self._votes[voter, term]}",
            )


def _name(batch: BatchMeta) -> str:
    return f"{batch.base_index}–{batch.last_index} of term {batch.term}"


def _brief(log: StoredLog) -> str:
    last = _name(log.batches[-1]) if log.batches else "no batch"
    return f"term {log.hard_state.term}, vote {log.hard_state.vote}, {len(log.batches)}, {last}"
