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
from tests.wal.support import DIRECTORY, IDENTITY, StepDriver, uids
from wal import (
    AppendHandle,
    CommitterState,
    CorruptLogError,
    JobRunner,
    Log,
    OpenOptions,
    PoisonedLogError,
    Record,
    Recovered,
    SyncPolicy,
)
from wal.driver import OnComplete
from wal.policy import Prepare

SEEDS_PER_TEST = 30
PREPARE: list[Prepare] = ["recycle", "recycle", "zero_fill", "fallocate", "append"]


class LostError(AssertionError):
    """The log does not hold what it must."""


class Lives:
    """One log, and what it owes its user."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fs = CrashFilesystem()
        self.acked = Model()
        self.in_flight: list[Record] = []
        self.draw_uid = uids()
        self.clean = False
        self.happened: Counter[str] = Counter()
        prepare = self.rng.choice(PREPARE)
        fill_step = self.rng.choice([4096, 16384, 65536])
        self.policy = SyncPolicy(
            segment_bytes=65536,
            fill_step_bytes=fill_step,
            prepare=prepare,
            job_records_max=self.rng.choice([2, 7, 256]),
            job_bytes_max=self.rng.choice([4096, 65536, 1 << 20]),
        )
        self.workload = Workload(self.rng, self.rng.choice([1, 2, 5]))

    # ---- opening -------------------------------------------------------------------------

    def open(self) -> tuple[Log, StepDriver]:
        """Open the log, with power cuts on the way, and check what it holds."""
        while True:
            if self.rng.random() < 0.3:
                self._cut_power_after(8)
            try:
                log, driver, found = self._open()
            except PowerCut:
                self.happened["power cut while opening"] += 1
                self.fs.power_cut(self.rng)
                self.clean = False  # SEALED may be gone already
                continue
            self._check(log, found)
            return log, driver

    def _open(self) -> tuple[Log, StepDriver, Recovered]:
        drivers: list[StepDriver] = []

        def make_driver(runner: JobRunner, on_complete: OnComplete) -> StepDriver:
            drivers.append(StepDriver(runner, on_complete))
            return drivers[0]

        options = OpenOptions(self.policy, make_driver, self.draw_uid)
        log, found = Log.open(self.fs, DIRECTORY, IDENTITY, options)
        self.fs.before = lambda operation, path: None
        return log, drivers[0], found

    def _check(self, log: Log, found: Recovered) -> None:
        state = state_of(log, found)
        expected = self.acked
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
        self.acked, self.in_flight, self.clean = matched, [], False
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
            for _ in range(self.rng.randint(0, 60)):
                if self.rng.random() < 0.2 and (copies := self.workload.again(submitted)):
                    handles.append((log.append_again(copies, context=copies), []))
                    self.happened["again"] += 1
                else:
                    records = self.workload.append(submitted)
                    handles.append((log.append(records, context=records), records))
                while self.rng.random() < 0.5 and driver.pump():
                    self.happened["segments"] = max(
                        self.happened["segments"], log.stats().head >> 32
                    )
                if log.disk_full and self.rng.random() < 0.5:
                    log.retry()
            ending = self.rng.choice(["kill", "power", "clean", "abort"])
            if ending == "clean":
                self.fs.before = lambda operation, path: None
                self.clean = log.seal_and_close()
                poisoned = driver.runner.committer.state is CommitterState.POISONED
                assert self.clean != poisoned, "every log that is not poisoned is sealed"
                self.happened["clean"] += self.clean
                assert not self.clean or all(handle.durable for handle, _ in handles)
            elif ending == "abort":
                log.abort()
        except PowerCut:
            ending = "power"
        except PoisonedLogError:
            ending = self.rng.choice(["kill", "power"])
            self.happened["poisoned"] += 1
        self._account(handles)
        self.happened[ending] += ending != "clean"
        if ending == "power":
            self.fs.power_cut(self.rng)
        else:
            self.fs.kill()

    def _account(self, handles: list[tuple[AppendHandle, list[Record]]]) -> None:
        """Split what was submitted into acknowledged and in flight."""
        durable = [handle.durable for handle, _ in handles]
        assert durable == sorted(durable, reverse=True), "handles complete in order"
        for handle, records in handles:
            if handle.durable:
                for record in records:
                    self.acked.apply(record)
            else:
                self.in_flight.extend(records)

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


def run(seed: int, prepare: Callable[[Lives], None] = lambda lives: None) -> Counter[str]:
    """Run the lives of one seed; an error names the seed."""
    lives = Lives(seed)
    prepare(lives)
    try:
        for _ in range(5):
            lives.live()
        log, _ = lives.open()
        log.abort()
        assert not lives.fs.handles, "every file is closed"
        assert not lives.fs.locked
    except (AssertionError, CorruptLogError) as error:
        raise LostError(f"seed {seed}: {error!r}") from error
    return lives.happened


@pytest.mark.parametrize("part", range(10))
def test_a_log_holds_what_it_acknowledged_whatever_happens_to_the_power(part: int) -> None:
    for seed in range(part * SEEDS_PER_TEST, (part + 1) * SEEDS_PER_TEST):
        run(seed)


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
