"""A simulated run as a recording: the same reader, the same frames, virtual time."""

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from cluster.cli import raftdeck
from cluster.cli_support import State
from cluster.frames import ProcessState
from cluster.recording import Recording
from cluster.sim.campaign import SeedFailure, run_seed
from cluster.sim.plan import draw_plan
from cluster.sim.plan_file import encode_plan
from cluster.sim.record import record_run
from cluster.sim.schedule import Fault, FaultKind
from cluster.tables import status_table
from dashboard.presenter.nodes import process_words

MS = 1_000_000


def test_a_run_is_recorded_with_its_faults_and_leaders(tmp_path: Path) -> None:
    crash = Fault(0, 2_000 * MS, FaultKind.CRASH, "leader", 700 * MS)
    plan = replace(draw_plan(3), faults=(crash,))
    outcome = record_run(plan, tmp_path / "run")
    assert not isinstance(outcome, SeedFailure), outcome
    with Recording.open(tmp_path / "run") as recording:
        frames = list(recording.frames_since(0))
        events = recording.events()
    assert [frame.sequence for frame in frames] == list(range(1, len(frames) + 1)), (
        "none is missing"
    )
    assert frames[0].unix_ms == 0
    assert frames[-1].unix_ms >= 8_000
    kinds = [event.kind for event in events]
    assert kinds.count("fault") == 1
    assert kinds[-1] == "verdict"
    assert "held" in events[-1].text
    [fault] = [event for event in events if event.kind == "fault"]
    assert (fault.by, fault.unix_ms) == ("step fault 0", 2_000)
    victim = fault.node
    assert victim is not None
    down = next(frame for frame in frames if frame.unix_ms > 2_300)
    assert down.node(victim).process.state.value == "killed"
    assert down.node(victim).snapshot is None
    assert down.leader() not in (None, victim) or kinds.count("leader") >= 2
    last = frames[-1]
    assert last.leader() is not None
    assert all(part.fresh for part in last.nodes)
    rates = last.node(1).rates
    assert rates is not None
    snapshot = last.node(1).snapshot
    assert snapshot is not None
    assert snapshot.wal.fsyncs > 0
    assert snapshot.wal.fsync_p99_ns > 0


def test_a_node_that_stays_out_is_shown_without_an_exit_code_that_it_does_not_have(
    tmp_path: Path,
) -> None:
    wipe = Fault(0, 2_000 * MS, FaultKind.WIPE, "leader", 700 * MS)
    outcome = record_run(replace(draw_plan(3), faults=(wipe,)), tmp_path / "run")
    assert not isinstance(outcome, SeedFailure), outcome
    with Recording.open(tmp_path / "run") as recording:
        last = list(recording.frames_since(0))[-1]
    [out] = [part for part in last.nodes if part.process.state is ProcessState.CRASHED]
    assert process_words(out) == ("ended", "bad")
    assert "emptied" in out.process.last_log[0]
    assert "None" not in status_table(last)


def test_being_recorded_changes_nothing_of_the_run(tmp_path: Path) -> None:
    recorded = record_run(draw_plan(5), tmp_path)
    plain = run_seed(5)
    assert not isinstance(recorded, SeedFailure)
    assert not isinstance(plain, SeedFailure)
    assert recorded.digests == plain.digests
    assert (recorded.turns, recorded.virtual_ns) == (plain.turns, plain.virtual_ns)


def run(*arguments: str):
    return CliRunner().invoke(raftdeck, ["sim", *arguments], obj=State())


def test_the_command_records_a_seed_or_a_schedule_into_an_empty_directory(tmp_path: Path) -> None:
    target = tmp_path / "run"
    answer = run("--seed", "4", "--record", str(target))
    assert answer.exit_code == 0, answer.output
    assert f"raftdeck dash --replay {target}" in answer.stdout
    again = run("--seed", "4", "--record", str(target))
    assert again.exit_code != 0
    assert "is not empty" in str(again.exception)
    schedule = tmp_path / "schedule.json"
    schedule.write_text(encode_plan(draw_plan(4)))
    assert run("--schedule", str(schedule), "--record", str(tmp_path / "other")).exit_code == 0
