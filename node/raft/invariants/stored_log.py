"""What a disk holds of one group, as a model: the records that were written, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.raft.invariants.rule import name_of
from node.raft.types import BatchMeta, HardState, Index, LogStart

__all__ = ["Change", "StoredLog"]

Change = BatchMeta | HardState | LogStart | Index | None
"""One stored record: a batch, a hard state, the compaction point, the index from which the log is
cut; None: of another group, or of none."""


@dataclass(slots=True)
class StoredLog:
    """What storage holds of one group: hard state and batches, as a model of the disk."""

    hard_state: HardState = HardState()  # noqa: RUF009 - frozen
    batches: list[BatchMeta] = field(default_factory=list)
    start: LogStart = LogStart()  # noqa: RUF009 - frozen

    def copy(self) -> StoredLog:
        """Return an independent copy."""
        return StoredLog(self.hard_state, list(self.batches), self.start)

    def change(self, change: Change) -> list[BatchMeta]:
        """Follow one record; return the batches that it cut off the end of the log."""
        if change is None:
            return []
        if isinstance(change, BatchMeta):
            self.batches.append(change)
            return []
        if isinstance(change, HardState):
            self.hard_state = change
            return []
        if isinstance(change, LogStart):
            self.start = change
            self.batches = [meta for meta in self.batches if meta.last_index > change.index]
            return []
        keep = len(self.batches)
        while keep and self.batches[keep - 1].base_index >= change:
            keep -= 1
        cut = self.batches[keep:]
        del self.batches[keep:]
        return cut

    def ending_at(self, index: int) -> BatchMeta | None:
        """Return the batch whose last entry stands at `index`."""
        for meta in reversed(self.batches):
            if meta.last_index <= index:
                return meta if meta.last_index == index else None
        return None

    def holds(self, wanted: BatchMeta) -> bool:
        """Tell whether the batch (term, base index) is stored; what is compacted away is."""
        if wanted.last_index <= self.start.index:
            return True
        for meta in reversed(self.batches):
            if meta.base_index <= wanted.base_index:
                return meta.base_index == wanted.base_index and meta.term == wanted.term
        return False

    def __str__(self) -> str:
        """Return what there is, in a few words."""
        last = name_of(self.batches[-1]) if self.batches else "no batch"
        state = self.hard_state
        return f"term {state.term}, vote {state.vote}, {len(self.batches)}, {last}"
