"""A driver for the pure core: several cores, explicit messages, explicit disks, virtual time.

Nothing happens by itself. A test steps cores, takes their `Ready`, completes their storage
requests one by one, loses or duplicates messages and restarts nodes. After each act the kit
checks what must always hold (`Cluster.check`), and each message is checked as it leaves: it may
claim only what is on its sender's disk. With `rests=True` the nodes know each other's contacts, and
the kit plays what `node.pulse` does in a process: beats for leaders at rest, and looks at contacts.

Logs are written as terms: `[1, 1, 2]` is a log of three one-entry batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from node.raft.core import Core
from node.raft.log_view import LogView
from node.raft.messages import (
    Append,
    AppendReply,
    HeartbeatReply,
    Message,
    NodeBeat,
    Vote,
    VoteReply,
)
from node.raft.types import (
    Batch,
    BatchMeta,
    CoreConfig,
    GroupId,
    HardState,
    Index,
    LogStart,
    NodeId,
    ReadGrant,
    Ready,
    Role,
    Term,
)

GROUP = GroupId(7)
MS = 1_000_000
START = 1000 * MS
"""When every test begins (ns)."""
BATCH_BYTES = 100
SETTLE_ROUNDS_MAX = 400


def make_batch(term: int, base: int, count: int = 1, payload: str = "") -> Batch:
    """Build a batch whose body names it, so that two batches are equal iff they are the same."""
    meta = BatchMeta(Term(term), Index(base), count, BATCH_BYTES)
    return Batch(meta, 0, b"", f"{term}.{base} {payload}".encode())


def make_noop(term: Term, base: Index) -> Batch:
    return make_batch(term, base)


def make_log(terms: Sequence[int]) -> list[Batch]:
    return [make_batch(term, base) for base, term in enumerate(terms, 1)]


def make_view(terms: Sequence[int]) -> LogView:
    return LogView(LogStart(), [batch.meta for batch in make_log(terms)])


def make_config(node: int = 1, voters: int = 3, **changes: int) -> CoreConfig:
    names = tuple(NodeId(number) for number in range(1, voters + 1))
    config = CoreConfig(GROUP, NodeId(node), names, seed=1)
    return replace(config, **changes)  # type: ignore[arg-type]  # every change is an int field


@dataclass
class Disk:
    """What a node finds after a restart."""

    hard_state: HardState = field(default_factory=HardState)
    batches: list[Batch] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.batches[-1].meta.last_index if self.batches else 0

    def store(self, ready: Ready, records_max: int | None = None) -> None:
        """Write a request, or only its first records: cut, batches, hard state (a torn write)."""
        writes: list[Callable[[], None]] = []
        if ready.truncate_from is not None:
            cut = ready.truncate_from
            writes.append(lambda: self._cut(cut))
        writes += [lambda batch=batch: self._append(batch) for batch in ready.append]  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        if ready.hard_state is not None:
            hard_state = ready.hard_state
            writes.append(lambda: self._record(hard_state))
        for write in writes[:records_max]:
            write()

    def _cut(self, index: int) -> None:
        assert index <= self.last_index, "a cut removes something"
        assert any(batch.meta.base_index == index for batch in self.batches), "at a batch"
        self.batches = [batch for batch in self.batches if batch.meta.base_index < index]

    def _append(self, batch: Batch) -> None:
        assert batch.meta.base_index == self.last_index + 1, "the stored log has no gap"
        self.batches.append(batch)

    def _record(self, hard_state: HardState) -> None:
        assert hard_state.term >= self.hard_state.term, "a durable term never falls"
        same_term = hard_state.term == self.hard_state.term
        voted = same_term and self.hard_state.vote != 0
        assert not voted or hard_state.vote == self.hard_state.vote, "one durable vote per term"
        self.hard_state = hard_state


@dataclass
class Request:
    """One storage request in flight and the messages that wait for it."""

    ready: Ready
    messages: list[Message]


class Node:
    """A core with its disk and its storage requests in flight."""

    def __init__(self, config: CoreConfig, disk: Disk, now: int, *, rests: int = False) -> None:
        self.config = config
        self.disk = disk
        self.boots = 0
        self.rests = rests
        self.boot(now)

    def boot(self, now: int) -> None:
        """Start a fresh core from the disk; what was in flight is gone."""
        metas = [batch.meta for batch in self.disk.batches]
        self.contacts: dict[NodeId, int] = {}
        self.core = Core(
            self.config,
            self.disk.hard_state,
            LogView(LogStart(), metas),
            make_noop,
            now,
            contacts=self.contacts if self.rests else None,
        )
        self.looked_at = now
        self.memory = {int(batch.meta.base_index): batch for batch in self.disk.batches}
        self.in_flight: deque[Request] = deque()
        self.grants: list[ReadGrant] = []
        self.seen_commit = 0
        self.seen_term = 0
        self.boots += 1

    @property
    def next_deadline(self) -> int:
        """When `tick` is due; at rest the kit looks at the contacts once per heartbeat interval."""
        if self.core.resting:
            return self.looked_at + self.config.heartbeat_ns
        return self.core.next_deadline

    def hear(self, message: Message, now: int) -> None:
        """Take a message in, as a node at large does: any frame is a contact."""
        silent = now - self.contacts.get(message.sender, 0) > self.core.timeouts.high
        self.contacts[message.sender] = now
        if silent and self.core.role is Role.LEADER:
            self.core.wake(now)
        if not isinstance(message, NodeBeat):
            self.core.step(message, now)

    def tick(self, now: int) -> list[Message]:
        """Judge timers and contacts; return the beats of a leader at rest."""
        self.looked_at = now
        self.core.tick(now)
        self.core.judge_rest(now)
        self.core.tick(now)
        if not (self.core.resting and self.core.role is Role.LEADER):
            return []
        return [
            NodeBeat(GroupId(0), self.config.node, peer, Term(0), True)
            for peer in self.config.voters
            if peer != self.config.node
        ]

    def take(self, now: int) -> list[Message]:
        """Take the `Ready`; queue its storage request; return what may leave at once."""
        self.ready = ready = self.core.ready(now)
        assert (ready.token is not None) == bool(
            ready.append or ready.hard_state is not None or ready.truncate_from is not None
        ), "a token comes with something to store, and only then"
        if ready.truncate_from is not None:
            kept = {
                base: batch for base, batch in self.memory.items() if base < ready.truncate_from
            }
            self.memory = kept
        self.memory.update({int(batch.meta.base_index): batch for batch in ready.append})
        self.grants += ready.reads
        leaving = list(ready.send_now)
        if ready.token is not None:
            self.in_flight.append(Request(ready, list(ready.send_after_sync)))
        elif self.in_flight:
            self.in_flight[-1].messages += ready.send_after_sync
        else:
            leaving += ready.send_after_sync
        return [self._leave(message) for message in leaving]

    def persist(self, now: int) -> list[Message]:
        """Complete the oldest storage request; return the messages that waited for it."""
        request = self.in_flight.popleft()
        assert request.ready.token is not None
        self.disk.store(request.ready)
        self.core.persisted(request.ready.token, now)
        return [self._leave(message) for message in request.messages]

    def log_of(self, batches: Iterable[BatchMeta]) -> list[Batch]:
        return [self.memory[meta.base_index] for meta in batches]

    def _leave(self, message: Message) -> Message:
        """Check that a message claims only what is durable; give an Append its bytes."""
        hard_state, term = self.disk.hard_state, message.term
        match message:
            case Append():
                names = [batch for batch in message.batches if isinstance(batch, BatchMeta)]
                batches = tuple(self.log_of(names))
                assert [batch.meta for batch in batches] == names, "an Append names the log"
                return replace(message, batches=batches)
            case AppendReply(ok=True):
                ends = {batch.meta.last_index for batch in self.disk.batches} | {0}
                assert message.index in ends, f"an ack before the fsync: {message}"
            case VoteReply(granted=True):
                mine = HardState(term, message.to)
                assert hard_state == mine or hard_state.term > term, f"not durable: {message}"
            case Vote():
                mine = HardState(term, self.config.node)
                assert hard_state == mine or hard_state.term > term, f"not durable: {message}"
            case HeartbeatReply():
                assert hard_state.term >= term, f"not durable: {message}"
        return message


class Cluster:
    """Nodes 1..n, the messages between them, one clock, and what must always hold."""

    def __init__(
        self, voters: int = 3, *, start: int = START, rests: int = False, **config: int
    ) -> None:
        self.now = start
        self.network: list[Message] = []
        self.isolated: set[int] = set()
        self.cut_links: set[tuple[int, int]] = set()
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, Batch] = {}
        numbers = range(1, voters + 1)
        self.nodes = {
            number: Node(make_config(number, voters, **config), Disk(), start, rests=rests)
            for number in numbers
        }

    def preload(self, number: int, terms: Sequence[int], term: int | None = None) -> None:
        """Restart a node with the given log on its disk, in the last entry's term or a later."""
        node = self.nodes[number]
        last = max(terms, default=0)
        node.disk = Disk(HardState(Term(max(last, term or 0))), make_log(terms))
        node.boot(self.now)

    def core(self, number: int) -> Core:
        return self.nodes[number].core

    def leader(self) -> int | None:
        """The leader of the highest term, if there is one."""
        leads = [(core.term, n) for n, core in self.cores() if core.role is Role.LEADER]
        return max(leads)[1] if leads else None

    def cores(self) -> list[tuple[int, Core]]:
        return [(number, node.core) for number, node in self.nodes.items()]

    # ---- single acts -----------------------------------------------------------------------

    def turn(self, number: int) -> list[Message]:
        """Take a node's `Ready` and put what leaves on the network."""
        return self._send(self.nodes[number].take(self.now))

    def persist(self, number: int, count: int | None = None) -> list[Message]:
        """Complete storage requests of a node (all by default), then let it take its turn."""
        node = self.nodes[number]
        sent: list[Message] = []
        for _ in range(len(node.in_flight) if count is None else count):
            sent += self._send(node.persist(self.now))
        return sent + self.turn(number)

    def step(self, *messages: Message) -> list[Message]:
        """Hand messages to their receiver within one turn of it."""
        answers: list[Message] = []
        for message in messages:
            self.nodes[message.to].hear(message, self.now)
            if isinstance(message, NodeBeat) and message.ack:
                answer = replace(message, sender=message.to, to=message.sender, ack=False)
                answers.append(answer)
        self._send(answers)
        return self.turn(messages[-1].to)

    def deliver(self, *messages: Message) -> list[Message]:
        """Take messages off the network and hand them over within one turn."""
        for message in messages:
            self.network.remove(message)
        return self.step(*messages)

    def between(
        self, sender: int | None = None, to: int | None = None, kind: type | None = None
    ) -> list[Message]:
        """Messages on the network, oldest first."""
        return [
            message
            for message in self.network
            if sender in (None, message.sender)
            and to in (None, message.to)
            and (kind is None or isinstance(message, kind))
        ]

    def drop(
        self, sender: int | None = None, to: int | None = None, kind: type | None = None
    ) -> list[Message]:
        lost = self.between(sender, to, kind)
        for message in lost:
            self.network.remove(message)
        return lost

    def tick(self, number: int) -> list[Message]:
        beats = self.nodes[number].tick(self.now)
        return self._send(beats) + self.turn(number)

    def at_deadline(self, number: int) -> list[Message]:
        """Move the clock to the node's next deadline and tick it."""
        self.now = max(self.now, self.nodes[number].next_deadline)
        return self.tick(number)

    def propose(self, number: int, payload: str = "", count: int = 1) -> list[Message]:
        core = self.core(number)
        core.wake(self.now)
        core.propose(make_batch(core.term, core.log.last_index + 1, count, payload))
        return self.turn(number)

    def crash(self, number: int, torn_records: int = 0) -> None:
        """Restart a node; of its oldest request in flight only the first records survive."""
        node = self.nodes[number]
        if node.in_flight:
            node.disk.store(node.in_flight[0].ready, torn_records)
        node.boot(self.now)
        self.check()

    # ---- many acts -------------------------------------------------------------------------

    def settle(self) -> None:
        """Deliver and persist until nothing is under way; no time passes."""
        for _ in range(SETTLE_ROUNDS_MAX):
            busy = [number for number, node in self.nodes.items() if node.in_flight]
            if not self.network and not busy:
                return
            for number in self.nodes:
                arriving = self.between(to=number)
                if arriving:
                    self.deliver(*arriving)
                self.persist(number)
        raise AssertionError("the cluster does not come to rest")

    def elect(self, number: int) -> None:
        """Let a node campaign at its deadline, and settle; the others' timers stay quiet."""
        self.at_deadline(number)
        self.settle()
        assert self.core(number).role is Role.LEADER, f"{number} was not elected"

    def elect_without_replication(self, number: int) -> None:
        """Elect a node, and lose what it sends as a leader."""
        self.at_deadline(number)
        while self.core(number).role is not Role.LEADER:
            arriving = self.network[:1]
            assert arriving or self.nodes[number].in_flight, f"{number} was not elected"
            for message in arriving:
                self.deliver(message)
                self.persist(message.to)
            self.persist(number)
        self.network.clear()

    def heartbeat(self, number: int) -> None:
        """Let a heartbeat interval pass, the leader beat, and settle."""
        self.now += self.core(number).config.heartbeat_ns
        self.tick(number)
        self.settle()

    def run(self, ns: int) -> None:
        """Let time pass: timers fire when due, messages and disks take no time."""
        end = self.now + ns
        while True:
            number = min(self.nodes, key=lambda n: (self.nodes[n].next_deadline, n))
            deadline = self.nodes[number].next_deadline
            if deadline > end:
                break
            self.now = max(self.now, deadline)
            self.tick(number)
            self.settle()
        self.now = end

    def isolate(self, *numbers: int) -> None:
        """Cut nodes off, in both directions, messages under way included."""
        self.isolated |= set(numbers)
        self.network = [message for message in self.network if self._passes(message)]

    def heal(self) -> None:
        self.isolated.clear()
        self.cut_links.clear()

    def _passes(self, message: Message) -> bool:
        ends = {message.sender, message.to}
        return not ends & self.isolated and (message.sender, message.to) not in self.cut_links

    def _send(self, messages: list[Message]) -> list[Message]:
        self.network += [message for message in messages if self._passes(message)]
        self.check()
        return messages

    # ---- what must always hold -------------------------------------------------------------

    def check(self) -> None:
        for number, node in self.nodes.items():
            check_locally(node)
            core = node.core
            if core.role is Role.LEADER:
                other = self.leaders.setdefault(core.term, number)
                assert other == number, f"term {core.term}: {other} and {number} (Raft §5.2)"
            self._check_committed(number, node)
        for node in self.nodes.values():
            if node.core.role is Role.LEADER:
                self._check_leader(node)

    def _check_committed(self, number: int, node: Node) -> None:
        """State machine safety: nobody commits anything else at an index (Raft §5.4.3)."""
        for meta in node.core.log.batches:
            if meta.last_index > node.core.commit:
                break
            batch = node.memory.get(meta.base_index)
            if batch is None or batch.meta != meta:  # committed before its turn is taken
                continue
            first = self.committed.setdefault(meta.base_index, batch)
            assert first == batch, f"{number} committed {batch}, another {first}"

    def _check_leader(self, node: Node) -> None:
        """Leader completeness (Raft §5.4), and that `match` is true on the peers' disks."""
        core = node.core
        held = {meta.base_index: meta for meta in core.log.batches}
        if core.term == max(self.leaders):
            for base, batch in self.committed.items():
                kept = base > core.log.start.index
                assert not kept or held.get(Index(base)) == batch.meta, f"it lacks {batch}"
        for peer, progress in core.progress.items():
            assert progress.match < progress.next <= core.log.last_index + 1
            other = self.nodes[peer]
            if max(other.core.term, other.disk.hard_state.term) > core.term:
                continue
            start = core.log.start.index
            theirs = [b.meta for b in other.disk.batches if b.meta.base_index > start]
            ours = [meta for meta in core.log.batches if meta.last_index <= progress.match]
            assert theirs[: len(ours)] == ours, f"match {progress.match} of {peer} is not true"


def check_locally(node: Node) -> None:
    """What one core promises at any moment."""
    core = node.core
    assert core.log.start.index <= core.commit <= core.log.last_index
    assert core.durable_index <= core.log.last_index
    assert core.commit >= node.seen_commit, "commit never falls"
    assert core.term >= node.seen_term, "the term never falls"
    assert core.log.last_term <= core.term, "no entry is of a later term than the node"
    assert (core.role is Role.LEADER) == (core.leader == core.config.node)
    assert core.role is Role.LEADER or not core.progress
    assert core.uncommitted_bytes >= 0
    if core.resting:
        assert core.role in (Role.LEADER, Role.FOLLOWER), "who campaigns does not rest"
        assert core.leader != 0, "nobody rests under nobody"
        assert core.commit == core.durable_index == core.log.last_index, "it rests with work to do"
        assert core.durable_hard_state == HardState(core.term, core.vote)
    start = core.log.start.index
    on_disk = [batch.meta for batch in node.disk.batches if batch.meta.base_index > start]
    durable = [meta for meta in core.log.batches if meta.last_index <= core.durable_index]
    assert on_disk[: len(durable)] == durable, "what counts as durable is on the disk"
    node.seen_commit, node.seen_term = core.commit, core.term
