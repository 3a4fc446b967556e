"""The core's picture of its log: batch metadata by index, no bytes.

A log is a concatenation of whole batches after the compaction point `start`. Two parallel lists
(base indexes and metadata) make every look-up a bisection: O(log batches).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from node.raft.types import BatchMeta, Index, LogStart, Term

__all__ = ["LogView"]


class LogView:
    """Batch metadata of one group's log, from the compaction point to the last batch."""

    __slots__ = ("_bases", "_metas", "_runs", "_start", "bytes")

    def __init__(self, start: LogStart, batches: Iterable[BatchMeta] = ()) -> None:
        """Build the view of a recovered log; `batches` are contiguous from `start.index` + 1."""
        self._start = start
        self._metas: list[BatchMeta] = []
        self._bases: list[int] = []
        self._runs: list[tuple[int, int]] = []
        """(first index, term) of each run of equal terms, oldest first."""
        self.bytes = 0
        """Bytes of all batches behind the compaction point."""
        for meta in batches:
            self.append(meta)

    @property
    def start(self) -> LogStart:
        """The compaction point."""
        return self._start

    @property
    def last_index(self) -> Index:
        """Index of the last entry, or the compaction point of an empty log."""
        return self._metas[-1].last_index if self._metas else self._start.index

    @property
    def last_term(self) -> Term:
        """Term of the last entry, or of the compaction point of an empty log."""
        return self._metas[-1].term if self._metas else self._start.term

    @property
    def batches(self) -> tuple[BatchMeta, ...]:
        """All batches, oldest first (for checkers and pictures; a copy)."""
        return tuple(self._metas)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._metas)

    def batch_at(self, position: int) -> BatchMeta:
        """Return the batch at a list position (0 = the first after the compaction point)."""
        return self._metas[position]

    def append(self, meta: BatchMeta) -> None:
        """Add a batch at the end of the log."""
        assert meta.base_index == self.last_index + 1, "a log has no gap"
        assert meta.count > 0, "a batch holds at least one entry"
        assert meta.term >= self.last_term, "terms never fall along a log"
        if not self._runs or self._runs[-1][1] != meta.term:
            self._runs.append((meta.base_index, meta.term))
        self._metas.append(meta)
        self._bases.append(meta.base_index)
        self.bytes += meta.size

    def truncate_from(self, index: Index) -> None:
        """Remove the batch that starts at `index` and all behind it."""
        position = self._position(index)
        assert position >= 0, "nothing to remove at or before the compaction point"
        assert self._bases[position] == index, "a batch is never split"
        self.bytes -= sum(meta.size for meta in self._metas[position:])
        del self._metas[position:]
        del self._bases[position:]
        while self._runs and self._runs[-1][0] >= index:
            self._runs.pop()

    def compact(self, index: Index) -> None:
        """Drop everything up to the batch end `index`, which becomes the compaction point."""
        assert index > self._start.index, "the compaction point only grows"
        position = self._position(index)
        assert position >= 0
        assert self._metas[position].last_index == index, "compaction ends at a batch end"
        self._start = LogStart(index, self._metas[position].term)
        self.bytes -= sum(meta.size for meta in self._metas[: position + 1])
        del self._metas[: position + 1]
        del self._bases[: position + 1]
        ended = sum(first <= index + 1 for first, _ in self._runs[1:])
        del self._runs[: ended if self._metas else None]

    def term_at(self, index: int) -> Term | None:
        """Return the term of the entry at `index`; None if compacted away or beyond the end."""
        if index == self._start.index:
            return self._start.term
        meta = self.batch_of(index)
        return None if meta is None else meta.term

    def batch_of(self, index: int) -> BatchMeta | None:
        """Return the batch that holds `index`, if the log still has it."""
        position = self._position(index)
        if position < 0:
            return None
        meta = self._metas[position]
        return meta if index <= meta.last_index else None

    def matches(self, index: Index, term: Term) -> bool:
        """Tell whether the log holds (`index`, `term`) as a batch end (Raft §5.3)."""
        if index == self._start.index:
            return term == self._start.term
        meta = self.batch_of(index)
        return meta is not None and meta.term == term and meta.last_index == index

    def batches_from(self, index: Index, bytes_max: int) -> tuple[BatchMeta, ...]:
        """Return whole batches starting at `index`, up to `bytes_max` but at least one."""
        position = self._position(index)
        assert position >= 0, "asked for compacted entries"
        assert self._bases[position] == index, "replication starts at a batch"
        end, size = position, 0
        while end < len(self._metas):
            size += self._metas[end].size
            if size > bytes_max and end > position:
                break
            end += 1
        return tuple(self._metas[position:end])

    def hint_for(self, index: int, term: int) -> tuple[Index, Term]:
        """Return the highest batch end ≤ `index` with a term ≤ `term` (fast back-up, Raft §5.3).

        Both sides use it: entries above it in this log cannot match the other one's.
        """
        position = self._position(index)
        while position >= 0:
            meta = self._metas[position]
            if meta.last_index <= index and meta.term <= term:
                return meta.last_index, meta.term
            position -= 1
        return self._start.index, self._start.term

    def end_with_bytes_behind(self, limit: int, bytes_min: int) -> Index:
        """Return the highest batch end ≤ `limit` behind which at least `bytes_min` bytes lie.

        The compaction point if there is none. Costs what lies before the answer.
        """
        index, behind = self._start.index, self.bytes
        for meta in self._metas:
            behind -= meta.size
            if meta.last_index > limit or behind < bytes_min:
                break
            index = meta.last_index
        return index

    def bytes_after(self, index: int) -> int:
        """Return the bytes of all batches behind the batch end `index`."""
        return self.bytes_between(index, self.last_index)

    def bytes_between(self, low: int, high: int) -> int:
        """Return the bytes of the batches behind the batch end `low`, up to the batch end `high`."""
        first, last = self._position(low) + 1, self._position(high)
        return sum(meta.size for meta in self._metas[first : last + 1])

    def newest_runs(self, runs_max: int) -> tuple[int, ...]:
        """Return the newest runs of equal terms, oldest first: first index and term by turns."""
        flat: list[int] = []
        for first, term in self._runs[-runs_max:]:
            flat += (max(first, self._start.index + 1), term)
        return tuple(flat)

    def _position(self, index: int) -> int:
        """List position of the last batch that starts at or before `index`; -1 if none."""
        return bisect_right(self._bases, index) - 1
