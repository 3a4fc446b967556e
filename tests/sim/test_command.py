"""`raftdeck sim`: what it prints, what it keeps, and how it exits."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.cli import main, raftdeck
from cluster.cli_support import State
from cluster.exits import Exit
from cluster.sim.plan import draw_plan
from cluster.sim.world import LivenessError, World


def run(*arguments: str) -> Result:
    return CliRunner().invoke(raftdeck, ["sim", *arguments], obj=State())


def test_a_summary_of_seeds_that_hold() -> None:
    answer = run("--seeds", "2", "--seed", "5")
    assert answer.exit_code == 0
    assert answer.stdout.startswith("seeds 5 to 6: 0 failed; ")


def test_one_json_document() -> None:
    answer = run("--seeds", "2", "--json")
    document = json.loads(answer.stdout)
    assert document["schema"] == "raftdeck.sim/1"
    assert (document["first"], document["seeds"], document["failures"]) == (1, 2, [])
    assert document["acked"] > 60


def test_a_trace_and_the_faults_it_was_made_with() -> None:
    number = draw_plan(4).faults[0].number
    answer = run("--seeds", "1", "--seed", "4", "--trace", "--without", str(number))
    assert answer.exit_code == 0
    assert f"without #{number} at " in answer.stderr
    assert answer.stdout.splitlines()[0].split() == [
        "time",
        "n",
        "g",
        "r",
        "term",
        "vote",
        "lead",
        "last",
        "commit",
        "applied",
    ]
    assert f"fault #{number} " not in answer.stdout


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_to_failure(world: World) -> None:
        raise LivenessError(f"seed {world.plan.seed} does not answer")

    monkeypatch.setattr(World, "run", run_to_failure)


def test_a_failure_is_told_with_the_command_that_repeats_it(failing: None) -> None:
    answer = run("--seeds", "1", "--seed", "9", "--jobs", "1", "--no-shrink")
    assert answer.exit_code == 1
    assert "seed 9 does not answer" in answer.stderr
    assert "raftdeck sim --profile lite --seed 9 --trace" in answer.stderr


def test_a_failure_in_json_and_in_a_trace(failing: None) -> None:
    document = json.loads(
        run("--seeds", "1", "--seed", "9", "--jobs", "1", "--no-shrink", "--json").stdout
    )
    assert [failure["kind"] for failure in document["failures"]] == ["LivenessError"]
    traced = run("--seeds", "1", "--seed", "9", "--trace")
    assert traced.exit_code == 1
    assert "FAILED" in traced.stdout


def test_crash_points_have_their_own_seeds_and_traces() -> None:
    answer = run("--crash-points", "--seed", "43", "--seeds", "2", "--json")
    document = json.loads(answer.stdout)
    assert (document["first"], document["faults"], document["failures"]) == (43, 4, [])
    traced = run("--crash-points", "--seed", "43", "--seeds", "1", "--trace")
    assert traced.exit_code == 0
    assert traced.stderr.startswith("freeze before rename number ")
    assert "crash point: freeze before rename" in traced.stdout
    assert "dies a second time" in traced.stdout


def test_a_crash_point_that_fails_is_repeated_by_the_printed_command(failing: None) -> None:
    answer = run("--crash-points", "--seed", "9", "--seeds", "1", "--jobs", "1")
    assert answer.exit_code == 1
    assert "raftdeck sim --crash-points --seed 9 --trace" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--resume", "/nonexistent/progress.json"], Exit.UNFIT, "No such file or directory"),
        (["--resume", "/dev/full"], Exit.USAGE, "not a regular file"),
        (["--schedule", "/dev/full"], Exit.USAGE, "not a regular file"),
        (["--record", "/dev/null/there"], Exit.UNFIT, "Not a directory"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(
    arguments: list[str], code: Exit, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", "--seeds", "1", "--jobs", "1", *arguments]) == code
    error = capfd.readouterr().err
    assert said in error
    assert arguments[1] in error
    assert "internal" not in error


def test_bytes_that_are_no_schedule_are_told_by_their_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schedule.json"
    path.write_bytes(b"{\xff")
    assert main(["sim", "--schedule", str(path)]) == Exit.USAGE
    assert "byte 1 is no UTF-8" in capfd.readouterr().err
