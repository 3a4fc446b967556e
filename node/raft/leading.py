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
    TimeoutNow,
)
from node.raft.progress import Progress, ProgressState, releasable
from node.raft.quorum import quorum_index, quorum_size
from node.raft.reads import PendingReads
from node.raft.rest import Resting
from node.raft.types import Batch, BatchMeta, Index, NodeId, Role

__all__ = ["Leading"]

_PHASES = 16
"""Nodes beat at different times of the interval, so that they do not all wake at once."""


class Leading(Resting):
    """The part of a core that leads."""

    def propose(self, batch: Batch) -> None:
        """Append a batch built for exactly (`term`, `log.last_index` + 1) as the leader."""
        assert self.role is Role.LEADER, "only a leader appends"
        assert batch.meta.term == self.term
        assert not self.resting, "woken before"
        self._withdraw_offer()
        self.log.append(batch.meta)
        self._append.append(batch)
        self.uncommitted_bytes += batch.meta.size

    def _become_leader(self, now: int) -> None:
        assert self.role is Role.CANDIDATE
        assert self._hard_state_is_durable(), "the own vote is durable first"
        self.role = Role.LEADER
        self.leader = self.config.node
        self.led_since = now
        self._reads = PendingReads()
        next_index = Index(self.log.last_index + 1)
        self.progress = {peer: Progress(next_index) for peer in self._peers}
        self.uncommitted_bytes = self.log.bytes_after(self.commit)
        self._heartbeat_at = self._next_beat(now)
        self._arm_quorum_check(now)
        self.propose(self._make_noop(self.term, next_index))

    def _tick_leader(self, now: int) -> None:
        if now >= self._quorum_check_at and not self._check_quorum(now):
            return
        if now < self._heartbeat_at or self._steps_down_for_disk(now):
            return
        if self._all_agreed(now) and not self._hands_over(now):
            self.resting = True
        else:
            self._send_heartbeats(now, rest=self._offers_rest(now))

    def _hands_over(self, now: int) -> bool:
        """Offer the lead of a quiet group to the node that should have it, if it is there.

        Everybody has agreed that it has all that we have. Not often: it may fail to win.
        """
        preferred = self.config.preferred
        if preferred not in self._heard_peers(now) or now < self._transfer_at:
            return False
        self._transfer_at = now + self.config.transfer_ns
        self._send_now.append(TimeoutNow(*self._head(preferred)))
        return True

    def _check_quorum(self, now: int) -> bool:
        """Step down unless a majority is alive since the last check (thesis §6.2); True: we lead on.

        Alive is who answered, and takes in what it is sent (`Progress.is_alive`).
        """
        alive = 1 + sum([progress.is_alive() for progress in self.progress.values()])
        if alive < quorum_size(len(self.config.voters)):
            self._become_follower(self.term, now)
            return False
        self._arm_quorum_check(now)
        return True

    def _steps_down_for_disk(self, now: int) -> bool:
        """Step down if our disk has stalled for a whole timeout and a quorum of others' has not.

        A stall that the others share (one disk under all nodes) is counted, no more: nobody else
        could lead better.
        """
        if not self._unsynced or now - self._unsynced[0][1] < self.timeouts.high:
            return False
        index = self._unsynced[0][0]
        synced_later = sum(progress.match >= index for progress in self.progress.values())
        if synced_later >= quorum_size(len(self.config.voters)):
            self._become_follower(self.term, now)
            return True
        if index > self._stall_counted:
            self._stall_counted = index
            self.shared_stalls += 1
        return False

    def _next_beat(self, now: int) -> int:
        """Return the next time for heartbeats: the same for all groups of a node, one frame."""
        interval = self.config.heartbeat_ns
        phase = interval * self.config.node // _PHASES
        return ((now - phase) // interval + 1) * interval + phase

    def _on_append_reply(self, message: AppendReply, now: int) -> None:
        progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.active = progress.answered = True
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
        progress.received = max(progress.received, message.received)
        self._take_agreement(message)
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

    def _send_heartbeats(self, now: int, *, rest: bool = False) -> None:
        self._heartbeat_at = self._next_beat(now)
        # The own disk counts like any other: a leader may commit what only the others have stored.
        own = min(self.commit, self.durable_index)
        matches = [own, *(progress.match for progress in self.progress.values())]
        limit = releasable(self.log, matches, self.config.hold_bytes_max)
        self.release_limit = limit = max(self.release_limit, limit)
        for peer in self._peers:
            beat = Heartbeat(*self._head(peer), self.commit, self._reads.round, limit, rest)
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
            self._withdraw_offer()
            self._send_heartbeats(now)
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        rounds = [progress.round for progress in self.progress.values()]
        self._grants += self._reads.confirmed(quorum_index([self._reads.round, *rounds]))
