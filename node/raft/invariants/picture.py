"""What the onlooker knows: of each node, its last state and its disk; of the group, what happened."""

from __future__ import annotations

from collections.abc import Sequence

from node.raft.invariants.stored_log import Change, StoredLog
from node.raft.quorum import quorum_size
from node.raft.types import NO_INDEX, NO_NODE, NO_TERM, BatchMeta, Index, LogStart, NodeId, Role

__all__ = ["GroupPicture", "NodePicture"]


class NodePicture:
    """What was last seen of one node, and what is known of its disk."""

    __slots__ = (
        "applied",
        "commit",
        "durable",
        "last_term",
        "log",
        "node",
        "pending",
        "role",
        "start",
        "term",
        "unsynced",
        "vote",
    )

    def __init__(self, node: NodeId) -> None:
        self.node = node
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

    def holds(self, batch: BatchMeta) -> bool:
        """Tell whether the batch is in the log in the node's memory, or compacted away."""
        return StoredLog(batches=self.log, start=LogStart(self.start)).holds(batch)


class GroupPicture:
    """All that the checks share. Lists and tables grow with what was committed, and with terms."""

    __slots__ = (
        "commit_terms",
        "committed",
        "durable_votes",
        "leaders",
        "nodes",
        "outcomes",
        "positions",
        "previous",
        "quorum",
        "votes",
    )

    def __init__(self, voters: Sequence[NodeId]) -> None:
        self.quorum = quorum_size(len(voters))
        self.nodes = {voter: NodePicture(voter) for voter in voters}
        self.committed: list[BatchMeta] = []
        """Every committed batch, in order, whatever became of the node that committed it."""
        self.commit_terms: list[int] = []
        """Per committed batch, the term of the node that committed it first."""
        self.positions: dict[int, int] = {}
        """Base index → position in `committed`."""
        self.leaders: dict[int, NodeId] = {}
        """Term → who leads in it."""
        self.votes: dict[tuple[NodeId, int], NodeId] = {}
        """(voter, term) → the candidate that was told so."""
        self.durable_votes: dict[tuple[NodeId, int], NodeId] = {}
        self.previous: dict[tuple[int, int], tuple[int, int, int]] = {}
        """(term, base index) → (count, term and base index of the batch before)."""
        self.outcomes: dict[int, object] = {}

    @property
    def committed_index(self) -> Index:
        """The last committed index of the group."""
        return self.committed[-1].last_index if self.committed else NO_INDEX

    def committed_at(self, base_index: int) -> BatchMeta | None:
        """Return the committed batch that begins at an index."""
        position = self.positions.get(base_index)
        return None if position is None else self.committed[position]
