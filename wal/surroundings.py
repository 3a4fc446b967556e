"""What is done around the head of a segment: blocks prepared ahead, the page cache looked after behind.

Each takes what a policy says, moves the marks in `Head`, and returns operations, often none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wal.job import Head
from wal.operations import Allocate, DropCache, Operation, StartWriteback, ZeroFill
from wal.policy import SyncPolicy
from wal.segment import position_at, segment_name

__all__ = ["DROP_STEP_BYTES", "drop_behind", "drop_rest", "prepare_ahead", "write_behind"]

DROP_STEP_BYTES: Final = 1 << 20
"""The page cache is told to forget so much at a time: a call per MiB, not per job."""
_PAGE_BYTES: Final = 4096


def prepare_ahead(policy: SyncPolicy, head: Head) -> Sequence[Operation]:
    """Write zeros or reserve blocks in steps, so that the head never meets a missing block."""
    if policy.prepare == "append" or head.offset <= head.filled_to:
        return ()
    name, begin = segment_name(head.number), head.filled_to
    step_end = min(begin + policy.fill_step_bytes, policy.segment_bytes)
    head.filled_to = max(head.offset, step_end)
    if policy.prepare == "fallocate":
        return (Allocate(name, head.filled_to),)
    return (ZeroFill(name, begin, head.filled_to - begin),)


def drop_behind(policy: SyncPolicy, head: Head) -> Sequence[Operation]:
    """Let the page cache forget what is durable; the page that holds the end of it stays."""
    if policy.page_cache != "drop" or head.durable < position_at(head.number, 0):
        return ()
    begin = head.dropped_to
    end = (head.durable - position_at(head.number, 0)) & -_PAGE_BYTES
    if end - begin < DROP_STEP_BYTES:
        return ()
    head.dropped_to = end
    return (DropCache(segment_name(head.number), begin, end - begin),)


def drop_rest(policy: SyncPolicy, head: Head) -> Sequence[Operation]:
    """Do so for the rest of a segment that is full and durable."""
    if policy.page_cache != "drop" or head.dropped_to >= head.offset:
        return ()
    begin, head.dropped_to = head.dropped_to, head.offset
    return (DropCache(segment_name(head.number), begin, head.offset - begin),)


def write_behind(policy: SyncPolicy, head: Head, size: int) -> Sequence[Operation]:
    """Ask for the writing of what is dirty, `size` bytes more than before, once it is enough."""
    head.dirty += size
    if not policy.writeback_bytes or head.dirty < policy.writeback_bytes:
        return ()
    dirty, head.dirty = head.dirty, 0
    return (StartWriteback(segment_name(head.number), head.offset - dirty, dirty),)
