"""Compressed batches through a node: built once, checked, stored, recovered, applied, counted."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import Any

import pytest

from node.assembly import Member, Ports, assemble
from node.codec import WireError, build_batch, decode_batch
from node.compression import BatchCompression
from node.limits import BATCH_BODY_BYTES_MAX, BATCH_ENTRIES_MAX
from node.raft.types import GroupId, Index, Term
from node.status import _compression
from tests.node.rig import (
    GROUP,
    SESSION,
    Cluster,
    Node,
    body_of,
    open_store,
    put_entry,
    write_of,
)
from tests.wal.crashfs import CrashFilesystem
from wal import OtherFormatError, RecordHeader
from wal import compression as codecs
from wal.compression import Codec, compress
from wal.frame import flags_of, record_of, split_batch_body

REAL = [Codec.LZ4, Codec.ZSTD]
every_codec = pytest.mark.parametrize("codec", REAL, ids=lambda codec: codec.name)
LINE = b"081109 203615 148 INFO dfs.DataNode$PacketResponder: PacketResponder 1 terminating\n"
PLACE = (GROUP, Term(3), Index(5))


def counters(codec: Codec) -> BatchCompression:
    ticks = iter(range(0, 10_000, 7))
    return BatchCompression(codec, lambda: next(ticks))


@every_codec
def test_a_compressed_batch_says_so_and_holds_what_the_plain_one_does(codec: Codec) -> None:
    body = body_of(*[LINE] * 40)
    ours = counters(codec)
    batch = build_batch(PLACE, 9, [(40, body)], ours)
    assert flags_of(batch.header) == codec
    assert batch.meta.size == 64 + len(batch.body) < len(body) / 2
    assert ours.plain(batch) == body
    received = decode_batch(0, batch.header, memoryview(bytes(batch.body)))
    assert received == batch, "the same bytes, wherever they are"
    told = _compression(ours)
    assert (told.codec, told.batches, told.skipped) == (codec.name.lower(), 1, 0)
    assert (told.bytes_in, told.bytes_out) == (len(body), len(batch.body))
    assert told.compress_ns > 0
    assert told.decompress_ns > 0


@every_codec
def test_what_does_not_shrink_is_stored_as_it_is_and_counted(codec: Codec) -> None:
    ours = counters(codec)
    body = body_of(b"short")
    batch = build_batch(PLACE, 0, [(1, body)], ours)
    assert (flags_of(batch.header), batch.body) == (0, body)
    assert ours.plain(batch) == body
    assert (ours.batches, ours.skipped, ours.bytes_in) == (0, 1, 0)


def test_without_a_codec_nothing_is_tried() -> None:
    ours = counters(Codec.NONE)
    batch = build_batch(PLACE, 0, [(40, body_of(*[LINE] * 40))], ours)
    assert flags_of(batch.header) == 0
    assert (ours.batches, ours.skipped, ours.compress_ns) == (0, 0, 0)


def forged(body: bytes, count: int, flags: int) -> tuple[bytes, bytes]:
    header = RecordHeader.unpack(build_batch(PLACE, 0, [(1, body_of(b"x"))]).header)
    record = record_of(replace(header, count=count, flags=flags), body)
    return record.header, bytes(record.body)


@every_codec
def test_a_compressed_batch_that_lies_is_refused_at_the_edge(codec: Codec) -> None:
    entries = [LINE] * 40
    stored = compress(codec, body_of(*entries))
    assert stored is not None
    decode_batch(0, *forged(stored, 40, codec))
    huge = compress(codec, struct.pack("<I", BATCH_BODY_BYTES_MAX) + bytes(BATCH_BODY_BYTES_MAX))
    assert huge is not None
    for body, count, flags in [
        (stored, 39, codec),
        (stored, 41, codec),
        (stored[:-1], 40, codec),
        (stored + b"\0", 40, codec),
        (stored[4:], 40, codec),
        (struct.pack("<I", 1 << 31) + stored[4:], 40, codec),
        (huge, 1, codec),
        (body_of(*entries), 40, codec),
        (stored, 40, 3 - codec),
        (stored, 40, 0),
        (stored, 40, 3),
        (stored, 40, codec | 0x10),
        (b"", 1, codec),
    ]:
        with pytest.raises(WireError):
            decode_batch(0, *forged(body, count, flags))


@every_codec
def test_no_compressed_bytes_raise_anything_but_a_wire_error(codec: Codec) -> None:
    """Headers whose CRCs hold, around bodies that were changed anywhere."""
    rng = random.Random(11)
    stored = compress(codec, body_of(*[LINE] * 60))
    assert stored is not None
    refused = 0
    for _ in range(2_000):
        mutant = bytearray(stored)
        for _ in range(rng.choice([1, 1, 3])):
            mutant[rng.randrange(len(mutant))] ^= 1 << rng.randrange(8)
        try:
            batch = decode_batch(0, *forged(bytes(mutant), 60, codec))
        except WireError:
            refused += 1
        else:
            body = counters(codec).plain(batch)
            assert len(split_batch_body(batch.meta.count, body)) == 60
    assert 300 < refused < 2_000, "flipped literals make other entries, and sound ones"


@every_codec
def test_the_largest_batch_can_be_compressed_and_read(codec: Codec) -> None:
    entry = bytes((BATCH_BODY_BYTES_MAX - 4 * BATCH_ENTRIES_MAX) // BATCH_ENTRIES_MAX)
    body = body_of(*[entry] * BATCH_ENTRIES_MAX)
    assert len(body) == BATCH_BODY_BYTES_MAX
    batch = build_batch(PLACE, 0, [(BATCH_ENTRIES_MAX, body)], counters(codec))
    assert flags_of(batch.header) == codec
    assert decode_batch(0, batch.header, batch.body).meta == batch.meta


def compressing(cluster: Cluster, codec: Codec) -> None:
    for node in cluster.nodes.values():
        node.multi.compression.codec = codec


@every_codec
def test_a_cluster_stores_compressed_batches_and_recovers_from_them(codec: Codec) -> None:
    """Leader, two followers, their logs, a restart of all: one state, the one without compression."""
    digests = []
    for chosen in (Codec.NONE, codec):
        cluster = Cluster()
        compressing(cluster, chosen)
        leader = cluster.elect(1)
        leader.runtime.write(write_of(SESSION))
        cluster.settle()
        session = leader.core.log.last_index
        entries = [put_entry(session, n, b"key %d" % n, LINE * 4) for n in range(1, 60)]
        leader.runtime.write(write_of(*entries))
        cluster.settle()
        leader.clock.now = leader.multi.next_deadline  # a heartbeat tells of the commit
        leader.turn()
        cluster.settle()
        for node in cluster.nodes.values():
            assert node.runtime.applied == leader.core.log.last_index
        newest = leader.core.log.batch_of(leader.core.log.last_index)
        assert newest is not None
        stored = {
            (flags_of(batch.header), bytes(batch.body))
            for node in cluster.nodes.values()
            for batch in [node.store.read(GROUP, newest.base_index)]
        }
        assert len(stored) == 1, "the bytes that the leader made lie in every log"
        assert stored.pop()[0] == chosen
        compression = leader.multi.compression
        assert compression.batches == (chosen is not Codec.NONE)
        for node in cluster.nodes.values():
            node.boot()
            assert node.runtime.applied == 0, "from the log, not from memory"
        again = cluster.elect(2)
        assert again.runtime.applied == again.core.commit
        digests.append(again.runtime.machine.digest())  # type: ignore[attr-defined]
        answer: Any = again.runtime.machine.query_all([[1, b"key 7"]])[0]
        assert answer[1][:2] == (b"key 7", LINE * 4)
    assert digests[0] == digests[1]


def test_a_log_whose_codec_is_not_installed_ends_the_node_with_the_extras_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node()
    node.multi.compression.codec = Codec.LZ4
    node.lead_alone()
    node.runtime.write(write_of(*[put_entry(1, n, b"k%d" % n, LINE * 4) for n in range(1, 20)]))
    node.rest()
    assert node.multi.compression.batches == 1

    def missing(codec: Codec) -> None:
        raise codecs.MissingCodecError(f'{codec.name}: pip install "raftdeck[compression]"')

    monkeypatch.setattr(codecs, "_functions", missing)
    node.boot()
    with pytest.raises(OtherFormatError, match=r"raftdeck\[compression\]"):
        node.lead_alone()


def test_each_node_has_the_codec_that_its_member_says() -> None:
    node = Node()
    store, _, stored = open_store(CrashFilesystem())
    ports = Ports(node.clock, node.wire, store, node.replies)
    member = Member(node.number, node.voters, 1, 2, compression=Codec.ZSTD)
    multi = assemble(member, stored, ports)
    assert multi.compression.codec is Codec.ZSTD
    assert all(group.compression is multi.compression for group in multi.groups.values())
    assert GroupId(1) in multi.groups
