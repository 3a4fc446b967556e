"""What the leader knows of one follower: match, next, and the window in flight.

States, as in etcd-io/raft `tracker`: PROBE sends one Append and waits for its answer (or for the
next heartbeat's reply); REPLICATE sends optimistically ahead within a window of bytes and
messages. Sends are lossy: a stalled window is found out at a heartbeat (see `stalled`). Reads
make heartbeats frequent; repeats stay rare all the same (see `may_repeat`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum

from node.raft.log_view import LogView
from node.raft.types import NO_INDEX, Index

__all__ = ["Progress", "ProgressState", "releasable"]

_NEVER = -(1 << 62)


class ProgressState(Enum):
    """How the leader sends to a follower; COMPACTED: it needs entries that are gone."""

    PROBE = "probe"
    REPLICATE = "replicate"
    COMPACTED = "compacted"


class Progress:
    """One follower as its leader sees it. Invariant: match < next ≤ last + 1."""

    __slots__ = (
        "_expected",
        "_received_before",
        "_repeated_at",
        "_stall_mark",
        "active",
        "answered",
        "inflight",
        "inflight_bytes",
        "match",
        "next",
        "paused",
        "received",
        "round",
        "state",
    )

    def __init__(self, next_index: Index) -> None:
        """Start probing at `next_index`."""
        self.match = NO_INDEX
        self.next = next_index
        self.state = ProgressState.PROBE
        self.paused = False
        self.active = False
        """Anything was heard since the last quorum check."""
        self.answered = False
        """An Append was answered since then, either way."""
        self.received = NO_INDEX
        """Up to where entries are known to have arrived, durable or not."""
        self.round = 0
        self.inflight: deque[tuple[Index, int]] = deque()
        self.inflight_bytes = 0
        self._stall_mark: Index | None = None
        self._repeated_at = _NEVER
        self._expected = NO_INDEX
        self._received_before = NO_INDEX

    def is_alive(self) -> bool:
        """Judge, once per quorum check, the time since the last: heard, and entries get through.

        Votes and heartbeats have a lane of their own, so they alone do not prove that Appends
        arrive. Asked is no more than that something new arrived, or all that was outstanding; that
        it is durable is not asked: a slow disk is no reason for another leader (DESIGN §4).
        """
        moved = self.answered or self.received > self._received_before
        alive = self.active and (moved or self.received >= self._expected)
        self.active = self.answered = False
        self._received_before = self.received
        self._expected = self._outstanding()
        return alive

    def _outstanding(self) -> Index:
        """Return the index whose arrival is expected by now: what was sent and not received."""
        if self.state is ProgressState.REPLICATE:
            return Index(self.next - 1)
        if self.state is ProgressState.PROBE and self.paused:
            return self.next
        return NO_INDEX

    def may_send(self, messages_max: int, bytes_max: int) -> bool:
        """Tell whether another Append fits: probes one by one, replication by the window."""
        if self.state is ProgressState.PROBE:
            return not self.paused
        if self.state is ProgressState.COMPACTED:
            return False
        return len(self.inflight) < messages_max and self.inflight_bytes < bytes_max

    def sent(self, last_index: Index, size: int) -> None:
        """Note an Append of `size` bytes that ends at `last_index`."""
        if self.state is ProgressState.PROBE:
            self.paused = True
            return
        self.next = Index(last_index + 1)
        self.inflight.append((last_index, size))
        self.inflight_bytes += size

    def acknowledged(self, index: Index) -> bool:
        """Take a durable match at `index`; return whether match grew. Acks may come reordered."""
        grew = index > self.match
        self.received = max(self.received, index)
        if grew:
            self.match = index
            self._stall_mark = None
        if self.next <= self.match:
            self.next = Index(self.match + 1)
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        if self.state is not ProgressState.REPLICATE:
            self.state = ProgressState.REPLICATE
            self.next = Index(self.match + 1)
            self._clear_window()
        return grew

    def refused(self, prev_index: Index, resume_at: Index) -> bool:
        """Take a refusal of `prev_index`; probe from `resume_at`. False: it was a stale one."""
        if not self.match < prev_index < self.next:
            return False
        if self.state is ProgressState.PROBE and prev_index != self.next - 1:
            return False
        self.state = ProgressState.PROBE
        self.next = Index(max(self.match + 1, min(resume_at, prev_index)))
        self._clear_window()
        self.paused = False
        return True

    def may_repeat(self, now: int, interval: int) -> bool:
        """Tell, at a heartbeat reply, whether to look for losses: once per `interval` (ns)."""
        if now - self._repeated_at < interval:
            return False
        self._repeated_at = now
        return True

    def stalled(self) -> bool:
        """Called when `may_repeat`: True if the window made no progress since the last time."""
        outstanding = self.next - 1 > self.match
        stuck = outstanding and self._stall_mark == self.match
        self._stall_mark = self.match if outstanding else None
        return stuck

    def compacted(self) -> None:
        """Note that the follower needs entries behind the compaction point."""
        self.state = ProgressState.COMPACTED
        self._clear_window()

    def _clear_window(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0
        self.paused = False
        self._stall_mark = None


def releasable(log: LogView, matches: Sequence[Index], hold_bytes_max: int) -> Index:
    """Return up to where no voter needs the log any more: what all of `matches` have.

    `matches` holds the leader's own, which is committed, first. For a voter that lags, not more
    than `hold_bytes_max` is held.
    """
    own, limit = matches[0], min(matches)
    if log.bytes <= hold_bytes_max:
        return limit
    return max(limit, log.end_with_bytes_behind(own, hold_bytes_max))
