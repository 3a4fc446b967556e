"""A recording as text (`cluster.replay`), and the verbs that show it."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from cluster.chunks import ChunkHeader
from cluster.cli import raftdeck
from cluster.cli_support import State
from cluster.frames import Event
from cluster.paths import FileLock, Holder, default_data_dir
from cluster.recorder import Recorder
from cluster.recording import chunk_paths
from cluster.replay import documents, marks, narrate
from cluster.spec import SPEC_FILE, ClusterSpec

BEGIN = 1_795_000_000_000


@pytest.fixture
def story(make_frame, make_node):
    """n1 leads, is killed, n2 leads; nothing else moves."""
    killed = Event(1, BEGIN + 250, "user", "killed", 1, "n1 killed (signal SIGKILL)", "exit -9")
    leads = Event(2, BEGIN + 390, "system", "leader", 2, "n2 elected leader", "121 ms leaderless")
    healthy = make_frame(make_node(1, role="leader"), make_node(2), make_node(3))
    dead = make_frame(make_node(1, "killed"), make_node(2, leader=0), make_node(3, leader=0))
    calls = make_frame(
        make_node(1, "killed"),
        make_node(2, role="candidate", leader=0, term=4),
        make_node(3, leader=0),
    )
    led = make_frame(
        make_node(1, "killed"),
        make_node(2, role="leader", leader=2, term=4),
        make_node(3, leader=2, term=4),
    )
    shown = [(healthy, ()), (healthy, ()), (dead, (killed,)), (calls, (killed,))]
    shown += [(led, (killed, leads))] * 3
    frames = [
        replace(frame, sequence=n + 1, unix_ms=BEGIN + 100 * n, events=events)
        for n, (frame, events) in enumerate(shown)
    ]
    frames[2] = replace(frames[2], unix_ms=BEGIN + 255)
    return frames, (killed, leads)


def test_a_mark_stands_in_its_nodes_column(make_frame, make_node):
    frame = make_frame(
        make_node(1, role="leader"), make_node(2), make_node(3, role="candidate"),
        make_node(4, role="pre_candidate"), make_node(5, "frozen"), make_node(6, "crashed"),
        replace(make_node(7), snapshot=None), make_node(8, age_ms=9_000),
    )  # fmt: skip
    assert marks(frame) == "^ o v , = x r ?"


def test_a_line_for_each_event_and_for_each_change_without_one(story):
    assert [line for _, line in narrate(*story)] == [
        "   +0.000  change    ^ o o  t3   c20",
        "   +0.250  killed    x o o  t3   c20  n1 killed (signal SIGKILL) · by you → exit -9",
        "   +0.300  change    x v o  t4   c20",
        "   +0.390  leader    x ^ o  t4   c20  n2 elected leader → 121 ms leaderless",
    ]


def test_events_behind_the_last_frame_are_told_too(story):
    frames, events = story
    late = Event(3, BEGIN + 9_000, "user", "down", None, "cluster goes down", step="9: end")
    lines = [line for _, line in narrate(frames, (*events, late))]
    assert lines[-1].endswith("cluster goes down · by step 9: end")
    assert list(narrate([], events)) == []


def test_documents_are_in_the_order_of_time(story):
    found = list(documents(*story))
    assert [d["type"] for d in found] == ["frame"] * 2 + ["event"] + ["frame"] * 2 + [
        "event", "frame", "frame", "frame",
    ]  # fmt: skip
    assert found[0]["frame"]["schema"] == "raftdeck.frame/1"
    assert json.loads(json.dumps(found[2]))["effect"] == "exit -9"


# --- the verbs ------------------------------------------------------------------------


@pytest.fixture
def recorded(desk, story):
    """A cluster named deck in the default place, with two recorded lives."""
    frames, _ = story
    data = default_data_dir("deck")
    data.mkdir(parents=True)
    spec = ClusterSpec(name="deck", data_dir=data)
    (data / SPEC_FILE).write_text(spec.to_json())
    for life in (1, 2):
        header = ChunkHeader(f"{life}-9", spec.cluster_id, "deck", 1, 9, BEGIN + life)
        recorder = Recorder(data / "recording", header, 1 << 20)
        told = 0
        for frame in frames[: 3 * life]:
            recorder.record(frame.encode(), frame.events[told:])
            told = len(frame.events)
        recorder.close()
    return data


def run(*arguments):
    return CliRunner().invoke(raftdeck, [str(a) for a in arguments], obj=State())


def test_replay_prints_the_lines_of_a_run_by_name_by_number_and_by_directory(recorded, story):
    lines = [line for _, line in narrate(*story)]
    assert run("replay", "deck").stdout.splitlines() == lines
    assert run("replay", recorded, "--speed", 1e6).stdout.splitlines() == lines
    assert run("replay", recorded / "recording" / "00000002.rec").stdout.splitlines() == lines
    assert run("replay", "deck@1").stdout.splitlines() == lines[:2]
    document = json.loads(run("replay", "deck@2", "--json").stdout)
    assert (document["schema"], document["run"]) == ("raftdeck.replay/1", 2)
    assert document["lines"] == lines


def test_export_writes_lines_for_programs_and_a_film(recorded, tmp_path, story):
    assert run("export", "deck", "--jsonl", tmp_path / "a").exit_code == 0
    kinds = [json.loads(line)["type"] for line in (tmp_path / "a").read_text().splitlines()]
    assert kinds.count("frame") == 6
    assert kinds.count("event") == 2
    assert run("export", "deck", "--cast", tmp_path / "b", "--size", "80x24").exit_code == 0
    assert json.loads((tmp_path / "b").read_text().splitlines()[0])["width"] == 80


def test_the_run_that_is_being_written_is_not_pruned(recorded):
    lock = FileLock(recorded / "LOCK")
    assert lock.acquire(Holder(1, "deck", "0" * 32, "", str(recorded)))
    for place in ("deck", recorded, recorded / "recording"):
        run("runs", "prune", place, "--keep", 0)
        assert [path.name for path in chunk_paths(recorded / "recording")] == ["00000002.rec"]
    file = recorded / "recording" / "00000002.rec"
    assert "give a cluster" in str(run("runs", "prune", file, "--keep", 0).exception)
    lock.release()


def test_runs_are_listed_shown_and_pruned(recorded):
    listed = json.loads(run("runs", "ls", "--json").stdout)["runs"]
    assert [each["run"] for each in listed] == ["deck@1", "deck@2"]
    assert "deck@2" in run("runs", "ls", "deck").stdout
    shown = json.loads(run("runs", "show", "deck", "--json").stdout)
    assert (shown["frames"], shown["events"]) == (6, {"killed": 1, "leader": 1})
    assert "6 frames" in run("runs", "show", "deck").stdout
    assert json.loads(run("runs", "prune", "deck", "--json").stdout)["removed"] == 1
    assert "removed 1 of 1" in run("runs", "prune", "deck", "--keep", 0).stdout
    assert json.loads(run("runs", "ls", "--json").stdout)["runs"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("replay", "nothing"), "no recording of 'nothing'"),
        (("replay", "deck@7"), "no run 7; there are 2"),
        (("replay", "./nowhere"), "no such file"),
        (("runs", "prune", "nothing.rec"), "no such file"),
        (("export", "deck"), "give one of --jsonl FILE and --cast FILE"),
        (("export", "deck", "--cast", "-", "--size", "big"), "write it as 120x36"),
        (("export", "deck", "--cast", "-", "--size", "0x9999"), "1 to 1,000 columns"),
    ],
)
def test_a_wrong_run_or_option_says_what_is_right(recorded, arguments, words):
    result = run(*arguments)
    assert words in str(result.exception)
