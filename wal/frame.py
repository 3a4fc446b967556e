"""Record headers and the node-local frames around them: bytes on disk, pure functions.

A record is a 64-byte header and a body. A batch record is encoded once by a Raft leader and goes
verbatim over the wire and into every log; the frame prefix is local to one log. All little endian.

    record header (64 bytes)                      frame prefix (32 bytes)
     0  4 magic "RDB1"     32  8 leader_time_ms     0  8 segment_uid
     4  1 version          40  4 payload_len        8  8 sequence
     5  1 kind             44  4 payload_crc       16  8 durable_pos
     6  2 flags            48  8 reserved (0)      24  4 frame_len (96 + payload_len)
     8  4 group            56  4 reserved (0)      28  4 frame_crc (0..27, header 0..59)
    12  4 count            60  4 header_crc
    16  8 term                                    then header, body, zeros to a multiple of 8
    24  8 base_index

The frame CRC covers prefix and header; the body has its own CRC in the header: one pass over the
payload per node. It leaves the header's own CRC out: over a whole header, which ends in its CRC, any
CRC-32C comes to the same, and would bind the prefix to no header in particular (format 1 did that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from wal.checksum import Checksum, crc32c
from wal.errors import FrameError, OtherFormatError

__all__ = [
    "FRAME_BYTES_MIN",
    "HEADER_BYTES",
    "MAGIC",
    "PREFIX_BYTES",
    "Buffer",
    "Fields",
    "FrameError",
    "FramePrefix",
    "Kind",
    "Record",
    "RecordHeader",
    "batch_record",
    "body_of_hard_state",
    "decode_head",
    "decode_prefix",
    "encode_prefix",
    "fields_of",
    "flags_of",
    "frame_head",
    "frame_size",
    "hard_state_record",
    "padding_for",
    "record_of",
    "release_record",
    "split_batch_body",
    "truncate_record",
]

Buffer = bytes | bytearray | memoryview

MAGIC: Final = 0x3142_4452
VERSION: Final = 2
HEADER_BYTES: Final = 64
PREFIX_BYTES: Final = 32
FRAME_BYTES_MIN: Final = PREFIX_BYTES + HEADER_BYTES

_HEADER: Final = Struct("<IBBHIIQQQIIQI")
_PREFIX: Final = Struct("<QQQI")
_CRC: Final = Struct("<I")
_FIELDS: Final = Struct("<5xB2xIIQQ8xI20x")
_HEAD: Final = Struct("<QQQIIIBBHIIQQQIIQII")
_VOTE: Final = Struct("<Q")
_FLAGS: Final = Struct("<H")
_FLAGS_AT: Final = 6
_PADDING: Final = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")
assert _HEADER.size + _CRC.size == HEADER_BYTES
assert _PREFIX.size + _CRC.size == PREFIX_BYTES
assert _FIELDS.size == HEADER_BYTES
assert _HEAD.size == FRAME_BYTES_MIN


class Kind(IntEnum):
    """What a record says (docs/ARCHITECTURE.md §4.2)."""

    BATCH = 1
    HARD_STATE = 2
    TRUNCATE = 3
    RELEASE = 4
    CHECKPOINT = 5
    SEAL = 6
    OPEN = 7


_KINDS: Final = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The decoded 64-byte header. Unsigned: group, count u32; term, index, time u64."""

    kind: Kind
    group: int = 0
    count: int = 0
    term: int = 0
    base_index: int = 0
    leader_time_ms: int = 0
    payload_len: int = 0
    payload_crc: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """Return the 64 bytes, CRC included."""
        head = _HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            self.flags,
            self.group,
            self.count,
            self.term,
            self.base_index,
            self.leader_time_ms,
            self.payload_len,
            self.payload_crc,
            0,
            0,
        )
        return head + _CRC.pack(crc32c(head))

    @classmethod
    def unpack(cls, buffer: Buffer) -> RecordHeader:
        """Decode and check 64 bytes; `FrameError` if invalid, `OtherFormatError` if newer."""
        if len(buffer) != HEADER_BYTES:
            raise FrameError(f"a record header has {HEADER_BYTES} bytes, not {len(buffer)}")
        (stored,) = _CRC.unpack_from(buffer, HEADER_BYTES - _CRC.size)
        computed = crc32c(memoryview(buffer)[: -_CRC.size])
        if stored != computed:
            raise FrameError("header CRC", stored, computed)
        fields = _HEADER.unpack_from(buffer)
        magic, version, kind, flags, group, count, term, base_index, time_ms, *rest = fields
        payload_len, payload_crc, reserved, reserved_too = rest
        if magic != MAGIC or version != VERSION or kind not in _KINDS or reserved or reserved_too:
            raise _foreign(magic, version, kind)
        return cls(
            _KINDS[kind], group, count, term, base_index, time_ms, payload_len, payload_crc, flags
        )


def _foreign(magic: int, version: int, kind: int) -> FrameError | OtherFormatError:
    """Return the error for a header whose CRC holds and which is not of this format.

    An older format is told likewise: neither may be taken for damage, and be cut.
    """
    if magic == MAGIC and version > VERSION:
        return OtherFormatError(
            f"record format {version} is newer than {VERSION}, the newest this version reads;"
            " update raftdeck"
        )
    if magic == MAGIC and 0 < version < VERSION:
        return OtherFormatError(
            f"record format {version} is older than {VERSION}, the only one that this version reads;"
            " go on with the raftdeck that wrote it, or begin a new cluster"
        )
    return FrameError(f"magic {magic:08x}, version {version}, kind {kind}: not of this format")


@dataclass(frozen=True, slots=True)
class Record:
    """An encoded record: header bytes and body. Never re-encoded on its way to the disk."""

    header: bytes
    body: Buffer = b""


Fields = tuple[int, int, int, int, int, int]
"""(kind, group, count, term, base_index, payload_len): what the log itself wants of a header. A
tuple, because it is made once per frame on both paths, and a `RecordHeader` costs ten times that."""


def fields_of(header: bytes) -> Fields:
    """Return the fields of a header that was made in this process; nothing is checked."""
    fields: Fields = _FIELDS.unpack(header)
    return fields


def flags_of(header: Buffer) -> int:
    """Return the flags of a header that was checked or made here: this runs once per batch."""
    flags: int = _FLAGS.unpack_from(header, _FLAGS_AT)[0]
    return flags


def record_of(header: RecordHeader, body: Buffer = b"") -> Record:
    """Encode a record around `body`, filling in its length and CRC."""
    complete = RecordHeader(
        header.kind,
        header.group,
        header.count,
        header.term,
        header.base_index,
        header.leader_time_ms,
        len(body),
        crc32c(body),
        header.flags,
    )
    return Record(complete.pack(), body)


def batch_record(group: int, term: int, base_index: int, entries: Sequence[Buffer]) -> Record:
    """Encode entries as a batch: `count` u32 lengths, then the entries end to end."""
    lengths = Struct(f"<{len(entries)}I").pack(*map(len, entries))
    header = RecordHeader(Kind.BATCH, group, len(entries), term, base_index)
    return record_of(header, b"".join([lengths, *entries]))


def hard_state_record(group: int, term: int, vote: int, config: bytes = b"") -> Record:
    """Encode term and vote of a group, with its opaque configuration."""
    return record_of(RecordHeader(Kind.HARD_STATE, group, term=term), _VOTE.pack(vote) + config)


def body_of_hard_state(body: Buffer) -> tuple[int, bytes]:
    """Return (vote, configuration) of a HARD_STATE body."""
    if len(body) < _VOTE.size:
        raise FrameError("HARD_STATE: the body is too short")
    return _VOTE.unpack_from(body)[0], bytes(body[_VOTE.size :])


def truncate_record(group: int, index: int) -> Record:
    """Encode the removal of every entry of a group from `index` on."""
    return record_of(RecordHeader(Kind.TRUNCATE, group, base_index=index))


def release_record(group: int, index: int, term: int) -> Record:
    """Encode that a group needs nothing up to `index` any more (its compaction point)."""
    return record_of(RecordHeader(Kind.RELEASE, group, term=term, base_index=index))


def split_batch_body(count: int, body: Buffer) -> list[memoryview]:
    """Return the entries of a batch body; `FrameError` if its lengths do not add up."""
    view = memoryview(body)
    if count * 4 > len(view):
        raise FrameError(f"{count} lengths do not fit {len(view)} bytes")
    lengths = Struct(f"<{count}I").unpack_from(view)
    if sum(lengths) != len(view) - count * 4:
        raise FrameError("the lengths of a batch do not add up to its body")
    entries, start = [], count * 4
    for length in lengths:
        entries.append(view[start : start + length])
        start += length
    return entries


def padding_for(length: int) -> bytes:
    """Return the zeros that pad a frame of `length` bytes to a multiple of 8."""
    return _PADDING[length % 8]


def frame_size(payload_len: int) -> int:
    """Return the bytes that a record with this payload takes in a segment, padding included."""
    return (FRAME_BYTES_MIN + payload_len + 7) & ~7


@dataclass(frozen=True, slots=True)
class FramePrefix:
    """The decoded 32-byte prefix."""

    segment_uid: int
    sequence: int
    durable_pos: int
    frame_len: int


def encode_prefix(prefix: FramePrefix, header: bytes) -> bytes:
    """Return prefix and header as written: 96 bytes, the frame CRC over all but itself."""
    return frame_head(
        prefix.segment_uid, prefix.sequence, prefix.durable_pos, prefix.frame_len, header
    )


def frame_head(uid: int, sequence: int, durable_pos: int, frame_len: int, header: bytes) -> bytes:
    """Do what `encode_prefix` does, without a value in between: this runs once per frame."""
    head = _PREFIX.pack(uid, sequence, durable_pos, frame_len)
    return head + _CRC.pack(crc32c(head + header[: -_CRC.size])) + header


def decode_head(
    view: memoryview, offset: int, crc: Checksum
) -> tuple[int, int, int, int, int, Fields]:
    """Return (uid, sequence, durable_pos, frame_len, payload_crc, fields) of a frame, checked.

    Does what `decode_prefix` and `RecordHeader.unpack` do, in one go: this runs once per frame of
    a recovery. 96 bytes stand at `offset`. Raises FrameError, OtherFormatError.
    """
    head = _HEAD.unpack_from(view, offset)
    uid, sequence, durable_pos, frame_len, frame_crc, magic, version, kind = head[:8]
    start = offset + PREFIX_BYTES
    bound = view[start : start + HEADER_BYTES - _CRC.size]
    computed = crc(bound, 0)
    if computed != head[18]:
        raise FrameError("header CRC", head[18], computed)
    if magic == MAGIC and version != VERSION:
        raise _foreign(magic, version, kind)  # the frame CRC may be another one's
    computed = crc(bound, crc(view[offset : start - _CRC.size], 0))
    if computed != frame_crc:
        raise FrameError("frame CRC", frame_crc, computed)
    if magic != MAGIC or version != VERSION or kind not in _KINDS or head[16] or head[17]:
        raise _foreign(magic, version, kind)
    fields = kind, head[9], head[10], head[11], head[12], head[14]
    return uid, sequence, durable_pos, frame_len, head[15], fields


def decode_prefix(buffer: Buffer) -> FramePrefix:
    """Decode the first 96 bytes of a frame and check the frame CRC; `FrameError` if invalid."""
    view = memoryview(buffer)
    if len(view) < FRAME_BYTES_MIN:
        raise FrameError("the frame is cut off")
    (stored,) = _CRC.unpack_from(view, _PREFIX.size)
    bound = view[PREFIX_BYTES : FRAME_BYTES_MIN - _CRC.size]
    computed = crc32c(bound, crc32c(view[: _PREFIX.size]))
    if stored != computed:
        raise FrameError("frame CRC", stored, computed)
    return FramePrefix(*_PREFIX.unpack_from(view))
