"""Replies that no honest node sends, believable ones included: a client counts them and lives."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.client_core import ClientCore
from cluster.client_types import ClientConfig, Get, Range
from cluster.frames import ClusterFrame, FrameError
from node.admin import Malformed, Reply, decode_reply, encode_reply
from node.client_wire import (
    Status,
    WriteRequest,
    encode_read_reply,
    encode_refusal,
    encode_write_reply,
)
from node.metrics import NodeSnapshot, SnapshotError
from tests.cluster.client_script import CLUSTER, MS, NODES, SECOND, Script, Sent
from tests.node.mutants import Frame, mutants
from tests.node.test_metrics import SNAPSHOT

FRAMES = 5_000
ANSWERS = 1_500
"""Fewer: one in 40 is a header that promises much, and costs a reader of long answers 60 ms."""
MUTANTS_PER_REQUEST = 20


def true_replies(s: Script, sent: Sent) -> list[Frame]:
    """What a node might answer, and what another node would."""
    origin = s.origin(sent, sent.node, 1)
    if isinstance(sent.request, WriteRequest):
        parts = encode_write_reply(origin, s.apply(sent))
    else:
        parts = encode_read_reply(origin, s.machine.query_all(sent.request.queries))
    refusal = encode_refusal(s.origin(sent, 2, 1), Status.NOT_LEADER, "elsewhere")
    return [[bytes(part) for part in frame] for frame in (parts, parts, parts, refusal)]


@pytest.mark.parametrize("seed", range(3))
def test_no_reply_ends_a_client(seed: int) -> None:
    s = Script(ClientCore(CLUSTER, NODES, 1, ClientConfig(request_timeout_ns=20 * MS)))
    fates: Counter[str] = Counter()
    number = 0
    while number < FRAMES:
        s.put(b"k%d" % (number % 7), timeout_ns=SECOND)
        s.read(Get(b"k1"), timeout_ns=SECOND)
        s.read(Range(b"", b"", 3), timeout_ns=SECOND)
        for sent in s.poll(wait_ns=5 * MS):
            honest = true_replies(s, sent)
            for frame in mutants(seed * 1_000_000 + number, honest, MUTANTS_PER_REQUEST):
                before = s.core.malformed, s.core.unexpected
                s.core.receive(sent.node, frame, s.now)
                fates["malformed"] += s.core.malformed - before[0]
                fates["unexpected"] += s.core.unexpected - before[1]
                number += 1
        fates["failed"] += sum(completion.error is not None for completion in s.done())
    believed = number - fates["malformed"] - fates["unexpected"]
    assert fates["malformed"] > number // 2
    assert fates["unexpected"] > 10
    assert believed > number // 100, "what a client has reason to believe was tried, too"
    for _ in range(3_000):
        if not s.core.pending:
            break
        s.poll(wait_ns=MS)
        s.done()
    assert s.core.pending == 0, "everything ends by its deadline"


def test_no_answer_of_a_node_or_a_supervisor_raises_anything_but_its_error() -> None:
    """The supervisor reads the snapshots of nodes, everybody else reads the supervisor's frames."""
    frame = ClusterFrame(1, 2, "0f" * 16, "deck", 3, 1, ()).encode()
    frame["nodes"] = [{"node": 1, "snapshot": SNAPSHOT.encode(), "process": {"state": "running"}}]
    honest = [
        [encode_reply(Reply(1, True, SNAPSHOT.encode()))],
        [encode_reply(Reply(2, True, frame))],
        [encode_reply(Reply(3, False, "no"))],
    ]
    refused = 0
    for mutant in mutants(9, honest, ANSWERS):
        try:
            payload = decode_reply(mutant[0]).payload
        except Malformed:
            refused += 1
            continue
        for decode, error in (
            (NodeSnapshot.decode, SnapshotError),
            (ClusterFrame.decode, FrameError),
        ):
            try:
                decode(payload)
            except error:
                refused += 1
    assert ANSWERS // 2 < refused < 2 * ANSWERS
