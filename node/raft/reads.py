"""ReadIndex (thesis §6.4): linearizable reads without touching the log.

A read is registered at the commit index of its moment and granted once a quorum has answered a
heartbeat round that *started after* the registration: only such an answer proves that nobody else
could have committed in between. Rounds only grow, so a late answer to an older round proves
nothing for a newer read (etcd#20418). Reads wait until an entry of the current term is committed,
for before that the commit index may lag (etcd#7331).
"""

from __future__ import annotations

from node.raft.types import NO_INDEX, Index, ReadContext, ReadGrant

__all__ = ["PendingReads"]


class PendingReads:
    """The reads of one leadership, oldest first."""

    __slots__ = ("_registered", "_round", "_waiting")

    def __init__(self) -> None:
        """Start with no reads, before the first round."""
        self._waiting: list[ReadContext] = []
        self._registered: list[tuple[ReadContext, Index, int]] = []
        self._round = 0

    def __len__(self) -> int:
        """Return how many reads are pending."""
        return len(self._waiting) + len(self._registered)

    @property
    def round(self) -> int:
        """Number of the newest round that was started."""
        return self._round

    def add(self, context: ReadContext) -> None:
        """Take a read in; it is registered by the next `register`."""
        self._waiting.append(context)

    def register(self, commit: Index) -> bool:
        """Register all waiting reads at `commit` under a new round; True if one must be sent."""
        if not self._waiting:
            return False
        self.start_round()
        self._registered += [(context, commit, self._round) for context in self._waiting]
        self._waiting.clear()
        return True

    def start_round(self) -> int:
        """Begin a round: only answers to heartbeats that leave from now on belong to it."""
        self._round += 1
        return self._round

    def confirmed(self, quorum_round: int) -> list[ReadGrant]:
        """Take out the reads whose round a quorum has answered."""
        done = 0
        while done < len(self._registered) and self._registered[done][2] <= quorum_round:
            done += 1
        grants = [ReadGrant(context, index, True) for context, index, _ in self._registered[:done]]
        del self._registered[:done]
        return grants

    def abort(self) -> list[ReadGrant]:
        """Refuse everything that is pending: the lead is gone."""
        contexts = [entry[0] for entry in self._registered] + self._waiting
        self._registered.clear()
        self._waiting.clear()
        return [ReadGrant(context, NO_INDEX, False) for context in contexts]
