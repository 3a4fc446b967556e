"""A write-ahead log: open, append, read back, release, stop. The package's front door.

In short:

    log, found = Log.open(OsFilesystem(), "/data/n1/wal", LogIdentity(cluster_id, 1))
    handle = log.append([batch_record(0, term, index, entries)])
    handle.wait()                       # durable
    log.release(0, index, term)         # nothing up to index is needed any more
    log.seal_and_close()
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from wal.checksum import crc32c
from wal.committer import AppendHandle, Committer, CommitterState, Head
from wal.driver import Driver, InlineDriver, JobRunner, OnComplete, ThreadDriver
from wal.errors import (
    ClosedLogError,
    CorruptLogError,
    FrameError,
    PoisonedLogError,
    ReleasedError,
    is_no_space,
)
from wal.filesystem import Filesystem, Lock, ReadFile, TunableFilesystem
from wal.frame import (
    FRAME_BYTES_MIN,
    HEADER_BYTES,
    PREFIX_BYTES,
    Kind,
    Record,
    RecordHeader,
    decode_prefix,
    record_of,
    release_record,
)
from wal.pipeline import PipelineDriver
from wal.policy import Capability, DriverName, Missing, SyncPolicy, needs, settle
from wal.pool import Spare
from wal.recovery import (
    BatchRef,
    Recovered,
    RecoveryMode,
    cut,
    recover,
    refuse_lost,
    refuse_torn,
)
from wal.sealed import forget_sealed, write_sealed
from wal.segment import (
    LOCK_NAME,
    LogIdentity,
    number_of_position,
    offset_of_position,
    segment_name,
    spare_number,
)
from wal.segment_io import SegmentIO
from wal.tail import GroupTail

__all__ = ["Log", "LogStats", "OpenOptions", "inline_driver", "pipeline_driver", "thread_driver"]

READERS_MAX: Final = 16
"""Segments kept open for reading: 1 GiB of followers' backlog at 64 MiB each."""

MakeDriver = Callable[[JobRunner, OnComplete], Driver]


def thread_driver(runner: JobRunner, on_complete: OnComplete) -> Driver:
    """Drive the log with a thread of its own (the default)."""
    return ThreadDriver(runner, on_complete)


def inline_driver(runner: JobRunner, on_complete: OnComplete) -> Driver:
    """Drive the log in the caller of `append`."""
    return InlineDriver(runner, on_complete)


def pipeline_driver(runner: JobRunner, on_complete: OnComplete) -> Driver:
    """Drive the log with a thread that writes and one that syncs."""
    return PipelineDriver(runner, on_complete)


_DRIVERS: Final[Mapping[DriverName, MakeDriver]] = {
    "thread": thread_driver,
    "inline": inline_driver,
    "pipeline": pipeline_driver,
}


def _no_clock() -> int:
    return 0


def _nobody(handles: Sequence[AppendHandle]) -> None:
    del handles  # nobody has asked to be told


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How to open a log."""

    policy: SyncPolicy = field(default_factory=SyncPolicy)
    make_driver: MakeDriver | None = None
    """Who performs the jobs; None: as the policy says."""
    draw_uid: Callable[[], int] = lambda: secrets.randbits(64)
    """A fresh random u64 per segment use; the simulator draws it from its seed."""
    clock: Callable[[], int] = _no_clock
    """A monotonic clock in ns, for latencies and for groups that gather. Without one latencies read
    0, and a policy with `gather_us` is refused."""
    recovery: RecoveryMode = "default"
    begun: bool = False
    """Whether the owner knows that a log was begun in this directory: none is then a loss."""


@dataclass(frozen=True, slots=True)
class LogStats:
    """What a log did since it was opened; latencies in ns over the last 512 jobs."""

    syncs: int
    jobs: int
    frames: int
    entries: int
    bytes_written: int
    queued_bytes: int
    segments: int
    spares: int
    head: int
    durable: int
    sync_p50_ns: int
    sync_p99_ns: int
    disk_full: bool
    segments_released: int
    segments_recycled: int
    bytes_copied: int
    sync_entries: tuple[int, ...]
    """Syncs by entries: bucket n counts those below 2^n, from 0; empty buckets at the end are cut."""
    sync_latency_us: tuple[int, ...]
    """Syncs by time in µs, likewise."""
    missing: tuple[Missing, ...]
    """What the policy asked for and the file system cannot do, and what happens instead."""


class Log:
    """An open log. One writer per directory; `append` and `read` from one thread."""

    def __init__(self, fs: Filesystem, directory: str, lock: Lock, runner: JobRunner) -> None:
        """Use `Log.open`."""
        self.directory = directory
        self.on_complete: OnComplete = _nobody
        """Called with completed (or failed) handles that have a context, on the driver's thread.
        A failure of the log's own records comes as a handle with `error` set."""
        self._fs = fs
        self._lock = lock
        self._runner = runner
        self._committer = runner.committer
        self._driver: Driver | None = None
        self._readers: OrderedDict[int, ReadFile] = OrderedDict()
        self._closed = False
        self._missing: tuple[Missing, ...] = ()

    @classmethod
    def open(
        cls,
        fs: Filesystem,
        directory: str,
        identity: LogIdentity,
        options: OpenOptions | None = None,
    ) -> tuple[Log, Recovered]:
        """Lock, recover and open a directory (created if absent); return the log and what it held.

        Raises LockedError, CorruptLogError, LostLogError (`OpenOptions.begun`), TornTailError
        (strict recovery), IdentityMismatchError, OtherFormatError: the directory is then unchanged.
        Raises OSError. The lock is given back in any case. What the policy asks for and the file
        system cannot do is in `LogStats.missing`.
        """
        options = options or OpenOptions()
        if options.policy.gather_us and options.clock is _no_clock:
            raise ValueError("a policy with gather_us needs OpenOptions.clock")
        fs.mkdirs(directory)
        with ExitStack() as undo:
            lock = fs.lock(f"{directory}/{LOCK_NAME}")
            undo.callback(lock.release)
            found = recover(fs, directory, identity)
            if options.begun:
                refuse_lost(found)
            if options.recovery == "strict":
                refuse_torn(found)
            _settle_end(fs, found)
            policy, missing = settle(options.policy, _present(fs, directory, options.policy))
            committer = _committer_at(fs, found, identity, replace(options, policy=policy))
            runner = JobRunner(committer, SegmentIO(fs, directory, policy), options.clock)
            log = cls(fs, directory, lock, runner)
            log._missing = missing
            make_driver = options.make_driver or _DRIVERS[policy.driver]
            log._driver = make_driver(runner, log._completed)
            undo.callback(log._driver.close)
            log.append([record_of(RecordHeader(Kind.OPEN))], context=_INTERNAL)
            undo.pop_all()
        return log, found

    def append(self, records: Sequence[Record], context: object = None) -> AppendHandle:
        """Queue records, in order, behind all earlier ones; the handle says when they are durable.

        In a buffered log it says when the operating system has them (`wal.policy.Commit`).
        A handle with a `context` completes through `on_complete`, one without by `wait`. Raises
        PoisonedLogError, DiskFullError (too much waits already), RecordTooLargeError,
        ClosedLogError. The batches of a group follow one another without a gap.
        """
        assert self._driver is not None
        return self._driver.submit(partial(self._committer.submit, records, context))

    def append_again(self, records: Sequence[Record], context: object = None) -> AppendHandle:
        """Queue copies of live batches, byte for byte; each then lies where its copy does.

        The older place stays readable until the handle is durable, and may be given back then. So
        a group that writes little does not keep segments that nobody else needs. Raises as
        `append` does.
        """
        assert self._driver is not None
        return self._driver.submit(lambda: self._committer.submit_again(records, context))

    def flush(self, context: object = None) -> AppendHandle:
        """Make all that was appended so far durable; the handle says when. Raises as `append` does.

        Only logs that gather or are buffered need it: others are on their way already.
        """
        assert self._driver is not None
        return self._driver.submit(lambda: self._committer.flush(context))

    def release(self, group: int, index: int, term: int) -> AppendHandle:
        """Record that `group` needs nothing up to `index`; frees segments once it is durable.

        It is taken even if too much waits already: it is how space returns.
        """
        self._close_released()
        assert self._driver is not None
        records = [release_record(group, index, term)]
        return self._driver.submit(lambda: self._committer.insist(records, _INTERNAL))

    def read(self, group: int, ref: BatchRef) -> Record:
        """Read a durable batch back; both CRCs and its place are checked.

        Raises CorruptLogError, ReleasedError, ClosedLogError; never returns damaged bytes.
        """
        try:
            return self._read(group, ref)
        except (FrameError, FileNotFoundError) as error:
            # The thread may have given the segment back meanwhile.
            self._check_readable(ref)
            raise CorruptLogError(
                self.directory,
                ref.position,
                str(error),
                cause=error if isinstance(error, FrameError) else None,
            ) from None

    def _read(self, group: int, ref: BatchRef) -> Record:
        self._close_released()
        self._check_readable(ref)
        number, offset = number_of_position(ref.position), offset_of_position(ref.position)
        view = memoryview(self._reader(number).pread(FRAME_BYTES_MIN + ref.size, offset))
        decode_prefix(view[:FRAME_BYTES_MIN])
        header = RecordHeader.unpack(view[PREFIX_BYTES:FRAME_BYTES_MIN])
        found = (header.group, header.term, header.base_index, header.payload_len)
        if header.kind is not Kind.BATCH or found != (group, ref.term, ref.base_index, ref.size):
            raise FrameError("another record stands here")
        body = view[FRAME_BYTES_MIN:]
        computed = crc32c(body)
        if computed != header.payload_crc:
            raise FrameError("body CRC", header.payload_crc, computed)
        return Record(bytes(view[PREFIX_BYTES : PREFIX_BYTES + HEADER_BYTES]), body)

    def _check_readable(self, ref: BatchRef) -> None:
        if self._closed:
            raise ClosedLogError("the log is closed")
        number = number_of_position(ref.position)
        if number < self._committer.head.oldest:
            raise ReleasedError(f"{segment_name(number)} was given back: nothing in it is needed")

    @property
    def disk_full(self) -> bool:
        """Whether a job waits for space; see `retry`."""
        return self._committer.state is CommitterState.FULL

    @property
    def segment_bytes(self) -> int:
        """About what a segment holds."""
        return self._committer.policy.segment_bytes

    @property
    def head_number(self) -> int:
        """Number of the segment that is being written; 0 before the first."""
        return self._committer.head.number

    @property
    def queued_bytes(self) -> int:
        """Bytes submitted and not yet durable."""
        return self._committer.queued_bytes

    def retry(self) -> None:
        """Try a job that found no space again; the caller decides how often."""
        assert self._driver is not None
        self._driver.retry()

    def stats(self) -> LogStats:
        """Return counters and latencies."""
        runner, committer = self._runner, self._committer
        head = committer.head
        half, most = runner.times.quantiles(0.5, 0.99)
        return LogStats(
            syncs=runner.syncs,
            jobs=runner.jobs,
            frames=runner.frames,
            entries=runner.entries,
            bytes_written=runner.bytes_written,
            queued_bytes=committer.queued_bytes,
            segments=head.number - head.oldest + 1 if head.number else 0,
            spares=len(committer.pool),
            head=head.position,
            durable=head.durable,
            sync_p50_ns=half,
            sync_p99_ns=most,
            disk_full=self.disk_full,
            segments_released=committer.segments_released,
            segments_recycled=committer.segments_recycled,
            bytes_copied=committer.bytes_copied,
            sync_entries=_trimmed(runner.sync_entries),
            sync_latency_us=_trimmed(runner.sync_latency_us),
            missing=self._missing,
        )

    def seal_and_close(self) -> bool:
        """Stop cleanly: everything queued is durable, and so is the fact that it ended here.

        After it, damage of any byte of the log is recognised as corruption. Returns False for a log
        that is closed without a seal: it is poisoned, or has no space even now. Handles that wait
        then end with an error. A second call, also after `abort`, does nothing.
        """
        if self._closed:
            return False
        assert self._driver is not None
        try:
            with suppress(PoisonedLogError):  # then the state below says so
                self._driver.submit(lambda: self._committer.seal(_INTERNAL))
            if self.disk_full:
                self._driver.retry()
            self._driver.close()
            head = self._committer.head
            running = self._committer.state is CommitterState.RUNNING
            return running and head.durable == head.position and self._write_sealed(head.position)
        finally:
            self._release()

    def _write_sealed(self, end: int) -> bool:
        try:
            write_sealed(self._fs, self.directory, end)
        except OSError as error:
            if is_no_space(error):
                return False
            raise
        return True

    def abort(self) -> None:
        """Close without a seal, as after a crash; what is queued may or may not be written."""
        if self._closed:
            return
        assert self._driver is not None
        try:
            self._driver.close()
        finally:
            self._release()

    def _release(self) -> None:
        """Give back what is open, and end the waiting of whoever still waits."""
        self._closed = True
        try:
            victims = self._committer.close()
            for handle in victims:
                handle.settle()
            if victims:
                self._completed(victims)
            for file in self._readers.values():
                file.close()
            self._readers.clear()
        finally:
            self._lock.release()

    def _completed(self, handles: Sequence[AppendHandle]) -> None:
        told = []
        for handle in handles:
            context = handle.context
            if context is not None and (context is not _INTERNAL or handle.error is not None):
                told.append(handle)
        if told:
            self.on_complete(told)

    def _close_released(self) -> None:
        """Close the files of segments that were given back: an open file keeps its blocks."""
        oldest = self._committer.head.oldest
        for number in [each for each in self._readers if each < oldest]:
            self._readers.pop(number).close()

    def _reader(self, number: int) -> ReadFile:
        file = self._readers.get(number)
        if file is None:
            file = self._fs.open_read(f"{self.directory}/{segment_name(number)}")
            self._readers[number] = file
            if len(self._readers) > READERS_MAX:
                self._readers.popitem(last=False)[1].close()
        else:
            self._readers.move_to_end(number)
        return file


def _trimmed(buckets: Sequence[int]) -> tuple[int, ...]:
    """Return the buckets up to the last one that counted."""
    used = len(buckets)
    while used and not buckets[used - 1]:
        used -= 1
    return tuple(buckets[:used])


_INTERNAL: Final = object()
"""Context of the log's own records: nobody waits for them."""


def _present(fs: Filesystem, directory: str, policy: SyncPolicy) -> frozenset[Capability]:
    """Return what a file system can do, as far as the policy wants to know."""
    if not needs(policy):
        return frozenset()
    if isinstance(fs, TunableFilesystem):
        return fs.capabilities(directory)
    return frozenset({"fallocate"})  # `File.allocate`, which every file system of ours has


def _settle_end(fs: Filesystem, found: Recovered) -> None:
    """Cut what was never acknowledged, then forget the clean stop; durable before any append."""
    if not found.sealed:
        cut(fs, found)
    forget_sealed(fs, found.directory)


def _committer_at(
    fs: Filesystem, found: Recovered, identity: LogIdentity, options: OpenOptions
) -> Committer:
    """Return a committer that continues where the log ends."""
    groups = {
        number: GroupTail(log.term, log.vote, log.config, log.released_index, log.released_term)
        for number, log in found.groups.items()
    }
    for number, log in found.groups.items():
        for ref in log.batches:
            groups[number].add(ref.base_index, ref.last_index, ref.position)
    head = Head(sequence=found.sequence)
    sizes = dict(found.segments)
    if found.number:
        head.number, head.uid = found.number, found.uid
        head.offset = offset_of_position(found.end)
        size = sizes.pop(found.number)
        head.filled_to = size if found.sealed else head.offset
        head.durable = found.end
        head.oldest = min(found.segments)
    committer = Committer(options.policy, identity, head, groups, options.draw_uid)
    committer.segment_sizes = sizes
    _find_spares(fs, found.directory, committer)
    return committer


def _find_spares(fs: Filesystem, directory: str, committer: Committer) -> None:
    """Offer the spare files of a directory to the pool; remove those that it does not keep."""
    for name in fs.listdir(directory):
        if spare_number(name) is None:
            continue
        with closing(fs.open_read(f"{directory}/{name}")) as file:
            spare = Spare(name, file.size())
        if not committer.pool.add(spare):
            fs.unlink(f"{directory}/{name}")
