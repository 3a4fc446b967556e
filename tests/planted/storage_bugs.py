"""Bugs of logs that are used again and of snapshots, planted by patching the product from outside.

Each is a context manager, as in `raft_bugs`. None shows before the power fails or a process dies at
a certain operation of the disk: `cluster.sim.crash_points` is on trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from cluster.sim.disk import SimDisk
from node.ports import SnapshotDone
from node.snapshots import SnapshotStore, SnapshotWriter
from wal import SegmentIO
from wal.committer import AppendHandle, Committer, Job
from wal.frame import Kind, fields_of
from wal.operations import Operation, SyncDir, Unlink
from wal.segment import GroupCheckpoint
from wal.tail import GroupTail

Planted = Callable[[], AbstractContextManager[object]]


def release_before_the_checkpoint() -> AbstractContextManager[object]:
    """The write that makes old segments unneeded gives them back before it is synced."""
    original = Committer._build

    def planted(self: Committer) -> Job:
        job = original(self)
        head = self.head
        freed: list[Operation] = []
        while head.oldest < head.number and not is_needed(self, head.oldest):
            size = self.segment_sizes.pop(head.oldest, 0)
            freed += [self.pool.retire(head.oldest, size), SyncDir()]
            head.oldest += 1
        return replace(job, operations=(*job.operations[:-1], *freed, job.operations[-1]))

    return patch.object(Committer, "_build", planted)


def is_needed(committer: Committer, number: int) -> bool:
    return any(number in tail.segments for tail in committer.groups.values())


def reuse_before_the_release() -> AbstractContextManager[object]:
    """A segment is given back, and used again, while the RELEASE that allows it is queued."""

    def free(committer: Committer, group: int, index: int) -> None:
        tail = committer.groups.get(group)
        while tail is not None and tail.live and tail.live[0][1] <= index:
            tail._drop(tail.live.popleft())
            committer._may_retire = True

    return _ahead_of_the_disk(int(Kind.RELEASE), free)


def copy_counts_when_queued() -> AbstractContextManager[object]:
    """A batch that is appended again is looked for at its new place before it is written there."""

    def free(committer: Committer, group: int, index: int) -> None:
        tail = committer.groups.get(group)
        for base, last, _ in list(tail.live) if tail is not None else ():
            if base == index and tail is not None:
                tail._move(base, last, committer.head.position)
                committer._may_retire = True

    return _ahead_of_the_disk(int(Kind.BATCH), free)


def _ahead_of_the_disk(
    kind: int, free: Callable[[Committer, int, int], None]
) -> AbstractContextManager[object]:
    """Let `free` see the records of a kind when they are queued."""
    original = Committer._enqueue

    def planted(self: Committer, handle: AppendHandle, bounds_behind: Any) -> None:
        original(self, handle, bounds_behind)
        for record in handle.records:
            fields = fields_of(record.header)
            if fields[0] == kind and (handle.again or kind != Kind.BATCH):
                free(self, fields[1], fields[4])

    return patch.object(Committer, "_enqueue", planted)


def snapshot_renamed_without_a_directory_sync() -> AbstractContextManager[object]:
    """The file of a snapshot is durable, and its name is not."""
    original = SegmentIO.perform

    def planted(self: SegmentIO, operation: Operation) -> None:
        if not (isinstance(operation, SyncDir) and self._directory == "snap"):
            original(self, operation)

    return patch.object(SegmentIO, "perform", planted)


def snapshot_believed_before_it_is_durable() -> AbstractContextManager[object]:
    """The log is released as soon as a snapshot has been read out."""
    original = SnapshotWriter.finish

    def planted(self: SnapshotWriter) -> None:
        original(self)
        self._store.completed(SnapshotDone(self._group, self._place, None))

    def untold(self: SnapshotWriter, error: OSError | None) -> None:
        """Tell nobody: it was told before."""

    planting = ExitStack()
    planting.enter_context(patch.object(SnapshotWriter, "finish", planted))
    planting.enter_context(patch.object(SnapshotWriter, "_finished", untold))
    return planting


def old_snapshots_removed_first() -> AbstractContextManager[object]:
    """The older snapshots go before the name of the new one is durable."""
    original = SnapshotWriter._publish

    def planted(self: SnapshotWriter, older: Sequence[str]) -> None:
        self._store.runner.run([Unlink(name) for name in older], None)
        original(self, ())

    return patch.object(SnapshotWriter, "_publish", planted)


def names_of_snapshots_believed_at_a_start() -> AbstractContextManager[object]:
    """A name that a killed process left is taken for durable: the bug that this matrix found."""
    original = SnapshotStore.__init__

    def planted(self: SnapshotStore, *arguments: Any) -> None:
        with patch.object(SimDisk, "sync_dir", lambda self, path: None):
            original(self, *arguments)

    return patch.object(SnapshotStore, "__init__", planted)


def checkpoint_without_the_vote() -> AbstractContextManager[object]:
    """A quiet group's vote goes with the segment that it was written to."""
    original = GroupTail.checkpoint

    def planted(self: GroupTail, group: int) -> GroupCheckpoint:
        vote, self.vote = self.vote, 0
        try:
            return original(self, group)
        finally:
            self.vote = vote

    return patch.object(GroupTail, "checkpoint", planted)


STORAGE: dict[str, Planted] = {
    "release before the checkpoint": release_before_the_checkpoint,
    "reuse before the release": reuse_before_the_release,
    "copy counts when queued": copy_counts_when_queued,
    "snapshot renamed without a directory sync": snapshot_renamed_without_a_directory_sync,
    "snapshot believed before it is durable": snapshot_believed_before_it_is_durable,
    "old snapshots removed first": old_snapshots_removed_first,
    "names of snapshots believed at a start": names_of_snapshots_believed_at_a_start,
    "checkpoint without the vote": checkpoint_without_the_vote,
}
