"""How a group that has nothing to do rests, and how it wakes (quiescence).

Theory of operation
-------------------
A node may run many groups, most of them idle. A group whose entries are all committed, durable and
known everywhere needs no heartbeats of its own: that its leader's *node* lives is enough, and one
beat per node says so for all groups (`messages.NodeBeat`, sent by `multiraft`).

The leader offers rest with its heartbeats, and rests when every peer that is heard of has agreed
to a heartbeat of the offer's round. A follower that agreed rests at once: its election timer stands
still as long as its leader's node is heard (`contacts`, kept by `multiraft`). Nothing is taken for
granted that an election decides: rest only replaces "I heard my leader" by "I heard its node".

* A leader wakes by a proposal, a read, any message but an answer, and when a peer returns. What it
  then sends wakes its followers.
* A follower wakes by any Append or heartbeat, and when its leader's node falls silent; then its
  timer counts from the last contact, as if it had never rested.
* Who is awake and hears no heartbeat (an offer was lost, a node restarted) soon asks for PreVotes,
  and a PreVote wakes the leader. So does a deposed leader: whoever still rests under it learns from
  its PreVote that it leads no more.
* A resting leader holds its lead by contact with a quorum of nodes, not by answers.
"""

from __future__ import annotations

from node.raft.election import election_timeout_ns
from node.raft.messages import Heartbeat, HeartbeatReply, Message
from node.raft.quorum import quorum_size
from node.raft.state import NEVER, CoreState
from node.raft.types import NodeId, Role

__all__ = ["Resting"]

_QUIET_BEATS = 3
"""A group that was quiet for so many heartbeats is offered rest: one that works now and then
would lose a heartbeat's time to each waking."""


class Resting(CoreState):
    """The part of a core that does nothing, safely."""

    def wake(self, now: int) -> None:
        """End the rest: a leader sends heartbeats at once, a follower's timer runs again."""
        if not self.resting:
            return
        self.resting = False
        if self.role is Role.LEADER:
            self._withdraw_offer()
            self._heartbeat_at = now
            self._arm_quorum_check(now)
            return
        self._heard_at = self._heard_of(self.leader)
        self._reset_election_timer(now)
        timeout = election_timeout_ns(self.config, self.timeouts, self._draws)
        self._election_at = max(now, self._heard_at + timeout)

    def judge_rest(self, now: int) -> None:
        """Look whether the nodes that a resting group relies on are still heard."""
        if not self.resting:
            return
        if self.role is not Role.LEADER:
            if now - self._heard_of(self.leader) >= self.timeouts.low:
                self.wake(now)
        elif 1 + len(self._heard_peers(now)) < quorum_size(len(self.config.voters)):
            self._become_follower(self.term, now)

    def _stir(self, message: Message, now: int) -> None:
        """Wake a leader whom somebody wants; answers are late ones."""
        if self.role is Role.LEADER and not isinstance(message, HeartbeatReply):
            self.wake(now)

    # ---- the leader's offer --------------------------------------------------------------

    def _offers_rest(self, now: int) -> bool:
        """Tell, once per heartbeat, whether it offers rest."""
        if not self._is_settled():
            self._withdraw_offer()
            return False
        self._quiet_beats += 1
        if self._quiet_beats <= _QUIET_BEATS:
            return False
        if not self._rest_round:
            self._rest_round = self._reads.start_round()
            self._rest_agreed = set()
        return True

    def _withdraw_offer(self) -> None:
        """Begin to count quiet heartbeats anew: there was work since the last one.

        It may be over before the next one is due, while what was agreed to is no longer so.
        """
        self._quiet_beats = self._rest_round = 0

    def _take_agreement(self, message: HeartbeatReply) -> None:
        """Count who agrees; whoever declines later (it restarted) does not."""
        if not self._rest_round or message.round < self._rest_round:
            return
        if message.rest:
            self._rest_agreed.add(message.sender)
        else:
            self._rest_agreed.discard(message.sender)

    def _all_agreed(self, now: int) -> bool:
        """Tell whether everybody who is heard of rests, a quorum with us; who is not, wakes us."""
        if not self._rest_round or not self._is_settled():
            return False
        heard = self._heard_peers(now)
        enough = 1 + len(heard) >= quorum_size(len(self.config.voters))
        return enough and heard <= self._rest_agreed

    def _is_settled(self) -> bool:
        """Tell whether our log is at rest: all committed and durable, nobody waits."""
        return (
            self._contacts is not None
            and self.commit == self.durable_index == self.log.last_index
            and self._hard_state_is_durable()
            and not len(self._reads)
        )

    # ---- the follower's agreement --------------------------------------------------------

    def _agrees_to_rest(self, message: Heartbeat) -> bool:
        """Tell whether we have, durably, all that the leader has."""
        return (
            message.rest and self.commit == message.commit == self._verified and self._is_settled()
        )

    # ---- contact -------------------------------------------------------------------------

    def _heard_of(self, node: NodeId) -> int:
        return NEVER if self._contacts is None else self._contacts.get(node, NEVER)

    def _heard_peers(self, now: int) -> set[NodeId]:
        """Return the peers whose node was heard within the longest election timeout."""
        since = now - self.timeouts.high
        return {peer for peer in self._peers if self._heard_of(peer) >= since}
