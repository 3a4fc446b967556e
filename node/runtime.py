"""One group of one node: drives the core, applies what is committed, answers clients.

A `GroupRuntime` owns a core and a state machine and knows which client waits for which batch.
It never touches the disk or a socket: `multiraft` collects its `Ready` once per turn and calls
the ports. Everything here runs on the node's main thread (or inside the simulator's one thread).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from node.client_wire import (
    ReadRequest,
    ReplyOrigin,
    Status,
    WriteRequest,
    encode_read_reply,
    encode_refusal,
    encode_write_reply,
)
from node.codec import build_batch
from node.compression import BatchCompression
from node.limits import (
    BATCH_BYTES_TARGET,
    BATCH_ENTRIES_MAX,
    JOIN_BYTES_MAX,
    QUEUED_BYTES_MAX,
    READS_PENDING_MAX,
)
from node.ports import LogStore, Outcomes, ReplySink, StateMachine
from node.raft.core import Core
from node.raft.types import GroupId, Index, ReadContext, ReadGrant, Role, Term
from wal.compression import Codec

__all__ = ["GroupRuntime"]

_NS_PER_MS = 1_000_000
_WORDS = {
    Status.BUSY: "more waits already than one node takes",
    Status.DISK_FULL: "the disk is full; free some space, and the node goes on by itself",
    Status.LEAD_LOST: "another node may lead now",
}
"""What a person is told beside the status; what a client handles by itself needs no words."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Who waits for one proposed batch: (client, request id, entries), in the batch's order."""

    term: Term
    requests: tuple[tuple[bytes, int, int], ...]


class GroupRuntime:
    """Core, state machine and waiting clients of one group."""

    def __init__(
        self, core: Core, machine: StateMachine, store: LogStore, replies: ReplySink
    ) -> None:
        """Take over a core whose log is the recovered one; nothing is applied yet."""
        self.core = core
        self.machine = machine
        self.applied = core.log.start.index
        self.batches_proposed = 0
        self.entries_applied = 0
        self.entries_acked = 0
        self.bytes_applied = 0
        self.bytes_at_snapshot = 0
        """`bytes_applied` when the newest snapshot was begun."""
        self.snapshot_index = core.log.start.index
        """Index of the newest durable snapshot."""
        self.compression = BatchCompression(Codec.NONE, lambda: 0)
        """What the groups of the node share (`node.assembly`)."""
        self.attention: dict[GroupId, GroupRuntime] = {}
        """Where the group puts itself when a client wants something: it takes part in the turn."""
        self._store = store
        self._replies = replies
        self._group = core.config.group
        self._gathered: list[WriteRequest] = []
        self._gathered_bytes = 0
        self._waiting: dict[Index, _Waiting] = {}
        self._reads: dict[ReadContext, ReadRequest] = {}
        self._granted: deque[tuple[Index, ReadRequest]] = deque()
        self._next_context = 0
        self._led_term = Term(0)
        self._led_since_ns = 0
        self._time_base_ms = 0
        self._time_issued_ms = 0

    def restored(self, index: Index) -> None:
        """Learn at the start that the machine's state is that of a snapshot at `index`."""
        self.core.restored(index)
        self.applied = self.snapshot_index = index

    # ---- clients -------------------------------------------------------------------------

    def write(self, request: WriteRequest) -> None:
        """Gather a write for this turn's batch, or refuse it at once (definite)."""
        status = self._refusal(request)
        if status is not None:
            self._refuse(request.client, request.request_id, status)
            return
        self.attention[self._group] = self
        self._gathered.append(request)
        self._gathered_bytes += len(request.body)

    def read(self, request: ReadRequest) -> None:
        """Queue a local read for the applied state, or start a linearizable one.

        None is served here: a range may take milliseconds, and `apply_next` counts them.
        """
        if not request.local and self.core.role is not Role.LEADER:
            self._refuse(request.client, request.request_id, Status.NOT_LEADER)
            return
        if len(self._reads) + len(self._granted) >= READS_PENDING_MAX:
            self._refuse(request.client, request.request_id, Status.BUSY)
            return
        self.attention[self._group] = self
        if request.local:
            self._granted.append((self.applied, request))
            return
        self._next_context += 1
        context = ReadContext(self._next_context)
        self._reads[context] = request
        self.core.read(context)

    def propose_gathered(self, now: int) -> None:
        """Turn the writes of this turn into batches of about BATCH_BYTES_TARGET.

        A batch is applied whole, so its entries are bounded too.
        """
        if not self._gathered:
            return
        requests, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if self.core.role is not Role.LEADER:
            for request in requests:
                self._refuse(request.client, request.request_id, Status.NOT_LEADER)
            return
        self._note_leadership(now)
        part: list[WriteRequest] = []
        size = count = 0
        for request in requests:
            size += len(request.body)
            count += request.count
            alone = len(request.body) > JOIN_BYTES_MAX
            if part and (alone or size > BATCH_BYTES_TARGET or count > BATCH_ENTRIES_MAX):
                self._propose(part, now)
                part = []
                size, count = len(request.body), request.count
            part.append(request)
            if alone:
                self._propose(part, now)
                part = []
                size = count = 0
        if part:
            self._propose(part, now)

    def _propose(self, requests: Sequence[WriteRequest], now: int) -> None:
        core = self.core
        batch = build_batch(
            (self._group, core.term, Index(core.log.last_index + 1)),
            self._leader_time_ms(now),
            [(request.count, request.body) for request in requests],
            self.compression,
        )
        core.propose(batch)
        self.batches_proposed += 1
        waiting = tuple((request.client, request.request_id, request.count) for request in requests)
        self._waiting[batch.meta.base_index] = _Waiting(core.term, waiting)

    def _refusal(self, request: WriteRequest) -> Status | None:
        if self.core.role is not Role.LEADER:
            return Status.NOT_LEADER
        if self._store.disk_full:
            return Status.DISK_FULL
        size = self._gathered_bytes + len(request.body)
        if not self.core.accepts(size) or self._store.queued_bytes + size > QUEUED_BYTES_MAX:
            return Status.BUSY
        return None

    # ---- after the turn's Ready ------------------------------------------------------------

    def take_reads(self, grants: Sequence[ReadGrant]) -> None:
        """Queue granted reads until their index is applied; refuse the aborted ones."""
        for grant in grants:
            request = self._reads.pop(grant.context, None)
            if request is None:
                continue
            if grant.ok:
                self._granted.append((grant.index, request))
            else:
                self._refuse(request.client, request.request_id, Status.READ_ABORTED)

    def apply_next(self) -> bool:
        """Apply one committed batch and answer whoever waits for it; then serve one read.

        One of each at most: neither can starve the other, whatever a slice is long enough for.
        Returns whether there is more to do.
        """
        if self.applied < self.core.commit:
            self._apply_batch()
        self._serve_granted()
        return self.has_backlog

    def _apply_batch(self) -> None:
        base = Index(self.applied + 1)
        batch = self._store.read(self._group, base)
        assert batch.meta.last_index <= self.core.commit, "only whole batches are committed"
        body = self.compression.plain(batch)
        outcomes = self.machine.apply(batch.meta, batch.leader_time_ms, body)
        assert len(outcomes) == batch.meta.count, "one outcome per entry"
        self.applied = batch.meta.last_index
        self.entries_applied += batch.meta.count
        self.bytes_applied += batch.meta.size
        waiting = self._waiting.pop(base, None)
        if waiting is not None:
            assert waiting.term == batch.meta.term, "fail_lost has answered for what is not ours"
            self._answer_batch(waiting, outcomes)

    @property
    def needs_core(self) -> bool:
        """Whether clients want something that a resting group cannot do."""
        return bool(self._gathered or self._reads)

    @property
    def has_backlog(self) -> bool:
        """Whether `apply_next` has something to do."""
        due = bool(self._granted) and self._granted[0][0] <= self.applied
        return due or self.applied < self.core.commit

    def fail_lost(self) -> None:
        """Tell clients whose batches lost their leader (indefinite).

        A batch of ours that is committed will be applied and answered. One that is not committed
        may still be, under another leader, or may be gone already: the index where it stood may
        even be committed, in the middle of a batch of somebody else's.
        """
        core = self.core
        if not self._waiting or (core.role is Role.LEADER and core.term == self._led_term):
            return
        for base, waiting in list(self._waiting.items()):
            held = core.log.batch_of(base)
            ours = held is not None and (held.term, held.base_index) == (waiting.term, base)
            if not ours or base > core.commit:
                self._answer_lost(self._waiting.pop(base))

    def _answer_lost(self, waiting: _Waiting) -> None:
        for client, request_id, _ in waiting.requests:
            self._refuse(client, request_id, Status.LEAD_LOST)

    def _answer_batch(self, waiting: _Waiting, outcomes: Outcomes) -> None:
        parts = outcomes.split([count for _, _, count in waiting.requests])
        for (client, request_id, count), part in zip(waiting.requests, parts, strict=True):
            self.entries_acked += count
            self._replies.reply(client, encode_write_reply(self._origin(request_id), part))

    def _serve_granted(self) -> None:
        if self._granted and self._granted[0][0] <= self.applied:
            self._answer_read(self._granted.popleft()[1])

    def _answer_read(self, request: ReadRequest) -> None:
        try:
            answers = self.machine.query_all(request.queries)
        except ValueError as error:
            self._refuse(request.client, request.request_id, Status.BAD_REQUEST, str(error))
            return
        parts = encode_read_reply(self._origin(request.request_id), answers)
        self._replies.reply(request.client, parts)

    def _refuse(self, client: bytes, request_id: int, status: Status, text: str = "") -> None:
        words = text or _WORDS.get(status, "")
        self._replies.reply(client, encode_refusal(self._origin(request_id), status, words))

    def _origin(self, request_id: int) -> ReplyOrigin:
        return ReplyOrigin(request_id, self._group, self.core.leader, self.core.term)

    # ---- replicated time -------------------------------------------------------------------

    def _note_leadership(self, now: int) -> None:
        """At the first write of a leadership, tie replicated time to our monotonic clock."""
        if self._led_term != self.core.term:
            self._led_term = self.core.term
            self._led_since_ns = now
            self._time_base_ms = max(self.machine.leader_time_ms, self._time_issued_ms)

    def _leader_time_ms(self, now: int) -> int:
        elapsed = (now - self._led_since_ns) // _NS_PER_MS
        issued = max(self._time_issued_ms, self._time_base_ms + elapsed)
        self._time_issued_ms = issued
        return issued
