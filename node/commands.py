"""Entries: one operation each, as bytes (docs/ARCHITECTURE.md §4.3).

    off size field
     0   1   opcode           0 noop 1 open_session 2 put 3 delete 4 cas 5 batch
     1   1   flags            CAS: bit 0 = "expect absent"; all else 0
     2   2   key_len          1 to 4,096; 0 where there is no key
     4   4   expect_len       CAS: length of the expected value, else 0
     8   8   session          0 only for noop and open_session, and inside a batch
    16   8   seq              per session, from 1
    24   8   acked_below      replies below this sequence number may be dropped; ≤ seq
    32   …   key, expected value, value (the rest of the entry)

A client builds an `Operation` (bounds checked, no place in any session yet) and stamps it when it
is sent: the header is packed then, key and value are joined once into the request. A replica
decodes with `decode`, which answers None to anything that `encode` cannot have produced.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from node.limits import (
    BATCH_OPERATIONS_MAX,
    ENTRY_BYTES_MAX,
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from node.raft.types import Buffer

__all__ = [
    "ENTRY_HEADER_BYTES",
    "MULTI_OUTCOME",
    "SESSION_ID",
    "VIEW_BYTES_MIN",
    "Command",
    "EncodeError",
    "Opcode",
    "Operation",
    "OutcomeCode",
    "batch",
    "cas",
    "decode",
    "delete",
    "encode",
    "encode_noop",
    "encode_open_session",
    "entry_header",
    "pack_header",
    "put",
    "put_sizes",
    "unpack_header",
    "unpack_prefix",
    "unpack_stamp",
]

_HEADER: Final = struct.Struct("<BBHIQQQ")
ENTRY_HEADER_BYTES: Final = _HEADER.size
assert ENTRY_HEADER_BYTES == 32

_NESTED_LENGTH: Final = struct.Struct("<I")

SESSION_ID: Final = struct.Struct("<Q")
"""Detail of an OK open_session: the new session's id."""

MULTI_OUTCOME: Final = struct.Struct("<IB")
"""Head of a BATCH_ABORTED detail: position and code of the operation that failed; its own detail
follows."""

_U64_MAX: Final = (1 << 64) - 1


class Opcode(IntEnum):
    """What an entry does."""

    NOOP = 0
    OPEN_SESSION = 1
    PUT = 2
    DELETE = 3
    CAS = 4
    BATCH = 5


class OutcomeCode(IntEnum):
    """The state machine's answer to one entry (docs/ARCHITECTURE.md §7).

    ABSENT: a delete, or a CAS that expects a value, found no such key. CONFLICT: a CAS found
    another value, which is the detail, cut at `DETAIL_BYTES_MAX`. Only OK has changed anything.
    """

    OK = 0
    ABSENT = 1
    CONFLICT = 2
    SESSION_EXPIRED = 3
    STALE = 4
    BAD_OPERATION = 5
    BATCH_ABORTED = 6


class EncodeError(ValueError):
    """An operation that no entry can carry; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation without its place in a session; made by `put`, `delete`, `cas` and `batch`.

    `body` is what follows the header on the wire, in pieces, so that a value is copied only once,
    into the request. `keys` are all keys that it touches, for routing.
    """

    opcode: int
    flags: int
    key_len: int
    expect_len: int
    body: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    size: int
    """Bytes of the entry, header included."""


def put(key: bytes, value: bytes) -> Operation:
    """Set a key. EncodeError if key or value is out of bounds."""
    key_len = len(key)
    value_len = len(value)
    if not 0 < key_len <= KEY_BYTES_MAX or value_len > VALUE_BYTES_MAX:
        _refuse_sizes(key, value)
    size = ENTRY_HEADER_BYTES + key_len + value_len
    return Operation(Opcode.PUT, 0, key_len, 0, (key, value), (key,), size)


def put_sizes(keys: Sequence[bytes], values: Sequence[bytes]) -> list[int]:
    """Return the bytes of the entries of many puts. EncodeError if one is out of bounds."""
    key_lens, value_lens = list(map(len, keys)), list(map(len, values))
    if keys and not (
        0 < min(key_lens) <= max(key_lens) <= KEY_BYTES_MAX and max(value_lens) <= VALUE_BYTES_MAX
    ):
        for key, value in zip(keys, values, strict=True):
            _refuse_sizes(key, value)
    return [
        ENTRY_HEADER_BYTES + key_len + value_len
        for key_len, value_len in zip(key_lens, value_lens, strict=True)
    ]


def delete(key: bytes) -> Operation:
    """Remove a key; ABSENT if there is none."""
    _refuse_sizes(key, b"")
    size = ENTRY_HEADER_BYTES + len(key)
    return Operation(Opcode.DELETE, 0, len(key), 0, (key,), (key,), size)


def cas(key: bytes, expect: bytes | None, value: bytes) -> Operation:
    """Set a key if its value is `expect` (None: if there is no such key)."""
    _refuse_sizes(key, value)
    expected = b"" if expect is None else expect
    _refuse_sizes(key, expected)
    flags = 1 if expect is None else 0
    size = ENTRY_HEADER_BYTES + len(key) + len(expected) + len(value)
    if size > ENTRY_BYTES_MAX:
        raise EncodeError(f"CAS of {size} bytes; an entry holds at most {ENTRY_BYTES_MAX}")
    return Operation(
        Opcode.CAS, flags, len(key), len(expected), (key, expected, value), (key,), size
    )


def batch(operations: Sequence[Operation]) -> Operation:
    """Apply puts, deletes and CASes in order, all or none: a CAS that fails aborts the batch."""
    if not 0 < len(operations) <= BATCH_OPERATIONS_MAX:
        raise EncodeError(
            f"a batch of {len(operations)} operations; it holds 1 to {BATCH_OPERATIONS_MAX}"
        )
    pieces: list[bytes] = []
    keys: list[bytes] = []
    for operation in operations:
        if operation.opcode == Opcode.BATCH:
            raise EncodeError("a batch cannot hold a batch")
        pieces.append(_NESTED_LENGTH.pack(operation.size))
        pieces.append(entry_header(operation, 0, 0, 0))
        pieces.extend(operation.body)
        keys.extend(operation.keys)
    body = b"".join(pieces)
    if len(body) > VALUE_BYTES_MAX:
        raise EncodeError(
            f"a batch of {len(body)} bytes; its operations hold at most {VALUE_BYTES_MAX}"
        )
    size = ENTRY_HEADER_BYTES + len(body)
    return Operation(Opcode.BATCH, 0, 0, 0, (body,), tuple(keys), size)


def entry_header(operation: Operation, session: int, seq: int, acked_below: int) -> bytes:
    """Pack the 32 bytes that precede `operation.body`."""
    return _HEADER.pack(
        operation.opcode,
        operation.flags,
        operation.key_len,
        operation.expect_len,
        session,
        seq,
        acked_below,
    )


def encode(operation: Operation, session: int, seq: int, acked_below: int) -> bytes:
    """Encode one entry whole; EncodeError unless 1 ≤ acked_below ≤ seq and session > 0."""
    if not (0 < session <= _U64_MAX and 0 < acked_below <= seq <= _U64_MAX):
        raise EncodeError(f"session {session}, seq {seq}, acked_below {acked_below}")
    header = entry_header(operation, session, seq, acked_below)
    return b"".join((header, *operation.body))


def encode_noop() -> bytes:
    """Encode the entry of a new leader's first batch (Raft §5.4.2)."""
    return _HEADER.pack(Opcode.NOOP, 0, 0, 0, 0, 0, 0)


def encode_open_session() -> bytes:
    """Encode the entry whose index becomes a session id."""
    return _HEADER.pack(Opcode.OPEN_SESSION, 0, 0, 0, 0, 0, 0)


def _refuse_sizes(key: bytes, value: bytes) -> None:
    """Raise EncodeError for a key or value out of bounds, naming the bound."""
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise EncodeError(f"a key of {len(key)} bytes; a key has 1 to {KEY_BYTES_MAX}")
    if len(value) > VALUE_BYTES_MAX:
        raise EncodeError(f"a value of {len(value)} bytes; a value has at most {VALUE_BYTES_MAX}")


VIEW_BYTES_MIN: Final = 64 << 10
"""From this size on a put's value is not copied out of a batch that it makes up at least half of: a
view keeps the batch alive, so that it takes at most twice its own size."""

Command = tuple[int, int, int, int, bytes, bytes | None, Buffer, "tuple[Command, ...]"]
"""A decoded entry: opcode, session, seq, acked_below, key, expected value (None = expect absent;
CAS only), value, nested commands (batch only). A plain tuple, not a class: one is made for every
entry on every replica, and lives for a microsecond."""

_OP_NOOP: Final = int(Opcode.NOOP)
_OP_OPEN_SESSION: Final = int(Opcode.OPEN_SESSION)
_OP_PUT: Final = int(Opcode.PUT)
_OP_DELETE: Final = int(Opcode.DELETE)
_OP_CAS: Final = int(Opcode.CAS)
_OP_BATCH: Final = int(Opcode.BATCH)

pack_header: Final = _HEADER.pack
"""What `entry_header` does, of the bare fields: opcode, flags, key_len, expect_len, session, seq,
acked_below."""

_PREFIX: Final = struct.Struct("<BBHIQ")
_STAMP: Final = struct.Struct(f"<{_PREFIX.size}sQQ")
assert _STAMP.size == ENTRY_HEADER_BYTES

unpack_stamp: Final = _STAMP.unpack_from
"""The first 16 bytes of the entry at an offset as they are, then its seq and acked_below."""

unpack_prefix: Final = _PREFIX.unpack
"""Opcode, flags, key_len, expect_len and session: what those 16 bytes hold."""

unpack_header: Final = _HEADER.unpack_from
"""Opcode, flags, key_len, expect_len, session, seq and acked_below of the entry at an offset."""


def decode(body: Buffer, start: int, end: int) -> Command | None:
    """Decode the entry at body[start:end]; None for anything but a well-formed entry.

    `0 ≤ start ≤ end ≤ len(body)` is the caller's duty. Key and value are copied out as bytes, but for
    a large value of a `body` that is a view (VIEW_BYTES_MIN).
    """
    key_start = start + ENTRY_HEADER_BYTES
    if key_start > end:
        return None
    opcode, flags, key_len, expect_len, session, seq, acked_below = unpack_header(body, start)
    if session == 0 or not 0 < acked_below <= seq:
        bare = end == key_start and not (flags or key_len or expect_len)
        unstamped = session == seq == acked_below == 0
        if bare and unstamped and opcode <= _OP_OPEN_SESSION:
            return (opcode, 0, 0, 0, b"", None, b"", ())
        return None
    if opcode == _OP_PUT:
        value_start = key_start + key_len
        if (
            flags == 0 == expect_len
            and 0 < key_len <= KEY_BYTES_MAX
            and 0 <= end - value_start <= VALUE_BYTES_MAX
        ):
            key = bytes(body[key_start:value_start])
            value = body[value_start:end]
            if len(value) < VIEW_BYTES_MIN or 2 * len(value) < len(body):
                value = bytes(value)
            return (_OP_PUT, session, seq, acked_below, key, None, value, ())
        return None
    if opcode == _OP_BATCH:
        if flags or key_len or expect_len:
            return None
        nested = _decode_nested(body, key_start, end)
        if nested is None:
            return None
        return (_OP_BATCH, session, seq, acked_below, b"", None, b"", nested)
    fields = _decode_fields(body, start, end)
    return None if fields is None else (opcode, session, seq, acked_below, *fields, ())


def _decode_fields(body: Buffer, start: int, end: int) -> tuple[bytes, bytes | None, bytes] | None:
    """Decode key, expected value and value of a put, delete or CAS; None if malformed."""
    opcode, flags, key_len, expect_len, _, _, _ = unpack_header(body, start)
    if not 0 < key_len <= KEY_BYTES_MAX:
        return None
    key_start = start + ENTRY_HEADER_BYTES
    expect_start = key_start + key_len
    value_start = expect_start + expect_len
    if not 0 <= end - value_start <= VALUE_BYTES_MAX or expect_len > VALUE_BYTES_MAX:
        return None
    key = bytes(body[key_start:expect_start])
    value = bytes(body[value_start:end])
    if opcode == _OP_CAS and (flags == 0 or (flags == 1 and expect_len == 0)):
        return key, None if flags else bytes(body[expect_start:value_start]), value
    if flags or expect_len:
        return None
    if opcode == _OP_PUT or (opcode == _OP_DELETE and value_start == end):
        return key, None, value
    return None


def _decode_nested(body: Buffer, start: int, end: int) -> tuple[Command, ...] | None:
    """Decode the operations of a batch; None if any is malformed, stamped or out of place."""
    if not 0 < end - start <= VALUE_BYTES_MAX:
        return None
    nested: list[Command] = []
    while start < end:
        first = start + _NESTED_LENGTH.size
        if len(nested) == BATCH_OPERATIONS_MAX or first > end:
            return None
        start = first + _NESTED_LENGTH.unpack_from(body, start)[0]
        if start > end or start - first < ENTRY_HEADER_BYTES:
            return None
        opcode, _, _, _, session, seq, acked_below = unpack_header(body, first)
        fields = _decode_fields(body, first, start)
        if fields is None or session or seq or acked_below:
            return None
        nested.append((opcode, 0, 0, 0, *fields, ()))
    return tuple(nested)
