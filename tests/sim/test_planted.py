"""The simulator is itself on trial: it finds bugs that people have really written."""

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from cluster.sim.campaign import RunSeed, SeedFailure, outcome_of, run_seed
from cluster.sim.plan import draw_plan
from cluster.sim.schedule import DAMAGE
from cluster.sim.world import World
from node.assembly import assemble

PLANTED = Path(__file__).resolve().parents[1] / "planted"
SEEDS_MAX = 200
RARE_SEEDS_MAX = 2000


def load_planted(name: str) -> ModuleType:
    path = PLANTED / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bugs = load_planted("raft_bugs.py")
damage = load_planted("damage_bugs.py")
FREQUENT = {**bugs.THE_FIVE, **bugs.MORE, **damage.DAMAGE}


RUNS: tuple[RunSeed, ...] = (
    partial(run_seed, profile="lite"),
    partial(run_seed, profile="swarm"),
)


def find(name: str, planted, seeds: range, runs: tuple[RunSeed, ...] = RUNS) -> None:
    """Run seed by seed, each as all of `runs` do, until one fails."""
    with planted():
        for seed in seeds:
            for run in runs:
                outcome = run(seed, assemble)
                if isinstance(outcome, SeedFailure):
                    print(f"{name}: seed {seed}: {outcome.text}")
                    return
    pytest.fail(f"{name}: not found in {len(seeds)} seeds")


@pytest.mark.timeout(240)  # up to 200 seeds of 70 ms; on a loaded machine ten times as long
@pytest.mark.parametrize("name", FREQUENT)
def test_a_planted_bug_is_found(name: str) -> None:
    find(name, FREQUENT[name], range(1, SEEDS_MAX + 1))


@pytest.mark.long("planted")
@pytest.mark.parametrize("name", bugs.RARE)
def test_a_planted_bug_that_needs_a_coincidence_is_found(name: str) -> None:
    find(name, bugs.RARE[name], range(1, RARE_SEEDS_MAX + 1))


@pytest.mark.parametrize("name", damage.DAMAGE)
def test_a_bug_about_damage_needs_damage_to_be_found(name: str) -> None:
    with damage.DAMAGE[name]():
        for seed in range(1, 11):
            plan = draw_plan(seed)
            others = tuple(fault for fault in plan.faults if fault.kind not in DAMAGE)
            outcome = outcome_of(World(replace(plan, faults=others)))
            assert not isinstance(outcome, SeedFailure), str(outcome)


def test_a_found_bug_names_its_property_and_the_command_that_repeats_it() -> None:
    with bugs.ack_before_fsync():
        outcome = run_seed(1)
        again = run_seed(1)
    assert isinstance(outcome, SeedFailure)
    assert outcome == again
    assert outcome.kind in ("promise is durable", "ack is durable")
    assert "raftdeck sim --profile lite --seed 1 --trace" in str(outcome)


def test_nothing_stays_planted() -> None:
    with bugs.ack_before_fsync():
        pass
    assert not isinstance(run_seed(1), SeedFailure)
