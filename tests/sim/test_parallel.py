"""Campaigns over processes: the same sums however they are split, and they go on where they ended."""

import json
from pathlib import Path

import pytest

from cluster.sim.campaign import Campaign
from cluster.sim.coverage import MARKS, Coverage, Mark
from cluster.sim.parallel import ProgressError, Task, run_chunk, run_task
from cluster.sim.progress import Progress


def sums(campaign: Campaign) -> tuple[object, ...]:
    return (
        campaign.seeds,
        campaign.acked,
        campaign.turns,
        campaign.virtual_ns,
        campaign.coverage.turns,
        campaign.coverage.faults,
        +campaign.coverage.marks,
    )


@pytest.mark.timeout(240)
def test_two_processes_find_what_one_does() -> None:
    task = Task(1, 30, "lite")
    one = run_task(task, 1, lambda *_: None)
    two = run_task(task, 2, lambda *_: None)
    assert sums(one) == sums(two)
    assert one.seeds == 30
    assert one.corpus[0] == 1, "the first seed is always new"


@pytest.mark.timeout(240)
def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    task = Task(1, 27, "swarm")

    def stop(total: Campaign, _: object) -> None:
        if total.seeds >= 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(task, 1, stop, path)
    chunks: list[int] = []
    total = run_task(task, 1, lambda total, _: chunks.append(total.seeds), path)
    assert chunks == [27]
    whole = run_task(task, 1, lambda *_: None)
    assert sums(total) == sums(whole)
    assert run_task(task, 1, lambda *_: pytest.fail("nothing is left"), path).seeds == 27


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": "x"}', '{"schema": "raftdeck.sim-progress/1"}']
)
def test_a_file_that_is_no_progress_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "progress.json"
    path.write_text(text)
    with pytest.raises(ProgressError, match=r"progress\.json"):
        run_task(Task(1, 1, "lite"), 1, lambda *_: None, path)
    assert path.read_text() == text


def test_progress_of_another_campaign_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    run_task(Task(1, 1, "lite"), 1, lambda *_: None, path)
    assert json.loads(path.read_text())["done"] == [1]
    with pytest.raises(ProgressError, match="another campaign"):
        run_task(Task(1, 2, "lite"), 1, lambda *_: None, path)


@pytest.mark.timeout(240)
def test_every_mark_is_reached() -> None:
    coverage = Coverage()
    seed = 1
    while coverage.missing() and seed < 600:
        coverage.merge(run_chunk("swarm", range(seed, seed + 25)).coverage)
        seed += 25
    assert not coverage.missing()


def test_coverage_counts_what_is_new() -> None:
    one, other = Coverage(), Coverage()
    one.turned("follower", ["Append"], "follower")
    one.sometimes(Mark.COPIED)
    other.turned("follower", ["Append", "Vote"], "follower")
    other.sometimes(Mark.COPIED)
    assert one.merge(other) == 1
    assert one.merge(other) == 0
    assert one.tuples == 2
    assert set(one.missing()) == set(MARKS) - {Mark.COPIED}


def test_progress_is_told_now_and_then_with_the_rate_since_it_began() -> None:
    said: list[str] = []
    now = [0.0]
    progress = Progress(1_000, said.append, lambda: now[0])
    campaign = Campaign(seeds=100)
    for second in range(1, 12):
        now[0] = float(second)
        campaign.seeds += 10
        progress.tell(campaign)
    assert len(said) == 2
    assert said[0].startswith("150 of 1,000 seeds · 600 a minute · about 85 s left")
