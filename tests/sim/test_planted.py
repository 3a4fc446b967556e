"""The simulator is itself on trial: it finds bugs that people have really written."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from cluster.sim.campaign import SeedFailure, run_seed

BUGS = Path(__file__).resolve().parents[1] / "planted" / "raft_bugs.py"
SEEDS_MAX = 200
RARE_SEEDS_MAX = 2000


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bugs = load(BUGS)
FREQUENT = {**bugs.THE_FIVE, **bugs.MORE}


def find(name: str, planted, seeds_max: int) -> None:
    with planted():
        for seed in range(1, seeds_max + 1):
            outcome = run_seed(seed)
            if isinstance(outcome, SeedFailure):
                print(f"{name}: seed {seed}: {outcome.text}")
                return
    pytest.fail(f"{name}: not found in {seeds_max} seeds")


@pytest.mark.timeout(240)  # up to 200 seeds of 70 ms; on a loaded machine ten times as long
@pytest.mark.parametrize("name", FREQUENT)
def test_a_planted_bug_is_found(name: str) -> None:
    find(name, FREQUENT[name], SEEDS_MAX)


@pytest.mark.long("planted")
@pytest.mark.parametrize("name", bugs.RARE)
def test_a_planted_bug_that_needs_a_coincidence_is_found(name: str) -> None:
    find(name, bugs.RARE[name], RARE_SEEDS_MAX)


def test_a_found_bug_names_its_property_and_the_command_that_repeats_it() -> None:
    with bugs.ack_before_fsync():
        outcome = run_seed(1)
        again = run_seed(1)
    assert isinstance(outcome, SeedFailure)
    assert outcome == again
    assert outcome.kind in ("promise is durable", "ack is durable")
    assert "--first 1 --seeds 1 --trace" in str(outcome)


def test_nothing_stays_planted() -> None:
    with bugs.ack_before_fsync():
        pass
    assert not isinstance(run_seed(1), SeedFailure)
