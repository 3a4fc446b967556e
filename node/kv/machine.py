"""The key-value state machine (docs/ARCHITECTURE.md §7): committed batches in, outcomes out.

Theory of operation. `apply` runs on every replica for every operation, so the path of a put is
short: one header unpack, two slices, one dictionary store; what is the same for a run of puts is
looked up once (`_apply_puts`, which does nothing that `_apply_one` would not). It is total: an entry that
does not decode is answered BAD_OPERATION and changes nothing, on every replica alike. It is
deterministic: state is a function of the applied batches, and nothing iterates a set.

`revision` counts mutating operations, as in etcd; an atomic batch is one operation, and all its
writes carry one revision. A stored key is a plain tuple (value, create_revision, mod_revision,
version), the cheapest immutable thing there is; keys keep their own order in a `KeyIndex`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, Self

from node.commands import (
    ENTRY_HEADER_BYTES,
    MULTI_OUTCOME,
    SESSION_ID,
    VIEW_BYTES_MIN,
    Command,
    Opcode,
    OutcomeCode,
    decode,
    unpack_prefix,
    unpack_stamp,
)
from node.kv.index import KeyIndex
from node.kv.sessions import Session, SessionBounds, SessionTable
from node.limits import (
    DETAIL_BYTES_MAX,
    KEY_BYTES_MAX,
    RANGE_ITEMS_MAX,
    RANGE_REPLY_BYTES_MAX,
    READ_REPLY_BYTES_TARGET,
    VALUE_BYTES_MAX,
)
from node.outcomes import Outcome, Outcomes
from node.raft.types import BatchMeta, Buffer

__all__ = ["QUERY_GET", "QUERY_RANGE", "Frozen", "KeyValueMachine"]

Stored = tuple[Buffer, int, int, int]
"""Value, create_revision, mod_revision, version."""

QUERY_GET: Final = 1
QUERY_RANGE: Final = 2

_OP_OPEN_SESSION: Final = int(Opcode.OPEN_SESSION)
_OP_PUT: Final = int(Opcode.PUT)
_OP_DELETE: Final = int(Opcode.DELETE)
_OP_CAS: Final = int(Opcode.CAS)
_OP_BATCH: Final = int(Opcode.BATCH)

_OK: Final = int(OutcomeCode.OK)
_ABSENT: Final = int(OutcomeCode.ABSENT)
_CONFLICT: Final = int(OutcomeCode.CONFLICT)
_SESSION_EXPIRED: Final = int(OutcomeCode.SESSION_EXPIRED)
_STALE: Final = int(OutcomeCode.STALE)
_BAD_OPERATION: Final = int(OutcomeCode.BAD_OPERATION)
_BATCH_ABORTED: Final = int(OutcomeCode.BATCH_ABORTED)

_DIGEST_HEAD: Final = struct.Struct("<QQQ")
_DIGEST_ITEM: Final = struct.Struct("<IIQQQ")
SNAPSHOT_ITEM: Final = _DIGEST_ITEM
_SNAPSHOT_HEAD: Final = struct.Struct("<QQQI")
"""Revision, replicated time, keys, bytes of the session table that follows."""


class Frozen:
    """A machine's state at one moment, read out in chunks while the machine goes on.

    Nothing is copied up front: the machine keeps the before-image of every key that is changed
    while this is open, and a chunk reads those or the current ones. Closing is O(1): there is no
    overlay to merge (docs/adr/0003).
    """

    def __init__(self, machine: KeyValueMachine, head: bytes) -> None:
        """Use `KeyValueMachine.freeze`."""
        self._machine = machine
        self._keys = machine.frozen_keys()
        self._head: bytes | None = head
        self._next = 0

    def next_chunk(self, bytes_target: int) -> bytes | None:
        """Return the next chunk of about `bytes_target` bytes; None when all has been read."""
        if self._head is not None:
            head, self._head = self._head, None
            return head
        if self._next == len(self._keys):
            return None
        parts: list[Buffer] = []
        size = 0
        while self._next < len(self._keys) and size < bytes_target:
            key = self._keys[self._next]
            value, create, mod, version = self._machine.read_frozen(key)
            parts.append(SNAPSHOT_ITEM.pack(len(key), len(value), create, mod, version))
            parts.append(key)
            parts.append(value)
            size += SNAPSHOT_ITEM.size + len(key) + len(value)
            self._next += 1
        return b"".join(parts)

    def close(self) -> None:
        """Let the machine forget the before-images."""
        self._machine.thaw()


class KeyValueMachine:
    """One group's keys and sessions on one replica. Not thread-safe; the turn loop owns it."""

    __slots__ = (
        "_before",
        "_index",
        "_items",
        "_leader_time_ms",
        "_revision",
        "_sessions",
        "state_bytes",
    )

    def __init__(self, bounds: SessionBounds | None = None) -> None:
        self._items: dict[bytes, Stored] = {}
        self._before: dict[bytes, Stored] | None = None
        self._index = KeyIndex()
        self._sessions = SessionTable(bounds)
        self._revision = 0
        self._leader_time_ms = 0
        self.state_bytes = 0
        """Bytes of all keys and values: about what a snapshot takes."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def revision(self) -> int:
        """Mutating operations applied so far."""
        return self._revision

    @property
    def leader_time_ms(self) -> int:
        """Replicated time: the highest `leader_time_ms` applied."""
        return self._leader_time_ms

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    # --- writes -----------------------------------------------------------------------

    def apply(self, meta: BatchMeta, leader_time_ms: int, body: Buffer) -> Outcomes:
        """Apply a whole batch (§4.1 body); one outcome per entry. Never raises for any bytes.

        A body whose length vector does not add up is BAD_OPERATION throughout.
        """
        self._leader_time_ms = max(self._leader_time_ms, leader_time_ms)
        start = 4 * meta.count
        lengths: tuple[int, ...] = ()
        if start <= len(body):
            lengths = struct.unpack_from(f"<{meta.count}I", body)
        outcomes = Outcomes()
        if len(lengths) != meta.count or start + sum(lengths) != len(body):
            for _ in range(meta.count):
                outcomes.add(Outcome(_BAD_OPERATION, self._revision))
            return outcomes
        large = len(body) >= meta.count * VIEW_BYTES_MIN
        # A slice of bytes is the cheapest copy; a large value is better not copied at all.
        source: Buffer = memoryview(body) if large else bytes(body)
        index = 0
        while index < meta.count:
            done = 0
            if isinstance(source, bytes):
                done, start = self._apply_puts(source, (lengths, index, start), outcomes)
            if not done:
                end = start + lengths[index]
                command = decode(source, start, end)
                outcomes.add(self._apply_one(int(meta.base_index) + index, command))
                done, start = 1, end
            index += done
        return outcomes

    def _apply_puts(
        self, source: bytes, place: tuple[tuple[int, ...], int, int], outcomes: Outcomes
    ) -> tuple[int, int]:
        """Apply the run of puts at `place` (lengths, first entry, its start), if there is one.

        A run is of one session and one `acked_below`; its numbers are consecutive and above all
        that the session has kept, and nothing makes room for it: what `_apply_one` looks up for
        each is known for all. Returns how many puts it had, and where the last one ends.
        """
        lengths, first, start = place
        items, before, revision = self._items, self._before, self._revision
        session: Session | None = None
        session_id = its_session = acked = seq = room = growth = count = 0
        prefix, offset = b"", 0
        for length in lengths[first:] if first else lengths:
            if length <= ENTRY_HEADER_BYTES:
                break
            its_prefix, its_seq, its_acked = unpack_stamp(source, start)
            if its_prefix != prefix:
                opcode, flags, key_len, expect_len, its_session = unpack_prefix(its_prefix)
                if opcode != _OP_PUT or flags or expect_len or not 0 < key_len <= KEY_BYTES_MAX:
                    break
                if session is not None and its_session != session_id:
                    break
                prefix, offset = its_prefix, ENTRY_HEADER_BYTES + key_len
            value_at, end = start + offset, start + length
            if not 0 <= end - value_at <= VALUE_BYTES_MAX:
                break
            if session is None:
                session_id, seq, acked = its_session, its_seq, its_acked
                session, room = self._begin_run(session_id, seq, acked)
            elif its_seq != seq or its_acked != acked:
                break
            if count >= room:
                break
            seq += 1
            count += 1
            revision += 1
            key, value = source[start + ENTRY_HEADER_BYTES : value_at], source[value_at:end]
            stored = items.get(key)
            if stored is None:
                items[key] = (value, revision, revision, 1)
                self._index.add(key)
                growth += len(key) + len(value)
            else:
                items[key] = (value, stored[1], revision, stored[3] + 1)
                growth += len(value) - len(stored[0])
                if before is not None:
                    before.setdefault(key, stored)
            start = end
        if count:
            assert session is not None
            self._sessions.record_run(session, seq - count, count, self._revision + 1)
            outcomes.add_run(self._revision + 1, count)
            self._revision = revision
            self.state_bytes += growth
        return count, start

    def _begin_run(self, session_id: int, seq: int, acked_below: int) -> tuple[Session | None, int]:
        """Do once what `_apply_once` does for each; return the session and the run's bound.

        The bound is 0 for what must go that way.
        """
        if not (session_id and 0 < acked_below <= seq):
            return None, 0
        session = self._sessions.touch(session_id)
        if session is None:
            return None, 0
        if acked_below > session.floor:
            self._sessions.acknowledge(session, acked_below)
        fresh = seq > session.newest and seq >= session.floor
        return session, self._sessions.room(session) if fresh else 0

    def _apply_one(self, index: int, command: Command | None) -> Outcome:
        """Apply the entry at `index`, whatever it is; None: it did not decode."""
        if command is None:
            return Outcome(_BAD_OPERATION, self._revision)
        if command[1]:
            return self._apply_once(command)
        if command[0] == _OP_OPEN_SESSION:
            self._sessions.open(index)
            return Outcome(_OK, self._revision, SESSION_ID.pack(index))
        return Outcome(_OK, self._revision)

    def _apply_once(self, command: Command) -> Outcome:
        """Apply a command of a session unless its sequence number has been seen."""
        opcode, session_id, seq, acked_below, key, _, value, _ = command
        session = self._sessions.touch(session_id)
        if session is None:
            return Outcome(_SESSION_EXPIRED, self._revision)
        if acked_below > session.floor:
            self._sessions.acknowledge(session, acked_below)
        if seq < session.floor:
            return Outcome(_STALE, self._revision)
        known = session.known(seq)
        if known is not None:
            return known
        if opcode == _OP_PUT:
            self._revision += 1
            self._store(key, value, self._revision)
            outcome = Outcome(_OK, self._revision)
        elif opcode == _OP_BATCH:
            outcome = self._apply_batch(command[7])
        else:
            code, detail = self._apply_conditional(command)
            outcome = Outcome(code, self._revision, detail)
        self._sessions.record(session, seq, outcome)
        return outcome

    def _apply_conditional(self, command: Command) -> tuple[int, bytes]:
        """Apply a delete or a CAS; return code and detail."""
        opcode, _, _, _, key, expect, value, _ = command
        stored = self._items.get(key)
        if opcode == _OP_DELETE:
            if stored is None:
                return _ABSENT, b""
            self._revision += 1
            self._remove(key)
            return _OK, b""
        code, detail = _compare(None if stored is None else stored[0], expect)
        if code == _OK:
            self._revision += 1
            self._store(key, value, self._revision)
        return code, detail

    def _apply_batch(self, commands: tuple[Command, ...]) -> Outcome:
        """Apply all or none: the outcome of each is worked out over an overlay first."""
        overlay: dict[bytes, list[Buffer] | None] = {}
        for position, (opcode, _, _, _, key, expect, value, _) in enumerate(commands):
            if opcode == _OP_CAS:
                stored = self._items.get(key)
                current = None if stored is None else stored[0]
                if key in overlay:
                    written = overlay[key]
                    current = None if written is None else written[-1]
                code, detail = _compare(current, expect)
                if code != _OK:
                    head = MULTI_OUTCOME.pack(position, code)
                    return Outcome(_BATCH_ABORTED, self._revision, head + detail)
            overlay[key] = None if opcode == _OP_DELETE else [value]
        revision = self._revision + 1
        for opcode, _, _, _, key, _, value, _ in commands:
            if opcode != _OP_DELETE:
                self._store(key, value, revision)
                self._revision = revision
            elif key in self._items:
                self._remove(key)
                self._revision = revision
        return Outcome(_OK, self._revision)

    def _store(self, key: bytes, value: Buffer, revision: int) -> None:
        stored = self._items.get(key)
        if stored is None:
            self._items[key] = (value, revision, revision, 1)
            self._index.add(key)
            self.state_bytes += len(key) + len(value)
        else:
            self.state_bytes += len(value) - len(stored[0])
            if self._before is not None:
                self._before.setdefault(key, stored)
            self._items[key] = (value, stored[1], revision, stored[3] + 1)

    def _remove(self, key: bytes) -> None:
        stored = self._items.pop(key)
        self.state_bytes -= len(key) + len(stored[0])
        if self._before is not None:
            self._before.setdefault(key, stored)
        self._index.discard(key)

    # --- snapshots ----------------------------------------------------------------------

    def freeze(self) -> Frozen:
        """Return the state of this moment, to be read out in slices while writes go on.

        At most one at a time; `Frozen.close` ends it. Costs one list of the keys (about 6.6 ms per
        million) and the session table encoded.
        """
        assert self._before is None, "one snapshot at a time"
        self._before = {}
        sessions = self._sessions.encode()
        head = _SNAPSHOT_HEAD.pack(
            self._revision, self._leader_time_ms, len(self._items), len(sessions)
        )
        return Frozen(self, head + sessions)

    def read_frozen(self, key: bytes) -> Stored:
        """Return a key as it was when the machine was frozen; for `Frozen`."""
        assert self._before is not None
        stored = self._before.get(key)
        return self._items[key] if stored is None else stored

    def thaw(self) -> None:
        """Stop keeping what the frozen state needs; for `Frozen`."""
        self._before = None

    def frozen_keys(self) -> list[bytes]:
        """Return the keys of this moment; for `Frozen`."""
        return list(self._items)

    @classmethod
    def restore(cls, chunks: Iterator[bytes], bounds: SessionBounds | None = None) -> Self:
        """Rebuild a machine from the chunks of a `Frozen`; ValueError if they do not add up."""
        machine = cls(bounds)
        head = next(chunks, b"")
        try:
            revision, time_ms, count, length = _SNAPSHOT_HEAD.unpack_from(head)
            if len(head) != _SNAPSHOT_HEAD.size + length:
                raise ValueError("the session table is cut off")
            machine._revision, machine._leader_time_ms = revision, time_ms
            machine._sessions.load(head[_SNAPSHOT_HEAD.size :])
            for chunk in chunks:
                machine._restore_chunk(chunk)
        except struct.error as error:
            raise ValueError(f"a malformed snapshot: {error}") from None
        if len(machine._items) != count:
            raise ValueError(f"{len(machine._items)} keys, but the snapshot was of {count}")
        return machine

    def _restore_chunk(self, chunk: bytes) -> None:
        offset = 0
        while offset < len(chunk):
            key_len, value_len, create, mod, version = SNAPSHOT_ITEM.unpack_from(chunk, offset)
            start = offset + SNAPSHOT_ITEM.size
            offset = start + key_len + value_len
            if offset > len(chunk) or not key_len:
                raise ValueError("an item of the snapshot is cut off")
            key = chunk[start : start + key_len]
            self._items[key] = (chunk[start + key_len : offset], create, mod, version)
            self.state_bytes += key_len + value_len
            self._index.add(key)

    # --- reads ------------------------------------------------------------------------

    def query(self, query: object) -> object:
        """Answer one query of §8 in its wire shape; ValueError if it is malformed.

        get: `[1, key]` gives `[revision, item | None]`. range: `[2, start, end, limit]` gives
        `[revision, [item, …], more]` for start ≤ key < end.
        """
        match query:
            case [1, bytes(key)] if 0 < len(key) <= KEY_BYTES_MAX:
                stored = self._items.get(key)
                return [self._revision, None if stored is None else (key, *stored)]
            case [2, bytes(start), bytes(end), int(limit)] if (
                len(start) <= KEY_BYTES_MAX and len(end) <= KEY_BYTES_MAX and limit >= 0
            ):
                return self._range(start, end, limit)
        raise ValueError("a query is [1, key] or [2, start, end, limit], keys up to 4,096 bytes")

    def query_all(self, queries: Sequence[object]) -> list[object]:
        """Answer queries in order until the reply is full: at least one, perhaps not all.

        A client that finds fewer results than queries asks again for the rest. ValueError if one
        that is reached is malformed.
        """
        results: list[object] = []
        size = 0
        for query in queries:
            result = self.query(query)
            results.append(result)
            size += _result_bytes(result)
            if size > READ_REPLY_BYTES_TARGET:
                break
        return results

    def _range(self, start: bytes, end: bytes, limit: int) -> list[object]:
        bound = min(limit or RANGE_ITEMS_MAX, RANGE_ITEMS_MAX)
        items: list[tuple[bytes, Buffer, int, int, int]] = []
        size = 0
        for key in self._index.between(start, end):
            stored = self._items[key]
            size += len(key) + len(stored[0])
            if len(items) == bound or (items and size > RANGE_REPLY_BYTES_MAX):
                return [self._revision, items, True]
            items.append((key, *stored))
        return [self._revision, items, False]

    # --- comparison of replicas -------------------------------------------------------

    def digest(self) -> bytes:
        """SHA-256 over revision, time, sessions and all keys in order: equal on equal replicas.

        O(keys + replies); for checks at rest, not for the turn loop's busy hours.
        """
        sessions = self._sessions.encode()
        digest = hashlib.sha256(
            _DIGEST_HEAD.pack(self._revision, self._leader_time_ms, len(sessions))
        )
        digest.update(sessions)
        for piece in chain.from_iterable(self._digest_items()):
            digest.update(piece)
        return digest.digest()

    def _digest_items(self) -> Iterator[tuple[bytes, bytes, Buffer]]:
        for key in self._index.between(b"", b""):
            value, create, mod, version = self._items[key]
            yield _DIGEST_ITEM.pack(len(key), len(value), create, mod, version), key, value


def _compare(current: Buffer | None, expect: bytes | None) -> tuple[int, bytes]:
    """Judge a CAS: OK, ABSENT, or CONFLICT with the current value, cut, as its detail."""
    if current == expect:
        return _OK, b""
    if current is None:
        return _ABSENT, b""
    return _CONFLICT, bytes(current[:DETAIL_BYTES_MAX])


def _result_bytes(result: object) -> int:
    """Bytes of keys and values in the result of one query, and a share for the rest."""
    match result:
        case [_, [*items], bool()]:
            return 16 + sum(_result_bytes([0, item]) for item in items)
        case [_, (bytes(key), bytes() | memoryview() as value, *_)]:
            return 48 + len(key) + len(value)
    return 16
