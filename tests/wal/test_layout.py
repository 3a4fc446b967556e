"""The bytes on disk: goldens of every layout, and round trips (ARCHITECTURE §4)."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wal import Kind, LogIdentity, OtherFormatError, RecordHeader, batch_record
from wal.checksum import crc32c, reference
from wal.errors import FrameError
from wal.frame import (
    FRAME_BYTES_MIN,
    HEADER_BYTES,
    PREFIX_BYTES,
    FramePrefix,
    body_of_hard_state,
    decode_head,
    decode_prefix,
    encode_prefix,
    fields_of,
    flags_of,
    frame_size,
    hard_state_record,
    padding_for,
    record_of,
    release_record,
    split_batch_body,
    truncate_record,
)
from wal.segment import (
    GroupCheckpoint,
    SegmentCheckpoint,
    decode_checkpoint,
    offset_of_position,
    position_at,
    segment_name,
    segment_number,
    spare_name,
    spare_number,
)

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
BODIES = st.binary(max_size=200)


# ---- goldens: a change here is a change of the format ------------------------------------


def test_a_batch_header_lies_byte_for_byte_as_documented() -> None:
    record = batch_record(0x01020304, 0x1112131415161718, 0x2122232425262728, [b"ab", b"", b"c"])
    assert record.body == bytes.fromhex("02000000 00000000 01000000") + b"abc"
    assert record.header[:60] == bytes.fromhex(
        "52444231"  # magic "RDB1"
        "02 01 0000"  # version, kind BATCH, flags
        "04030201 03000000"  # group, count
        "1817161514131211"  # term
        "2827262524232221"  # base index
        "0000000000000000"  # leader time
        "0f000000"  # payload length
        f"{struct.pack('<I', reference(record.body)).hex()}"
        "0000000000000000 00000000"  # reserved
    )
    assert struct.unpack("<I", record.header[60:]) == (reference(record.header[:60]),)
    assert reference(record.body) == 0xA23F9E17


def test_leader_time_and_flags_have_their_places() -> None:
    header = RecordHeader(Kind.BATCH, 1, 2, 3, 4, 0x0102030405060708, 9, 10, 0x0201).pack()
    assert header[6:8] == b"\x01\x02"
    assert header[32:40] == bytes.fromhex("0807060504030201")
    assert flags_of(header) == flags_of(memoryview(header)) == 0x0201


def test_a_frame_prefix_lies_byte_for_byte_as_documented() -> None:
    header = truncate_record(1, 2).header
    frame = encode_prefix(FramePrefix(0x1122334455667788, 0x99, (7 << 32) | 0x60, 96), header)
    assert frame[:28] == bytes.fromhex(
        "8877665544332211 9900000000000000 6000000007000000 60000000"
    )
    assert struct.unpack("<I", frame[28:32]) == (reference(header[:60], reference(frame[:28])),)
    assert frame[32:] == header


@pytest.mark.parametrize(
    ("record", "kind", "term", "index", "body"),
    [
        (hard_state_record(3, 5, 7, b"cfg"), 2, 5, 0, b"\7" + bytes(7) + b"cfg"),
        (truncate_record(3, 9), 3, 0, 9, b""),
        (release_record(3, 9, 4), 4, 4, 9, b""),
        (record_of(RecordHeader(Kind.SEAL)), 6, 0, 0, b""),
        (record_of(RecordHeader(Kind.OPEN)), 7, 0, 0, b""),
    ],
)
def test_every_other_record_lies_as_documented(record, kind, term, index, body) -> None:
    assert record.header[5] == kind
    assert struct.unpack_from("<QQ", record.header, 16) == (term, index)
    assert record.body == body


def test_a_checkpoint_lies_byte_for_byte_as_documented() -> None:
    identity = LogIdentity(bytes(range(16)), 9)
    groups = (GroupCheckpoint(1, 2, 3, 4, 5, 6, 7, b"xy"),)
    record = SegmentCheckpoint(identity, 10, 8, (8 << 32) | 64, True, groups).record()
    assert record.header[5] == 5
    assert struct.unpack_from("<Q", record.header, 24) == (10,)
    assert record.body == (
        struct.pack("<II", 1, 9)
        + bytes(range(16))
        + struct.pack("<QQQII", 10, 8, (8 << 32) | 64, 1, 1)
        + struct.pack("<IQQQQQQI", 1, 2, 3, 4, 5, 6, 7, 2)
        + b"xy"
    )


def test_files_are_named_by_eight_digits_or_more() -> None:
    assert segment_name(42) == "00000042.wal"
    assert spare_name(42) == "spare-00000042.free"
    assert segment_name(123_456_789) == "123456789.wal"
    wrong = ("{}0000042", "{}000000042", "{}00000000", "x{}00000042", "{}-0000042", "{}0x000042")
    for form in (f"{each}{end}" for each in wrong for end in (".wal", ".free", ".wal.tmp", "")):
        for name in (form.format(""), form.format("spare-"), form.format("").upper()):
            assert segment_number(name) is None, name
            assert spare_number(name) is None, name
    assert (segment_number("00000042.wal"), spare_number("00000042.wal")) == (42, None)
    name = "spare-00000042.free"
    assert (segment_number(name), spare_number(name)) == (None, 42)


# ---- round trips -------------------------------------------------------------------------


@given(st.builds(RecordHeader, st.sampled_from(Kind), U32, U32, U64, U64, U64, U32, U32))
def test_a_header_survives_its_encoding(header: RecordHeader) -> None:
    packed = header.pack()
    assert RecordHeader.unpack(packed) == header
    assert RecordHeader.unpack(memoryview(packed)) == header
    expected = (header.kind, header.group, header.count, header.term, header.base_index)
    assert fields_of(packed) == (*expected, header.payload_len)


@given(U64, U64, U64, U32, BODIES)
def test_a_prefix_survives_its_encoding_and_covers_the_header(
    uid: int, sequence: int, durable: int, length: int, body: bytes
) -> None:
    prefix = FramePrefix(uid, sequence, durable, length)
    header = hard_state_record(1, 2, 3, body).header
    frame = bytearray(encode_prefix(prefix, header))
    assert decode_prefix(frame) == prefix
    for offset in range(len(frame)):
        frame[offset] ^= 0x10
        with pytest.raises(FrameError):
            check_both(frame)
        frame[offset] ^= 0x10


def check_both(frame: bytearray) -> None:
    """Check a prefix, and the header behind it, whose CRC is its own to check."""
    decode_prefix(frame)
    RecordHeader.unpack(frame[PREFIX_BYTES:])


def test_a_prefix_belongs_to_its_header_and_to_no_other() -> None:
    """A CRC over a header and the header's own CRC is the same for every header there is."""
    one, other = batch_record(0, 1, 31, [b"x"]).header, batch_record(0, 1, 21, [b"y"]).header
    frame = encode_prefix(FramePrefix(8, 82, 7 << 32, 105), one)
    assert decode_prefix(frame).sequence == 82
    mixed = frame[:32] + other
    with pytest.raises(FrameError, match="frame CRC"):
        decode_prefix(mixed)
    with pytest.raises(FrameError, match="frame CRC"):
        decode_head(memoryview(mixed), 0, crc32c)


def test_a_frame_of_an_older_format_is_refused_and_not_taken_for_damage() -> None:
    head = bytearray(batch_record(0, 1, 31, [b"x"]).header[:60])
    head[4] = 1
    old = with_crc(bytes(head))
    with pytest.raises(OtherFormatError, match="record format 1 is older than 2"):
        decode_head(memoryview(bytes(32) + old), 0, crc32c)
    with pytest.raises(OtherFormatError, match="record format 1 is older than 2"):
        RecordHeader.unpack(old)


@given(U32, U64, U64, st.lists(st.binary(max_size=40), min_size=1, max_size=12))
def test_the_entries_of_a_batch_come_back(group, term, base, entries: list[bytes]) -> None:
    record = batch_record(group, term, base, entries)
    header = RecordHeader.unpack(record.header)
    assert (header.group, header.term, header.base_index) == (group, term, base)
    assert header.payload_len == len(record.body)
    assert list(map(bytes, split_batch_body(header.count, record.body))) == entries


@given(U64, BODIES)
def test_a_hard_state_comes_back(vote: int, config: bytes) -> None:
    assert body_of_hard_state(hard_state_record(0, 1, vote, config).body) == (vote, config)


@given(
    st.builds(
        SegmentCheckpoint,
        st.builds(LogIdentity, st.binary(min_size=16, max_size=16), U32),
        U64,
        U64,
        U64,
        st.booleans(),
        st.lists(
            st.builds(GroupCheckpoint, U32, U64, U64, U64, U64, U64, U64, BODIES), max_size=5
        ).map(tuple),
    )
)
def test_a_checkpoint_survives_its_encoding(checkpoint: SegmentCheckpoint) -> None:
    body = checkpoint.record().body
    assert decode_checkpoint(body) == checkpoint
    with pytest.raises(FrameError):
        decode_checkpoint(bytes(body) + b"\0")
    with pytest.raises(FrameError):
        decode_checkpoint(body[:-1])


@given(st.integers(0, 5000))
@example(0)
def test_a_frame_is_padded_to_a_multiple_of_eight(length: int) -> None:
    size = frame_size(length)
    assert size % 8 == 0
    assert FRAME_BYTES_MIN + length + len(padding_for(FRAME_BYTES_MIN + length)) == size
    assert PREFIX_BYTES + HEADER_BYTES == FRAME_BYTES_MIN == 96


@given(st.integers(1, 1 << 31), U32)
def test_a_position_holds_a_segment_and_an_offset(number: int, offset: int) -> None:
    position = position_at(number, offset)
    assert (position >> 32, offset_of_position(position)) == (number, offset)
    assert position_at(number + 1, 0) > position
    assert segment_number(segment_name(number)) == number
    assert spare_number(spare_name(number)) == number


# ---- what is refused ---------------------------------------------------------------------


def with_crc(head: bytes) -> bytes:
    return head + struct.pack("<I", reference(head))


def test_a_newer_record_format_is_told_from_damage() -> None:
    header = truncate_record(0, 1).header
    with pytest.raises(OtherFormatError, match="record format 3 is newer than 2"):
        RecordHeader.unpack(with_crc(header[:4] + b"\3" + header[5:60]))


@pytest.mark.parametrize(("offset", "value"), [(0, 0), (4, 0), (5, 0), (5, 8), (48, 1), (56, 1)])
def test_a_header_that_is_not_of_this_format_is_no_header(offset: int, value: int) -> None:
    """Nor is it one under a frame CRC that holds."""
    header = bytearray(truncate_record(0, 1).header[:60])
    header[offset] = value
    foreign = with_crc(bytes(header))
    with pytest.raises(FrameError, match="not of this format"):
        RecordHeader.unpack(foreign)
    frame = encode_prefix(FramePrefix(1, 2, 3, 96), foreign)
    assert decode_prefix(frame).sequence == 2
    with pytest.raises(FrameError, match="not of this format"):
        decode_head(memoryview(frame), 0, crc32c)


def test_a_newer_checkpoint_is_told_from_damage() -> None:
    body = SegmentCheckpoint(LogIdentity(bytes(16), 1), 1, 0, 0, False, ()).record().body
    with pytest.raises(OtherFormatError, match="log format 2 is newer than 1"):
        decode_checkpoint(b"\2" + bytes(body[1:]))
    with pytest.raises(FrameError):
        decode_checkpoint(b"\0" + bytes(body[1:]))


def test_lengths_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(FrameError, match="do not add up"):
        split_batch_body(1, struct.pack("<I", 3) + b"ab")
    with pytest.raises(FrameError, match="do not fit"):
        split_batch_body(3, bytes(8))
    with pytest.raises(FrameError, match="too short"):
        body_of_hard_state(bytes(7))
    with pytest.raises(FrameError, match="64 bytes, not 63"):
        RecordHeader.unpack(bytes(63))
    with pytest.raises(FrameError, match="cut off"):
        decode_prefix(bytes(95))


# ---- the fast path -----------------------------------------------------------------------


def slow_head(head: bytes) -> tuple:
    """Decode a frame's head with the two readable functions."""
    prefix, header = decode_prefix(head), RecordHeader.unpack(head[PREFIX_BYTES:])
    fields = (
        int(header.kind),
        header.group,
        header.count,
        header.term,
        header.base_index,
        header.payload_len,
    )
    known = (prefix.segment_uid, prefix.sequence, prefix.durable_pos, prefix.frame_len)
    return (*known, header.payload_crc, fields)


def outcome(decode: Callable[[], tuple]) -> object:
    try:
        return decode()
    except (FrameError, OtherFormatError) as error:
        return type(error), str(error)


@given(
    st.builds(FramePrefix, U64, U64, U64, U32),
    st.builds(RecordHeader, st.sampled_from(Kind), U32, U32, U64, U64, U64, U32, U32),
    st.binary(max_size=20),
    st.none() | st.tuples(st.integers(0, 63), st.integers(1, 255), st.booleans()),
)
def test_the_fast_decoder_says_what_the_readable_ones_say(prefix, header, before, damage) -> None:
    """Damaged headers too: under a frame CRC that holds, with or without a header CRC that does."""
    packed = bytearray(header.pack())
    if damage is not None:
        offset, mask, repaired = damage
        packed[offset] ^= mask
        if repaired:
            packed = bytearray(with_crc(bytes(packed[:60])))
    head = encode_prefix(prefix, bytes(packed))
    view = memoryview(before + head)
    fast = outcome(lambda: decode_head(view, len(before), crc32c))
    assert fast == outcome(lambda: slow_head(head))
