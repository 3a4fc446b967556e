"""All groups of one node: one turn, one storage request, one order of duties.

Theory of operation
-------------------
`turn(now, messages)` is the whole life of a node, in a process and in the simulator alike:

1. step the cores with everything that was received, 2. take in what became durable and release
the messages that waited for it, 3. judge timers (after the inbox: DESIGN §4), 4. batch the
gathered writes, 5. take each core's `Ready`, send what may leave now, and give the log **one**
append for all groups, 6. apply what is committed, 7. work on a snapshot, if one is due.

Only groups that something happens in take part: `_awake`. A group at rest (`node.raft.rest`) costs
nothing per turn; `pulse` sends the beats and looks after the contacts that it relies on.

Storage requests complete in order. Messages in `send_after_sync` wait for the newest request
submitted so far, even if they store nothing themselves: an ack of an entry that an earlier
message brought must not overtake that entry's fsync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from node.compaction import Compactor
from node.compression import BatchCompression
from node.limits import LATE_MESSAGES_MAX, LATE_TURN_NS, QUEUED_BYTES_MAX
from node.ports import Clock, GroupWrite, LogStore, Transport
from node.pulse import Pulse, leads_resting
from node.raft.messages import Append, Message, NodeBeat
from node.raft.types import BatchMeta, GroupId, NodeId, PersistToken
from node.runtime import GroupRuntime
from wal.compression import Codec

__all__ = ["MultiRaft"]


@dataclass(frozen=True, slots=True)
class _Stored:
    """One storage request in flight: what to tell the cores, what to send, once durable."""

    number: int
    tokens: tuple[tuple[GroupId, PersistToken], ...]
    messages: deque[Message]
    """Bounded: a disk may stall for hours, and every heartbeat wants its answer. The newest count."""


class MultiRaft:
    """The groups of a node over one log store and one transport."""

    def __init__(
        self,
        groups: Mapping[GroupId, GroupRuntime],
        store: LogStore,
        transport: Transport,
        clock: Clock,
        contacts: dict[NodeId, int],
    ) -> None:
        """Take the groups, and the contacts that their cores look at; at first all are awake."""
        self.groups = dict(sorted(groups.items()))
        self._awake = dict(self.groups)
        for group in self.groups.values():
            group.attention = self._awake
        self.pulse = Pulse(next(iter(self.groups.values())).core.config, contacts)
        self._store = store
        self._transport = transport
        self._clock = clock
        self._in_flight: deque[_Stored] = deque()
        self._last_turn_ns: int | None = None
        self.compactor: Compactor | None = None
        """Snapshots and releases the logs, if the node has somewhere to put snapshots."""
        self.compression = BatchCompression(Codec.NONE, clock.now_ns)
        """What its groups compress with, and how much of it they did."""
        self._applied_last = GroupId(-1)
        self.dropped = 0
        """Messages that were given up: Appends ahead of a slow disk, answers that waited for it."""

    @property
    def next_deadline(self) -> int:
        """When the next turn is due at the latest (ns)."""
        due = self.pulse.next_deadline
        return min([due, *[group.core.next_deadline for group in self._awake.values()]])

    @property
    def has_backlog(self) -> bool:
        """Whether a turn is due at once: committed batches, or a snapshot, wait to be worked on."""
        if self.compactor is not None and self.compactor.busy:
            return True
        return any(group.has_backlog for group in self._awake.values())

    def peer_lost(self, peer: NodeId, now: int, jitter_ns: int) -> None:
        """Take the news that a peer's process is dead: its followers forget it as a leader."""
        for number, group in self.groups.items():
            if group.core.leader == peer:
                group.core.forget_leader(now, jitter_ns)
                self._awake[number] = group

    def turn(self, now: int, messages: Sequence[Message], apply_ns: int) -> None:
        """Run one turn; `apply_ns` bounds the time spent applying (see module text)."""
        lateness = self._lateness(now)
        self._forgive(lateness, now)
        self._step(messages, now)
        self._take_completions(now)
        self._judge_rest(lateness, now)
        for group in self._awake.values():
            core = group.core
            core.tick(now)
            if core.resting and group.needs_core:
                core.wake(now)
            group.propose_gathered(now)
            group.fail_lost()
        self._hand_out(now)
        self._apply(apply_ns)
        if self.compactor is not None:
            self.compactor.step(now, apply_ns)
        for number in self.pulse.settle(self._awake, now):
            del self._awake[number]
        self._end_turn(lateness, now)

    def _step(self, messages: Sequence[Message], now: int) -> None:
        """Hand messages to their groups, but no more batches than the log can take.

        What is dropped is sent again; what the log refused would end the node.
        """
        full = self._store.queued_bytes > QUEUED_BYTES_MAX
        for message in messages:
            if self.pulse.heard(message.sender, now):
                self._peer_returned(now)
            self.pulse.answered(message, now)
            if type(message) is NodeBeat:
                self.pulse.asked(message)
                continue
            group = self.groups.get(message.group)
            if group is None or (full and isinstance(message, Append) and message.batches):
                self.dropped += 1
                continue
            group.core.step(message, now)
            self._awake[message.group] = group

    def _lateness(self, now: int) -> int:
        """Return how late this turn is (ns)."""
        if self._last_turn_ns is None:
            return 0
        return max(0, now - max(self.next_deadline, self._last_turn_ns))

    def _forgive(self, lateness: int, now: int) -> None:
        """Give elections the time back that this node slept: we were late, not the leader."""
        if lateness <= LATE_TURN_NS:
            return
        assert self._last_turn_ns is not None
        for group in self._awake.values():
            due = max(group.core.next_deadline, self._last_turn_ns)
            if now - due > LATE_TURN_NS:
                group.core.extend_election_timer(now, now - due)
        self.pulse.forgive(lateness, now)

    def _peer_returned(self, now: int) -> None:
        """Wake what we lead: a peer that was silent may have missed anything."""
        for number, group in self.pulse.resting.items():
            if leads_resting(group):
                group.core.wake(now)
                self._awake[number] = group

    def _judge_rest(self, lateness: int, now: int) -> None:
        for group in self.pulse.judge(now):
            self._awake[group.core.config.group] = group
            if lateness > LATE_TURN_NS:
                group.core.extend_election_timer(now, lateness)

    def _end_turn(self, lateness: int, now: int) -> None:
        """Measure the loop; what a message may have waited for is its lag."""
        self._last_turn_ns = now
        timeouts = self.pulse.turned(max(lateness, self._clock.now_ns() - now), now)
        if timeouts is not None:
            for group in self.groups.values():
                group.core.timeouts = timeouts

    def _take_completions(self, now: int) -> None:
        for done in self._store.completions():
            stored = self._in_flight.popleft()
            assert stored.number == done.number, "storage requests complete in order"
            for number, token in stored.tokens:
                group = self.groups[number]
                group.core.persisted(token, now)
                self._awake[number] = group
            if stored.messages:
                self._transport.send(stored.messages)

    def _hand_out(self, now: int) -> None:
        """Store first (it only queues, and makes the new batches readable), then send."""
        leaving: list[Message] = [*self.pulse.beats(now)]
        later: list[Message] = []
        writes: list[GroupWrite] = []
        for group_id, group in self._awake.items():
            if not group.core.has_ready():
                continue
            ready = group.core.ready(now)
            leaving += ready.send_now
            later += ready.send_after_sync
            if ready.token is not None:
                writes.append(
                    GroupWrite(
                        group_id, ready.truncate_from, ready.append, ready.hard_state, ready.token
                    )
                )
            group.take_reads(ready.reads)
        if writes:
            number = self._store.append(writes)
            tokens = tuple((write.group, write.token) for write in writes)
            waiting = deque(later, maxlen=LATE_MESSAGES_MAX)
            self._in_flight.append(_Stored(number, tokens, waiting))
            self.dropped += len(later) - len(waiting)
        elif later and self._in_flight:
            waiting = self._in_flight[-1].messages
            self.dropped += max(0, len(waiting) + len(later) - LATE_MESSAGES_MAX)
            waiting.extend(later)
        else:
            leaving += later
        if leaving:
            self.pulse.asks(leaving, now)
            self._transport.send(self._resolved(leaving))

    def _resolved(self, messages: Sequence[Message]) -> list[Message]:
        """Put the bytes into outgoing Appends; the bytes are shared, not copied."""
        resolved: list[Message] = []
        for message in messages:
            if isinstance(message, Append) and message.batches:
                batches = tuple(
                    self._store.read(message.group, batch.base_index)
                    if isinstance(batch, BatchMeta)
                    else batch
                    for batch in message.batches
                )
                resolved.append(replace(message, batches=batches))
            else:
                resolved.append(message)
        return resolved

    def _apply(self, apply_ns: int) -> None:
        """Let the groups apply in turn, batch by batch, until nothing is left or the slice is over.

        The next slice begins behind the group that ended this one.
        """
        stop_at = self._clock.now_ns() + apply_ns
        waiting = [item for item in self._awake.items() if item[1].has_backlog]
        last = self._applied_last
        busy = deque(sorted(waiting, key=lambda item: (item[0] <= last, item[0])))
        while busy:
            group_id, group = busy.popleft()
            self._applied_last = group_id
            if group.apply_next():
                busy.append((group_id, group))
            if self._clock.now_ns() >= stop_at:
                break
