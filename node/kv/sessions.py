"""Sessions: at most one application per (session, sequence number), on every replica alike.

Theory of operation (thesis §6.3). A client numbers its operations. The table keeps the outcome of
each number from the session's `floor` on; a number that is known is answered from there. The floor
is the highest `acked_below` seen: the client holds all answers below it and will not ask again.
What arrives below the floor all the same is a delayed copy, answered STALE and never applied.

Nearly all outcomes are OK, with numbers and revisions that both grow by one: such a run is kept as
three numbers. A run only ever begins above every number kept before (`Session.newest`), so all of
it is known to be new without a look-up. Whether an outcome stands alone or in a run shows nowhere:
not in an answer, nor in what is evicted, nor in `encode`.

Every bound evicts by a rule that depends on committed entries only, so replicas stay equal:
- a session with more than REPLIES_PER_SESSION_MAX replies raises its floor over the lowest eighth (a
  client that keeps the span of its unanswered numbers below that never meets this);
- more than SESSIONS_MAX sessions, or REPLIES_TOTAL_MAX replies, evict the session whose last entry
  has the lowest index. Its client gets SESSION_EXPIRED, never a second application.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from itertools import chain
from operator import attrgetter
from typing import Final

from node.limits import REPLIES_PER_SESSION_MAX, REPLIES_TOTAL_MAX, SESSIONS_MAX
from node.ports import Outcome

__all__ = ["Session", "SessionBounds", "SessionTable"]

_SESSION: Final = struct.Struct("<QQI")
_REPLY: Final = struct.Struct("<QBQI")
_OK: Final = 0


class _Run:
    """Outcomes of the numbers `first` to `end` - 1, all OK, revisions from `revision` on."""

    __slots__ = ("end", "first", "revision")

    def __init__(self, first: int, end: int, revision: int) -> None:
        self.first = first
        self.end = end
        self.revision = revision


_first_of: Final = attrgetter("first")


class Session:
    """One client's replies: `floor`, and the outcomes of sequence numbers from there on."""

    __slots__ = ("_runs", "_singles", "floor", "kept", "newest")

    def __init__(self) -> None:
        self.floor = 1
        self.newest = 0
        """The highest number that was ever kept."""
        self.kept = 0
        """Outcomes kept."""
        self._singles: dict[int, Outcome] = {}
        self._runs: list[_Run] = []
        """In order; none overlaps another, nor a single."""

    def __len__(self) -> int:
        return self.kept

    def known(self, seq: int) -> Outcome | None:
        """Return the outcome of a number; None if it is not kept."""
        if seq > self.newest:
            return None
        found = self._singles.get(seq)
        if found is None and self._runs:
            place = bisect_right(self._runs, seq, key=_first_of) - 1
            run = self._runs[place]
            if place >= 0 and seq < run.end:
                return Outcome(_OK, run.revision + seq - run.first)
        return found

    def keep(self, seq: int, outcome: Outcome) -> None:
        """Keep the outcome of a number that is not known."""
        self._singles[seq] = outcome
        self.newest = max(self.newest, seq)
        self.kept += 1

    def keep_run(self, first: int, count: int, revision: int) -> None:
        """Keep a run of outcomes; `first` is above `newest`."""
        assert first > self.newest
        last = self._runs[-1] if self._runs else None
        if last is not None and (last.end, last.revision + last.end - last.first) == (
            first,
            revision,
        ):
            last.end += count
        else:
            self._runs.append(_Run(first, first + count, revision))
        self.newest = first + count - 1
        self.kept += count

    def raise_floor(self, floor: int) -> int:
        """Drop the replies below `floor`; return how many there were."""
        singles, runs = self._singles, self._runs
        before = len(singles)
        if floor - self.floor <= before:
            for seq in range(self.floor, floor):
                singles.pop(seq, None)
        else:  # a jump over unused numbers, however far, costs only what is kept
            for seq in [seq for seq in singles if seq < floor]:
                del singles[seq]
        dropped = before - len(singles)
        gone = 0
        while gone < len(runs) and runs[gone].end <= floor:
            dropped += runs[gone].end - runs[gone].first
            gone += 1
        del runs[:gone]
        if runs and runs[0].first < floor:
            cut = runs[0]
            dropped += floor - cut.first
            runs[0] = _Run(floor, cut.end, cut.revision + floor - cut.first)
        self.floor = floor
        self.kept -= dropped
        return dropped

    def numbers(self) -> list[int]:
        """Return the numbers whose outcomes are kept, in order."""
        return sorted(chain(self._singles, *(range(run.first, run.end) for run in self._runs)))


class SessionBounds:
    """The bounds of a table; tests make them small."""

    __slots__ = ("replies_per_session", "replies_total", "sessions")

    def __init__(
        self,
        sessions: int = SESSIONS_MAX,
        replies_per_session: int = REPLIES_PER_SESSION_MAX,
        replies_total: int = REPLIES_TOTAL_MAX,
    ) -> None:
        assert sessions > 0
        assert 0 < replies_per_session <= replies_total
        self.sessions = sessions
        self.replies_per_session = replies_per_session
        self.replies_total = replies_total


class SessionTable:
    """All sessions of one group, ordered by the index of their last entry."""

    __slots__ = ("_bounds", "_replies", "_sessions")

    def __init__(self, bounds: SessionBounds | None = None) -> None:
        self._bounds = SessionBounds() if bounds is None else bounds
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._replies = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def replies(self) -> int:
        """Replies kept by all sessions."""
        return self._replies

    def open(self, index: int) -> None:
        """Register the session whose open_session entry stands at `index`."""
        self._sessions[index] = Session()
        if len(self._sessions) > self._bounds.sessions:
            self._evict()

    def touch(self, session_id: int) -> Session | None:
        """Return a session and make it the most recent one; None if unknown or evicted."""
        session = self._sessions.get(session_id)
        if session is not None:
            self._sessions.move_to_end(session_id)
        return session

    def record(self, session: Session, seq: int, outcome: Outcome) -> None:
        """Keep the outcome of a sequence number that is new and not below the floor."""
        session.keep(seq, outcome)
        self._replies += 1
        kept = session.kept
        if kept > self._bounds.replies_per_session:
            # An eighth at a time, so that the sort costs each operation little.
            self.acknowledge(session, session.numbers()[kept // 8] + 1)
        while self._replies > self._bounds.replies_total:
            self._evict()

    def room(self, session: Session) -> int:
        """Return how many outcomes can be kept before anything makes room for them."""
        bounds = self._bounds
        in_session = bounds.replies_per_session - session.kept
        return min(in_session, bounds.replies_total - self._replies)

    def record_run(self, session: Session, first: int, count: int, revision: int) -> None:
        """Keep `count` outcomes, all OK, the first at `revision`; `room` has them.

        The numbers from `first` on are above `Session.newest` and not below the floor.
        """
        session.keep_run(first, count, revision)
        self._replies += count

    def acknowledge(self, session: Session, floor: int) -> None:
        """The client holds all answers below `floor`, which is above the session's own."""
        self._replies -= session.raise_floor(floor)

    def _evict(self) -> None:
        _, session = self._sessions.popitem(last=False)
        self._replies -= session.kept

    def load(self, data: bytes) -> None:
        """Fill an empty table with what `encode` made; ValueError or struct.error if malformed."""
        assert not self._sessions
        offset = 0
        while offset < len(data):
            session_id, floor, count = _SESSION.unpack_from(data, offset)
            offset += _SESSION.size
            session = Session()
            session.floor = floor
            for _ in range(count):
                seq, code, revision, length = _REPLY.unpack_from(data, offset)
                offset += _REPLY.size
                if offset + length > len(data):
                    raise ValueError("a reply of the session table is cut off")
                session.keep(seq, Outcome(code, revision, data[offset : offset + length]))
                offset += length
            self._sessions[session_id] = session
            self._replies += count

    def encode(self) -> bytes:
        """Encode the whole table canonically, for `digest` and for snapshots (`load`).

        Replicas differ only if it does.
        """
        pieces: list[bytes] = []
        for session_id, session in self._sessions.items():
            pieces.append(_SESSION.pack(session_id, session.floor, session.kept))
            for seq in session.numbers():
                kept = session.known(seq)
                assert kept is not None
                pieces.append(_REPLY.pack(seq, kept.code, kept.revision, len(kept.detail)))
                pieces.append(kept.detail)
        return b"".join(pieces)
