"""A log against a list, as Hypothesis drives it: appends, cuts, releases, copies, reads and crashes.

The model is a list of entries per group, and a list of what was submitted and not yet acknowledged.
Whatever the rules do, an opened log holds the acknowledged state plus a prefix of what was in flight:
nothing else, and nothing less. A failing run is printed as the shortest program that fails.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.wal.crashfs import CrashFilesystem, PowerCut
from tests.wal.support import DIRECTORY, IDENTITY, StepDriver, uids
from wal import (
    AppendHandle,
    CorruptLogError,
    JobRunner,
    Log,
    OpenOptions,
    Record,
    SyncPolicy,
    batch_record,
    hard_state_record,
)
from wal.driver import OnComplete
from wal.frame import RecordHeader, release_record, split_batch_body, truncate_record

GROUPS = 2
POLICY = SyncPolicy(
    segment_bytes=16 << 10, fill_step_bytes=4 << 10, spare_segments_max=1, job_records_max=4
)

Lists = dict[int, list[tuple[int, list[bytes]]]]
"""Group → its batches: base index and entries."""


class Told:
    """What a log says if it followed these records: lists, and nothing of `wal`'s own folds."""

    def __init__(self) -> None:
        self.batches: Lists = {group: [] for group in range(GROUPS)}
        self.next = dict.fromkeys(range(GROUPS), 1)
        self.released = dict.fromkeys(range(GROUPS), 0)
        self.term = dict.fromkeys(range(GROUPS), 0)

    def copy(self) -> Told:
        other = Told()
        other.batches = {group: list(batches) for group, batches in self.batches.items()}
        other.next, other.released = dict(self.next), dict(self.released)
        other.term = dict(self.term)
        return other

    def append(self, group: int, entries: list[bytes]) -> None:
        self.batches[group].append((self.next[group], entries))
        self.next[group] += len(entries)

    def cut(self, group: int, index: int) -> None:
        self.batches[group] = [each for each in self.batches[group] if each[0] < index]
        self.next[group] = index

    def release(self, group: int, index: int) -> None:
        self.released[group] = index
        self.batches[group] = [each for each in self.batches[group] if each[0] > index]

    def facts(self) -> object:
        return self.batches, self.released, self.term

    def ends(self, group: int) -> list[int]:
        batches = self.batches[group]
        return [self.released[group], *(base + len(entries) - 1 for base, entries in batches)]


Step = tuple[str, int, object]


def follow(told: Told, step: Step) -> None:
    kind, group, what = step
    if kind == "append":
        told.append(group, what)  # type: ignore[arg-type]
    elif kind == "cut":
        told.cut(group, what)  # type: ignore[arg-type]
    elif kind == "release":
        told.release(group, what)  # type: ignore[arg-type]
    elif kind == "vote":
        told.term[group] = what  # type: ignore[assignment]


class LogMachine(RuleBasedStateMachine):
    """One log over several lives."""

    groups = st.integers(0, GROUPS - 1)
    sizes = st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=3), min_size=1, max_size=5)

    @initialize()
    def first_life(self) -> None:
        self.fs = CrashFilesystem()
        self.draw_uid = uids()
        self.acked = Told()
        self.in_flight: list[tuple[AppendHandle, Step]] = []
        self.open()

    # ---- a life ------------------------------------------------------------------------------

    def open(self) -> None:
        drivers: list[StepDriver] = []

        def make(runner: JobRunner, on_complete: OnComplete) -> StepDriver:
            drivers.append(StepDriver(runner, on_complete))
            return drivers[0]

        options = OpenOptions(POLICY, make, self.draw_uid)
        self.log, self.found = Log.open(self.fs, DIRECTORY, IDENTITY, options)
        self.driver = drivers[0]
        self.fs.before = lambda operation, path: None
        self.now = self.acked.copy()
        self.places = {
            (group, ref.base_index): ref
            for group, log in self.found.groups.items()
            for ref in log.batches
        }

    def submit(self, record: Record, step: Step) -> None:
        handle = self.log.append([record])
        follow(self.now, step)
        self.in_flight.append((handle, step))

    def settle(self) -> None:
        """Move what became durable into the acknowledged list."""
        while self.in_flight and self.in_flight[0][0].durable:
            follow(self.acked, self.in_flight.pop(0)[1])

    @rule(group=groups, sizes=sizes, rng=st.randoms(use_true_random=False))
    def append(self, group: int, sizes: list[list[int]], rng: Random) -> None:
        """Append batches; their bytes are drawn outside of Hypothesis, which is slow with many."""
        for entries in sizes:
            self.append_one(group, [rng.randbytes(size) for size in entries])

    def append_one(self, group: int, entries: list[bytes]) -> None:
        record = batch_record(group, 1, self.now.next[group], entries)
        self.submit(record, ("append", group, entries))

    @rule(group=groups, term=st.integers(1, 9))
    def vote(self, group: int, term: int) -> None:
        self.submit(hard_state_record(group, term, 1), ("vote", group, term))

    @rule(group=groups, data=st.data())
    def cut(self, group: int, data: st.DataObject) -> None:
        end = data.draw(st.sampled_from(self.now.ends(group)))
        self.submit(truncate_record(group, end + 1), ("cut", group, end + 1))

    @rule(group=groups, data=st.data())
    def release(self, group: int, data: st.DataObject) -> None:
        end = data.draw(st.sampled_from(self.now.ends(group)))
        if end > self.now.released[group]:
            self.submit(release_record(group, end, 1), ("release", group, end))

    @precondition(lambda self: self.now.batches[0])
    @rule(data=st.data())
    def append_again(self, data: st.DataObject) -> None:
        base, entries = data.draw(st.sampled_from(self.now.batches[0]))
        handle = self.log.append_again([batch_record(0, 1, base, entries)])
        self.in_flight.append((handle, ("again", 0, base)))

    @rule(jobs=st.integers(1, 5))
    def work(self, jobs: int) -> None:
        for _ in range(jobs):
            self.driver.pump()
        self.settle()

    # ---- its end -----------------------------------------------------------------------------

    @rule(how=st.sampled_from(["stop", "kill", "power", "power"]), data=st.data())
    def end(self, how: str, data: st.DataObject) -> None:
        """End this life, one way or another, and begin the next one."""
        if how == "stop":
            self.stop_cleanly()
        elif how == "kill":
            self.fs.kill()
            self.next_life()
        else:
            rng = data.draw(st.randoms(use_true_random=False))
            self.power_cut(rng, data.draw(st.integers(0, 12)))

    def stop_cleanly(self) -> None:
        assert self.log.seal_and_close()
        self.settle()
        assert not self.in_flight
        self.open()
        assert self.found.sealed
        self.check(self.acked)

    def power_cut(self, rng: Random, left: int) -> None:
        """Cut before some change to the disk, while the log works, or later in its next opening."""
        remaining = left

        def before(operation: str, path: str) -> None:
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                raise PowerCut

        self.fs.before = before
        with suppress(PowerCut):
            while self.driver.pump():
                self.settle()
        self.settle()
        self.fs.power_cut(rng)
        self.fs.before = before
        try:
            self.open()
        except PowerCut:
            self.fs.power_cut(rng)
            self.next_life()
        else:
            self.judge()

    def next_life(self) -> None:
        self.open()
        self.judge()

    def judge(self) -> None:
        """The acknowledged list, and a prefix of what was in flight."""
        expected = self.acked
        seen = self.facts()
        for _, step in [(None, ("again", 0, 0)), *self.in_flight]:
            follow(expected, step)
            if expected.facts() == seen:
                break
        else:
            raise AssertionError(f"found {seen}, and that was never the log")
        self.in_flight.clear()
        self.now = expected.copy()

    def facts(self) -> object:
        """Return what the opened log holds, every batch read back."""
        batches: Lists = {group: [] for group in range(GROUPS)}
        released, term = dict.fromkeys(range(GROUPS), 0), dict.fromkeys(range(GROUPS), 0)
        for group, log in self.found.groups.items():
            released[group], term[group] = log.released_index, log.term
            for ref in log.batches:
                record = self.log.read(group, ref)
                count = RecordHeader.unpack(record.header).count
                entries = [bytes(each) for each in split_batch_body(count, record.body)]
                batches[group].append((ref.base_index, entries))
        return batches, released, term

    def check(self, told: Told) -> None:
        assert self.facts() == told.facts()

    @invariant()
    def only_what_was_submitted_is_open(self) -> None:
        """Handles complete in the order of their submission."""
        durable = [handle.durable for handle, _ in self.in_flight]
        assert durable == sorted(durable, reverse=True)

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.fs.kill()
            self.next_life()
            self.log.abort()


LogMachine.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


TestLogAgainstAList = LogMachine.TestCase


def test_the_machine_sees_a_disk_that_lies() -> None:
    """The negative control: without syncs that hold, acknowledged entries are missing."""

    class Liar(LogMachine):
        @initialize()
        def first_life(self) -> None:
            super().first_life()
            self.fs.lies = True

    lost = 0
    for seed in range(20):
        machine = Liar()
        machine.first_life()
        with suppress(AssertionError, CorruptLogError):
            for index in range(5):
                machine.append_one(0, [b"%d" % index * 900])
            machine.work(50)
            machine.power_cut(Random(seed), 0)
            continue
        lost += 1
    assert lost > 10
