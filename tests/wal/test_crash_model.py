"""Whatever happens to the power: the log holds what it acknowledged, and no more than it was given.

Each seed is several lives of one log on `CrashFilesystem`. A life opens the log, appends for
several groups with many appends per flush, appends live batches again, and ends: with a power cut before any change to the
disk (during recovery too), a killed process, a failed fsync, a full disk, or a clean stop. The next
life must find the acknowledged records, plus at most a prefix of those that were in flight.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.wal.crashfs import CrashFilesystem, PowerCut
from tests.wal.model import Model, Workload, state_of
from tests.wal.support import DIRECTORY, IDENTITY, POLICIES, uids
from wal import (
    AppendHandle,
    Committer,
    CommitterState,
    CorruptLogError,
    Filesystem,
    Job,
    JobRunner,
    Log,
    OpenOptions,
    PoisonedLogError,
    Record,
    Recovered,
    SyncPolicy,
)
from wal.driver import OnComplete
from wal.operations import Sync
from wal.pipeline import split_sync
from wal.policy import Prepare, policy_of_text

SEEDS_PER_TEST = 30
SEEDS_PER_POLICY = 12
PREPARE: list[Prepare] = ["recycle", "recycle", "zero_fill", "fallocate", "append"]
MS = 1_000_000


class LifeDriver:
    """Takes steps when a life says so: a whole job, or with a pipeline its writes and its sync apart.

    Time is the driver's own and passes between steps, so that groups gather.
    """

    def __init__(self, runner: JobRunner, on_complete: OnComplete, rng: random.Random) -> None:
        self.runner = runner
        self._on_complete = on_complete
        self._rng = rng
        self._now_ns = 0
        self._pipelined = runner.committer.policy.driver == "pipeline"
        self._written: list[tuple[Job, Sync | None]] = []
        self.overlaps = 0
        """Jobs that were written while another one waited for its sync."""

    def submit(self, submit: Callable[[], AppendHandle]) -> AppendHandle:
        return submit()

    def retry(self) -> None:
        self.runner.committer.retry()

    def close(self) -> None:
        while self._write(None) or self._sync():
            pass
        self.runner.io.close()

    def pump(self) -> bool:
        """Take one step; False if there is none to take now."""
        self._now_ns += self._rng.choice([0, MS, 4 * MS])
        if self._written and self._rng.random() < 0.4:
            return self._sync()
        return self._write(self._now_ns) or self._sync()

    def _write(self, now_ns: int | None) -> bool:
        committer = self.runner.committer
        job = committer.next_job(now_ns)
        if job is None:
            return False
        if not self._pipelined:
            self._tell(self.runner.settle(job, self.runner.perform(job)))
            return True
        operations, sync = split_sync(job)
        failure = self.runner.perform_each(operations)
        if failure is not None:
            self._tell(self.runner.settle(job, failure))
            if committer.state is CommitterState.POISONED:
                self._written.clear()
            return True
        self.overlaps += bool(self._written)
        self._written.append((job, sync))
        return True

    def _sync(self) -> bool:
        if not self._written:
            return False
        jobs, self._written = self._written, []
        syncs = [sync for _, sync in jobs if sync is not None]
        failure = self.runner.perform_each(syncs[-1:])
        self._tell(self.runner.settle(jobs[-1][0], failure))
        return True

    def _tell(self, handles: list[AppendHandle]) -> None:
        for handle in handles:
            handle.settle()
        if handles:
            self._on_complete(handles)


class LostError(AssertionError):
    """The log does not hold what it must."""


class Lives:
    """One log, and what it owes its user."""

    def __init__(self, seed: int, policy: str = "") -> None:
        self.rng = random.Random(f"{seed} {policy}" if policy else seed)
        self.fs = CrashFilesystem()
        self.disk: Filesystem = self.fs
        """What the log is given."""
        self.acked = Model()
        self.written: list[Record] = []
        """Behind `acked`: what a buffered log promised to keep unless the power fails."""
        self.in_flight: list[Record] = []
        self.draw_uid = uids()
        self.clean = False
        self.happened: Counter[str] = Counter()
        prepare = self.rng.choice(PREPARE)
        fill_step = self.rng.choice([4096, 16384, 65536])
        base = SyncPolicy(
            segment_bytes=65536,
            fill_step_bytes=fill_step,
            prepare=prepare,
            job_records_max=self.rng.choice([2, 7, 256]),
            job_bytes_max=self.rng.choice([4096, 65536, 1 << 20]),
        )
        self.policy = policy_of_text(POLICIES[policy], base) if policy else base
        self.workload = Workload(self.rng, self.rng.choice([1, 2, 5]))

    # ---- opening -------------------------------------------------------------------------

    def open(self) -> tuple[Log, LifeDriver]:
        """Open the log, with power cuts on the way, and check what it holds."""
        while True:
            if self.rng.random() < 0.3:
                self._cut_power_after(8)
            try:
                log, driver, found = self._open()
            except PowerCut:
                self.happened["power cut while opening"] += 1
                self._power_cut()
                self.clean = False  # SEALED may be gone already
                continue
            self._check(log, found)
            return log, driver

    def _open(self) -> tuple[Log, LifeDriver, Recovered]:
        drivers: list[LifeDriver] = []

        def make_driver(runner: JobRunner, on_complete: OnComplete) -> LifeDriver:
            drivers.append(LifeDriver(runner, on_complete, self.rng))
            return drivers[0]

        options = OpenOptions(self.policy, make_driver, self.draw_uid, clock=lambda: 0)
        log, found = Log.open(self.disk, DIRECTORY, IDENTITY, options)
        self.fs.before = lambda operation, path: None
        return log, drivers[0], found

    def _check(self, log: Log, found: Recovered) -> None:
        state = state_of(log, found)
        expected = self.acked
        for record in self.written:
            expected.apply(record)
        matched = expected.copy() if expected.state() == state else None
        for record in self.in_flight:
            expected.apply(record)
            if expected.state() == state:
                matched = expected.copy()
        if matched is None:
            raise LostError("neither the acknowledged records nor with some in flight")
        if self.clean and not found.sealed:
            raise LostError("the clean stop is not recognised")
        # What was found is acknowledged from here on: a node answers by it.
        self.acked, self.written, self.in_flight, self.clean = matched, [], [], False
        for group in found.groups.values():
            places = [ref.position for ref in group.batches]
            self.happened["moved"] += places != sorted(places)
        self.happened["torn tail"] += found.torn is not None
        self.happened["unstarted segment"] += bool(found.unstarted)

    # ---- living --------------------------------------------------------------------------

    def live(self) -> None:
        log, driver = self.open()
        submitted = self.acked.copy()
        handles: list[tuple[AppendHandle, list[Record]]] = []
        fault = self.rng.choice(["none", "power", "power", "power", "space", "eio"])
        if fault == "power":
            self._cut_power_after(self.rng.choice([20, 60, 150]))
        elif fault != "none":
            self._fail_after(self.rng.randint(0, 60), fault)
        try:
            self.work(log, driver, submitted, handles)
            ending = self.rng.choice(["kill", "power", "clean", "abort"])
            if ending == "clean":
                self.fs.before = lambda operation, path: None
                self.clean = log.seal_and_close()
                poisoned = driver.runner.committer.state is CommitterState.POISONED
                assert self.clean != poisoned, "every log that is not poisoned is sealed"
                self.happened["clean"] += self.clean
                assert not self.clean or all(handle.complete for handle, _ in handles)
            elif ending == "abort":
                log.abort()
        except PowerCut:
            ending = "power"
        except PoisonedLogError:
            ending = self.rng.choice(["kill", "power"])
            self.happened["poisoned"] += 1
        self.happened["overlap"] += driver.overlaps
        self._account(handles, driver.runner.committer)
        self.happened[ending] += ending != "clean"
        if ending == "power":
            self._power_cut()
        else:
            self.fs.kill()

    def work(
        self,
        log: Log,
        driver: LifeDriver,
        submitted: Model,
        handles: list[tuple[AppendHandle, list[Record]]],
    ) -> None:
        """Append, append again and flush, while the driver takes some of its steps."""
        for _ in range(self.rng.randint(0, 60)):
            if self.rng.random() < 0.2 and (copies := self.workload.again(submitted)):
                handles.append((log.append_again(copies, context=copies), []))
                self.happened["again"] += 1
            elif self.rng.random() < 0.03:
                handles.append((log.flush(context="flush"), []))
            else:
                records = self.workload.append(submitted)
                handles.append((log.append(records, context=records), records))
            while self.rng.random() < 0.5 and driver.pump():
                self.happened["segments"] = max(self.happened["segments"], log.stats().head >> 32)
            if log.disk_full and self.rng.random() < 0.5:
                log.retry()

    def _power_cut(self) -> None:
        """Cut the power: what was written and not synced is promised no longer."""
        self.happened["written, not synced"] += len(self.written)
        self.in_flight[:0] = self.written
        self.written = []
        self.fs.power_cut(self.rng)

    def _account(
        self, handles: list[tuple[AppendHandle, list[Record]]], committer: Committer
    ) -> None:
        """Split what was submitted into what must be found again, and what may be.

        A buffered log has synced its full segments, what was flushed, and all at a clean stop. What it
        only wrote must be found if the process dies, unless a sync failed.
        """
        complete = [handle.complete for handle, _ in handles]
        assert complete == sorted(complete, reverse=True), "handles complete in order"
        durable = written = sum(complete)
        if self.policy.commit != "buffered":
            assert complete == [handle.durable for handle, _ in handles]
        elif not self.clean:
            synced = [
                handle.durable or (end < committer.head.durable)
                for handle, _ in handles[:written]
                for end in handle.positions[-1:] or [committer.head.position]
            ]
            durable = max((place for place, each in enumerate(synced, 1) if each), default=0)
            if committer.state is CommitterState.POISONED:
                written = durable
        for _, records in handles[:durable]:
            for record in records:
                self.acked.apply(record)
        for place, (_, records) in enumerate(handles[durable:], durable):
            (self.written if place < written else self.in_flight).extend(records)

    # ---- faults --------------------------------------------------------------------------

    def _cut_power_after(self, changes: int) -> None:
        """Cut it before a change soon; half of the cuts wait for a write that is not yet synced."""
        at = self.fs.changes + self.rng.randint(0, changes)
        before_a_sync = self.rng.random() < 0.5

        def cut(operation: str, path: str) -> None:
            if self.fs.changes >= at and (not before_a_sync or operation == "datasync"):
                raise PowerCut

        self.fs.before = cut

    def _fail_after(self, changes: int, fault: str) -> None:
        at = self.fs.changes + changes
        operations = {
            "space": {"create", "pwritev", "zero_fill", "allocate"},
            "eio": {"datasync", "sync_dir"},
        }[fault]
        code = {"space": errno.ENOSPC, "eio": errno.EIO}[fault]
        until = at + self.rng.randint(1, 20)

        def fail(operation: str, path: str) -> None:
            if at <= self.fs.changes < until and operation in operations:
                self.happened[fault] += 1
                raise OSError(code, "injected")

        self.fs.before = fail


def run(
    seed: int, prepare: Callable[[Lives], None] = lambda lives: None, *, policy: str = ""
) -> Counter[str]:
    """Run the lives of one seed; an error names the seed."""
    lives = Lives(seed, policy)
    prepare(lives)
    try:
        for _ in range(5):
            lives.live()
        log, _ = lives.open()
        log.abort()
        assert not lives.fs.handles, "every file is closed"
        assert not lives.fs.locked
    except (AssertionError, CorruptLogError) as error:
        raise LostError(f"seed {seed} {policy}: {error!r}") from error
    return lives.happened


@pytest.mark.parametrize("part", range(10))
def test_a_log_holds_what_it_acknowledged_whatever_happens_to_the_power(part: int) -> None:
    for seed in range(part * SEEDS_PER_TEST, (part + 1) * SEEDS_PER_TEST):
        run(seed)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_its_promise_whatever_happens_to_the_power(policy: str) -> None:
    happened: Counter[str] = Counter()
    for seed in range(SEEDS_PER_POLICY):
        happened += run(seed, policy=policy)
    assert happened["power"] >= 5, (policy, happened)
    assert happened["overlap"] or "pipeline" not in POLICIES[policy]
    assert happened["written, not synced"] or "buffered" not in POLICIES[policy]


@pytest.mark.parametrize("policy", ["naive", "o_dsync", "direct, o_dsync", "pipeline", "count"])
def test_a_disk_that_lies_is_caught_under_other_policies_too(policy: str) -> None:
    """Each way of making a write durable is on trial: with a disk that does not, data is lost."""

    def lie(lives: Lives) -> None:
        lives.fs.lies = True

    caught = 0
    for seed in range(10):
        try:
            run(seed, lie, policy=policy)
        except LostError:
            caught += 1
    assert caught >= 6, f"{policy}: noticed in {caught} of 10 runs only"


def test_the_lives_of_the_model_are_eventful() -> None:
    """A model that never rolls, tears or fails would prove nothing."""
    happened: Counter[str] = Counter()
    for seed in range(40):
        happened += run(seed)
    for event in (
        "power",
        "kill",
        "clean",
        "abort",
        "space",
        "eio",
        "poisoned",
        "torn tail",
        "unstarted segment",
        "power cut while opening",
        "again",
        "moved",
    ):
        assert happened[event] >= 3, (event, happened)
    assert happened["segments"] > 40 * 5


def test_a_disk_that_lies_about_datasync_is_caught_losing_data() -> None:
    """The control: with a disk that syncs nothing, the same test must fail."""

    def lie(lives: Lives) -> None:
        lives.fs.lies = True

    caught = 0
    for seed in range(20):
        try:
            run(seed, lie)
        except LostError:
            caught += 1
    assert caught >= 15, f"the model noticed a lying disk in {caught} of 20 runs only"


@pytest.mark.long("wal-crash")
@pytest.mark.parametrize("part", range(20))
def test_a_log_holds_what_it_acknowledged_in_many_more_lives(part: int) -> None:
    for seed in range(100_000 + part * 500, 100_000 + (part + 1) * 500):
        run(seed)


@pytest.mark.long("wal-crash")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_its_promise_in_many_more_lives(policy: str) -> None:
    for seed in range(100_000, 100_250):
        run(seed, policy=policy)
