"""The entry codec (docs/ARCHITECTURE.md §4.3)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import commands
from node.commands import EncodeError, Opcode, decode, encode
from node.limits import (
    BATCH_OPERATIONS_MAX,
    ENTRY_BYTES_MAX,
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
)

U64 = st.integers(1, (1 << 64) - 1)
KEYS = st.binary(min_size=1, max_size=40)
VALUES = st.binary(max_size=60)
SIMPLE = st.one_of(
    st.builds(commands.put, KEYS, VALUES),
    st.builds(commands.delete, KEYS),
    st.builds(commands.cas, KEYS, st.none() | VALUES, VALUES),
)
OPERATIONS = SIMPLE | st.lists(SIMPLE, min_size=1, max_size=5).map(commands.batch)


def test_a_put_has_the_documented_layout():
    entry = encode(commands.put(b"key", b"value"), 7, 9, 8)
    assert entry == struct.pack("<BBHIQQQ", 2, 0, 3, 0, 7, 9, 8) + b"keyvalue"


def test_a_cas_has_the_documented_layout():
    entry = encode(commands.cas(b"k", b"old", b"new!"), 1, 1, 1)
    assert entry == struct.pack("<BBHIQQQ", 4, 0, 1, 3, 1, 1, 1) + b"koldnew!"
    absent = encode(commands.cas(b"k", None, b"new!"), 1, 1, 1)
    assert absent == struct.pack("<BBHIQQQ", 4, 1, 1, 0, 1, 1, 1) + b"knew!"


def test_a_batch_nests_unstamped_entries_behind_their_lengths():
    entry = encode(commands.batch([commands.put(b"a", b"1"), commands.delete(b"b")]), 5, 6, 1)
    nested = struct.pack("<IBBHIQQQ", 34, 2, 0, 1, 0, 0, 0, 0) + b"a1"
    nested += struct.pack("<IBBHIQQQ", 33, 3, 0, 1, 0, 0, 0, 0) + b"b"
    assert entry == struct.pack("<BBHIQQQ", 5, 0, 0, 0, 5, 6, 1) + nested


def test_noop_and_open_session_are_bare_headers():
    assert commands.encode_noop() == bytes(32)
    assert commands.encode_open_session() == b"\x01" + bytes(31)
    for entry in (commands.encode_noop(), commands.encode_open_session()):
        command = decode(entry, 0, 32)
        assert command is not None
        assert command[0] == entry[0]


@given(OPERATIONS, U64, U64, st.sampled_from([bytes, bytearray, memoryview]), st.binary())
def test_what_is_encoded_decodes_to_the_same_operation(operation, session, seq, kind, around):
    acked_below = max(1, seq // 2)
    entry = encode(operation, session, seq, acked_below)
    assert len(entry) == operation.size
    body = kind(around + entry + around)
    command = decode(body, len(around), len(around) + len(entry))
    assert command is not None
    opcode, *stamp, key, _, value, nested = command
    assert (opcode, stamp) == (operation.opcode, [session, seq, acked_below])
    if opcode == Opcode.BATCH:
        assert tuple(inner[4] for inner in nested) == operation.keys
        again = [commands.Operation(*_shape(inner)) for inner in nested]
        assert encode(commands.batch(again), session, seq, acked_below) == entry
    else:
        assert commands.Operation(*_shape(command)) == operation
        assert all(type(part) is bytes for part in (key, value))


def _shape(command):
    """The fields of the Operation that a decoded command came from."""
    opcode, _, _, _, key, expect, value, _ = command
    body = {Opcode.PUT: (key, value), Opcode.DELETE: (key,)}.get(
        opcode, (key, expect or b"", value)
    )
    flags = int(opcode == Opcode.CAS and expect is None)
    size = 32 + sum(map(len, body))
    return opcode, flags, len(key), len(expect or b""), body, (key,), size


@given(st.binary(max_size=120))
def test_garbage_decodes_to_none_or_to_what_encodes_to_it(garbage):
    command = decode(garbage, 0, len(garbage))
    assert command is None or isinstance(command, tuple)


@given(OPERATIONS, st.integers(0, 200), st.integers(1, 255))
def test_a_flipped_header_byte_never_raises(operation, position, flip):
    entry = bytearray(encode(operation, 3, 4, 2))
    entry[position % len(entry)] ^= flip
    decode(entry, 0, len(entry))


@given(OPERATIONS, st.data())
def test_a_cut_entry_is_never_read_past_its_end(operation, data):
    entry = encode(operation, 3, 4, 2)
    end = data.draw(st.integers(0, len(entry)))
    command = decode(entry + b"\xff" * 64, 0, end)
    if command is not None and operation.opcode == Opcode.PUT:
        assert operation.body[1].startswith(command[6])
        assert len(command[6]) == end - 32 - operation.key_len


@pytest.mark.parametrize(
    "header",
    [
        pytest.param((2, 1, 1, 0, 1, 1, 1), id="a flag on a put"),
        pytest.param((2, 0, 0, 0, 1, 1, 1), id="an empty key"),
        pytest.param((2, 0, 9, 0, 1, 1, 1), id="a key beyond the entry"),
        pytest.param((2, 0, 1, 1, 1, 1, 1), id="an expected value on a put"),
        pytest.param((2, 0, 1, 0, 0, 1, 1), id="no session"),
        pytest.param((2, 0, 1, 0, 1, 0, 0), id="no sequence number"),
        pytest.param((2, 0, 1, 0, 1, 1, 0), id="acked_below of 0"),
        pytest.param((2, 0, 1, 0, 1, 1, 2), id="acked_below beyond the number itself"),
        pytest.param((3, 0, 1, 0, 1, 1, 1), id="a delete with a value"),
        pytest.param((3, 0, 2, 1, 1, 1, 1), id="a delete with an expected value"),
        pytest.param((4, 1, 1, 1, 1, 1, 1), id="expect absent and a value"),
        pytest.param((4, 2, 1, 0, 1, 1, 1), id="an unknown flag"),
        pytest.param((4, 0, 1, 9, 1, 1, 1), id="an expected value beyond the entry"),
        pytest.param((5, 0, 0, 0, 1, 1, 1), id="a batch of too few bytes"),
        pytest.param((6, 0, 1, 0, 1, 1, 1), id="an unknown opcode"),
        pytest.param((0, 0, 0, 0, 0, 0, 0), id="a noop with a tail"),
        pytest.param((1, 0, 0, 0, 1, 1, 1), id="a stamped open_session"),
    ],
)
def test_a_malformed_entry_decodes_to_none(header):
    entry = struct.pack("<BBHIQQQ", *header) + b"xyz"
    assert decode(entry, 0, len(entry)) is None


@pytest.mark.parametrize(
    "nested",
    [
        pytest.param(struct.pack("<IBBHIQQQ", 33, 2, 0, 1, 0, 1, 1, 1) + b"k", id="stamped"),
        pytest.param(struct.pack("<IBBHIQQQ", 34, 2, 0, 1, 0, 0, 0, 0) + b"k", id="too long"),
        pytest.param(struct.pack("<IBBHIQQQ", 32, 0, 0, 0, 0, 0, 0, 0), id="a noop"),
        pytest.param(struct.pack("<IBBHIQQQ", 32, 5, 0, 0, 0, 0, 0, 0), id="a batch in a batch"),
        pytest.param(struct.pack("<I", 3) + b"abc", id="shorter than a header"),
        pytest.param(b"\x01", id="shorter than a length"),
    ],
)
def test_a_batch_with_one_bad_operation_decodes_to_none(nested):
    good = struct.pack("<IBBHIQQQ", 34, 2, 0, 1, 0, 0, 0, 0) + b"k1"
    head = struct.pack("<BBHIQQQ", 5, 0, 0, 0, 1, 1, 1)
    assert decode(head + good, 0, len(head + good)) is not None
    for body in (head + nested + good, head + good + nested):
        assert decode(body, 0, len(head + good + nested)) is None


def test_bounds_are_refused_by_name_when_encoding():
    with pytest.raises(EncodeError, match="a key of 0 bytes"):
        commands.put(b"", b"")
    with pytest.raises(EncodeError, match=f"a key of {KEY_BYTES_MAX + 1} bytes"):
        commands.delete(b"k" * (KEY_BYTES_MAX + 1))
    with pytest.raises(EncodeError, match=f"a value of {VALUE_BYTES_MAX + 1} bytes"):
        commands.put(b"k", bytes(VALUE_BYTES_MAX + 1))
    with pytest.raises(EncodeError, match="a value of"):
        commands.cas(b"k", bytes(VALUE_BYTES_MAX + 1), b"")
    with pytest.raises(EncodeError, match=f"at most {ENTRY_BYTES_MAX}"):
        commands.cas(b"k", bytes(VALUE_BYTES_MAX), bytes(VALUE_BYTES_MAX))
    with pytest.raises(EncodeError, match="a batch of 0 operations"):
        commands.batch([])
    with pytest.raises(EncodeError, match=f"{BATCH_OPERATIONS_MAX + 1} operations"):
        commands.batch([commands.delete(b"k")] * (BATCH_OPERATIONS_MAX + 1))
    with pytest.raises(EncodeError, match="cannot hold a batch"):
        commands.batch([commands.batch([commands.delete(b"k")])])
    with pytest.raises(EncodeError, match="its operations hold at most"):
        commands.batch([commands.put(b"k", bytes(VALUE_BYTES_MAX))])


def test_the_largest_entries_decode():
    largest = commands.put(b"k" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX))
    full = commands.batch([commands.delete(b"k")] * BATCH_OPERATIONS_MAX)
    for operation in (largest, full):
        entry = encode(operation, 1, 1, 1)
        assert decode(entry, 0, len(entry)) is not None
    longer = encode(largest, 1, 1, 1) + b"!"
    assert decode(longer, 0, len(longer)) is None


@pytest.mark.parametrize("stamp", [(0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 1, 2), (1 << 64, 1, 1)])
def test_a_stamp_out_of_range_is_refused(stamp):
    with pytest.raises(EncodeError, match="session"):
        encode(commands.delete(b"k"), *stamp)
