"""How a core follows: Appends are judged, stored and acknowledged; heartbeats answered.

A follower commits only what it has verified against the log of the *current* leader, and
acknowledges only what is durable: append replies go to `send_after_sync`, and heartbeat replies
too while the term is not durable.
"""

from __future__ import annotations

from node.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    Vote,
    VoteReply,
)
from node.raft.replication import Refused, judge_append
from node.raft.rest import Resting
from node.raft.types import NO_INDEX, NO_TERM, Index, NodeId, Role

__all__ = ["Following"]


class Following(Resting):
    """The part of a core that takes in what a leader sends."""

    def _follow(self, leader: NodeId, now: int) -> None:
        assert self.role is not Role.LEADER, "two leaders in one term"
        if self.role is Role.FOLLOWER and self.leader == leader:
            self.resting = False
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
        self.resting = self._agrees_to_rest(message)
        head = self._head(message.sender)
        reply = HeartbeatReply(*head, message.round, self.commit, self._verified, self.resting)
        durable = self.durable_hard_state.term == self.term
        (self._send_now if durable else self._send_after_sync).append(reply)

    def _answer_stale(self, message: Message) -> None:
        """Tell a leader or candidate of an older term about ours; ignore stale replies."""
        if isinstance(message, Append | Heartbeat):
            self._refuse_append(message.sender, NO_INDEX, Refused(NO_INDEX, NO_TERM))
        elif isinstance(message, Vote):
            self._send_after_sync.append(VoteReply(*self._head(message.sender), False))
