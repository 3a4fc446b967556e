"""Whole nodes without processes: real cores, logs, stores and codecs, a disk and clock by hand.

Nothing happens by itself. A disk job is performed when a test calls `sync`, a turn is taken when
it calls `turn`, and a message travels, encoded and decoded, when it calls `deliver`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from node.assembly import Member, Ports, assemble
from node.client_wire import Consistency, ReadRequest, Reply, WriteRequest, decode_reply
from node.codec import Sender, build_batch, decode_peer_frame, encode_append, encode_control
from node.commands import encode, encode_open_session, put
from node.raft.messages import Append, Message
from node.raft.types import Batch, Buffer, GroupId, Index, NodeId, Role, Term
from node.runtime import GroupRuntime
from node.store import WalStore, stored_groups
from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import DIRECTORY, SMALL, StepDriver, uids
from wal import Log, LogIdentity, OpenOptions, SyncPolicy

CLUSTER = bytes(range(16))
GROUP = GroupId(0)
MS = 1_000_000
ROUNDS_MAX = 400
APPLY_NS = 5 * MS


class Clock:
    """Stands still; `step` is added at every look, so that a slice of work can end."""

    def __init__(self) -> None:
        self.now = 1_000 * MS
        self.step = 0

    def now_ns(self) -> int:
        self.now += self.step
        return self.now


class Wire:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        self.sent += messages

    def take(self, kind: type | None = None) -> list[Message]:
        taken = [message for message in self.sent if kind in (None, type(message))]
        self.sent = [message for message in self.sent if message not in taken]
        return taken


@dataclass
class Replies:
    """Decodes what clients are told."""

    told: list[tuple[bytes, Reply]] = field(default_factory=list)

    def reply(self, client: bytes, parts: Sequence[Buffer]) -> None:
        self.told.append((client, decode_reply([bytes(part) for part in parts])))

    def take(self) -> list[tuple[bytes, Reply]]:
        told, self.told = self.told, []
        return told


def open_store(
    fs: CrashFilesystem, node: int = 1, policy: SyncPolicy = SMALL
) -> tuple[WalStore, StepDriver, dict]:
    """Open the log of a disk; return the store, what drives it, and what recovery found."""
    drivers: list[StepDriver] = []

    def make(*arguments) -> StepDriver:
        drivers.append(StepDriver(*arguments))
        return drivers[-1]

    options = OpenOptions(policy, make, uids())
    log, found = Log.open(fs, DIRECTORY, LogIdentity(CLUSTER, node), options)
    return WalStore(log, found, lambda: None), drivers[-1], stored_groups(found)


class Node:
    """One node over a disk of its own; `boot` again is a restart."""

    def __init__(
        self, number: int = 1, voters: int = 1, groups: int = 1, policy: SyncPolicy = SMALL
    ) -> None:
        self.number = NodeId(number)
        self.voters = tuple(NodeId(voter) for voter in range(1, voters + 1))
        self.group_count = groups
        self.policy = policy
        self.disk = CrashFilesystem()
        self.clock = Clock()
        self.boot()

    def boot(self) -> None:
        self.disk.kill()
        self.wire = Wire()
        self.replies = Replies()
        self.store, self.driver, stored = open_store(self.disk, self.number, self.policy)
        member = Member(self.number, self.voters, seed=1, groups=self.group_count)
        ports = Ports(self.clock, self.wire, self.store, self.replies)
        self.multi = assemble(member, stored, ports)
        self.turns = 0

    @property
    def runtime(self) -> GroupRuntime:
        return self.multi.groups[GROUP]

    @property
    def core(self):
        return self.runtime.core

    def turn(self, *messages: Message, apply_ns: int = APPLY_NS) -> list[Message]:
        """Take one turn; return what was sent in it."""
        self.turns += 1
        before = len(self.wire.sent)
        self.multi.turn(self.clock.now, messages, apply_ns)
        return self.wire.sent[before:]

    def sync(self) -> None:
        """Perform every disk job that waits; the node hears of it in its next turn."""
        while self.driver.pump():
            pass

    def rest(self) -> None:
        """Let disk and node act until neither has anything to do; no time passes."""
        for _ in range(ROUNDS_MAX):
            self.sync()
            if not self.turn() and not self.store.queued_bytes and not self.multi.has_backlog:
                return
        raise AssertionError("the node does not come to rest")

    @property
    def is_busy(self) -> bool:
        """Whether it has something to send, to store or to apply."""
        return bool(self.wire.sent or self.store.queued_bytes or self.multi.has_backlog)

    def pass_time(self, ns: int) -> None:
        """Let time pass in steps of a timer's grain, turn by turn."""
        end = self.clock.now + ns
        while self.clock.now < end:
            self.clock.now = min(end, max(self.multi.next_deadline, self.clock.now + 1))
            self.turn()
            self.sync()
        self.turn()

    def lead_alone(self) -> None:
        """Elect the only voter."""
        self.clock.now = self.multi.next_deadline
        self.turn()
        self.rest()
        assert self.core.role is Role.LEADER


class Cluster:
    """Several nodes and the messages between them, which travel as bytes."""

    def __init__(self, nodes: int = 3, groups: int = 1) -> None:
        self.nodes = {n: Node(n, nodes, groups) for n in range(1, nodes + 1)}
        self.cut: set[int] = set()

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    def heal(self) -> None:
        """Join everybody again; what was sent meanwhile is lost."""
        for node in self.nodes.values():
            node.wire.take()
        self.cut = set()

    def deliver(self) -> int:
        """Carry every message that is under way to its receiver's next turn; return how many."""
        inboxes: dict[int, list[Message]] = {number: [] for number in self.nodes}
        carried = 0
        for number, node in self.nodes.items():
            for message in node.wire.take():
                if number not in self.cut and message.to not in self.cut:
                    inboxes[message.to] += over_the_wire(message)
                    carried += 1
        for number, inbox in inboxes.items():
            self.nodes[number].turn(*inbox)
        return carried

    def settle(self) -> None:
        """Deliver, sync and turn until nothing is under way; no time passes."""
        for _ in range(ROUNDS_MAX):
            for node in self.nodes.values():
                node.sync()
            carried = self.deliver()
            if not carried and not any(node.is_busy for node in self.nodes.values()):
                return
        raise AssertionError("the cluster does not come to rest")

    def elect(self, number: int) -> Node:
        """Let a node campaign at its deadline; the others follow nobody and wait."""
        node = self.nodes[number]
        now = max(n.clock.now for n in self.nodes.values())
        now = max(now, node.multi.next_deadline)
        for other in self.nodes.values():
            other.clock.now = now
            for group in other.multi.groups.values():
                if other is not node:
                    group.core._become_follower(group.core.term, now)
        node.turn()
        self.settle()
        assert node.core.role is Role.LEADER, f"{number} was not elected"
        return node


def over_the_wire(message: Message) -> list[Message]:
    """Encode and decode a message as the peer lanes do."""
    sender = Sender(CLUSTER, message.sender, 1)
    if isinstance(message, Append):
        parts = encode_append(sender, message)
    else:
        parts = [encode_control(sender, [message])]
    return decode_peer_frame(message.to, [memoryview(bytes(part)) for part in parts])[1]


# --- what clients send ----------------------------------------------------------------


def lengths_of(*entries: bytes) -> bytes:
    return struct.pack(f"<{len(entries)}I", *map(len, entries))


def body_of(*entries: bytes) -> bytes:
    return lengths_of(*entries) + b"".join(entries)


def write_of(*entries: bytes, request_id: int = 1, client: bytes = b"c") -> WriteRequest:
    return WriteRequest(request_id, CLUSTER, GROUP, len(entries), body_of(*entries), client)


def read_of(
    *queries: list[object], request_id: int = 1, client: bytes = b"c", local: bool = False
) -> ReadRequest:
    consistency = Consistency.LOCAL if local else Consistency.LINEARIZABLE
    return ReadRequest(request_id, CLUSTER, GROUP, consistency, queries, client)


SESSION = encode_open_session()


def put_entry(session: int, seq: int, key: bytes = b"k", value: bytes = b"v") -> bytes:
    return encode(put(key, value), session, seq, 1)


def batch_of(term: int, base: int, *entries: bytes, group: int = 0) -> Batch:
    """A batch as a leader builds it."""
    place = (GroupId(group), Term(term), Index(base))
    return build_batch(place, 0, [(len(entries), body_of(*entries))])
