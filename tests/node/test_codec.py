"""Peer frames and batches: what is decoded is what was encoded, and nothing else is (DESIGN §9)."""

from __future__ import annotations

import random
import struct
import tracemalloc
from dataclasses import fields, replace
from typing import Any

import pytest

from node.admin import Malformed, encode_request
from node.admin import decode_request as decode_admin_request
from node.client_wire import WireError as ClientWireError
from node.client_wire import decode_request, encode_read_request, encode_write_request
from node.codec import (
    Sender,
    WireError,
    decode_batch,
    decode_peer_frame,
    encode_append,
    encode_control,
    noop_builder,
    seal,
)
from node.limits import (
    BATCH_ENTRIES_MAX,
    BATCHES_PER_APPEND_MAX,
    MESSAGES_PER_FRAME_MAX,
    PEER_ENVELOPE_BYTES_MAX,
)
from node.raft.messages import MESSAGE_TYPES, Append, Heartbeat, VoteReply
from node.raft.types import Batch, GroupId, Index, NodeId, Term
from tests.node.mutants import SEAL_BYTES, document_of, mutants, peer_mutants, sealed
from tests.node.rig import CLUSTER, batch_of, lengths_of, read_of, write_of
from wal.frame import Kind, RecordHeader, record_of, split_batch_body

ME = Sender(CLUSTER, NodeId(2), 7)
TO = NodeId(1)
WIRE_NUMBER_MAX = (1 << 63) - 1
BEAT = Heartbeat(GroupId(0), NodeId(2), TO, Term(3), Index(9), 4)
FUZZ_FRAMES = 20_000
NO_MESSAGES = encode_control(ME, [])[SEAL_BYTES:]


def append_of(*batches: Batch, group: int = 0) -> Append:
    return Append(GroupId(group), NodeId(2), TO, Term(3), Index(4), Term(2), Index(4), batches)


def messages_with(number: int) -> list:
    """One message of every type, every number in it being `number` and every flag set."""
    made = []
    for kind in MESSAGE_TYPES.values():
        values: dict[str, Any] = {
            spec.name: True if spec.type == "bool" else number for spec in fields(kind)
        }
        values |= {"sender": 2, "to": 1}
        if kind is Append:
            values["batches"] = ()
        made.append(kind(**values))
    return made


def repacked(change) -> bytes:
    """A control frame of one heartbeat, changed as a document."""
    return sealed(change(document_of(encode_control(ME, [BEAT]))), TO)


def set_field(place: int, value: object):
    return lambda document: [*document[:place], value, *document[place + 1 :]]


def set_in_message(place: int, value: object):
    def change(document):
        document[4][0][place] = value
        return document

    return change


def refused(parts: list[bytes]) -> bool:
    with pytest.raises(WireError):
        decode_peer_frame(TO, parts)
    return True


# --- what honest nodes say ------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 1 << 32, WIRE_NUMBER_MAX])
def test_every_message_survives_the_wire(number):
    for message in messages_with(number):
        frame = encode_append(ME, message) if type(message) is Append else None
        parts = frame or [encode_control(ME, [message])]
        sender, decoded = decode_peer_frame(TO, parts)
        assert decoded == [message]
        assert (sender.cluster_id, sender.node, sender.incarnation) == (CLUSTER, 2, 7)


def test_a_control_frame_carries_the_messages_of_many_groups_in_order():
    beats = [replace(BEAT, group=GroupId(group)) for group in range(1024)]
    assert decode_peer_frame(TO, [encode_control(ME, beats)])[1] == beats


def test_a_data_frame_carries_batches_byte_for_byte():
    batches = [batch_of(2, 5, b"one", b"", b"three"), batch_of(3, 8, b"x" * 100_000)]
    parts = encode_append(ME, append_of(*batches))
    assert [bytes(part) for part in parts[1:]] == [
        bytes(part) for batch in batches for part in (batch.header, batch.body)
    ]
    [decoded] = decode_peer_frame(TO, [memoryview(part) for part in parts])[1]
    assert isinstance(decoded, Append)
    received = [batch for batch in decoded.batches if isinstance(batch, Batch)]
    assert [(b.meta, b.header, bytes(b.body)) for b in received] == [
        (b.meta, b.header, bytes(b.body)) for b in batches
    ]


def test_a_batch_joins_the_parts_of_many_requests_in_order():
    batch = batch_of(2, 5, b"one", b"", b"three")
    assert split_batch_body(3, batch.body) == [b"one", b"", b"three"]
    assert (batch.meta.count, batch.meta.last_index) == (3, 7)
    assert RecordHeader.unpack(batch.header).payload_len == len(batch.body)


def test_a_noop_batch_is_one_entry_of_the_leaders_term():
    batch = noop_builder(GroupId(4))(Term(9), Index(12))
    assert decode_batch(4, batch.header, batch.body).meta == batch.meta
    assert (batch.meta.term, batch.meta.base_index, batch.meta.count) == (9, 12, 1)


def test_the_longest_frame_of_messages_is_read_and_a_longer_one_is_not():
    beats = [BEAT] * MESSAGES_PER_FRAME_MAX
    frame = encode_control(ME, beats)
    assert len(frame) <= PEER_ENVELOPE_BYTES_MAX
    assert len(decode_peer_frame(TO, [frame])[1]) == MESSAGES_PER_FRAME_MAX
    longest = [messages_with(WIRE_NUMBER_MAX)[5]] * MESSAGES_PER_FRAME_MAX
    assert len(encode_control(ME, longest)) <= PEER_ENVELOPE_BYTES_MAX, "limits.py: 60 bytes each"
    assert refused([encode_control(ME, [*beats, BEAT])])


# --- seals ----------------------------------------------------------------------------


def genuine_frames() -> list[list[bytes]]:
    """A control frame of every message, and a data frame of two batches."""
    control = [[encode_control(ME, [message], 9)] for message in messages_with(300)[:4]]
    append = append_of(batch_of(2, 5, b"one"), batch_of(3, 6, b"two"))
    return [*control, [bytes(part) for part in encode_append(ME, append, 10)]]


def test_no_flip_of_a_bit_makes_another_frame_of_a_genuine_one():
    """Before frames had seals, a fifth of the flips in a heartbeat made another heartbeat."""
    for frame in genuine_frames():
        for place, part in enumerate(frame):
            for bit in range(len(part) * 8):
                changed = bytearray(part)
                changed[bit // 8] ^= 1 << bit % 8
                assert refused([*frame[:place], bytes(changed), *frame[place + 1 :]])


def test_a_frame_for_another_node_is_refused():
    for frame in genuine_frames():
        assert decode_peer_frame(TO, frame)
        with pytest.raises(WireError, match="for node 1"):
            decode_peer_frame(NodeId(3), frame)


def test_the_batches_of_one_frame_do_not_pass_under_the_seal_of_another():
    """A batch of the same index and an older term is sound in every other way."""
    older, newer = (encode_append(ME, append_of(batch_of(term, 5, b"x"))) for term in (2, 3))
    assert decode_peer_frame(TO, newer)
    assert refused([bytes(newer[0]), *(bytes(part) for part in older[1:])])


def test_a_frame_says_its_number_and_a_frame_of_no_messages_is_for_anybody():
    assert [decode_peer_frame(TO, frame)[0].number for frame in genuine_frames()][-2:] == [9, 10]
    sender, messages = decode_peer_frame(TO, [encode_control(ME, [], (1 << 64) - 1)])
    assert (sender.number, messages) == ((1 << 64) - 1, [])


# --- envelopes that are not -----------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        set_field(0, 1),
        set_field(0, 3),
        set_field(0, True),
        set_field(0, 1.0),
        set_field(1, b"short"),
        set_field(1, "x" * 16),
        set_field(2, -1),
        set_field(2, True),
        set_field(3, None),
        set_field(3, 1 << 63),
        set_field(4, {}),
        set_field(4, None),
        set_field(4, [[]]),
        set_field(4, [7]),
        set_field(4, [{}]),
        lambda document: document[:4],
        lambda document: [*document, 0],
        lambda document: {"a": 1},
        lambda document: 7,
        lambda document: [document],
    ],
)
def test_a_malformed_envelope_is_refused(change):
    assert refused([repacked(change)])


@pytest.mark.parametrize("value", [-1, 1 << 63, True, False, 1.0, None, b"", "", [], {}])
@pytest.mark.parametrize("place", range(1, 5))
def test_a_field_that_is_no_number_is_refused(place, value):
    assert refused([repacked(set_in_message(place, value))])


@pytest.mark.parametrize("value", [0, 99, -1, True, None, b"\x07", [7]])
def test_an_unknown_message_type_is_refused(value):
    assert refused([repacked(set_in_message(0, value))])


@pytest.mark.parametrize("value", [0, 1, None, b""])
def test_a_flag_is_a_boolean_and_nothing_else(value):
    reply = VoteReply(GroupId(0), NodeId(2), TO, Term(3), True)
    document = document_of(encode_control(ME, [reply]))
    document[4][0][3] = value
    assert refused([sealed(document, TO)])


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: [*body, 0]])
def test_a_message_has_exactly_its_fields(change):
    def shorten(document):
        document[4][0] = change(document[4][0])
        return document

    assert refused([repacked(shorten)])


def test_trailing_and_missing_bytes_are_refused_and_the_next_frame_is_read():
    frame = encode_control(ME, [BEAT])
    envelope = frame[SEAL_BYTES:]
    for wrong in (envelope + b"\x00", envelope + envelope, envelope[:-1], envelope[:1], b""):
        assert refused([wrong])
        assert refused([seal(wrong, TO, 0)])
        assert decode_peer_frame(TO, [frame])[1] == [BEAT]


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * 100_000,
        b"\xdc\x40\x00" * 1_024,
        b"\xdc\x40\x00" * 300_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x95\x01\xdd\xff\xff\xff\xff",
        NO_MESSAGES[:-1] + b"\xdc\x40\x00" * 1_024,
        NO_MESSAGES[:-1] + b"\x91" + b"\xdc\x00\x09" * 300_000,
        NO_MESSAGES[:-1] + b"\xdd\x7f\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81" * 2_000,
    ],
)
def test_a_frame_that_promises_much_costs_little(bomb):
    """Nested array headers of 3 bytes each once cost 128 KiB each: 70 ms for a frame of 3 KB."""
    frame = seal(bomb, TO, 0)
    tracemalloc.start()
    try:
        assert refused([frame])
        assert tracemalloc.get_traced_memory()[1] < 2 * len(bomb) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_an_envelope_over_its_limit_is_refused_unread():
    assert refused([seal(b"\x95" + bytes(PEER_ENVELOPE_BYTES_MAX), TO, 0)])


# --- batches that are not -------------------------------------------------------------


def forged(body: bytes, **changes) -> tuple[bytes, bytes]:
    """A batch whose header is sound, CRCs included, and says what a test wants."""
    header = RecordHeader(Kind.BATCH, group=0, count=1, term=3, base_index=5)
    record = record_of(replace(header, **changes), body)
    return record.header, bytes(record.body)


GOOD_BODY = lengths_of(b"one", b"two!") + b"onetwo!"


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(forged(GOOD_BODY, count=1), id="count too low"),
        pytest.param(forged(GOOD_BODY, count=3), id="count too high"),
        pytest.param(forged(GOOD_BODY, count=0), id="no entries"),
        pytest.param(forged(GOOD_BODY, count=0xFFFF_FFFF), id="count beyond the body"),
        pytest.param(forged(GOOD_BODY + b"x", count=2), id="bytes behind the entries"),
        pytest.param(forged(GOOD_BODY[:-1], count=2), id="bytes missing"),
        pytest.param(forged(struct.pack("<II", 7, 0xFFFF_FFFF), count=2), id="lengths wrap around"),
        pytest.param(forged(b"", count=1), id="empty body"),
        pytest.param(forged(GOOD_BODY, count=2, group=1), id="another group"),
        pytest.param(forged(GOOD_BODY, count=2, base_index=0), id="index 0"),
        pytest.param(forged(GOOD_BODY, count=2, base_index=1 << 63), id="index out of range"),
        pytest.param(forged(GOOD_BODY, count=2, term=1 << 63), id="term out of range"),
        pytest.param(forged(GOOD_BODY, count=2, kind=Kind.HARD_STATE), id="a hard state"),
        pytest.param(forged(GOOD_BODY, count=2, kind=Kind.TRUNCATE), id="a cut"),
        pytest.param(forged(GOOD_BODY, count=2, flags=1), id="a codec nobody knows"),
        pytest.param(forged(GOOD_BODY, count=2, flags=0x8000), id="a flag nobody knows"),
        pytest.param((forged(GOOD_BODY, count=2)[0], GOOD_BODY[:-1] + b"?"), id="body CRC"),
        pytest.param((forged(GOOD_BODY, count=2)[0], b""), id="body gone"),
        pytest.param((forged(GOOD_BODY, count=2)[0][:-1] + b"\0", GOOD_BODY), id="header CRC"),
        pytest.param((forged(GOOD_BODY, count=2)[0] + b"\0", GOOD_BODY), id="long header"),
        pytest.param((b"", GOOD_BODY), id="no header"),
    ],
)
def test_a_wrong_batch_is_refused_with_its_frame(batch):
    envelope = bytes(encode_append(ME, append_of(batch_of(3, 5, b"x")))[0])[SEAL_BYTES:]
    assert refused([seal(envelope, TO, 0, batch[:1]), *batch])


def test_the_forged_batch_is_sound_when_nothing_is_changed():
    header, body = forged(GOOD_BODY, count=2)
    batch = decode_batch(0, header, body)
    assert split_batch_body(batch.meta.count, batch.body) == [b"one", b"two!"]


def test_a_batch_of_a_newer_format_is_refused_like_any_other():
    """It is the peer that is newer, not our log: no reason to end (it once was exit 76)."""
    head = bytearray(forged(GOOD_BODY, count=2)[0][:60])
    head[4] = 3
    from wal.checksum import crc32c

    newer = bytes(head) + struct.pack("<I", crc32c(head))
    envelope = bytes(encode_append(ME, append_of(batch_of(3, 5, b"x")))[0])[SEAL_BYTES:]
    assert refused([seal(envelope, TO, 0, [newer]), newer, GOOD_BODY])


def test_a_batch_holds_no_more_entries_than_can_be_applied_in_a_turn():
    """Empty entries cost 4 bytes each: a batch of 16 MiB could hold four millions of them."""
    most = forged(bytes(4 * BATCH_ENTRIES_MAX), count=BATCH_ENTRIES_MAX)
    assert decode_batch(0, *most).meta.count == BATCH_ENTRIES_MAX
    with pytest.raises(WireError):
        decode_batch(0, *forged(bytes(4 * BATCH_ENTRIES_MAX + 4), count=BATCH_ENTRIES_MAX + 1))


@pytest.mark.parametrize("count", [0, 2, BATCHES_PER_APPEND_MAX + 1, WIRE_NUMBER_MAX])
def test_an_append_names_the_number_of_its_batches(count):
    batch = batch_of(3, 5, b"x")
    parts = [bytes(part) for part in encode_append(ME, append_of(batch))]
    document = document_of(parts[0])
    document[4][0][-1] = count
    assert refused([sealed(document, TO, parts[1::2]), *parts[1:]])


def test_a_data_frame_holds_pairs_of_parts_and_one_append():
    batch = batch_of(3, 5, b"x")
    parts = [bytes(part) for part in encode_append(ME, append_of(batch))]
    assert refused(parts[:2])
    assert refused([*parts, b""])
    assert refused([encode_control(ME, [BEAT]), *parts[1:]])
    assert refused([encode_control(ME, []), *parts[1:]])
    assert refused([encode_control(ME, [BEAT, BEAT]), *parts[1:]])
    assert refused([])


def test_small_bodies_do_not_keep_the_frame_alive_that_brought_them():
    """ZeroMQ receives into blocks of 8 KiB: one byte of a body kept would keep the block."""
    small, large = batch_of(3, 5, b"x" * 1_000), batch_of(3, 6, b"x" * 200_000)
    parts = [memoryview(bytes(p)) for p in encode_append(ME, append_of(small, large))]
    [append] = decode_peer_frame(TO, parts)[1]
    assert isinstance(append, Append)
    bodies = [batch.body for batch in append.batches if isinstance(batch, Batch)]
    assert isinstance(bodies[0], bytes)
    assert isinstance(bodies[1], memoryview), "a large body has a buffer of its own, uncopied"
    assert all(type(b.header) is bytes for b in append.batches if isinstance(b, Batch))


# --- fuzz -----------------------------------------------------------------------------


def honest_peer_frames() -> list[list[bytes]]:
    control = [[encode_control(ME, messages_with(n)[:4])] for n in (1, 300, 1 << 40)]
    control += [[encode_control(ME, [BEAT] * 5)], [encode_control(ME, [])]]
    appends = [
        append_of(),
        append_of(batch_of(3, 5, b"one", b"two")),
        append_of(batch_of(2, 5, b"a" * 900), batch_of(3, 6, b"", b"b"), batch_of(3, 8, b"c")),
    ]
    data = [[bytes(part) for part in encode_append(ME, append)] for append in appends]
    return control + data


def honest_requests() -> list[list[bytes]]:
    writes = [write_of(b"one", b"two", b""), write_of(b"x" * 500)]
    reads = [read_of([1, b"key"], [2, b"a", b"b", 5]), read_of([1, b"k"], local=True)]
    frames = [encode_write_request(w) for w in writes] + [encode_read_request(r) for r in reads]
    return [[bytes(part) for part in frame] for frame in frames]


def honest_admin_frames() -> list[list[bytes]]:
    return [[encode_request(3, "status")], [encode_request(1 << 40, "stop", {"a": b"b"})]]


def check_sound(message: object) -> None:
    """What got through is within every limit: it may be appended and applied."""
    for spec in fields(message):  # type: ignore[arg-type]  # every message is a dataclass
        value = getattr(message, spec.name)
        if spec.name == "batches":
            for batch in value:
                assert len(split_batch_body(batch.meta.count, batch.body)) == batch.meta.count
                assert RecordHeader.unpack(batch.header).group == message.group  # type: ignore[attr-defined]  # likewise
        elif spec.type == "bool":
            assert type(value) is bool
        else:
            assert type(value) is int
            assert 0 <= value <= WIRE_NUMBER_MAX


@pytest.mark.parametrize("seed", [1, 2])
def test_no_peer_frame_raises_anything_but_a_wire_error(seed):
    refusals = 0
    for frame in peer_mutants(seed, honest_peer_frames(), FUZZ_FRAMES, TO, 0.9):
        try:
            _, messages = decode_peer_frame(TO, [memoryview(part) for part in frame])
        except WireError:
            refusals += 1
            continue
        for message in messages:
            check_sound(message)
    assert FUZZ_FRAMES * 0.6 < refusals < FUZZ_FRAMES, "neither refuses all nor lets all through"


def test_no_client_frame_raises_anything_but_a_wire_error():
    refusals = 0
    for frame in mutants(3, honest_requests(), FUZZ_FRAMES):
        try:
            decode_request([memoryview(part) for part in frame], b"client")
        except ClientWireError:
            refusals += 1
    assert FUZZ_FRAMES * 0.6 < refusals < FUZZ_FRAMES


def test_no_admin_frame_raises_anything_but_malformed():
    refusals = 0
    for frame in mutants(4, honest_admin_frames(), FUZZ_FRAMES):
        try:
            decode_admin_request(frame[0])
        except Malformed:
            refusals += 1
    assert FUZZ_FRAMES * 0.4 < refusals < FUZZ_FRAMES


def test_no_batch_raises_anything_but_a_wire_error():
    batches = [batch_of(3, 5, b"one", b"two"), batch_of(1, 1, b""), batch_of(2, 9, b"x" * 300)]
    honest = [[bytes(batch.header), bytes(batch.body)] for batch in batches]
    rng = random.Random(5)
    refusals = 0
    for frame in mutants(5, honest, FUZZ_FRAMES):
        header, body = (*frame, b"", b"")[:2]
        if rng.random() < 0.5 and len(header) == 64:
            header = resealed(header, body)
        try:
            batch = decode_batch(0, header, memoryview(body))
        except WireError:
            refusals += 1
            continue
        assert len(split_batch_body(batch.meta.count, batch.body)) == batch.meta.count
    assert FUZZ_FRAMES * 0.6 < refusals < FUZZ_FRAMES


def resealed(header: bytes, body: bytes) -> bytes:
    """Give a mutated header CRCs that hold, so that what stands behind them is reached."""
    from wal.checksum import crc32c

    head = bytearray(header[:60])
    struct.pack_into("<II", head, 40, len(body), crc32c(body))
    return bytes(head) + struct.pack("<I", crc32c(head))


def test_the_fuzz_finds_a_decoder_that_forgets_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: message fields are not checked. The same frames must find it."""
    monkeypatch.setattr("node.codec._is_number", lambda value: True)
    with pytest.raises(Exception) as found:  # noqa: PT011  # any type: that is what is wrong
        test_no_peer_frame_raises_anything_but_a_wire_error(1)
    assert not isinstance(found.value, WireError)
