"""The follower's half of AppendEntries (Raft §5.3) as a pure decision over its log."""

from __future__ import annotations

from dataclasses import dataclass

from node.raft.log_view import LogView
from node.raft.messages import Append
from node.raft.types import Batch, Index, Term

__all__ = ["Accepted", "Refused", "judge_append"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The log matches at prev.

    `verified` is the highest index now known to match the leader's; `truncate_from` is set only
    on a real conflict; `new` are the batches that we lack.
    """

    verified: Index
    truncate_from: Index | None
    new: tuple[Batch, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The log does not hold (prev_index, prev_term); the leader may continue at the hint."""

    hint_index: Index
    hint_term: Term


def judge_append(log: LogView, commit: Index, message: Append) -> Accepted | Refused | None:
    """Decide about an Append of the current leader; None if its batches cannot be a log's.

    Entries already present are never cut: a stale or reordered Append that is shorter than the
    log must not delete what was acknowledged. Committed entries are matched by definition.
    """
    if message.prev_index > commit and not log.matches(message.prev_index, message.prev_term):
        below = min(message.prev_index - 1, log.last_index)
        return Refused(*log.hint_for(below, message.prev_term))
    verified, term = message.prev_index, message.prev_term
    truncate_from: Index | None = None
    new: list[Batch] = []
    for batch in message.batches:
        assert isinstance(batch, Batch), "an incoming Append carries bytes"
        meta = batch.meta
        if meta.base_index != verified + 1 or not term <= meta.term <= message.term:
            return None
        verified, term = meta.last_index, meta.term
        if new or (verified > commit and not _holds(log, meta.base_index, meta.term)):
            if not new and meta.base_index <= log.last_index:
                truncate_from = meta.base_index
            new.append(batch)
    return Accepted(verified, truncate_from, tuple(new))


def _holds(log: LogView, base_index: Index, term: Term) -> bool:
    """Tell whether the log has the batch (term, base_index), which identifies it."""
    local = log.batch_of(base_index)
    return local is not None and local.base_index == base_index and local.term == term
