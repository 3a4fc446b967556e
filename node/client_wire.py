"""Frames of the client lane, for both of its ends (docs/ARCHITECTURE.md §8).

Request: part 0 = msgpack `[2, kind, request_id, cluster_id, group, extra]`.

    WRITE  extra = count        part 1: count × u32 lengths, then the entries end to end
    READ   extra = consistency  part 1: msgpack list of queries

Reply: part 0 = msgpack `[2, request_id, status, group, leader, term, text]`, and for OK

    to a WRITE   part 1: count × u8 codes   part 2: count × u64 revisions   part 3: msgpack
                 map {position: detail}
                 or, if all are OK, each one revision further, without details:
                 part 1: u64 first revision   part 2: u32 count
    to a READ    part 1: msgpack list of results; fewer than queries if the reply was full

Nothing here looks into an entry: part 1 of a WRITE has the layout of a batch's body. A request that
becomes a batch of its own is that body; of several, a node joins the lengths, then the entries. It
is split only where it is applied. Decoding is bounded and raises `WireError`
for anything malformed; every value that it returns has been checked against `node/limits.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgpack

from node.limits import (
    CLUSTER_ID_BYTES,
    DETAIL_BYTES_MAX,
    ENTRIES_PER_REQUEST_MAX,
    KEY_BYTES_MAX,
    QUERIES_PER_REQUEST_MAX,
    RANGE_ITEMS_MAX,
    READ_REPLY_BYTES_MAX,
    READ_REQUEST_BYTES_MAX,
    REPLY_TEXT_BYTES_MAX,
    REQUEST_BYTES_MAX,
    REQUEST_HEADER_BYTES_MAX,
    VALUE_BYTES_MAX,
    WRITE_DETAILS_BYTES_MAX,
)
from node.outcomes import Outcome, Outcomes
from node.raft.types import NO_NODE, NO_TERM, Buffer, GroupId, NodeId, Term

__all__ = [
    "Consistency",
    "ReadReply",
    "ReadRequest",
    "Refusal",
    "Reply",
    "ReplyOrigin",
    "Request",
    "Status",
    "WireError",
    "WriteReply",
    "WriteRequest",
    "decode_reply",
    "decode_request",
    "encode_read_reply",
    "encode_read_request",
    "encode_refusal",
    "encode_write_reply",
    "encode_write_request",
]

WIRE_VERSION: Final = 2
"""1 had lengths and entries of a WRITE in two parts, and no runs."""
_KIND_WRITE: Final = 1
_KIND_READ: Final = 2

_REPLY_HEADER_BYTES_MAX: Final = REPLY_TEXT_BYTES_MAX + 64
_RESULTS_ITEMS_MAX: Final = max(QUERIES_PER_REQUEST_MAX, RANGE_ITEMS_MAX)
_FIRST_REVISION: Final = struct.Struct("<Q")
_COUNT: Final = struct.Struct("<I")
_U64_MAX: Final = (1 << 64) - 1
_U32_MAX: Final = (1 << 32) - 1


class Status(IntEnum):
    """The answer to a request as a whole.

    All but OK and LEAD_LOST are definite: the request was not and will not be applied.
    """

    OK = 0
    NOT_LEADER = 1
    BUSY = 2
    LEAD_LOST = 3
    BAD_REQUEST = 4
    DISK_FULL = 5
    FOREIGN_CLUSTER = 6
    READ_ABORTED = 7


class Consistency(IntEnum):
    """How a read is served: by ReadIndex (thesis §6.4), or from whatever the node has applied."""

    LINEARIZABLE = 0
    LOCAL = 1


class WireError(ValueError):
    """A malformed or over-limit frame.

    `request_id` and `group` are 0 unless the header was sound; with them a node can answer
    BAD_REQUEST.
    """

    def __init__(self, reason: str, request_id: int = 0, group: int = 0) -> None:
        super().__init__(reason)
        self.request_id = request_id
        self.group = GroupId(group)


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """`count` u32 lengths, then as many entries end to end, which the lengths add up to.

    `client` is the identity that the node's ROUTER gave the sender; empty at the client's end.
    """

    request_id: int
    cluster_id: bytes
    group: GroupId
    count: int
    body: Buffer
    client: bytes = b""

    @property
    def lengths(self) -> Buffer:
        """The length vector."""
        return memoryview(self.body)[: 4 * self.count]

    @property
    def entries(self) -> Buffer:
        """The entries end to end."""
        return memoryview(self.body)[4 * self.count :]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Queries in the shape that `KeyValueMachine.query` takes, checked; `client` as above."""

    request_id: int
    cluster_id: bytes
    group: GroupId
    consistency: Consistency
    queries: tuple[list[object], ...]
    client: bytes = b""

    @property
    def local(self) -> bool:
        """Whether the node may answer from whatever it has applied."""
        return self.consistency is Consistency.LOCAL


Request = WriteRequest | ReadRequest


@dataclass(frozen=True, slots=True)
class ReplyOrigin:
    """Who answers what: the request, its group, and the leader as this node knows it (0: none)."""

    request_id: int
    group: GroupId
    leader: NodeId = NO_NODE
    term: Term = NO_TERM


@dataclass(frozen=True, slots=True)
class WriteReply:
    """OK to a write: one outcome per entry; their codes are the sender's, known or not."""

    origin: ReplyOrigin
    outcomes: Outcomes


@dataclass(frozen=True, slots=True)
class ReadReply:
    """OK to a read: `[revision, item | None]` per get, `[revision, [item, …], more]` per range."""

    origin: ReplyOrigin
    results: tuple[list[object], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Anything but OK. `text` is for a person."""

    origin: ReplyOrigin
    status: Status
    text: str


Reply = WriteReply | ReadReply | Refusal


# --- requests -------------------------------------------------------------------------


def encode_write_request(request: WriteRequest) -> list[Buffer]:
    """Encode a write; two parts. The body is passed through untouched."""
    header: bytes = msgpack.packb(
        (
            WIRE_VERSION,
            _KIND_WRITE,
            request.request_id,
            request.cluster_id,
            request.group,
            request.count,
        )
    )
    return [header, request.body]


def encode_read_request(request: ReadRequest) -> list[Buffer]:
    """Encode a read; two parts."""
    header: bytes = msgpack.packb(
        (
            WIRE_VERSION,
            _KIND_READ,
            request.request_id,
            request.cluster_id,
            request.group,
            int(request.consistency),
        )
    )
    queries: bytes = msgpack.packb(request.queries)
    return [header, queries]


def decode_request(parts: Sequence[Buffer], client: bytes = b"") -> Request:
    """Decode the parts after the ROUTER's identity, which is `client`; else WireError."""
    if not 2 <= len(parts) <= 3 or len(parts[0]) > REQUEST_HEADER_BYTES_MAX:
        raise WireError("a request has 2 parts and a short header")
    match _unpack(parts[0]):
        case [2, int(kind), int(request_id), bytes(cluster_id), int(group), int(extra)] if (
            bool not in map(type, (kind, request_id, group, extra))  # True is an int, too
            and 0 < request_id <= _U64_MAX
            and len(cluster_id) == CLUSTER_ID_BYTES
            and 0 <= group <= _U32_MAX
        ):
            pass
        case _:
            raise WireError("a malformed request header")
    try:
        if len(parts) != 2:
            raise WireError(f"a request has 2 parts, not {len(parts)}")
        if kind == _KIND_WRITE:
            _check_entries(extra, parts[1])
            return WriteRequest(request_id, cluster_id, GroupId(group), extra, parts[1], client)
        if kind == _KIND_READ and extra in (0, 1):
            queries = _decode_queries(parts[1])
            consistency = Consistency(extra)
            return ReadRequest(request_id, cluster_id, GroupId(group), consistency, queries, client)
        raise WireError(f"a request of kind {kind}, extra {extra}")
    except WireError as error:
        raise WireError(str(error), request_id, group) from None


def _check_entries(count: int, body: Buffer) -> None:
    if not 0 < count <= ENTRIES_PER_REQUEST_MAX:
        raise WireError(f"{count} entries; a request holds 1 to {ENTRIES_PER_REQUEST_MAX}")
    size = len(body) - 4 * count
    if size < 0:
        raise WireError(f"{len(body)} bytes, too few for the lengths of {count} entries")
    if size > REQUEST_BYTES_MAX:
        raise WireError(f"{size} bytes; a request holds at most {REQUEST_BYTES_MAX}")
    total = sum(struct.unpack_from(f"<{count}I", body))
    if total != size:
        raise WireError(f"lengths add up to {total}, but there are {size} bytes")


def _decode_queries(packed: Buffer) -> tuple[list[object], ...]:
    if len(packed) > READ_REQUEST_BYTES_MAX:
        raise WireError(f"{len(packed)} bytes of queries; at most {READ_REQUEST_BYTES_MAX}")
    queries = _unpack(packed, array_len=QUERIES_PER_REQUEST_MAX, bin_len=KEY_BYTES_MAX)
    if not isinstance(queries, list):
        raise WireError("queries are not a list")
    for query in queries:
        match query:
            case [1, bytes(key)] if key:
                pass
            case [2, bytes(), bytes(), int(limit)] if limit >= 0:
                pass
            case _:
                raise WireError("a query is [1, key] or [2, start, end, limit]")
    return tuple(queries)


# --- replies --------------------------------------------------------------------------


def encode_write_reply(origin: ReplyOrigin, outcomes: Outcomes) -> list[Buffer]:
    """Encode OK to a write from one outcome per entry; three parts for a run, else four."""
    header = _reply_header(origin, Status.OK, "")
    run = outcomes.run
    if run is not None:
        return [header, _FIRST_REVISION.pack(run.revision), _COUNT.pack(run.count)]
    count = len(outcomes)
    codes = bytes([outcome.code for outcome in outcomes])
    revisions = struct.pack(f"<{count}Q", *[outcome.revision for outcome in outcomes])
    details = {i: outcome.detail for i, outcome in enumerate(outcomes) if outcome.detail}
    return [header, codes, revisions, msgpack.packb(details)]


def encode_read_reply(origin: ReplyOrigin, results: Sequence[object]) -> list[Buffer]:
    """Encode OK to a read from what `KeyValueMachine.query_all` returned; two parts."""
    return [_reply_header(origin, Status.OK, ""), msgpack.packb(results)]


def encode_refusal(origin: ReplyOrigin, status: Status, text: str) -> list[Buffer]:
    """Encode anything but OK; one part. The text is cut at `REPLY_TEXT_BYTES_MAX` bytes."""
    assert status is not Status.OK
    cut = text.encode("utf-8", "replace")[:REPLY_TEXT_BYTES_MAX]
    return [_reply_header(origin, status, cut.decode("utf-8", "ignore"))]


def _reply_header(origin: ReplyOrigin, status: Status, text: str) -> bytes:
    packed: bytes = msgpack.packb(
        (
            WIRE_VERSION,
            origin.request_id,
            int(status),
            origin.group,
            origin.leader,
            origin.term,
            text,
        )
    )
    return packed


def decode_reply(parts: Sequence[Buffer]) -> Reply:
    """Decode a reply; WireError if malformed or over a limit."""
    if not 1 <= len(parts) <= 4 or len(parts[0]) > _REPLY_HEADER_BYTES_MAX:
        raise WireError("a reply has 1 to 4 parts and a short header")
    match _unpack(parts[0]):
        case [2, int(request_id), int(status), int(group), int(leader), int(term), str(text)] if (
            status in Status._value2member_map_
            and min(request_id, group, leader, term) >= 0
            and max(group, leader) <= _U32_MAX
        ):
            origin = ReplyOrigin(request_id, GroupId(group), NodeId(leader), Term(term))
        case _:
            raise WireError("a malformed reply header")
    if status == Status.OK and len(parts) == 4:
        return _decode_write_reply(origin, parts)
    if status == Status.OK and len(parts) == 3:
        return _decode_run(origin, parts)
    if status == Status.OK and len(parts) == 2:
        return ReadReply(origin, _decode_results(parts[1]))
    if status != Status.OK and len(parts) == 1:
        return Refusal(origin, Status(status), text)
    raise WireError(f"a reply with status {status} in {len(parts)} parts")


def _decode_write_reply(origin: ReplyOrigin, parts: Sequence[Buffer]) -> WriteReply:
    _, codes, revisions, packed = parts
    count = len(codes)
    if count > ENTRIES_PER_REQUEST_MAX or len(revisions) != 8 * count:
        raise WireError(f"{count} codes with {len(revisions)} bytes of revisions")
    if len(packed) > WRITE_DETAILS_BYTES_MAX:
        raise WireError(f"{len(packed)} bytes of details; at most {WRITE_DETAILS_BYTES_MAX}")
    # MULTI_OUTCOME may stand before a detail.
    details = _unpack(packed, map_len=count, bin_len=DETAIL_BYTES_MAX + 16)
    if not isinstance(details, dict):
        raise WireError("details are not a map")
    for position, detail in details.items():
        if not (isinstance(position, int) and 0 <= position < count and isinstance(detail, bytes)):
            raise WireError("details are not {position: bytes}")
    outcomes = Outcomes()
    for position, (revision,) in enumerate(_FIRST_REVISION.iter_unpack(revisions)):
        outcomes.add(Outcome(codes[position], revision, details.get(position, b"")))
    return WriteReply(origin, outcomes)


def _decode_run(origin: ReplyOrigin, parts: Sequence[Buffer]) -> WriteReply:
    _, first, length = parts
    if len(first) != _FIRST_REVISION.size or len(length) != _COUNT.size:
        raise WireError(f"a run of {len(first)} and {len(length)} bytes")
    (revision,), (count,) = _FIRST_REVISION.unpack(first), _COUNT.unpack(length)
    if not 0 < count <= ENTRIES_PER_REQUEST_MAX or revision + count - 1 > _U64_MAX:
        raise WireError(f"a run of {count} from revision {revision}")
    outcomes = Outcomes()
    outcomes.add_run(revision, count)
    return WriteReply(origin, outcomes)


def _decode_results(packed: Buffer) -> tuple[list[object], ...]:
    if len(packed) > READ_REPLY_BYTES_MAX:
        raise WireError(f"{len(packed)} bytes of results; at most {READ_REPLY_BYTES_MAX}")
    results = _unpack(packed, array_len=_RESULTS_ITEMS_MAX, bin_len=VALUE_BYTES_MAX)
    if not isinstance(results, list):
        raise WireError("results are not a list")
    for result in results:
        match result:
            case [int(), None]:
                pass
            case [int(), [bytes(), bytes(), int(), int(), int()]]:
                pass
            case [int(), [*items], bool()] if all(map(_is_item, items)):
                pass
            case _:
                raise WireError("a malformed result")
    return tuple(results)


def _is_item(item: object) -> bool:
    match item:
        case [bytes(), bytes(), int(), int(), int()]:
            return True
    return False


def _unpack(packed: Buffer, array_len: int = 8, bin_len: int = 64, map_len: int = 0) -> object:
    """Unpack one msgpack value; the caller has bounded its bytes. Depth: msgpack's own bound."""
    try:
        unpacked: object = msgpack.unpackb(
            packed,
            strict_map_key=False,
            max_array_len=array_len,
            max_bin_len=bin_len,
            max_map_len=map_len,
            max_str_len=REPLY_TEXT_BYTES_MAX,
            max_ext_len=0,
        )
    # The unpacker's errors are ValueErrors (truncated, trailing, over a limit, too deep, bad
    # UTF-8); an unhashable map key is a TypeError; a timestamp out of range, an OverflowError.
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"not msgpack within bounds: {error}") from None
    return unpacked
