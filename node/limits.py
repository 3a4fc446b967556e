"""Named limits of a node and its clients, each with its arithmetic.

Every queue, batch, frame and table of the product has a bound; the ones that two packages must
agree on stand here. A limit that only one file knows stands in that file.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "APPLY_SLICE_NS",
    "BATCHES_PER_APPEND_MAX",
    "BATCH_BODY_BYTES_MAX",
    "BATCH_BYTES_TARGET",
    "BATCH_ENTRIES_MAX",
    "BATCH_OPERATIONS_MAX",
    "CACHE_BYTES_MAX",
    "CLUSTER_ID_BYTES",
    "DETAIL_BYTES_MAX",
    "DISK_FULL_RETRY_NS",
    "DRAIN_BYTES_MAX",
    "DRAIN_CONTROL_BYTES_MAX",
    "DRAIN_FRAMES_MAX",
    "ENTRIES_PER_REQUEST_MAX",
    "ENTRY_BYTES_MAX",
    "FORGET_JITTER_NS",
    "JOIN_BYTES_MAX",
    "KEY_BYTES_MAX",
    "LATE_MESSAGES_MAX",
    "LATE_TURN_NS",
    "MESSAGES_PER_FRAME_MAX",
    "PEER_ENVELOPE_BYTES_MAX",
    "PEER_FRAME_BYTES_MAX",
    "PEER_HIGH_WATER_MARK",
    "QUERIES_PER_REQUEST_MAX",
    "QUEUED_BYTES_MAX",
    "RANGE_ITEMS_MAX",
    "RANGE_REPLY_BYTES_MAX",
    "READS_PENDING_MAX",
    "READ_REPLY_BYTES_MAX",
    "READ_REPLY_BYTES_TARGET",
    "READ_REQUEST_BYTES_MAX",
    "REPLIES_PER_SESSION_MAX",
    "REPLIES_TOTAL_MAX",
    "REPLY_TEXT_BYTES_MAX",
    "REQUESTS_BYTES_PER_TURN_MAX",
    "REQUEST_BYTES_MAX",
    "REQUEST_HEADER_BYTES_MAX",
    "SESSIONS_MAX",
    "VALUE_BYTES_MAX",
    "WRITE_DETAILS_BYTES_MAX",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20

# --- one operation --------------------------------------------------------------------

KEY_BYTES_MAX: Final = 4 * KIB
"""Longest key. It fits the u16 of the entry layout, and 4,096 such keys fit 16 MiB."""

VALUE_BYTES_MAX: Final = 4 * MIB
"""Longest value, expected value of a CAS, and nested part of a batch operation."""

ENTRY_BYTES_MAX: Final = 8 * MIB
"""Longest entry: whatever one request may carry. 32 header + 4 KiB key + 4 MiB value fit; a CAS
whose expected and new value are both at the limit (8 MiB + 4,128 bytes) does not."""

BATCH_OPERATIONS_MAX: Final = 1_024
"""Operations nested in one atomic batch: at 1 µs each, 1 ms of a turn that has 5 ms."""

# --- write requests -------------------------------------------------------------------

ENTRIES_PER_REQUEST_MAX: Final = 8_192
"""Entries in one request; at 2 µs each, 16 ms to apply, in slices. A client sends up to 4,096."""

REQUEST_BYTES_MAX: Final = 8 * MIB
"""Bytes of the entries of one request; equal to `ENTRY_BYTES_MAX`, so that any entry can travel."""

BATCH_BYTES_TARGET: Final = 1 * MIB
"""The leader closes a batch at this size; one request may exceed it, so a batch's payload is at
most REQUEST_BYTES_MAX + 4 × ENTRIES_PER_REQUEST_MAX (32 KiB of lengths)."""

JOIN_BYTES_MAX: Final = 128 * KIB
"""A request of more than this is a batch of its own: what a batch more costs three nodes (100 µs)
is less than to copy it, and its frame goes on to the followers as it came."""

BATCH_ENTRIES_MAX: Final = 16_384
"""Entries in one batch, which is applied whole: two requests at their limit. At 2 to 3 µs each,
50 ms, a heartbeat. Without it, a batch of empty entries (4 bytes each) would hold 262,144."""

BATCH_BODY_BYTES_MAX: Final = REQUEST_BYTES_MAX + 4 * BATCH_ENTRIES_MAX
"""The largest body of a batch, and what a compressed one may become: one request at its limit and
every length that a batch may have."""

CLUSTER_ID_BYTES: Final = 16
"""A cluster id is a random 128-bit number."""

REQUEST_HEADER_BYTES_MAX: Final = 128
"""Part 0 of a request: array 1 + version 1 + kind 1 + id 9 + cluster id 18 + group 5 + extra 5
= 40 bytes, with room to grow."""

# --- sessions -------------------------------------------------------------------------

SESSIONS_MAX: Final = 4_096
"""Sessions of one group; the least recently used one makes room."""

REPLIES_PER_SESSION_MAX: Final = 16_384
"""Replies kept per session, and the widest span of unanswered sequence numbers that a client may
use: 4 requests of 4,096 operations, the default window of a client."""

REPLIES_TOTAL_MAX: Final = 1 << 20
"""Replies kept by all sessions of one group: 64 clients at the full span; about 200 bytes each,
200 MiB. Beyond it the least recently used session goes."""

DETAIL_BYTES_MAX: Final = 4 * KIB
"""Longest detail of an outcome (the current value after a failed CAS), which is cut there: an
uncut one could make 4,096 conflicts a reply of 16 GiB, and stay in the session table."""

WRITE_DETAILS_BYTES_MAX: Final = 64 * MIB
"""The detail map of one write reply: 8,192 × (4 KiB + 5 + 8 + 1) = 32.1 MiB, with room."""

# --- reads ----------------------------------------------------------------------------

QUERIES_PER_REQUEST_MAX: Final = 1_024
"""Queries in one read request."""

READ_REQUEST_BYTES_MAX: Final = 9 * MIB
"""The query list: 1,024 ranges × (2 keys of 4 KiB + 20) = 8.02 MiB."""

RANGE_ITEMS_MAX: Final = 16_384
"""Items in one range reply, whatever its limit says; then `more` is set."""

RANGE_REPLY_BYTES_MAX: Final = 1 * MIB
"""Keys and values of one range reply; a first item that is larger alone still travels."""

READ_REPLY_BYTES_TARGET: Final = 4 * MIB
"""A read reply stops after the query that takes it past this; the client asks again for the rest."""

READ_REPLY_BYTES_MAX: Final = 16 * MIB
"""What a client accepts: target 4 MiB + one value of 4 MiB and its key, twice over."""

REPLY_TEXT_BYTES_MAX: Final = 1 * KIB
"""The text of a refusal, which a person reads."""

# --- peer lanes -----------------------------------------------------------------------

MESSAGES_PER_FRAME_MAX: Final = 16_384
"""Messages in one control frame: 1,024 groups × (heartbeat, ack, vote) with room; each ≤ 60 bytes."""

PEER_ENVELOPE_BYTES_MAX: Final = 1 * MIB
"""Part 0 of a peer frame: 16,384 messages × 60 bytes = 960 KiB."""

BATCHES_PER_APPEND_MAX: Final = 16_384
"""Batches in one Append: 1 MiB of the smallest batches (64 + 36 bytes) is 10,486."""

PEER_FRAME_BYTES_MAX: Final = 16 * MIB
"""One part of a peer frame: the largest batch is 8 MiB + 32 KiB (REQUEST_BYTES_MAX), twice."""

PEER_HIGH_WATER_MARK: Final = 256
"""Frames queued per peer and lane: four windows of 64 Appends (CoreConfig.window_messages_max)."""

DRAIN_FRAMES_MAX: Final = 1_024
"""Frames taken per lane and turn: 14 peers × 64 acks = 896. On the other lanes bytes end a turn
first, but for tiny frames: at 5 µs each, 1,024 of them take 5 ms."""

DRAIN_CONTROL_BYTES_MAX: Final = 2 * MIB
"""Control bytes taken per turn: the largest frame twice, about 100 ms of decoding and stepping."""

DRAIN_BYTES_MAX: Final = 8 * MIB
"""Append bytes taken per turn: one window (CoreConfig.window_bytes_max), so that everything a
follower received becomes one write, one fsync, one ack."""

# --- the turn -------------------------------------------------------------------------

APPLY_SLICE_NS: Final = 5_000_000
"""Time per turn for applying: a tenth of a heartbeat interval (50 ms)."""

LATE_TURN_NS: Final = 20_000_000
"""A turn this late (ns) slept: 4 apply slices, under half of a heartbeat interval."""

LATE_MESSAGES_MAX: Final = 16_384
"""Messages that wait for one storage request: 1,024 groups × 16; the oldest are dropped. A follower
whose disk has stalled answers a probe per heartbeat: 72,000 an hour and group, were they kept."""

READS_PENDING_MAX: Final = 65_536
"""Reads waiting for their round, for the state machine or for their turn, per group: 64 clients ×
1,024 requests."""

QUEUED_BYTES_MAX: Final = 128 * MIB
"""Bytes waiting for the disk beyond which writes are refused as busy and Appends dropped (their
leader sends them again). The log itself refuses at 256 MiB (`SyncPolicy.queue_bytes_max`), which
would end the node: what one turn can add (8 MiB and a frame of Appends, 8 MiB and a request of
writes: 40 MiB) fits in between. Many groups over a slow disk get here; one group does not."""

CACHE_BYTES_MAX: Final = 64 * MIB
"""Durable batches kept in memory for followers that lag: 8 windows of 8 MiB."""

FORGET_JITTER_NS: Final = 30_000_000
"""Followers of a dead leader campaign within this time; spread so that they rarely collide."""

REQUESTS_BYTES_PER_TURN_MAX: Final = 8 * MIB
"""Client bytes taken per turn: eight batches; what waits longer waits in ZeroMQ's bounded queue."""

DISK_FULL_RETRY_NS: Final = 500_000_000
"""How often a log that found no space tries again."""
