"""One group's traffic of one client: session, windows, retries; without I/O.

Theory of operation. Operations wait in a queue until the request window has room; whatever waits
then goes out as one request (natural batching, no timer). Until a leader has answered, one request
is in the air at a time.

*When is a failure definite?* An attempt is a request id that was handed to the transport. It ends
with an answer, or stays unanswered. Refusals but LEAD_LOST are definite: that attempt did nothing.
An operation that fails while its request is in doubt (`client_request`) may have been applied:
IndefiniteError. Without doubt it was not: DefiniteError, and then it must never be sent again, so
a request without doubt is compacted before each attempt. (With doubt it goes out unchanged: a late
answer to an earlier attempt must find the positions of then.)

*When is a node silent?* A node answers in order, so a request is due once the one before it is
answered: its clock starts anew then. The silence that counts is four times the smoothed time that
requests have taken, measured so; a late answer still says which attempt it belongs to, and teaches.

*The span of sequence numbers.* Replicas keep REPLIES_PER_SESSION_MAX replies from `acked_below`
on. A request that is stuck holds `acked_below` back while others pass it, so no request may take a
number beyond that span; otherwise the stuck one would come back STALE.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

from cluster.client_bulk import BulkPart
from cluster.client_request import (
    Attempt,
    Flight,
    OpenFlight,
    ReadFlight,
    Waiting,
    WriteFlight,
    decode_result,
    subject_of,
)
from cluster.client_route import Route
from cluster.client_types import (
    ClientConfig,
    ClientError,
    Completion,
    DefiniteError,
    IndefiniteError,
    NoQuorumDefiniteError,
    NoQuorumIndefiniteError,
    Outgoing,
    Result,
)
from node.client_wire import Consistency, ReadReply, Refusal, Reply, Status, WriteReply
from node.commands import SESSION_ID, Operation, OutcomeCode, entry_header
from node.limits import REPLIES_PER_SESSION_MAX
from node.outcomes import Outcomes
from node.raft.types import NO_NODE, GroupId, NodeId

__all__ = ["NEVER", "Lane", "Shared"]

NEVER: Final = 1 << 63
"""A time that does not come."""

_SERVICE_TIMES: Final = 4
"""How many usual answer times make a silence."""

_RESULTS: Final = frozenset(
    (OutcomeCode.OK, OutcomeCode.ABSENT, OutcomeCode.CONFLICT, OutcomeCode.BATCH_ABORTED)
)
_TRY_ELSEWHERE: Final = frozenset((Status.NOT_LEADER, Status.LEAD_LOST, Status.READ_ABORTED))


class Shared:
    """What all lanes of one core share: request ids, the way out, and completions."""

    __slots__ = (
        "_next_request_id",
        "cluster_id",
        "completions",
        "config",
        "nodes",
        "outgoing",
        "pending",
        "pending_bytes",
        "requests",
    )

    def __init__(self, cluster_id: bytes, nodes: Sequence[NodeId], config: ClientConfig) -> None:
        self.cluster_id = cluster_id
        self.nodes = tuple(nodes)
        self.config = config
        self.requests: dict[int, tuple[Lane, Flight]] = {}
        """Every unanswered attempt."""
        self.outgoing: list[Outgoing] = []
        self.completions: list[Completion] = []
        self.pending = 0
        self.pending_bytes = 0
        self._next_request_id = 1

    def take_request_id(self) -> int:
        """Return an id that this core has not used before."""
        request_id = self._next_request_id
        self._next_request_id += 1
        return request_id


class Lane:
    """One group; or, with `pinned`, the local reads of one group on one node."""

    __slots__ = (
        "_flights",
        "_next_seq",
        "_pinned",
        "_polled_at",
        "_reads",
        "_service_ns",
        "_session",
        "_shared",
        "_writes",
        "group",
        "route",
    )

    def __init__(self, shared: Shared, group: GroupId, pinned: NodeId = NO_NODE) -> None:
        self.group = group
        self.route = Route(shared.nodes, shared.config, pinned)
        self._shared = shared
        self._pinned = pinned
        self._writes: deque[Waiting] = deque()
        self._reads: deque[Waiting] = deque()
        self._flights: list[Flight] = []
        self._session = 0
        self._next_seq = 1
        self._polled_at = 0
        self._service_ns = {True: 0, False: 0}
        """Smoothed time from a request being due to its OK, of reads and of writes; 0 = unknown."""

    def submit(self, waiting: Waiting) -> None:
        """Queue one operation, or a part of a bulk, for the next request."""
        if isinstance(waiting, BulkPart) or isinstance(waiting.subject, Operation):
            self._writes.append(waiting)
        else:
            self._reads.append(waiting)
        self._shared.pending += waiting.count
        self._shared.pending_bytes += waiting.size

    @property
    def idle(self) -> bool:
        """Whether there is nothing to send and nothing to wait for."""
        return not (self._flights or self._writes or self._reads)

    def next_event(self) -> int:
        """When `poll` has something to do without any reply; asked right after a poll."""
        event = NEVER
        waiting = bool(self._writes or self._reads)
        for flight in self._flights:
            if flight.current:
                event = min(event, flight.timeout_at)
            else:
                waiting = True
        if waiting and self.route.resume_at > self._polled_at:
            event = min(event, self.route.resume_at)
        return event

    # --- sending ----------------------------------------------------------------------

    def poll(self, now: int) -> None:
        """Give up on silent attempts, send again what waits, then fill the window."""
        self._polled_at = now
        for flight in self._flights:
            if flight.current and flight.timeout_at <= now:
                node = flight.attempts[flight.current].node
                self._give_up_on(node)
                self.route.failed(node, now, "no answer in time")
        if now < self.route.resume_at:
            return
        for flight in self._flights:
            if not flight.current and self._may_send():
                if not flight.in_doubt:
                    flight.compact()
                self._send(flight, now)
        while self._may_send():
            fresh = self._next_flight()
            if fresh is None:
                return
            self._flights.append(fresh)
            self._send(fresh, now)

    def _may_send(self) -> bool:
        return self.route.confirmed or not any(flight.current for flight in self._flights)

    def _next_flight(self) -> Flight | None:
        """Build the next request, if there is one and the window has room."""
        window = self._shared.config.requests_in_flight
        reads = sum(flight.is_read for flight in self._flights)
        writes = len(self._flights) - reads
        if self._writes and writes < window:
            if self._session:
                flight = self._build_write(window - writes)
                if flight is not None:
                    return flight
            elif not any(isinstance(flight, OpenFlight) for flight in self._flights):
                return OpenFlight()
        if self._reads and reads < window:
            count = min(len(self._reads), self._shared.config.request_queries)
            operations = [self._reads.popleft() for _ in range(count)]
            consistency = Consistency.LOCAL if self._pinned else Consistency.LINEARIZABLE
            return ReadFlight(operations, consistency)
        return None

    def _build_write(self, free: int) -> WriteFlight | None:
        """Stamp and join what is queued, as far as one request and the span reach.

        A bulk has a request to itself while others (`free` of the window) are left for the rest:
        its caller chose its size, and while one is on the disk another can travel.
        """
        session = self._session
        first_seq = seq = self._next_seq
        acked_below = first_seq
        for flight in self._flights:
            if isinstance(flight, WriteFlight) and flight.session == session:
                acked_below = min(acked_below, flight.first_seq)
        config = self._shared.config
        last = min(first_seq + config.request_operations, acked_below + REPLIES_PER_SESSION_MAX)
        room = config.request_bytes
        queue = self._writes
        operations: list[Waiting] = []
        lengths: list[int] = []
        pieces: list[bytes] = []
        while queue and seq < last:
            waiting = queue[0]
            if isinstance(waiting, BulkPart):
                if operations and free > 1:
                    break
                fitting = waiting.fitting(last - seq, room)
                if not fitting:
                    if operations:
                        break
                    fitting = 1  # larger than any request: it travels alone
                queue.popleft()
                if fitting < waiting.count:
                    waiting, rest = waiting.cut(fitting)
                    queue.appendleft(rest)
                lengths += waiting.sizes
                pieces += waiting.entries((session, seq, acked_below))
            else:
                operation = waiting.subject
                assert isinstance(operation, Operation)
                if operations and operation.size > room:
                    break
                queue.popleft()
                lengths.append(operation.size)
                pieces.append(entry_header(operation, session, seq, acked_below))
                pieces += operation.body
            operations.append(waiting)
            room -= waiting.size
            seq += waiting.count
        if not operations:
            return None
        self._next_seq = seq
        packed = struct.pack(f"<{len(lengths)}I", *lengths)
        return WriteFlight(
            operations, (session, first_seq), len(lengths), b"".join([packed, *pieces])
        )

    def _send(self, flight: Flight, now: int) -> None:
        shared = self._shared
        node = self.route.target
        request_id = shared.take_request_id()
        flight.current = request_id
        flight.attempts[request_id] = Attempt(node, now)
        flight.timeout_at = now + self._timeout(flight)
        shared.requests[request_id] = (self, flight)
        parts = flight.parts(request_id, shared.cluster_id, self.group)
        shared.outgoing.append(Outgoing(node, request_id, parts))

    def _timeout(self, flight: Flight) -> int:
        config = self._shared.config
        usual = max(config.request_timeout_ns, _SERVICE_TIMES * self._service_ns[flight.is_read])
        return min(usual << min(flight.silences, 32), config.request_timeout_ns_max)

    # --- what happened to an attempt --------------------------------------------------

    def not_sent(self, flight: Flight, request_id: int, now: int) -> None:
        """The transport did not take this attempt: it never existed."""
        node = flight.attempts.pop(request_id).node
        self._shared.requests.pop(request_id, None)
        if flight.current == request_id:
            flight.current = 0
        self.route.failed(node, now, "not connected")

    def peer_lost(self, node: NodeId, now: int) -> None:
        """The connection broke: answers that are still out will hardly come."""
        self._give_up_on(node)
        self.route.failed(node, now, "connection lost")

    def _give_up_on(self, node: NodeId) -> None:
        """Stop waiting for a node: what it holds is unanswered, and is sent again.

        A node answers in order, so the silence of one request is that of all behind it.
        """
        for flight in self._flights:
            if flight.current and flight.attempts[flight.current].node == node:
                flight.current = 0
                flight.silences += 1

    def answered(self, flight: Flight, request_id: int, reply: Reply, now: int) -> None:
        """An attempt, perhaps one given up long ago, is answered."""
        attempt = flight.attempts.pop(request_id)
        node = attempt.node
        self._shared.requests.pop(request_id, None)
        if isinstance(reply, Refusal):
            self._refused(flight, (request_id, node), reply, now)
            return
        self._learn_service(flight, request_id, attempt.since, now)
        self.route.succeeded(node, reply.origin, now)
        if isinstance(flight, OpenFlight):
            self._opened(flight, reply)
        elif isinstance(flight, WriteFlight):
            self._written(flight, reply)
        else:
            self._read(flight, reply)

    def _learn_service(self, answered: Flight, request_id: int, since: int, now: int) -> None:
        """Smooth the time this answer took; what was sent after it is due only from now on.

        Reads overtake writes, so each kind has its own time.
        """
        usual = self._service_ns[answered.is_read]
        sample = now - since
        self._service_ns[answered.is_read] = usual + (sample - usual) // 4 if usual else sample
        for flight in self._flights:
            if flight.current > request_id and flight.is_read is answered.is_read:
                flight.attempts[flight.current].since = now
                flight.timeout_at = now + self._timeout(flight)

    def _refused(
        self, flight: Flight, attempt: tuple[int, NodeId], reply: Refusal, now: int
    ) -> None:
        request_id, node = attempt
        status = reply.status
        flight.lost = flight.lost or status is Status.LEAD_LOST
        if status in _TRY_ELSEWHERE:
            self.route.refused(node, reply.origin, now)
        elif status is Status.BUSY:
            self.route.busy(node, reply.origin, now)
        elif status is Status.DISK_FULL:
            self.route.succeeded(node, reply.origin, now)
        if flight.current != request_id:
            return  # a later attempt is out, and decides
        flight.current = 0
        if status not in _TRY_ELSEWHERE and status is not Status.BUSY:
            self._fail(flight, f"node {node}: {status.name} {reply.text}".rstrip())

    def _opened(self, flight: OpenFlight, reply: Reply) -> None:
        self._drop(flight)
        detail = (
            reply.outcomes[0].detail if isinstance(reply, WriteReply) and reply.outcomes else b""
        )
        if len(detail) == SESSION_ID.size:
            (self._session,) = SESSION_ID.unpack(detail)
            self._next_seq = 1
        else:
            self._fail_writes("the answer to open_session holds no session")

    def _written(self, flight: WriteFlight, reply: Reply) -> None:
        if not isinstance(reply, WriteReply) or len(reply.outcomes) != flight.count:
            # It was answered OK, so something happened: nothing definite can be said.
            flight.lost = True
            self._fail(flight, "the answer does not fit the request")
            return
        doubt = flight.in_doubt
        self._drop(flight)
        expired: list[Waiting] = []
        for waiting, outcomes in zip(
            flight.operations, reply.outcomes.split(flight.spans), strict=True
        ):
            if isinstance(waiting, BulkPart):
                expired += self._bulk_written(waiting, outcomes, doubt=doubt)
            elif waiting is not None:
                outcome = outcomes[0]
                if outcome.code in _RESULTS:
                    self._complete(waiting, outcome)
                elif outcome.code == OutcomeCode.SESSION_EXPIRED and not doubt:
                    expired.append(waiting)
                else:
                    self._complete(waiting, None, _error_of(outcome.code))
        if reply.outcomes.run is None and flight.session == self._session:
            codes = {outcome.code for outcome in reply.outcomes}
            if OutcomeCode.SESSION_EXPIRED in codes:
                self._session = 0
        # Never applied, and nothing of them is under way: they start anew in a fresh session.
        self._writes.extendleft(reversed(expired))

    def _bulk_written(
        self, part: BulkPart, outcomes: Outcomes, *, doubt: bool
    ) -> Sequence[BulkPart]:
        """Hand a part of a bulk its outcomes; return what of it has to start anew."""
        if outcomes.run is not None:
            self._succeed(part, outcomes)
            return ()
        good: tuple[list[int], Outcomes] = [], Outcomes()
        expired: list[int] = []
        for place, outcome in zip(part.places, outcomes, strict=True):
            if outcome.code in _RESULTS:
                good[0].append(place)
                good[1].add(outcome)
            elif outcome.code == OutcomeCode.SESSION_EXPIRED and not doubt:
                expired.append(place)
            else:
                self._complete(BulkPart(part.bulk, [place]), None, _error_of(outcome.code))
        if good[0]:
            self._succeed(BulkPart(part.bulk, good[0]), good[1])
        return (BulkPart(part.bulk, expired),) if expired else ()

    def _read(self, flight: Flight, reply: Reply) -> None:
        self._drop(flight)
        results = reply.results if isinstance(reply, ReadReply) else ()
        left = [pending for pending in flight.operations[len(results) :] if pending is not None]
        if not 0 < len(results) <= len(flight.operations):
            for pending in flight.live():
                self._complete(pending, None, DefiniteError("the answer does not fit the request"))
            return
        for asked, fields in zip(flight.operations, results, strict=False):
            if asked is None:
                continue
            try:
                self._complete(asked, decode_result(subject_of(asked), fields))
            except ValueError as error:
                self._complete(asked, None, DefiniteError(f"a malformed answer: {error}"))
        self._reads.extendleft(reversed(left))

    # --- ends -------------------------------------------------------------------------

    def expire(self, now: int) -> int:
        """Fail what is past its deadline; return the earliest deadline that is left."""
        earliest = NEVER
        for queue in (self._writes, self._reads):
            for _ in range(len(queue)):
                pending = queue.popleft()
                if pending.deadline <= now:
                    self._complete(pending, None, self._too_late(pending, None))
                else:
                    queue.append(pending)
                    earliest = min(earliest, pending.deadline)
        for flight in list(self._flights):
            live = 0
            for position, late in enumerate(flight.operations):
                if late is None:
                    continue
                if late.deadline <= now:
                    self._complete(late, None, self._too_late(late, flight))
                    flight.operations[position] = None
                else:
                    live += 1
                    earliest = min(earliest, late.deadline)
            if not live and not (isinstance(flight, OpenFlight) and self._writes):
                self._drop(flight)
        return earliest

    def _too_late(self, pending: Waiting, flight: Flight | None) -> ClientError:
        """Build the error of an operation that ran out of time (queued: `flight` is None)."""
        doubt = isinstance(flight, WriteFlight) and flight.in_doubt
        unheard = self.route.heard_at <= pending.submitted and not self._pinned
        seconds = (pending.deadline - pending.submitted) / 1e9
        text = f"not answered within {seconds:.3g} s; last: {self.route.trouble}"
        if doubt:
            return NoQuorumIndefiniteError(text) if unheard else IndefiniteError(text)
        return NoQuorumDefiniteError(text) if unheard else DefiniteError(text)

    def abandon(self, reason: str) -> None:
        """Fail everything: the client closes."""
        for flight in list(self._flights):
            self._fail(flight, reason)
        self._fail_writes(reason)
        while self._reads:
            self._complete(self._reads.popleft(), None, DefiniteError(reason))

    def _fail(self, flight: Flight, reason: str) -> None:
        """Fail a whole request; if it was to open a session, whatever waits for it."""
        doubt = isinstance(flight, WriteFlight) and flight.in_doubt
        self._drop(flight)
        error = IndefiniteError if doubt else DefiniteError
        for pending in flight.live():
            self._complete(pending, None, error(reason))
        if isinstance(flight, OpenFlight):
            self._fail_writes(reason)

    def _fail_writes(self, reason: str) -> None:
        while self._writes:
            self._complete(self._writes.popleft(), None, DefiniteError(reason))

    def _drop(self, flight: Flight) -> None:
        """Forget a request; answers to attempts that are still out will be ignored."""
        self._flights.remove(flight)
        for request_id in flight.attempts:
            self._shared.requests.pop(request_id, None)

    def _complete(
        self, waiting: Waiting, result: Result | None, error: ClientError | None = None
    ) -> None:
        shared = self._shared
        shared.pending -= waiting.count
        shared.pending_bytes -= waiting.size
        completion: Completion | None
        if isinstance(waiting, BulkPart):
            assert error is not None, "outcomes come by `_succeed`"
            completion = waiting.bulk.failed(waiting.places, error)
        elif waiting.gather is None:
            completion = Completion(waiting.ticket, result, error)
        else:
            completion = waiting.gather.add(self.group, result, error)
        if completion is not None:
            shared.completions.append(completion)

    def _succeed(self, part: BulkPart, outcomes: Outcomes) -> None:
        shared = self._shared
        shared.pending -= part.count
        shared.pending_bytes -= part.size
        completion = part.bulk.succeeded(part.places, outcomes)
        if completion is not None:
            shared.completions.append(completion)


def _error_of(code: int) -> ClientError:
    """Return the error for a code that is no result."""
    if code == OutcomeCode.BAD_OPERATION:
        return DefiniteError("the node cannot read this operation")
    name = OutcomeCode(code).name if code in OutcomeCode._value2member_map_ else code
    text = f"answered {name} after an earlier attempt that may have been applied"
    return IndefiniteError(text)
