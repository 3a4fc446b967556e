"""Crashes at every fail point, under every policy, with and without the power: issue 5's matrix.

A cell is a policy, a fail point of `wal.faults`, and what becomes of the page cache. Each crash of
it is a log that lives until its point is reached and the process ends there. What is found then is
what was acknowledged, plus at most a prefix of what was in flight; the log takes appends, and the
restart after those holds as well.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product

import pytest

from tests.wal.crashfs import PowerCut
from tests.wal.support import DIRECTORY, POLICIES
from tests.wal.test_crash_model import Lives, LostError
from wal import AppendHandle, CorruptLogError, Record
from wal.faultfs import FaultFilesystem
from wal.faults import OPERATIONS, Fault, FaultBoard

CRASHES = 200
CRASHES_PER_CELL = 5
LIVES_MAX = 200
"""Of a log before its point: a point that is not reached in so many is a failure."""


class Killed(PowerCut):
    """The process ended at its fail point."""


@dataclass(frozen=True)
class Cell:
    policy: str
    point: str
    """`sync.before`: an operation of the log's disk, and the moment."""
    power: bool
    """Whether the power goes with the process; else the page cache stays."""


CELLS = [
    Cell(policy, f"{operation}.{moment}", power)
    for policy, operation, moment, power in product(
        POLICIES, OPERATIONS, ("before", "after"), (False, True)
    )
]


class CrashAtAPoint(Lives):
    """One log, whose process ends at a fail point."""

    def __init__(self, cell: Cell, draw: int) -> None:
        super().__init__(draw, cell.policy)
        self.rng.seed(f"{cell} {draw}")
        self.cell = cell
        self.board = FaultBoard(lambda: 0, self._end)
        self.disk = FaultFilesystem(self.fs, self.board)

    def run(self) -> None:
        for _ in range(self.rng.randint(0, 2)):
            assert not self._live()
        point = f"{DIRECTORY[1:]}.{self.cell.point}"
        odds = self.rng.choice([100, 50, 20])
        seed = self.rng.randrange(1 << 30)
        self.board.set(Fault("at", 1, odds=odds, seed=seed, point=point, deed="kill"))
        assert any(self._live() for _ in range(LIVES_MAX)), "the point is never reached"
        assert self.board.bites == 1
        self.board.heal()
        self._restart()
        self._restart()

    def _live(self) -> bool:
        """Live once; tell whether the point was reached."""
        handles: list[tuple[AppendHandle, list[Record]]] = []
        try:
            log, driver, found = self._open()
        except Killed:
            self.clean = False
            self._die("died in an open")
            return True
        self._check(log, found)
        try:
            self.work(log, driver, self.acked.copy(), handles)
            if self.rng.random() < 0.5:
                self.clean = log.seal_and_close()
            else:
                log.abort()
        except Killed:
            self._account(handles, driver.runner.committer)
            self._die("died at work")
            return True
        self._account(handles, driver.runner.committer)
        self.fs.kill()
        return False

    def _restart(self) -> None:
        """Open, see what is there, append, and die with the page cache left."""
        log, driver, found = self._open()
        self._check(log, found)
        handles: list[tuple[AppendHandle, list[Record]]] = []
        submitted = self.acked.copy()
        for _ in range(3):
            records = self.workload.append(submitted)
            handles.append((log.append(records), records))
        handles.append((log.flush(), []))
        while not handles[-1][0].complete:
            assert driver.pump() or handles[-1][0].complete
        self._account(handles, driver.runner.committer)
        assert not self.written
        assert not self.in_flight
        self.fs.kill()

    def _die(self, where: str) -> None:
        self.happened[where] += 1
        self.happened["in flight"] += bool(self.in_flight)
        if self.cell.power:
            self._power_cut()
        else:
            self.fs.kill()

    def _end(self, text: str) -> None:
        raise Killed(text)


def crash(cell: Cell, draw: int, *, lies: bool = False) -> Counter[str]:
    """Crash once; an error names the cell and the draw that repeat it."""
    life = CrashAtAPoint(cell, draw)
    life.fs.lies = lies
    try:
        life.run()
        assert not life.fs.handles, "every file is closed"
    except (AssertionError, CorruptLogError) as error:
        raise LostError(f"crash({cell}, {draw}): {error!r}") from error
    return life.happened


def sample(count: int) -> list[Cell]:
    """Return so many different cells, spread over the matrix."""
    step = 37
    assert len(CELLS) % step, "a step that walks all cells"
    return [CELLS[number * step % len(CELLS)] for number in range(count)]


def test_the_default_crashes_cover_every_policy_and_every_point_with_and_without_power() -> None:
    cells = sample(CRASHES)
    assert len(set(cells)) == CRASHES
    assert min(Counter(cell.policy for cell in cells).values()) >= 5
    assert {cell.policy for cell in cells} == POLICIES.keys()
    assert {(cell.point, cell.power) for cell in cells} == {(c.point, c.power) for c in CELLS}


@pytest.mark.parametrize("part", range(10))
def test_a_log_that_dies_at_a_fail_point_holds_what_it_acknowledged(part: int) -> None:
    happened: Counter[str] = Counter()
    for cell in sample(CRASHES)[part::10]:
        happened += crash(cell, 0)
    assert happened["died at work"] >= 5, happened
    assert happened["in flight"] >= 3, happened


def test_without_syncs_the_same_crashes_lose_data_if_the_power_goes_and_only_then() -> None:
    """The control: a disk that syncs nothing. Why a killed process proves nothing about syncs."""
    lost: Counter[bool] = Counter()
    for cell in sample(CRASHES):
        if "page_cache=drop" in POLICIES[cell.policy]:
            continue  # the disk of the tests does not let what is not durable be dropped
        try:
            crash(cell, 0, lies=True)
        except LostError:
            lost[cell.power] += 1
    assert lost[False] == 0
    assert lost[True] >= CRASHES // 3, f"noticed {lost[True]} times only"


@pytest.mark.long("wal-crash")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_cell_of_the_matrix_holds(policy: str) -> None:
    """3,360 crashes: 24 policies, 14 points, with and without power, five of each."""
    cells = [cell for cell in CELLS if cell.policy == policy]
    assert len(cells) == len(OPERATIONS) * 2 * 2
    for cell in cells:
        for draw in range(1, 1 + CRASHES_PER_CELL):
            crash(cell, draw)
