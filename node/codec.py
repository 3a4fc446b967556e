"""Bytes between nodes: peer frames and batches. Decoding is bounded and happens once, here.

    control frame   one part     seal, envelope
    data frame      1 + 2n parts the same with exactly one Append, then n times: header, body
    seal            16 bytes     u32 CRC-32C · u32 to · u64 number
    envelope        msgpack      [2, cluster_id, sender, incarnation, [message, …]]
    message         [type number, group, term, the type's remaining fields …]

`sender` stands in the envelope, `to` in the seal (0 where there is no message); an Append's
`batches` field travels as their number. Anything malformed raises `WireError`: the transport drops
and counts it.

Raft trusts its voters' words, so a word that was changed on its way must not be taken for one: of
the flips of one bit in a heartbeat, every fifth made another well-formed heartbeat, of another
sender, term or commit index. The seal's CRC covers the rest of the first part and the headers of
the batches, which have CRCs of their own and of their bodies: no frame is believed that was not
sent as it stands, to this node. `number` grows from frame to frame of a sender's life: what comes
again is known by it (0: not numbered, as in the simulator, which repeats frames on purpose).

A batch is checked whole here, its length vector included: what passes may be appended to the log
and applied. The other way into a log, a leader's own `build_batch`, joins requests that
`client_wire.decode_request` has checked likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from struct import Struct, unpack_from
from typing import Final

import msgpack

from node.commands import encode_noop
from node.compression import BatchCompression
from node.limits import (
    BATCH_BODY_BYTES_MAX,
    BATCH_ENTRIES_MAX,
    BATCHES_PER_APPEND_MAX,
    CLUSTER_ID_BYTES,
    MESSAGES_PER_FRAME_MAX,
    PEER_ENVELOPE_BYTES_MAX,
)
from node.raft.messages import MESSAGE_TYPES, Append, Message
from node.raft.types import (
    NO_NODE,
    Batch,
    BatchMeta,
    Buffer,
    GroupId,
    Index,
    NodeId,
    NoopBuilder,
    Term,
)
from wal.checksum import crc32c
from wal.compression import codec_of, decompress
from wal.errors import WalError
from wal.frame import HEADER_BYTES, Kind, RecordHeader

__all__ = [
    "Envelope",
    "Sender",
    "WireError",
    "build_batch",
    "decode_batch",
    "decode_peer_frame",
    "encode_append",
    "encode_control",
    "noop_builder",
    "seal",
]

VERSION: Final = 2
"""1 had no seal."""
_NUMBER_MAX: Final = (1 << 63) - 1
"""Terms and indexes are u64 on disk: from half of that, no program can count past the end."""
_LENGTH: Final = Struct("<I")
_CRC: Final = Struct("<I")
_SEAL: Final = Struct("<IIQ")
"""CRC-32C of what follows it and of the batches' headers; receiver; number of the frame."""
_HEADER_COVERED: Final = HEADER_BYTES - 4
"""A batch header but for its own CRC: over both, any CRC is the same, whatever the header says."""
_ADDRESS: Final = Struct("<IQ")
"""The seal behind its CRC."""
_COPY_BELOW: Final = 64 << 10
"""A shorter body is copied out of the frame: ZeroMQ receives into shared blocks of 8 KiB, and one
small body in the cache would keep its whole block."""

_NUMBERS: Final = {kind: number for number, kind in MESSAGE_TYPES.items()}
_HEAD_FIELDS: Final = 4
"""group, sender, to, term stand first in every message."""
_TAKE: Final = {
    kind: attrgetter("group", "term", *(spec.name for spec in fields(kind)[_HEAD_FIELDS:]))
    for kind in MESSAGE_TYPES.values()
}
_BOOLEANS: Final = {
    kind: tuple(spec.type == "bool" for spec in fields(kind)[_HEAD_FIELDS:])
    for kind in MESSAGE_TYPES.values()
}
_FIELDS_MAX: Final = 3 + max(map(len, _BOOLEANS.values()))
"""Type number, group, term, and the remaining fields of the longest message."""


class WireError(ValueError):
    """A peer frame that is not well formed; never the reader's fault."""


class Sender:
    """Who a frame is from: cluster, node, and which incarnation (start) of that node.

    Of a frame that was received, `number` is the frame's own in that life; 0 if it has none.
    """

    __slots__ = ("cluster_id", "incarnation", "node", "number")

    def __init__(self, cluster_id: bytes, node: NodeId, incarnation: int, number: int = 0) -> None:
        """Name a sender; `incarnation` grows with every start of the node."""
        assert len(cluster_id) == CLUSTER_ID_BYTES
        self.cluster_id = cluster_id
        self.node = node
        self.incarnation = incarnation
        self.number = number


Envelope = tuple[Sender, list[Message]]


# ---- batches ---------------------------------------------------------------------------------


def build_batch(
    place: tuple[GroupId, Term, Index],
    leader_time_ms: int,
    parts: Sequence[tuple[int, Buffer]],
    compression: BatchCompression | None = None,
) -> Batch:
    """Encode a batch for (group, term, base index) from (count, body) parts.

    Each body has the layout of a batch's: one alone is the batch's own, uncopied unless it is
    small. Of several, the length vectors are joined, then the entries; no entry is touched. What
    that makes is compressed, if `compression` says so and it pays. One CRC of the body, once per
    batch and cluster.
    """
    group, term, base_index = place
    count = sum(part[0] for part in parts)
    if len(parts) == 1:
        body = _kept(parts[0][1])
    else:
        views = [(4 * part[0], memoryview(part[1])) for part in parts]
        body = b"".join(
            [*(view[:cut] for cut, view in views), *(view[cut:] for cut, view in views)]
        )
    flags = 0
    if compression is not None:
        flags, body = compression.shrink(body)
    header = RecordHeader(
        kind=Kind.BATCH,
        group=group,
        count=count,
        term=term,
        base_index=base_index,
        leader_time_ms=leader_time_ms,
        payload_len=len(body),
        payload_crc=crc32c(body),
        flags=flags,
    )
    meta = BatchMeta(term, base_index, count, HEADER_BYTES + len(body))
    return Batch(meta, leader_time_ms, header.pack(), body)


def noop_builder(group: GroupId) -> NoopBuilder:
    """Return what encodes a new leader's empty batch: one noop entry."""
    entry = encode_noop()
    body = _LENGTH.pack(len(entry)) + entry

    def build(term: Term, base_index: Index) -> Batch:
        return build_batch((group, term, base_index), 0, [(1, body)])

    return build


def decode_batch(group: int, header: Buffer, body: Buffer) -> Batch:
    """Check a received batch and wrap it; a large body is not copied.

    Checked are both CRCs, kind, group, every bound, that a compressed body becomes a plain one, and
    that the entries' lengths add up.
    """
    try:
        fields_ = RecordHeader.unpack(header)
    except WalError as error:
        raise WireError(f"batch header: {error}") from None
    if fields_.kind is not Kind.BATCH or fields_.group != group:
        raise WireError("not a batch of this group and format")
    if fields_.payload_len != len(body) or fields_.payload_crc != crc32c(body):
        raise WireError("batch body: length or CRC differs from its header")
    if not 0 < fields_.base_index <= _NUMBER_MAX or fields_.term > _NUMBER_MAX:
        raise WireError("batch term or base index out of range")
    try:
        plain = decompress(codec_of(fields_.flags), body, BATCH_BODY_BYTES_MAX)
    except WalError as error:
        raise WireError(str(error)) from None
    _check_lengths(fields_.count, plain)
    size = HEADER_BYTES + fields_.payload_len
    meta = BatchMeta(Term(fields_.term), Index(fields_.base_index), fields_.count, size)
    return Batch(meta, fields_.leader_time_ms, bytes(header), _kept(body))


def _kept(body: Buffer) -> Buffer:
    """Return a received body for keeping: see `_COPY_BELOW`."""
    return bytes(body) if len(body) < _COPY_BELOW else body


def _check_lengths(count: int, body: Buffer) -> None:
    """Check a length vector: about 6 ns per entry, where applying one costs 2,000."""
    start = count * _LENGTH.size
    if not 0 < count <= BATCH_ENTRIES_MAX or start > len(body):
        raise WireError(f"batch of {count} entries in {len(body)} bytes")
    if start + sum(unpack_from(f"<{count}I", body)) != len(body):
        raise WireError("batch: the lengths of its entries do not add up to its body")


# ---- frames ----------------------------------------------------------------------------------


def encode_control(sender: Sender, messages: Sequence[Message], number: int = 0) -> bytes:
    """Encode messages for one peer (no Append) into one frame."""
    bodies = [
        (_NUMBERS[kind], *_TAKE[kind](message)) for message in messages for kind in (type(message),)
    ]
    to = messages[0].to if messages else NO_NODE
    return seal(_pack(sender, bodies), to, number)


def encode_append(sender: Sender, message: Append, number: int = 0) -> list[Buffer]:
    """Encode one Append into the parts of a data frame; batches are passed on uncopied."""
    body = [
        _NUMBERS[Append],
        message.group,
        message.term,
        message.prev_index,
        message.prev_term,
        message.commit,
        len(message.batches),
    ]
    parts: list[Buffer] = [b""]
    for batch in message.batches:
        assert isinstance(batch, Batch), "the bytes were put in by the runtime"
        parts.append(batch.header)
        parts.append(batch.body)
    parts[0] = seal(_pack(sender, [body]), message.to, number, parts[1::2])
    return parts


def seal(envelope: bytes, to: NodeId, number: int, headers: Sequence[Buffer] = ()) -> bytes:
    """Return the first part of a frame: an envelope behind its seal."""
    covered = _ADDRESS.pack(to, number) + envelope
    crc = crc32c(covered)
    for header in headers:
        crc = crc32c(header[:_HEADER_COVERED], crc)
    return _CRC.pack(crc) + covered


def decode_peer_frame(to: NodeId, parts: Sequence[Buffer]) -> Envelope:
    """Decode the parts of a control or data frame received by node `to`."""
    if not parts or len(parts) > 1 + 2 * BATCHES_PER_APPEND_MAX:
        raise WireError(f"a frame of {len(parts)} parts")
    if len(parts) > 1 and len(parts) % 2 != 1:
        raise WireError("a data frame carries pairs of parts behind its first")
    number = _open_seal(to, parts)
    sender, bodies = _envelopes.read(parts[0][_SEAL.size :])
    sender.number = number
    if len(parts) == 1:
        return sender, [_decode_message(sender.node, to, body, ()) for body in bodies]
    if len(bodies) != 1:
        raise WireError("a data frame carries one Append")
    return sender, [_decode_message(sender.node, to, bodies[0], parts[1:])]


def _open_seal(me: NodeId, parts: Sequence[Buffer]) -> int:
    """Check that a frame is whole and for this node; return its number."""
    first = parts[0]
    if not _SEAL.size < len(first) <= PEER_ENVELOPE_BYTES_MAX:
        raise WireError(f"first part of {len(first)} bytes")
    crc, to, number = _SEAL.unpack_from(first)
    computed = crc32c(first[_CRC.size :])  # slices of received bytes cost less than views of them
    for header in parts[1::2]:
        computed = crc32c(header[:_HEADER_COVERED], computed)
    if crc != computed:
        raise WireError("frame: its CRC differs from its seal")
    if to not in (me, NO_NODE):
        raise WireError(f"frame: it is for node {to}")
    return int(number)


def _pack(sender: Sender, bodies: Sequence[Sequence[object]]) -> bytes:
    frame = [VERSION, sender.cluster_id, sender.node, sender.incarnation, bodies]
    packed: bytes = msgpack.packb(frame)
    return packed


class _Envelopes:
    """Reads envelopes piece by piece, so that each array is bounded by what may stand there.

    (`unpackb` with one bound for all would let 1,024 nested headers of 3 bytes allocate lists of
    16,384 items each: 128 MiB and 70 ms for a frame of 3 KB.) Making an Unpacker costs as much as
    reading a frame, so one is kept; after a malformed frame, which leaves a rest in it, a new one
    is made. One thread: the node's main thread, or the simulator's only one.
    """

    def __init__(self) -> None:
        self._unpacker = self._make()
        self._read = 0

    def read(self, part: Buffer) -> tuple[Sender, list[object]]:
        """Return the sender and the undecoded messages of an envelope."""
        try:
            return self._parse(part)
        except Exception as error:  # msgpack raises many types for hostile input
            self._unpacker, self._read = self._make(), 0
            if isinstance(error, WireError):
                raise
            raise WireError(f"not msgpack within the limits: {error!r}") from None

    def _parse(self, part: Buffer) -> tuple[Sender, list[object]]:
        unpacker = self._unpacker
        unpacker.feed(part)
        unpack = unpacker.unpack
        if unpacker.read_array_header() != 5:
            raise WireError("envelope: five fields are needed")
        version, cluster_id, node, incarnation = unpack(), unpack(), unpack(), unpack()
        if type(version) is not int or version != VERSION:
            raise WireError("envelope: version")
        if type(cluster_id) is not bytes or len(cluster_id) != CLUSTER_ID_BYTES:
            raise WireError("envelope: cluster id")
        if not (_is_number(node) and _is_number(incarnation)):
            raise WireError("envelope: sender or incarnation")
        count = unpacker.read_array_header()
        if count > MESSAGES_PER_FRAME_MAX:
            raise WireError(f"envelope: {count} messages")
        bodies = [unpack() for _ in range(count)]
        self._read += len(part)
        if unpacker.tell() != self._read:
            raise WireError("envelope: bytes behind its end")
        return Sender(cluster_id, NodeId(node), incarnation), bodies

    @staticmethod
    def _make() -> msgpack.Unpacker:
        return msgpack.Unpacker(
            max_buffer_size=PEER_ENVELOPE_BYTES_MAX,
            read_size=4096,
            max_array_len=_FIELDS_MAX,
            max_bin_len=CLUSTER_ID_BYTES,
            max_str_len=0,
            max_map_len=0,
            max_ext_len=0,
        )


_envelopes: Final = _Envelopes()


def _decode_message(sender: NodeId, to: NodeId, body: object, parts: Sequence[Buffer]) -> Message:
    if type(body) is not list or not body or type(body[0]) is not int:
        raise WireError("message: an array with a type number is needed")
    kind = MESSAGE_TYPES.get(body[0])
    if kind is None:
        raise WireError(f"message: type {body[0]} is unknown")
    flags = _BOOLEANS[kind]
    if len(body) != len(flags) + 3:
        raise WireError(f"{kind.__name__}: {len(body)} fields")
    _, group, term, *values = body
    if not (_is_number(group) and _is_number(term)):
        raise WireError(f"{kind.__name__}: group or term")
    for value, boolean in zip(values, flags, strict=True):
        if not (type(value) is bool if boolean else _is_number(value)):
            raise WireError(f"{kind.__name__}: a field is out of range")
    head = (GroupId(group), sender, to, Term(term))
    if kind is Append:
        prev_index, prev_term, commit, count = values
        batches = _decode_batches(group, count, parts)
        return Append(*head, Index(prev_index), Term(prev_term), Index(commit), batches)
    if parts:
        raise WireError(f"{kind.__name__}: carries no batches")
    message: Message = kind(*head, *values)
    return message


def _decode_batches(group: int, count: int, parts: Sequence[Buffer]) -> tuple[Batch, ...]:
    if count * 2 != len(parts) or count > BATCHES_PER_APPEND_MAX:
        raise WireError(f"Append: {count} batches in {len(parts)} parts")
    return tuple(
        decode_batch(group, parts[position], parts[position + 1])
        for position in range(0, len(parts), 2)
    )


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _NUMBER_MAX
