"""Exactly once, in a world that loses, repeats, delays and refuses as it likes."""

from __future__ import annotations

import random
import struct
from collections import Counter

from cluster.client_core import ClientCore
from cluster.client_types import (
    ClientConfig,
    Completion,
    DefiniteError,
    Get,
    IndefiniteError,
)
from node import commands
from node.client_wire import (
    ReadRequest,
    ReplyOrigin,
    Status,
    WriteRequest,
    encode_read_reply,
    encode_refusal,
    encode_write_reply,
)
from node.kv.machine import KeyValueMachine
from node.kv.sessions import SessionBounds
from node.raft.types import BatchMeta, Index, NodeId, Term
from tests.cluster.client_script import (
    CLUSTER,
    MS,
    NODES,
    SECOND,
    Script,
    Sent,
)


class Hostile:
    """Nodes with one log, a moving leader, and every fault that §8 allows, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        knobs = ClientConfig(request_operations=3, request_queries=2, request_timeout_ns=20 * MS)
        self.s = Script(ClientCore(CLUSTER, NODES, 1, knobs))
        self.s.machine = KeyValueMachine(SessionBounds(sessions=2))
        self.leader = NodeId(1)
        self.term = 1
        self.requests: list[Sent] = []
        self.replies: list[tuple[NodeId, list]] = []
        self.uncommitted: list[Sent] = []
        self.completions: dict[int, Completion] = {}

    def reply(self, sent: Sent, parts: list) -> None:
        self.replies.append((sent.node, parts))

    def origin(self, sent: Sent, leader: int) -> ReplyOrigin:
        return self.s.origin(sent, leader, self.term)

    def serve(self, sent: Sent, fate: str) -> None:
        """One node handles one request, well or badly."""
        if sent.node != self.leader:
            hint = self.rng.randrange(4)
            self.reply(sent, encode_refusal(self.origin(sent, hint), Status.NOT_LEADER, ""))
        elif isinstance(sent.request, ReadRequest):
            results = self.s.machine.query_all(sent.request.queries)
            self.reply(sent, encode_read_reply(self.origin(sent, sent.node), results))
        elif fate == "busy":
            self.reply(sent, encode_refusal(self.origin(sent, sent.node), Status.BUSY, ""))
        elif fate == "lost":
            self.reply(sent, encode_refusal(self.origin(sent, 0), Status.LEAD_LOST, ""))
            self.uncommitted.append(sent)
        elif fate == "mute":
            self.uncommitted.append(sent)
        else:
            outcomes = self.s.apply(sent)
            self.reply(sent, encode_write_reply(self.origin(sent, sent.node), outcomes))

    def take(self, queue: list):
        return queue.pop(self.rng.randrange(len(queue)))

    def step(self, fault: str) -> None:
        """Let one thing happen."""
        if fault == "elect":
            self.term += 1
            self.leader = self.rng.choice(NODES)
        elif fault == "evict":
            entry = commands.encode_open_session()
            body = struct.pack("<I", len(entry)) + entry
            meta = BatchMeta(Term(1), Index(self.s.next_index), 1, len(body))
            self.s.next_index += 1
            self.s.machine.apply(meta, 0, body)
        elif fault == "disconnect":
            node = self.rng.choice(NODES)
            self.requests = [r for r in self.requests if r.node != node]
            self.s.core.peer_lost(node, self.s.now)
        elif fault == "commit late" and self.uncommitted:
            self.s.apply(self.take(self.uncommitted))
        elif fault == "repeat a reply" and self.replies:
            self.replies.append(self.replies[0])
        elif fault == "drop a reply" and self.replies:
            self.take(self.replies)
        elif fault in ("serve", "busy", "lost", "mute") and self.requests:
            self.serve(self.take(self.requests), fault)
        elif fault == "deliver" and self.replies:
            node, parts = self.take(self.replies)
            self.s.core.receive(node, parts, self.s.now)
        elif fault == "wait":
            self.s.now += self.rng.choice([1, 5, 30]) * MS
        self.pump()

    def pump(self) -> None:
        for sent in self.s.poll():
            if self.rng.randrange(10) == 0:
                self.s.core.not_sent(sent.outgoing, self.s.now)
            else:
                self.requests.append(sent)
        for completion in self.s.done():
            assert completion.ticket not in self.completions, "completed twice"
            self.completions[completion.ticket] = completion

    def heal(self) -> None:
        """No more faults: everything ends by its deadline, and every late copy arrives."""
        for _ in range(10_000):
            if not self.s.core.pending:
                break
            self.s.now += MS
            for sent in self.s.poll():
                self.requests.append(sent)
            while self.requests:
                self.serve(self.requests.pop(0), "serve")
            while self.replies:
                node, parts = self.replies.pop(0)
                self.s.core.receive(node, parts, self.s.now)
            self.pump()
        for sent in self.uncommitted + [r for r in self.requests if r.node == self.leader]:
            if isinstance(sent.request, WriteRequest):
                self.s.apply(sent)


FAULTS = (
    ["serve"] * 8
    + ["deliver"] * 8
    + ["put"] * 4
    + ["wait"] * 2
    + ["busy", "lost", "mute", "elect", "disconnect", "commit late", "read"]
    + ["repeat a reply", "drop a reply"]
)


def run_hostile(seed: int, steps: int) -> Counter[str]:
    """Run one hostile world to its end and check every operation; count the kinds of ends."""
    world = Hostile(seed)
    keys: dict[int, bytes] = {}
    reads = 0
    for _ in range(steps):
        fault = "evict" if world.rng.randrange(60) == 0 else world.rng.choice(FAULTS)
        if fault == "put":
            key = b"k%d" % len(keys)
            timeout = world.rng.choice([10, 60, 2_000]) * MS
            keys[world.s.put(key, timeout_ns=timeout)] = key
        elif fault == "read":
            reads += 1
            world.s.read(Get(b"k0"), timeout_ns=2 * SECOND)
        world.step(fault)
    world.heal()
    assert world.s.core.pending == 0
    assert world.s.core.next_deadline() is None
    assert len(world.completions) == len(keys) + reads
    assert world.s.core.malformed == 0
    assert not world.s.core._shared.requests
    assert world.s.core._shared.pending_bytes == 0
    ends: Counter[str] = Counter()
    for ticket, key in keys.items():
        error = world.completions[ticket].error
        version = world.s.version(key)
        if error is None:
            assert version == 1, f"{key!r} was acknowledged"
            ends["acknowledged"] += 1
        elif isinstance(error, DefiniteError):
            assert version == 0, f"{key!r}: {error!r}"
            ends["definite"] += 1
        else:
            assert isinstance(error, IndefiniteError)
            assert version <= 1
            ends[f"indefinite, applied {version}"] += 1
    return ends


def test_acknowledged_is_once_definite_is_never_and_indefinite_is_at_most_once():
    ends: Counter[str] = Counter()
    for seed in range(150):
        try:
            ends += run_hostile(seed, steps=250)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    # The world is hostile enough: every kind of end is common.
    kinds = ["acknowledged", "definite", "indefinite, applied 0", "indefinite, applied 1"]
    assert all(ends[kind] >= 50 for kind in kinds), ends
