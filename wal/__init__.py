"""A write-ahead log: frames, segments and group commit. It knows nothing of Raft.

Start with `Log.open`; the byte layouts are in `wal.frame` and `wal.segment`, the write path in
`wal.committer`, the reading path in `wal.recovery`.
"""

from wal.committer import AppendHandle, Committer, CommitterState, Job
from wal.driver import Driver, InlineDriver, JobRunner, ThreadDriver
from wal.errors import (
    ClosedLogError,
    CorruptLogError,
    DiskFullError,
    FrameError,
    IdentityMismatchError,
    LockedError,
    LostLogError,
    OtherFormatError,
    PoisonedLogError,
    RecordTooLargeError,
    ReleasedError,
    TornTailError,
    WalError,
)
from wal.filesystem import File, Filesystem, OsFilesystem
from wal.frame import Kind, Record, RecordHeader, batch_record, hard_state_record
from wal.log import Log, LogStats, OpenOptions, inline_driver, pipeline_driver, thread_driver
from wal.pipeline import PipelineDriver
from wal.policy import SyncPolicy
from wal.recovery import BatchRef, GroupLog, Recovered, TornTail, recover
from wal.segment import LogIdentity
from wal.segment_io import SegmentIO

__all__ = [
    "AppendHandle",
    "BatchRef",
    "ClosedLogError",
    "Committer",
    "CommitterState",
    "CorruptLogError",
    "DiskFullError",
    "Driver",
    "File",
    "Filesystem",
    "FrameError",
    "GroupLog",
    "IdentityMismatchError",
    "InlineDriver",
    "Job",
    "JobRunner",
    "Kind",
    "LockedError",
    "Log",
    "LogIdentity",
    "LogStats",
    "LostLogError",
    "OpenOptions",
    "OsFilesystem",
    "OtherFormatError",
    "PipelineDriver",
    "PoisonedLogError",
    "Record",
    "RecordHeader",
    "RecordTooLargeError",
    "Recovered",
    "ReleasedError",
    "SegmentIO",
    "SyncPolicy",
    "ThreadDriver",
    "TornTail",
    "TornTailError",
    "WalError",
    "batch_record",
    "hard_state_record",
    "inline_driver",
    "pipeline_driver",
    "recover",
    "thread_driver",
]
