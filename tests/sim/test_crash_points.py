"""Killed, frozen or without power at one operation of a disk, while everything is used again.

Every point is a seed: at the end the states are equal, nothing that was acknowledged is lost, and
the logs are intact, after a second death of the same node, and after the lights went out.
"""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.sim.campaign import SeedFailure
from cluster.sim.crash_points import CrashPointWorld, Death, draw_point, outcome_at, run_point
from cluster.sim.disk import DiskOperation
from tests.sim.test_planted import find, load_planted

POINTS = 200
CHUNK = 20
LONG_POINTS = 4_000
LONG_CHUNK = 200

bugs = load_planted("storage_bugs.py")


def run_points(first: int, count: int) -> list[CrashPointWorld]:
    """Run points; every one is reached and holds."""
    worlds, failures = [], []
    for seed in range(first, first + count):
        world, outcome = run_point(seed)
        worlds.append(world)
        if isinstance(outcome, SeedFailure):
            failures.append(str(outcome))
        elif not world.struck:
            failures.append(f"seed {seed}: {world.point}: never reached")
    assert not failures, "repeat with the printed command:\n" + "\n".join(failures)
    return worlds


@pytest.mark.timeout(120)  # 2 s of CPU, on a machine that may be busy
@pytest.mark.parametrize("first", range(0, POINTS, CHUNK))
def test_a_node_that_is_hit_at_an_operation_of_its_disk_loses_nothing(first: int) -> None:
    worlds = run_points(first, CHUNK)
    assert all(world.struck.startswith(world.point.directory) for world in worlds)
    assert sum(world.segments_recycled > 0 for world in worlds) >= CHUNK // 2
    assert sum(world.copies > 0 for world in worlds) >= CHUNK // 4
    frozen = sum(world.point.death is Death.FREEZE and world.point.thaws for world in worlds)
    assert sum(world.deaths for world in worlds) == 2 * CHUNK - frozen


def test_the_points_cover_every_kind_of_operation_in_both_directories_with_every_death() -> None:
    points = [draw_point(seed) for seed in range(POINTS)]
    assert len(set(points)) == POINTS
    places = Counter((point.kind, point.directory, point.death) for point in points)
    assert len(places) == len(DiskOperation) * 2 * len(Death)
    kinds = Counter(point.kind for point in points)
    assert min(kinds[kind] for kind in DiskOperation) >= POINTS // len(DiskOperation) - 2
    assert {(point.kind, point.after) for point in points} == {
        (kind, after) for kind in DiskOperation for after in (False, True)
    }
    for choice in ("leader", "thaws", "second", "fuse"):
        assert len({getattr(point, choice) for point in points}) > 1, choice


def test_the_same_seed_hits_the_same_place_to_the_same_effect() -> None:
    (one, first), (other, second) = run_point(7), run_point(7)
    assert first == second
    assert (one.struck, one.heap.steps) == (other.struck, other.heap.steps)


def test_a_point_that_nobody_reaches_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrashPointWorld, "_arm", lambda self: None)
    outcome = outcome_at(1)
    assert isinstance(outcome, SeedFailure)
    assert outcome.kind == "unreached"


REGRESSIONS = {43: "a process died between the rename of a snapshot and the sync of its directory"}


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_a_point_that_once_failed_holds(seed: int) -> None:
    run_points(seed, 1)


FIRST_POINT = {"names of snapshots believed at a start": 250}
"""Where to begin to look for a bug that is rare before."""


@pytest.mark.timeout(240)  # up to 200 points of 90 ms; on a loaded machine ten times as long
@pytest.mark.parametrize("name", bugs.STORAGE)
def test_a_planted_bug_of_the_storage_is_found(name: str) -> None:
    first = FIRST_POINT.get(name, 0)
    find(name, bugs.STORAGE[name], range(first, first + POINTS), runs=(outcome_at,))


@pytest.mark.long("crash-points")
@pytest.mark.parametrize("first", range(POINTS, POINTS + LONG_POINTS, LONG_CHUNK))
def test_many_more_points_hold(first: int) -> None:
    run_points(first, LONG_CHUNK)
