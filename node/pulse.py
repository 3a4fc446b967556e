"""What a node knows of its peers' lives, and of its own: contacts, beats for resting groups, lag.

Theory of operation
-------------------
Groups that rest (`node.raft.rest`) send nothing; in their stead the node sends one beat per peer
twice in a shortest election timeout, as long as it leads any of them: there is no entry whose
commitment a heartbeat would have to tell. Any frame is a contact. A beat asks for an
answer only if the peer has been silent for a while: two nodes that lead some groups each need no
answers at all, and a follower answers every second beat.

Round trips cost no message of their own: heartbeats and beats that ask are questions, and what is
heard next of the kind that answers them ends the measurement. One question per peer is timed; a
peer that was silent for so long that it may not have got it is not blamed for that.

`Pulse` also measures the loop: its lag (a turn that came late, or took long) stretches the election
timeouts of all groups, and a lag beyond half of a timeout is counted as a stall.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from node.metrics import QuantileWindow
from node.raft.election import Timeouts, timeouts_in_force
from node.raft.messages import Heartbeat, HeartbeatReply, Message, NodeBeat
from node.raft.state import FOREVER, NEVER
from node.raft.types import CoreConfig, GroupId, NodeId, Role, Term
from node.runtime import GroupRuntime

__all__ = ["Pulse", "Stalls"]

_LAG_LOOK_NS: Final = 250_000_000
"""How often the timeouts follow the lag."""
_LAG_SAMPLES_MIN: Final = 128
"""Of fewer, the 99th percentile is the maximum: one sleep would stretch the timeouts."""


@dataclass(slots=True)
class Stalls:
    """Turns that were late, or took long, by more than half of the shortest election timeout."""

    count: int = 0
    longest_ns: int = 0
    last_ns: int = 0
    lag_p99_ns: int = 0


class Pulse:
    """Contacts and beats of one node. Main thread; called by `multiraft` within a turn."""

    def __init__(self, config: CoreConfig, contacts: dict[NodeId, int]) -> None:
        """Take the configuration of any group (all have the same), and the cores' contacts."""
        self.contacts = contacts
        self.resting: dict[GroupId, GroupRuntime] = {}
        self.timeouts = timeouts_in_force(config, 0)
        self.stalls = Stalls()
        self._config = config
        self.peers = tuple(node for node in config.voters if node != config.node)
        self.round_trips: dict[NodeId, int] = {}
        """The newest round trip to each peer in ns, its turn included."""
        self._questions: dict[NodeId, int] = {}
        self._asked: list[NodeId] = []
        self._forgiven: set[NodeId] = set()
        self._beat_ns = max(config.heartbeat_ns, config.election_ns_min // 2)
        self._beat_at = FOREVER
        self._judged_at = NEVER
        self._leads = False
        self._leaders: tuple[NodeId, ...] = ()
        self._lag = QuantileWindow()
        self._look_at = NEVER

    @property
    def next_deadline(self) -> int:
        """When the resting groups need a turn (ns)."""
        return min(self._beat_at, self._next_judgement())

    # ---- contact -------------------------------------------------------------------------

    def heard(self, node: NodeId, now: int) -> bool:
        """Note a frame of a peer; return whether the peer returns after a silence."""
        silent = now - self.contacts.get(node, NEVER) > self.timeouts.high
        self.contacts[node] = now
        self._forgiven.discard(node)
        if silent:
            self._questions.pop(node, None)
        return silent

    def asks(self, messages: Iterable[Message], now: int) -> None:
        """Note which of the messages that leave want an answer; an unanswered one is kept."""
        for message in messages:
            asked = isinstance(message, Heartbeat) or (
                isinstance(message, NodeBeat) and message.ack
            )
            if asked and now - self._questions.get(message.to, NEVER) > self.timeouts.high:
                self._questions[message.to] = now

    def answered(self, message: Message, now: int) -> None:
        """Note an answer, if it is one and a question is open."""
        beat = isinstance(message, NodeBeat) and not message.ack
        if beat or isinstance(message, HeartbeatReply):
            asked_at = self._questions.pop(message.sender, None)
            if asked_at is not None:
                self.round_trips[message.sender] = now - asked_at

    def asked(self, beat: NodeBeat) -> None:
        """Note a beat that wants an answer."""
        if beat.ack:
            self._asked.append(beat.sender)

    def forgive(self, lateness: int, now: int) -> None:
        """Shift the contacts by what we slept, at most a shortest timeout: peers did not.

        Once per silence, as the cores do: a node that is always late must still notice one.
        """
        grace = min(lateness, self.timeouts.low)
        for node, at in self.contacts.items():
            if node not in self._forgiven:
                self._forgiven.add(node)
                self.contacts[node] = min(now, at + grace)

    # ---- resting groups ------------------------------------------------------------------

    def settle(self, groups: Mapping[GroupId, GroupRuntime], now: int) -> list[GroupId]:
        """Follow who rests and who woke among `groups`; return who needs no more turns."""
        done: list[GroupId] = []
        changed = False
        for number, group in groups.items():
            if not group.core.resting:
                changed |= self.resting.pop(number, None) is not None
                continue
            if number not in self.resting:
                self.resting[number] = group
                changed = True
            if not group.has_backlog:
                done.append(number)
        if changed:
            self._arm(now)
        return done

    def judge(self, now: int) -> list[GroupRuntime]:
        """Let the resting groups look whether their leaders' nodes live; return who woke."""
        if not self.resting or now < self._next_judgement():
            return []
        self._judged_at = now
        woken: list[GroupRuntime] = []
        for group in self.resting.values():
            group.core.judge_rest(now)
            if not group.core.resting:
                woken.append(group)
        for group in woken:
            del self.resting[group.core.config.group]
        self._arm(now)
        return woken

    def beats(self, now: int) -> list[NodeBeat]:
        """Return the beats that are due, and the answers to those that asked."""
        leaving = [self._beat(node, ack=False) for node in self._asked]
        self._asked.clear()
        if now >= self._beat_at:
            quiet_since = now - self.timeouts.low * 2 // 3
            for node in self.peers:
                leaving.append(self._beat(node, ack=self.contacts.get(node, NEVER) < quiet_since))
            self._beat_at = now + self._beat_ns
        return leaving

    def _arm(self, now: int) -> None:
        """Learn from who rests under whom whether to beat, and whose silence matters."""
        leaders = {group.core.leader for group in self.resting.values()}
        leads = bool(self.peers) and self._config.node in leaders
        if not leads:
            self._beat_at = FOREVER
        elif self._beat_at == FOREVER:
            self._beat_at = self._judged_at = now
        self._leads = leads
        self._leaders = tuple(sorted(leaders - {self._config.node}))

    def _next_judgement(self) -> int:
        """Return when a silence has lasted too long; every frame of a leader's node puts it off."""
        times = [self.contacts.get(node, NEVER) for node in self._leaders]
        if self._leads:
            times.append(self._judged_at)
        if not times:
            return FOREVER
        return max(min(times), self._judged_at - self.timeouts.low + 1) + self.timeouts.low

    def _beat(self, to: NodeId, *, ack: bool) -> NodeBeat:
        return NodeBeat(GroupId(0), self._config.node, to, Term(0), ack)

    # ---- the loop's own lag --------------------------------------------------------------

    def turned(self, lag_ns: int, now: int) -> Timeouts | None:
        """Note how late, or long, a turn was; return new timeouts if they change."""
        self._lag.add(lag_ns)
        if lag_ns > self.timeouts.low // 2:
            stalls = self.stalls
            stalls.count += 1
            stalls.last_ns = lag_ns
            stalls.longest_ns = max(stalls.longest_ns, lag_ns)
        if now < self._look_at:
            return None
        self._look_at = now + _LAG_LOOK_NS
        if len(self._lag) < _LAG_SAMPLES_MIN:
            return None
        self.stalls.lag_p99_ns = self._lag.quantile(0.99)
        timeouts = timeouts_in_force(self._config, self.stalls.lag_p99_ns)
        if timeouts == self.timeouts:
            return None
        self.timeouts = timeouts
        return timeouts


def leads_resting(group: GroupRuntime) -> bool:
    """Tell whether this node leads the group, which rests."""
    return group.core.resting and group.core.role is Role.LEADER
