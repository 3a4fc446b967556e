"""The corpus: what is kept, how it is made small, and that what the repository keeps still holds.

`python tests/sim/draw_corpus.py` makes corpus.json anew, after a change that gives seeds other stories.
"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.cli import main, raftdeck
from cluster.cli_support import State
from cluster.exits import Exit
from cluster.sim.campaign import SeedFailure
from cluster.sim.corpus import (
    CORPUS_SCHEMA,
    Corpus,
    CorpusError,
    Kept,
    grow,
    minimal,
    read_corpus,
    replay,
    write_corpus,
)
from cluster.sim.coverage import Coverage, Mark
from cluster.sim.parallel import Task, run_chunk
from cluster.sim.plan import Profile
from cluster.sim.world import LivenessError, World

CORPUS = Path(__file__).with_name("corpus.json")
SLICE = 40
"""Seeds of the corpus that the default gate replays: about 4 s of CPU."""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(raftdeck, ["sim", *arguments], obj=State())


def told(failures: list[SeedFailure]) -> str:
    return "\n".join(map(str, failures))


def kept_seeds(count: int | None) -> Corpus:
    """Return what the repository keeps; of it the first `count`, who bring most."""
    corpus = read_corpus(CORPUS)
    assert len(corpus.seeds) > 10
    first = sorted(corpus.seeds, key=lambda kept: -kept.brought.size)[:count]
    return Corpus(first)


def reached_by(corpus: Corpus) -> Coverage:
    whole = Coverage()
    for profile in corpus.profiles():
        total, _ = replay(profile, corpus.of(profile), 1, lambda *_: None)
        assert not total.failures, told(total.failures)
        whole.merge(total.coverage)
    return whole


@pytest.mark.timeout(240)
def test_the_seeds_that_bring_most_hold() -> None:
    corpus = kept_seeds(SLICE)
    assert set(corpus.profiles()) == {"lite", "swarm"}
    whole = reached_by(corpus)
    assert whole.tuples > 50


@pytest.mark.long("sim")
@pytest.mark.timeout(1200)
def test_the_whole_corpus_holds_and_hits_every_mark() -> None:
    missing = reached_by(kept_seeds(None)).missing()
    assert not missing, f"never came: {missing}; draw the corpus anew (see above)"


def test_every_mark_is_in_what_the_corpus_says_of_itself() -> None:
    whole = Coverage()
    for kept in read_corpus(CORPUS).seeds:
        whole.merge(kept.brought)
    assert not whole.missing(), "python tests/sim/draw_corpus.py"


def coverage(*items: str, marks: tuple[Mark, ...] = ()) -> Coverage:
    made = Coverage(faults={(item, "idle") for item in items})
    for mark in marks:
        made.sometimes(mark)
    return made


def test_few_seeds_are_kept_that_reach_what_all_do() -> None:
    reached = {
        1: coverage("a", "b"),
        2: coverage("c"),
        3: coverage("a", "b", "c"),
        4: coverage("c", "d", marks=(Mark.COPIED,)),
        5: coverage("d"),
    }
    kept = minimal("lite", reached)
    assert [one.seed for one in kept] == [3, 4]
    assert kept[1].brought.faults == {("d", "idle")}
    assert kept[1].brought.marks == {Mark.COPIED: 1}
    assert minimal("lite", {}) == []


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "corpus.json"
    corpus = Corpus([Kept("lite", 3, coverage("a", marks=(Mark.COPIED, Mark.COPIED)))])
    corpus.seeds[0].brought.turned("follower", ["Append"], "follower")
    write_corpus(path, corpus)
    assert json.loads(path.read_text())["schema"] == CORPUS_SCHEMA
    assert read_corpus(path) == corpus
    assert read_corpus(tmp_path / "none") == Corpus()


BAD = [
    "",
    "{}",
    "[]",
    '{"schema": "x"}',
    '{"schema": "raftdeck.sim-corpus/1"}',
    '{"schema": "raftdeck.sim-corpus/1", "seeds": [{"profile": "huge", "seed": 1}]}',
    '{"schema": "raftdeck.sim-corpus/1", "seeds": [{"profile": "lite", "seed": "1"}]}',
    '{"schema": "raftdeck.sim-corpus/1", "seeds": [{"profile": "lite", "seed": 1}]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_file_that_is_no_corpus_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "corpus.json"
    path.write_text(text)
    with pytest.raises(CorpusError, match=r"corpus\.json") as raised:
        read_corpus(path)
    assert len(str(raised.value)) < 300 + len(str(path))
    assert path.read_text() == text


@pytest.mark.timeout(240)
def test_what_is_known_is_not_new_and_profiles_do_not_count_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "corpus.json"
    corpus = Corpus([Kept("swarm", 9, run_chunk("lite", [1]).coverage)])
    grow(corpus, path, Task(1, 2, "lite"), 1, lambda *_: None)
    assert corpus.of("lite")[0] == 1, "what a seed of swarm reached is new in lite"
    again = read_corpus(path)
    assert again == corpus
    total = grow(again, path, Task(1, 2, "lite"), 1, lambda *_: None)
    assert total.corpus == []
    assert again == corpus


@pytest.mark.timeout(240)
def test_the_command_replays_goes_on_and_minimises(
    tmp_path: Path,
) -> None:
    path = tmp_path / "corpus.json"
    more = ["--corpus", str(path), "--seeds", "8", "--jobs", "1", "--json"]
    stories = []
    for first in (1, 9):
        answer = run(*more, "--seed", str(first))
        assert answer.exit_code == Exit.HELD
        stories.append(json.loads(answer.stdout)["corpus_file"])
    assert (stories[0]["before"], stories[0]["replayed"]) == (0, 0)
    assert stories[1]["replayed"] == stories[1]["before"] == stories[0]["after"] > 0
    before = Coverage()
    for kept in read_corpus(path).seeds:
        before.merge(kept.brought)
    answer = run("--corpus", str(path), "--minimise", "--jobs", "1")
    assert answer.exit_code == Exit.HELD
    assert "seeds replayed, 0 of them failed" in answer.stdout
    after = Coverage()
    for kept in read_corpus(path).seeds:
        after.merge(kept.brought)
    assert (after.turns, after.faults) == (before.turns, before.faults)
    assert len(read_corpus(path).seeds) < stories[1]["after"]


def test_a_seed_of_the_corpus_that_fails_is_told_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_to_failure(world: World) -> None:
        raise LivenessError(f"seed {world.plan.seed} does not answer")

    monkeypatch.setattr(World, "run", run_to_failure)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "corpus.json"
    write_corpus(path, Corpus([Kept("swarm", 7, coverage("a"))]))
    arguments = ["--profile", "swarm", "--jobs", "1", "--seeds", "1", "--no-shrink", "--fail-fast"]
    answer = run("--corpus", str(path), *arguments)
    assert answer.exit_code == Exit.FAILED
    assert "raftdeck sim --profile swarm --seed 7 --trace" in answer.stderr
    assert "1 seeds replayed, 1 of them failed" in answer.stdout
    assert read_corpus(path).of("swarm") == [7]
    answer = run("--corpus", str(path), "--minimise", "--jobs", "1")
    assert answer.exit_code == Exit.FAILED
    assert read_corpus(path).of("swarm") == [7], "what fails is needed, whatever it reaches"
    assert read_corpus(path).seeds[0].brought == Coverage(), "and says what it reaches now"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--corpus", "/dev/full"], Exit.USAGE, "not a regular file"),
        (["--corpus", "/nonexistent/c.json"], Exit.UNFIT, "No such file or directory"),
        (["--minimise"], Exit.USAGE, "goes with --corpus FILE"),
        (["--corpus", "c.json", "--trace"], Exit.USAGE, "does not go with --trace"),
        (["--corpus", "c.json", "--resume", "p.json"], Exit.USAGE, "does not go with --resume"),
        (["--corpus", "c.json", "--crash-points"], Exit.USAGE, "with --crash-points"),
    ],
)
def test_what_cannot_be_done_is_named(
    arguments: list[str], code: Exit, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    seeds = [] if "--minimise" in arguments else ["--seeds", "1"]
    assert main(["sim", *seeds, "--jobs", "1", *arguments]) == code
    assert said in capfd.readouterr().err


PROFILES: tuple[Profile, ...] = ("lite", "swarm")


def test_the_repository_keeps_seeds_of_both_profiles() -> None:
    assert tuple(read_corpus(CORPUS).profiles()) == PROFILES
