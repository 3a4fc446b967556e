"""How a core leads: replication, heartbeats, commitment, reads, and the quorum that holds it.

The leader counts what is durable on its own disk like any other match (thesis §10.2.1), and
commits only entries of its own term by counting (Raft §5.4.2).
"""

from __future__ import annotations

from node.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
)
from node.raft.progress import Progress, ProgressState, releasable
from node.raft.quorum import quorum_index, quorum_size
from node.raft.reads import PendingReads
from node.raft.state import CoreState
from node.raft.types import Batch, BatchMeta, Index, NodeId, Role

__all__ = ["Leading"]


class Leading(CoreState):
    """The part of a core that leads."""

    def propose(self, batch: Batch) -> None:
        """Append a batch built for exactly (`term`, `log.last_index` + 1) as the leader."""
        assert self.role is Role.LEADER, "only a leader appends"
        assert batch.meta.term == self.term
        self.log.append(batch.meta)
        self._append.append(batch)
        self.uncommitted_bytes += batch.meta.size

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

    def _start_read_round(self, now: int) -> None:
        """Send a heartbeat round for the reads of this turn, once the term has a commit."""
        if self.log.term_at(self.commit) == self.term and self._reads.register(self.commit):
            self._send_heartbeats(now)
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        rounds = [progress.round for progress in self.progress.values()]
        self._grants += self._reads.confirmed(quorum_index([self._reads.round, *rounds]))
