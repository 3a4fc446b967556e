"""Each optimisation is one field of the policy: what it does to the disk, and what it promises."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import (
    DIRECTORY,
    IDENTITY,
    POLICIES,
    SMALL,
    StepDriver,
    batch,
    open_log,
    spans,
    uids,
)
from wal import AppendHandle, JobRunner, Log, OpenOptions, OsFilesystem, SyncPolicy, recover
from wal.driver import OnComplete
from wal.operations import DropCache, StartWriteback, Sync, Write
from wal.policy import PRESETS, TUNING, needs, policy_of_text, settle

MS = 1_000_000


def policy(text: str) -> SyncPolicy:
    return policy_of_text(text, SMALL)


class Desk:
    """A log whose jobs are performed when a test says so, at a time that the test sets."""

    def __init__(self, text: str, fs: CrashFilesystem | None = None) -> None:
        self.fs = fs or CrashFilesystem()
        self.now_ns = 0
        self.done: list[str] = []
        drivers: list[StepDriver] = []

        def make(runner: JobRunner, on_complete: OnComplete) -> StepDriver:
            drivers.append(StepDriver(runner, on_complete))
            return drivers[0]

        options = OpenOptions(policy(text), make, uids(), clock=lambda: self.now_ns)
        self.log, self.found = Log.open(self.fs, DIRECTORY, IDENTITY, options)
        (self.driver,) = drivers
        self.committer = self.driver.runner.committer
        while self.driver.pump():
            pass
        self.next_index = 1 + max((last for _, _, last in spans(self.found)), default=0)
        self.fs.before = lambda operation, path: self.done.append(operation)

    def append(self, records: int = 1, size: int = 100) -> list[AppendHandle]:
        """Append so many batches, one by one."""
        handles = []
        for _ in range(records):
            handles.append(self.log.append([batch(self.next_index, size=size)], context="c"))
            self.next_index += 1
        return handles

    def pump(self) -> int:
        """Perform what is due at this moment; return how many jobs that were."""
        jobs = 0
        while (job := self.committer.next_job(self.now_ns)) is not None:
            self.driver.runner.settle(job, self.driver.runner.perform(job))
            jobs += 1
        return jobs

    def calls(self) -> list[str]:
        """Return what was done to the disk since the last call."""
        calls, self.done[:] = list(self.done), []
        return calls

    def reopened(self) -> list[tuple[int, int, int]]:
        """Return what another process finds."""
        self.fs.kill()
        return spans(recover(self.fs, DIRECTORY))


# ---- what is written and synced --------------------------------------------------------------


def test_the_naive_log_writes_and_syncs_every_record_however_many_wait() -> None:
    desk = Desk("naive")
    desk.append(20)
    assert desk.pump() == 20
    assert desk.calls() == ["pwritev", "sync"] * 20


def test_natural_batching_writes_and_syncs_once_what_waits() -> None:
    desk = Desk("natural")
    desk.append(20)
    assert desk.pump() == 1
    assert desk.calls() == ["pwritev", "datasync"]


def test_a_group_by_count_is_written_when_it_is_full_and_holds_no_more() -> None:
    desk = Desk("gather_us=10000,gather_records=10")
    handles = desk.append(9)
    assert desk.pump() == 0
    handles += desk.append(16)
    assert desk.pump() == 2
    assert desk.calls() == ["pwritev", "datasync"] * 2
    assert [handle.durable for handle in handles] == [True] * 20 + [False] * 5


def test_a_group_by_bytes_is_written_when_it_is_large_enough() -> None:
    desk = Desk("gather_us=10000,gather_bytes=4096")
    handles = desk.append(20)
    size = handles[0].size
    assert size * 20 < 4096
    assert desk.pump() == 0
    handles += desk.append(2)
    assert desk.pump() == 1
    assert sum(handle.durable for handle in handles) == 4096 // size
    assert desk.calls() == ["pwritev", "datasync"]


def test_a_group_by_time_is_written_when_it_has_waited_long_enough() -> None:
    desk = Desk("gather_us=3000")
    desk.now_ns = 7 * MS
    (first,) = desk.append()
    assert desk.pump() == 0
    assert desk.committer.wake_at_ns == 10 * MS
    desk.now_ns = 10 * MS - 1
    (second,) = desk.append()
    assert desk.pump() == 0
    desk.now_ns += 1
    assert desk.pump() == 1
    assert first.durable
    assert second.durable
    assert desk.committer.wake_at_ns is None
    desk.append()
    assert desk.pump() == 0
    assert desk.committer.wake_at_ns == 13 * MS, "the next group has a time of its own"


def test_a_flush_ends_the_gathering_and_so_does_a_clean_stop() -> None:
    desk = Desk("gather_us=1000000,gather_records=100")
    (waiting,) = desk.append()
    assert desk.pump() == 0
    flushed = desk.log.flush(context="f")
    assert desk.pump() == 1
    assert desk.calls() == ["pwritev", "datasync"]
    assert waiting.durable
    assert flushed.durable
    desk.append()
    assert desk.pump() == 0, "a flush is for what was there before it"
    assert desk.log.seal_and_close()
    assert len(desk.reopened()) == 2


def test_a_flush_of_a_log_with_nothing_to_do_completes() -> None:
    desk = Desk("natural")
    handles = [desk.log.flush(context="f"), desk.log.flush(context="f")]
    assert desk.pump() == 1
    assert all(handle.durable for handle in handles)
    assert desk.log.stats().frames == 1, "a flush is no record"


def test_a_group_needs_a_clock() -> None:
    with pytest.raises(ValueError, match="needs OpenOptions"):
        open_log(CrashFilesystem(), policy=policy("gather_us=1000,driver=thread"))


# ---- buffered --------------------------------------------------------------------------------


def test_a_buffered_log_completes_what_is_written_and_says_that_it_is_not_durable() -> None:
    desk = Desk("buffered")
    handles = desk.append(5)
    desk.pump()
    assert desk.calls() == ["pwritev"]
    assert all(handle.complete and not handle.durable for handle in handles)
    stats = desk.log.stats()
    assert stats.durable < stats.head
    flushed = desk.log.flush(context="f")
    desk.pump()
    assert flushed.durable
    assert desk.calls() == ["datasync"]
    assert desk.log.stats().durable == desk.log.stats().head


def test_a_buffered_log_syncs_a_segment_before_the_next_one_begins() -> None:
    desk = Desk("buffered,prepare=append")
    while desk.committer.head.number == 1:
        desk.append(size=8000)
        desk.pump()
    calls = desk.calls()
    assert calls[-4:] == ["datasync", "create", "sync_dir", "pwritev"]
    assert "datasync" not in calls[:-4]
    assert desk.log.stats().durable >> 32 == 1


def test_a_buffered_log_syncs_before_it_gives_a_segment_back() -> None:
    """A RELEASE that a power cut takes back must not have cost the segment that it names."""
    desk = Desk("buffered")
    while desk.committer.head.number < 3:
        desk.append(size=8000)
        desk.pump()
    desk.calls()
    desk.log.release(0, desk.next_index - 1, 1)
    desk.pump()
    calls = desk.calls()
    assert calls[:2] == ["pwritev", "datasync"]
    assert "rename" in calls[2:]
    assert desk.log.stats().segments == 1


def test_a_clean_stop_of_a_buffered_log_is_durable() -> None:
    desk = Desk("buffered")
    desk.append(3)
    assert desk.log.seal_and_close()
    desk.fs.before = lambda operation, path: None
    import random

    desk.fs.power_cut(random.Random(1))
    found = recover(desk.fs, DIRECTORY)
    assert found.sealed
    assert len(spans(found)) == 3


def test_a_buffered_log_asks_for_the_writing_of_what_is_dirty() -> None:
    desk = Desk("buffered,writeback_bytes=8192,prepare=append")
    before = desk.committer.head.offset
    for _ in range(6):
        desk.append(size=4000)
        desk.pump()
    assert [kind for kind, _, _ in desk.fs.advice] == ["write"] * 3
    covered = desk.fs.advice[-1][1] + desk.fs.advice[-1][2]
    assert covered == desk.committer.head.offset
    assert desk.fs.advice[0][1] <= before


# ---- how the file is written -----------------------------------------------------------------


def test_o_dsync_makes_a_write_durable_without_a_second_call() -> None:
    desk = Desk("sync=o_dsync")
    handles = desk.append(3)
    job = desk.committer.next_job()
    assert job is not None
    assert desk.driver.runner.perform(job) is None
    desk.driver.runner.settle(job, None)
    assert [type(operation) for operation in job.operations] == [Write]
    assert job.syncs == 1
    assert all(handle.durable for handle in handles)


def test_direct_writes_cover_whole_blocks_and_keep_what_stood_there() -> None:
    """`CrashFile` refuses any other; what a reader finds is what a cached log would hold."""
    direct, cached = Desk("io=direct,prepare=append"), Desk("prepare=append")
    for size in (1, 100, 3000, 3900, 5, 9000, 4096 - 200, 70):
        for desk in (direct, cached):
            desk.append(size=size)
            desk.pump()
    for name in cached.fs.listdir(DIRECTORY):
        content = cached.fs.read(f"{DIRECTORY}/{name}")
        block = direct.fs.read(f"{DIRECTORY}/{name}")
        assert block[: len(content)] == content
        assert not any(block[len(content) :])
        assert len(block) % 4096 == 0 or name == "LOCK"


def test_a_direct_log_goes_on_behind_a_tail_that_fills_no_block() -> None:
    desk = Desk("io=direct")
    desk.append(3)
    desk.pump()
    desk.fs.kill()
    again = Desk("io=direct", desk.fs)
    assert again.committer.head.offset % 4096
    again.append(2)
    again.pump()
    assert [last for _, _, last in again.reopened()] == [1, 2, 3, 4, 5]


def test_a_recycled_segment_is_overwritten_in_blocks_too() -> None:
    desk = Desk("io=direct")
    for _ in range(40):
        desk.append(size=8000)
        desk.pump()
        desk.log.release(0, max(0, desk.next_index - 4), 1)
        desk.pump()
    assert desk.log.stats().segments_recycled >= 2
    assert desk.reopened()[-1] == (1, 40, 40)


def test_fallocate_reserves_in_steps() -> None:
    desk = Desk("prepare=fallocate")
    assert len(desk.fs.read(f"{DIRECTORY}/00000001.wal")) == SMALL.fill_step_bytes
    desk.append(size=20_000)
    desk.pump()
    assert desk.calls() == ["allocate", "pwritev", "datasync"]
    assert len(desk.fs.read(f"{DIRECTORY}/00000001.wal")) == 2 * SMALL.fill_step_bytes


def test_what_is_durable_leaves_the_page_cache_and_the_tail_block_stays() -> None:
    big = SyncPolicy(segment_bytes=4 << 20, fill_step_bytes=1 << 20, page_cache="drop")
    fs = CrashFilesystem()
    log, _ = open_log(fs, policy=big)
    for index in range(1, 80):
        log.append([batch(index, size=100_000)])
    dropped = [(start, start + length) for kind, start, length in fs.advice if kind == "drop"]
    assert len(dropped) >= 5
    ends = [end for _, end in dropped]
    assert all(start in (0, *ends) for start, _ in dropped), "nothing is left out"
    assert all(end % 4096 == 0 or end > 3 << 20 for end in ends), "but at a segment's end"
    log.abort()


def test_what_waits_for_a_sync_stays_in_the_page_cache() -> None:
    from wal.surroundings import DROP_STEP_BYTES

    fs = CrashFilesystem()
    text = "driver=pipeline,page_cache=drop,prepare=append"
    big = policy_of_text(text, SyncPolicy(segment_bytes=8 << 20))
    drivers: list[StepDriver] = []

    def make(runner: JobRunner, on_complete: OnComplete) -> StepDriver:
        drivers.append(StepDriver(runner, on_complete))
        return drivers[0]

    log, _ = Log.open(fs, DIRECTORY, IDENTITY, OpenOptions(big, make, uids()))
    while drivers[0].pump():
        pass
    jobs = []
    for index in range(1, 4):
        log.append([batch(index, size=DROP_STEP_BYTES)], context="c")
        jobs.append(log._committer.next_job())
    dropped = [
        each for job in jobs if job for each in job.operations if isinstance(each, DropCache)
    ]
    assert dropped == []
    assert jobs[0] is not None
    log._committer.done(jobs[0])
    log.append([batch(4)], context="c")
    job = log._committer.next_job()
    assert job is not None
    (drop,) = [each for each in job.operations if isinstance(each, DropCache)]
    assert drop.length == (log._committer.head.durable & 0xFFFF_FFFF) & ~4095


# ---- several jobs under way ------------------------------------------------------------------


def test_jobs_under_way_complete_up_to_the_one_that_was_synced() -> None:
    desk = Desk("driver=pipeline")
    handles, jobs = [], []
    for _ in range(3):
        handles += desk.append()
        job = desk.committer.next_job()
        assert job is not None
        jobs.append(job)
    completed = desk.committer.done(jobs[1])
    assert completed == handles[:2]
    assert desk.committer.head.durable == jobs[1].end
    assert [handle.durable for handle in handles] == [True, True, False]
    assert desk.committer.done(jobs[2]) == handles[2:]


def test_a_segment_begins_only_when_nothing_is_under_way() -> None:
    desk = Desk("driver=pipeline")
    jobs = []
    for _ in range(20):
        desk.append(size=15_000)
        if (job := desk.committer.next_job()) is None:
            break
        jobs.append(job)
    assert desk.committer.head.number == 1
    assert len(jobs) == 4, "four of 15,104 bytes find room in 64 KiB"
    desk.committer.done(jobs[-1])
    assert desk.committer.next_job() is not None
    assert desk.committer.head.number == 2


def test_so_many_jobs_are_under_way_and_no_more() -> None:
    from wal.committer import JOBS_MAX

    desk = Desk("driver=pipeline")
    for _ in range(JOBS_MAX):
        desk.append()
        assert desk.committer.next_job() is not None
    desk.append()
    assert desk.committer.next_job() is None


def test_a_flush_between_buffered_jobs_is_known_to_be_durable() -> None:
    """The marker is a job that syncs nothing; the flush before it did."""
    desk = Desk("driver=pipeline,commit=buffered")
    (first,) = desk.append()
    flushed = desk.log.flush(context="f")
    one = desk.committer.next_job()
    (second,) = desk.append()
    two = desk.committer.next_job()
    assert one is not None
    assert two is not None
    assert not any(isinstance(operation, Sync) for operation in two.operations)
    desk.committer.done(two)
    assert first.durable
    assert flushed.durable
    assert second.complete
    assert not second.durable


# ---- capabilities ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "capability"),
    [
        ("io=direct", "o_direct"),
        ("sync=o_dsync", "o_dsync"),
        ("page_cache=drop", "fadvise"),
        ("buffered,writeback_bytes=65536", "sync_file_range"),
        ("prepare=fallocate", "fallocate"),
    ],
)
def test_what_a_file_system_cannot_do_is_named_and_not_faked(text: str, capability: str) -> None:
    wanted = policy(text)
    assert needs(wanted) == (capability,)
    fs = CrashFilesystem()
    log, _ = open_log(fs, policy=wanted)
    assert log.stats().missing == ()
    log.abort()
    fs.can -= {capability}
    log, _ = open_log(fs, policy=wanted)
    (missing,) = log.stats().missing
    assert missing.capability == capability
    assert str(missing).startswith(f"{capability} is missing here: ")
    log.append([batch(1)]).wait(0)
    log.abort()
    settled, _ = settle(wanted, fs.can)
    assert needs(settled) == ()
    assert spans(recover(fs, DIRECTORY)) == [(1, 1, 1)]


def test_the_default_policy_asks_a_file_system_for_nothing() -> None:
    assert needs(SyncPolicy()) == ()


def test_the_real_file_system_says_what_it_can_do_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = OsFilesystem().capabilities(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert {"o_dsync", "fallocate", "fadvise"} <= found, "every Linux file system of ours"


def test_a_directory_that_cannot_be_tried_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OsFilesystem().capabilities(str(tmp_path / "absent"))


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_holds_a_log_on_the_real_file_system(name: str, tmp_path: Path) -> None:
    """Whatever of it works there: what does not is named, and the log is whole all the same."""
    import time

    wanted, fs = policy(POLICIES[name]), OsFilesystem()
    options = OpenOptions(wanted, clock=time.monotonic_ns)
    log, _ = Log.open(fs, str(tmp_path / "wal"), IDENTITY, options)
    asked = {missing.capability for missing in log.stats().missing}
    assert asked == set(needs(wanted)) - fs.capabilities(str(tmp_path))
    for index in range(1, 60):
        log.append([batch(index, size=3000)])
        if index % 20 == 0:
            log.flush().wait(20)
            log.release(0, index - 5, 1)
    assert log.seal_and_close()
    log, found = Log.open(fs, str(tmp_path / "wal"), IDENTITY, options)
    assert found.sealed
    assert spans(found)[-1] == (1, 59, 59)
    log.append([batch(60)])
    log.flush().wait(20)
    log.abort()
    assert spans(recover(fs, str(tmp_path / "wal")))[-1] == (1, 60, 60)


def test_calls_are_counted_where_they_are_made(tmp_path: Path) -> None:
    fs = OsFilesystem()
    log, _ = open_log(fs, tmp_path / "wal", policy=policy("naive"))
    writes, syncs = fs.calls.writes, fs.calls.syncs
    for index in range(1, 11):
        log.append([batch(index)])
    assert (fs.calls.writes - writes, fs.calls.syncs - syncs) == (10, 10)
    log.abort()


# ---- full disks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["o_dsync", "direct", "pipeline", "buffered"])
def test_a_full_disk_keeps_the_job_under_every_policy(name: str) -> None:
    desk = Desk(f"{POLICIES[name]},prepare=append")
    full = True

    def no_space(operation: str, path: str) -> None:
        if operation == "pwritev" and full:
            raise OSError(errno.ENOSPC, "injected")

    desk.fs.before = no_space
    handles = desk.append(2)
    desk.pump()
    assert desk.log.disk_full
    full = False
    desk.log.retry()
    desk.pump()
    assert all(handle.complete for handle in handles)
    assert len(desk.reopened()) == 2


# ---- what a person writes --------------------------------------------------------------------


def test_the_presets_are_those_of_the_tuning_guide() -> None:
    """Seed 3: write buffer, batch size, longest wait, pre-allocation."""
    guide = {
        "balanced": (64, 100, 10, 16),
        "low_latency": (16, 10, 1, 4),
        "high_throughput": (256, 1000, 100, 64),
    }
    for name, (buffer_kib, records, wait_ms, step_mib) in guide.items():
        chosen = policy_of_text(name)
        assert chosen.gather_bytes == buffer_kib << 10
        assert chosen.gather_records == records
        assert chosen.gather_us == wait_ms * 1000
        assert chosen.fill_step_bytes == step_mib << 20
    assert set(guide) == set(TUNING)


def test_every_named_policy_can_be_used() -> None:
    for name in PRESETS:
        policy_of_text(name)
    assert policy_of_text("") == policy_of_text("natural") == SyncPolicy()


def test_later_words_win_over_earlier_ones() -> None:
    chosen = policy_of_text("low_latency, gather_us=500 ,io = direct")
    assert (chosen.gather_us, chosen.gather_records, chosen.io) == (500, 10, "direct")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "no log policy 'fast'; named ones are natural, naive, "),
        ("speed=9", "no field 'speed'; it has segment_bytes, "),
        ("gather_us=soon", "gather_us: 'soon' is not a whole number"),
        ("io=mmap", r"io: 'mmap' is not one of \('cached', 'direct'\)"),
        ("gather_records=10", "need gather_us"),
        ("naive,gather_us=5", "gathers nothing"),
        ("driver=inline,gather_us=5", "gather_us must be 0"),
        ("gather_us=99999999", "between 0 and"),
        ("buffered,sync=o_dsync", "does not sync its writes"),
    ],
)
def test_a_policy_that_makes_no_sense_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_of_text(text)


def test_advice_is_an_operation_that_needs_a_file_that_takes_it() -> None:
    from wal import SegmentIO

    fs = CrashFilesystem()
    fs.mkdirs(DIRECTORY)
    fs.put(f"{DIRECTORY}/a", b"x" * 8192)
    io = SegmentIO(fs, DIRECTORY)
    io.perform(DropCache("a", 0, 4096))
    io.perform(StartWriteback("a", 0, 4096))
    assert fs.advice == [("drop", 0, 4096), ("write", 0, 4096)]
    io.close()


def test_the_docs_name_every_field_every_policy_and_the_tuning_guides_numbers() -> None:
    from dataclasses import fields

    from tests.wal.support import ROOT
    from wal.policy import _CHOICES

    text = (ROOT / "docs" / "wal.md").read_text()
    for field in fields(SyncPolicy):
        assert f"`{field.name}`" in text, field.name
    for value in {value for choices in _CHOICES.values() for value in choices} | set(PRESETS):
        assert f"`{value}`" in text, value
    numbers = {
        "gather_bytes": lambda value: f"{value >> 10} KiB",
        "gather_records": lambda value: f"{value:,}",
        "gather_us": lambda value: f"{value // 1000} ms",
        "fill_step_bytes": lambda value: f"{value >> 20} MiB",
    }
    for name, shown in numbers.items():
        row = " | ".join(shown(preset[name]) for preset in TUNING.values())
        assert f"| `{name}` | {row} |" in text, row
