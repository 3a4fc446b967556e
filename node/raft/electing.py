"""How a core campaigns and votes: PreVote (thesis §9.6), stickiness (thesis §6.2), votes.

A term or vote is durable before any message that depends on it leaves: votes and vote requests go
to `send_after_sync`. PreVotes promise nothing and leave at once.
"""

from __future__ import annotations

from node.raft.election import is_up_to_date, may_grant_vote
from node.raft.messages import PreVote, PreVoteReply, TimeoutNow, Vote, VoteReply
from node.raft.quorum import Tally, VoteResult
from node.raft.rest import Resting
from node.raft.state import NEVER
from node.raft.types import NO_INDEX, NO_NODE, Role, Term

__all__ = ["Electing"]


class Electing(Resting):
    """The part of a core that becomes, or chooses, a leader."""

    def _start_pre_vote(self, now: int) -> None:
        self.role = Role.PRE_CANDIDATE
        self.leader = NO_NODE
        self._heard_at = NEVER
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

    def _become_candidate(self, now: int, *, transfer: bool = False) -> None:
        """Enter a new term; the own vote counts when it is durable (`persisted`)."""
        self.role = Role.CANDIDATE
        self.leader = NO_NODE
        self._heard_at = NEVER
        self.resting = False
        self.term = Term(self.term + 1)
        self.vote = self.config.node
        self._hard_dirty = True
        self._verified = NO_INDEX
        self._reset_election_timer(now)
        self._tally = Tally(self.config.voters)
        log = self.log
        for peer in self._peers:
            vote = Vote(*self._head(peer), log.last_index, log.last_term, transfer)
            self._send_after_sync.append(vote)

    def _conclude_election(self, result: VoteResult, now: int) -> None:
        if result is VoteResult.LOST:
            self._become_follower(self.term, now)
        elif result is VoteResult.WON and self._hard_state_is_durable():
            self._become_leader(now)

    def _sticky(self, now: int) -> bool:
        """Tell whether a leader is known to be alive, so that its voters stay with it."""
        if self.role is Role.LEADER:
            return True
        if self.leader == NO_NODE:
            return False
        heard_at = self._heard_of(self.leader) if self.resting else self._heard_at
        return now - heard_at < self.timeouts.low

    def _note_campaign(self, message: PreVote | Vote, now: int) -> None:
        """Let go of the leader that campaigns for a later term itself: it leads no more."""
        if message.sender == self.leader and message.term > self.term:
            self.leader = NO_NODE
            self._heard_at = NEVER
            if self.resting:
                self.resting = False
                self._reset_election_timer(now)

    def _on_pre_vote(self, message: PreVote, now: int) -> None:
        self._note_campaign(message, now)
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

    def _on_timeout_now(self, message: TimeoutNow, now: int) -> None:
        """Campaign without asking first: our leader gives its lead to us (thesis §3.10)."""
        if self.role is Role.FOLLOWER and self.leader == message.sender:
            self.elections_started += 1
            self._become_candidate(now, transfer=True)

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
