"""Sessions: at most one application per (session, sequence number), on every replica alike.

Theory of operation (thesis §6.3). A client numbers its operations. The table keeps the outcome of
each number from the session's `floor` on; a number that is known is answered from there. The floor
is the highest `acked_below` seen: the client holds all answers below it and will not ask again.
What arrives below the floor all the same is a delayed copy, answered STALE and never applied.

Every bound evicts by a rule that depends on committed entries only, so replicas stay equal:
- a session with more than REPLIES_PER_SESSION_MAX replies raises its floor over the lowest eighth (a
  client that keeps the span of its unanswered numbers below that never meets this);
- more than SESSIONS_MAX sessions, or REPLIES_TOTAL_MAX replies, evict the session whose last entry
  has the lowest index. Its client gets SESSION_EXPIRED, never a second application.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Final

from node.limits import REPLIES_PER_SESSION_MAX, REPLIES_TOTAL_MAX, SESSIONS_MAX
from node.ports import Outcome

__all__ = ["Session", "SessionBounds", "SessionTable"]

_SESSION: Final = struct.Struct("<QQI")
_REPLY: Final = struct.Struct("<QBQI")


class Session:
    """One client's replies: `floor`, and the outcomes of sequence numbers from there on."""

    __slots__ = ("floor", "replies")

    def __init__(self) -> None:
        self.floor = 1
        self.replies: dict[int, Outcome] = {}

    def raise_floor(self, floor: int) -> int:
        """Drop the replies below `floor`; return how many there were."""
        replies = self.replies
        before = len(replies)
        if floor - self.floor <= before:
            for seq in range(self.floor, floor):
                replies.pop(seq, None)
        else:  # a jump over unused numbers, however far, costs only what is kept
            for seq in [seq for seq in replies if seq < floor]:
                del replies[seq]
        self.floor = floor
        return before - len(replies)


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
        replies = session.replies
        replies[seq] = outcome
        self._replies += 1
        if len(replies) > self._bounds.replies_per_session:
            # An eighth at a time, so that the sort costs each operation little.
            self.acknowledge(session, sorted(replies)[len(replies) // 8] + 1)
        while self._replies > self._bounds.replies_total:
            self._evict()

    def acknowledge(self, session: Session, floor: int) -> None:
        """The client holds all answers below `floor`, which is above the session's own."""
        self._replies -= session.raise_floor(floor)

    def _evict(self) -> None:
        _, session = self._sessions.popitem(last=False)
        self._replies -= len(session.replies)

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
                session.replies[seq] = Outcome(code, revision, data[offset : offset + length])
                offset += length
            self._sessions[session_id] = session
            self._replies += count

    def encode(self) -> bytes:
        """Encode the whole table canonically, for `digest` and for snapshots (`load`).

        Replicas differ only if it does.
        """
        pieces: list[bytes] = []
        for session_id, session in self._sessions.items():
            pieces.append(_SESSION.pack(session_id, session.floor, len(session.replies)))
            for seq in sorted(session.replies):
                kept = session.replies[seq]
                pieces.append(_REPLY.pack(seq, kept.code, kept.revision, len(kept.detail)))
                pieces.append(kept.detail)
        return b"".join(pieces)
