"""The shrinker: what is left fails in the same way, and nothing of it can be left out."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sim.artefacts import described, keep
from cluster.sim.campaign import SeedFailure, outcome_of, plan_of, traced
from cluster.sim.plan import PROFILES, draw_plan
from cluster.sim.plan_file import ScheduleError, decode_plan, encode_plan
from cluster.sim.shrink import minimal, operations_of, shrink
from cluster.sim.world import World

_SPEC = importlib.util.spec_from_file_location(
    "raft_bugs", Path(__file__).resolve().parents[1] / "planted" / "raft_bugs.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
bugs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bugs)


@given(st.sets(st.integers(0, 40)), st.integers(1, 60))
def test_minimal_finds_exactly_what_is_needed(needed: set[int], size: int) -> None:
    items = list(range(max(size, 41)))
    tried: list[Sequence[int]] = []

    def fails(part: Sequence[int]) -> bool:
        tried.append(part)
        return needed <= set(part)

    assert minimal(items, fails) == sorted(needed)
    assert len(tried) <= 6 * len(items) + 20


@given(st.integers(2, 12))
def test_minimal_leaves_nothing_that_can_be_left_out_where_any_part_will_do(least: int) -> None:
    kept = minimal(range(50), lambda part: len(part) >= least)
    assert len(kept) == least


def first_failure(seeds: range) -> tuple[int, SeedFailure]:
    for seed in seeds:
        outcome = outcome_of(World(draw_plan(seed)))
        if isinstance(outcome, SeedFailure):
            return seed, outcome
    raise AssertionError("the planted bug was not found")


@pytest.mark.timeout(240)
def test_a_failing_plan_gets_small_and_fails_in_the_same_way(tmp_path: Path) -> None:
    with bugs.vote_not_persisted():
        seed, failure = first_failure(range(1, 100))
        plan = draw_plan(seed)
        shrunk = shrink(plan, failure, seconds=1e9)
        assert shrunk.complete
        assert shrunk.failure.kind == failure.kind
        assert len(shrunk.plan.faults) < len(plan.faults)
        assert len(operations_of(shrunk.plan)) <= 5
        assert shrunk.plan.nodes <= plan.nodes
        for fault in shrunk.plan.faults:
            faults = tuple(each for each in shrunk.plan.faults if each is not fault)
            assert not fails_as(replace(shrunk.plan, faults=faults), failure.kind)
        again = keep(tmp_path / "kept", plan, failure, lambda _: None)
        read = decode_plan((tmp_path / "kept" / "schedule.json").read_text())
        assert read == again.plan
        outcome, trace = traced(World(read, tracing=True))
        assert outcome == again.failure
        assert trace == (tmp_path / "kept" / "trace.txt").read_text()
    assert not isinstance(outcome_of(World(read)), SeedFailure), "without the bug it holds"
    text = (tmp_path / "kept" / "schedule.txt").read_text()
    assert text == described(again)
    assert decode_plan((tmp_path / "kept" / "original.json").read_text()) == plan
    assert (tmp_path / "kept" / "repro.sh").stat().st_mode & 0o111


def fails_as(plan, kind: str) -> bool:
    outcome = outcome_of(World(plan))
    return isinstance(outcome, SeedFailure) and outcome.kind == kind


def test_a_budget_that_ends_leaves_the_smallest_so_far() -> None:
    with bugs.ack_before_fsync():
        seed, failure = first_failure(range(1, 10))
        shrunk = shrink(draw_plan(seed), failure, runs=3)
    assert shrunk.runs == 3
    assert not shrunk.complete
    assert shrunk.failure.kind == failure.kind


@pytest.mark.parametrize("profile", PROFILES)
def test_a_plan_survives_its_file(profile) -> None:
    for seed in range(1, 30):
        plan = plan_of(seed, profile)
        read = decode_plan(encode_plan(plan))
        assert read == plan
        assert read.compression is plan.compression, "an IntEnum is equal to its number"


GOOD = encode_plan(draw_plan(1))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "line 1"),
        ("[]", "no schedule"),
        ('{"schema": "raftdeck.schedule/1"}', "plan: an object"),
        (GOOD.replace('"nodes": 5', '"nodes": 0'), "at least one node"),
        (GOOD.replace('"nodes": 5', '"modes": 5'), "unknown: modes"),
        (GOOD.replace('"prepare": "', '"prepare": "x'), "prepare"),
        (GOOD.replace('"kind": "', '"kind": "un'), "known are: crash"),
        (GOOD.replace('"faults": [', '"faults": [3,'), "faults[0]"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_place(text: str, what: str) -> None:
    with pytest.raises(ScheduleError, match=what.replace("[", r"\[")):
        decode_plan(text)


@pytest.mark.timeout(240)
def test_an_operation_left_out_leaves_the_others_as_they_were() -> None:
    plan = replace(draw_plan(3), faults=())
    whole = World(plan)
    whole.run()
    without = World(replace(plan, skipped=((1, 4),)))
    without.run()

    def shape(world: World, client: int) -> list[tuple[str, bytes]]:
        return [(op.kind, op.key) for op in world.clients[client].history[:-1]]

    assert shape(without, 1) == shape(whole, 1), "another client's"
    expected = shape(whole, 0)
    expected = expected[:3] + expected[4:]
    found = shape(without, 0)
    assert found[: len(expected)] == expected, "it may have time for one more"
    assert len(expected) > 10
