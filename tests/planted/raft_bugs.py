"""Bugs that people have really written, planted by patching the product from outside.

Each is a context manager; within it every simulated cluster has the bug. A simulator that does not
find them proves nothing by being green.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import node.raft.electing as electing_module
import node.raft.following as following_module
import node.raft.quorum as quorum_module
from node.kv.sessions import Session, SessionTable
from node.ports import Outcome
from node.raft.core import Core
from node.raft.log_view import LogView
from node.raft.messages import Append, AppendReply, Heartbeat, Message, Vote
from node.raft.quorum import quorum_index
from node.raft.replication import Accepted, Refused, judge_append
from node.raft.types import (
    Batch,
    Index,
    PersistToken,
    ReadContext,
    ReadGrant,
    Ready,
    Role,
)
from node.runtime import GroupRuntime
from wal import AppendHandle, Job, JobRunner, SegmentIO
from wal import log as log_module
from wal.operations import Operation, Sync, SyncDir

Planted = Callable[[], AbstractContextManager[object]]


def vote_not_persisted() -> AbstractContextManager[object]:
    """A granted vote is only in memory: after a restart the node votes again."""
    original = Core._on_vote

    def planted(self: Core, message: Vote, now: int) -> None:
        dirty = self._hard_dirty
        original(self, message, now)
        self._hard_dirty = dirty

    return patch.object(Core, "_on_vote", planted)


def ack_before_fsync() -> AbstractContextManager[object]:
    """Acks and votes leave while the disk still writes."""
    original = Core.ready

    def planted(self: Core, now: int) -> Ready:
        ready = original(self, now)
        early = ready.send_now + ready.send_after_sync
        return replace(ready, send_now=early, send_after_sync=())

    return patch.object(Core, "ready", planted)


def commit_of_an_older_term() -> AbstractContextManager[object]:
    """Entries of older terms are committed by counting replicas (Raft figure 8)."""

    def planted(self: Core) -> None:
        matches = [progress.match for progress in self.progress.values()]
        self._commit_up_to(quorum_index([self.durable_index, *matches]))

    return patch.object(Core, "_advance_commit", planted)


def unconditional_truncation() -> AbstractContextManager[object]:
    """Every Append replaces the rest of the log, so a stale short one cuts what was acked."""

    def planted(log: LogView, commit: Index, message: Append) -> Accepted | Refused | None:
        outcome = judge_append(log, commit, message)
        if not isinstance(outcome, Accepted):
            return outcome
        new = tuple(
            batch
            for batch in message.batches
            if isinstance(batch, Batch) and batch.meta.base_index > commit
        )
        first = Index(max(message.prev_index, commit) + 1)
        return Accepted(outcome.verified, first if first <= log.last_index else None, new)

    return patch.object(following_module, "judge_append", planted)


def commit_beyond_the_verified_prefix() -> AbstractContextManager[object]:
    """A heartbeat commits up to the follower's own last index, matching or not."""
    original = Core._on_heartbeat

    def planted(self: Core, message: Heartbeat, now: int) -> None:
        self._verified = self.log.last_index
        original(self, message, now)

    return patch.object(Core, "_on_heartbeat", planted)


def read_without_a_round() -> AbstractContextManager[object]:
    """A leader answers reads at once, though it may have been replaced (thesis §6.4)."""

    def planted(self: Core, context: ReadContext) -> None:
        ok = self.role is Role.LEADER and self.log.term_at(self.commit) == self.term
        self._grants.append(ReadGrant(context, self.commit, ok))

    return patch.object(Core, "read", planted)


def read_before_the_term_commits() -> AbstractContextManager[object]:
    """Reads are registered before an entry of the leader's term is committed (etcd#7331)."""

    def planted(self: Core, now: int) -> None:
        if self._reads.register(self.commit):
            self._send_heartbeats(now)
            self._confirm_reads()

    return patch.object(Core, "_start_read_round", planted)


def duplicate_apply() -> AbstractContextManager[object]:
    """Sessions forget their answers: a retried operation is applied again."""

    def planted(self: SessionTable, session: Session, seq: int, outcome: Outcome) -> None:
        """Keep nothing."""

    def planted_run(
        self: SessionTable, session: Session, first: int, count: int, revision: int
    ) -> None:
        """Keep nothing."""

    return patch.multiple(SessionTable, record=planted, record_run=planted_run)


def late_completion_accepted() -> AbstractContextManager[object]:
    """A completion of entries that were overwritten since counts for the new ones (ABA)."""
    original = Core.persisted

    def planted(self: Core, token: PersistToken, now: int) -> None:
        original(self, replace(token, epoch=self._epoch), now)

    return patch.object(Core, "persisted", planted)


def leader_counts_its_last_index() -> AbstractContextManager[object]:
    """The leader counts itself before its own disk has written (thesis §10.2.1)."""

    def planted(self: Core) -> None:
        matches = [progress.match for progress in self.progress.values()]
        index = Index(quorum_index([self.log.last_index, *matches]))
        if index > self.commit and self.log.term_at(index) == self.term:
            self._commit_up_to(index)

    return patch.object(Core, "_advance_commit", planted)


def vote_for_an_older_log() -> AbstractContextManager[object]:
    """Votes are granted whatever the candidate's log lacks (Raft §5.4.1)."""

    def planted(log: LogView, last_index: Index, last_term: int) -> bool:
        return True

    return patch.object(electing_module, "is_up_to_date", planted)


def votes_compared_by_index() -> AbstractContextManager[object]:
    """Logs are compared by length alone."""

    def planted(log: LogView, last_index: Index, last_term: int) -> bool:
        return last_index >= log.last_index

    return patch.object(electing_module, "is_up_to_date", planted)


def half_is_a_majority() -> AbstractContextManager[object]:
    """One node too few makes a quorum."""

    def planted(voters: int) -> int:
        return max(1, voters // 2)

    return patch.object(quorum_module, "quorum_size", planted)


def fsync_skipped() -> AbstractContextManager[object]:
    """The log says that it has synced, and has not."""
    return _perform_without(Sync)


def directory_not_synced() -> AbstractContextManager[object]:
    """A new segment's name is not made durable."""
    return _perform_without(SyncDir)


def _perform_without(kind: type[Any]) -> AbstractContextManager[object]:
    original = SegmentIO.perform

    def planted(self: SegmentIO, operation: Operation) -> None:
        if not isinstance(operation, kind):
            original(self, operation)

    return patch.object(SegmentIO, "perform", planted)


def read_before_it_is_applied() -> AbstractContextManager[object]:
    """A granted read is served from a state that has not reached its index."""

    def planted(self: GroupRuntime) -> None:
        while self._granted:
            self._answer_read(self._granted.popleft()[1])

    return patch.object(GroupRuntime, "_serve_granted", planted)


def ack_overtakes_its_fsync() -> AbstractContextManager[object]:
    """A repeated Append is acked at once, though the first copy is still on its way to the disk."""
    original = Core.ready

    def planted(self: Core, now: int) -> Ready:
        ready = original(self, now)
        acks = tuple(m for m in ready.send_after_sync if isinstance(m, AppendReply))
        if ready.token is not None or not acks:
            return ready
        return replace(ready, send_now=ready.send_now + acks, send_after_sync=())

    return patch.object(Core, "ready", planted)


def refusals_do_not_move_the_probe() -> AbstractContextManager[object]:
    """A refused Append is sent again from the same place for ever (a probe's dead end)."""
    original = Core._on_append_reply

    def planted(self: Core, message: AppendReply, now: int) -> None:
        if message.ok:
            original(self, message, now)

    return patch.object(Core, "_on_append_reply", planted)


def failed_fsync_is_forgotten() -> AbstractContextManager[object]:
    """A sync that failed counts as done: the pages it covered are gone (fsyncgate)."""
    original = JobRunner.settle

    def planted(
        self: JobRunner, job: Job, failure: tuple[OSError, bool] | None
    ) -> list[AppendHandle]:
        return original(self, job, None if failure is not None and failure[1] else failure)

    return patch.object(JobRunner, "settle", planted)


def torn_tail_is_kept() -> AbstractContextManager[object]:
    """What a crash left behind the last whole frame is not cut before the log goes on."""

    def planted(fs: object, found: object) -> None:
        """Cut nothing."""

    return patch.object(log_module, "cut", planted)


def sessions_lost_in_a_snapshot() -> AbstractContextManager[object]:
    """A snapshot keeps the keys and forgets who was answered what."""
    original = SessionTable.load

    def planted(self: SessionTable, data: bytes) -> None:
        original(self, b"")

    return patch.object(SessionTable, "load", planted)


def leader_clings_to_its_lead() -> AbstractContextManager[object]:
    """A leader that hears a later term goes on leading in its own."""
    original = Core.step

    def planted(self: Core, message: Message, now: int) -> None:
        if self.role is Role.LEADER and message.term > self.term:
            return
        original(self, message, now)

    return patch.object(Core, "step", planted)


THE_FIVE: dict[str, Planted] = {
    "vote not persisted": vote_not_persisted,
    "ack before fsync": ack_before_fsync,
    "commit of an older term": commit_of_an_older_term,
    "unconditional truncation": unconditional_truncation,
    "commit beyond the verified prefix": commit_beyond_the_verified_prefix,
}
"""What the first simulator must find."""

MORE: dict[str, Planted] = {
    "read without a round": read_without_a_round,
    "duplicate apply": duplicate_apply,
    "leader counts its last index": leader_counts_its_last_index,
    "ack overtakes its fsync": ack_overtakes_its_fsync,
    "vote for an older log": vote_for_an_older_log,
    "half is a majority": half_is_a_majority,
    "fsync skipped": fsync_skipped,
    "directory not synced": directory_not_synced,
    "refusals do not move the probe": refusals_do_not_move_the_probe,
    "failed fsync is forgotten": failed_fsync_is_forgotten,
    "sessions lost in a snapshot": sessions_lost_in_a_snapshot,
    "leader clings to its lead": leader_clings_to_its_lead,
}

RARE: dict[str, Planted] = {
    "read before the term commits": read_before_the_term_commits,
    "read before it is applied": read_before_it_is_applied,
    "torn tail is kept": torn_tail_is_kept,
    "late completion accepted": late_completion_accepted,
    "votes compared by index": votes_compared_by_index,
}
"""They need a coincidence: about a hundred seeds and more."""
