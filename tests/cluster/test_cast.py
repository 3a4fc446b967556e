"""A recording as a film for a terminal (`cluster.cast`)."""

import json
from dataclasses import replace

import pytest

from cluster.cast import Film, cast, plain_picture
from cluster.frames import Event
from cluster.replay import marks

BEGIN = 1_795_000_000_000
SMALL = Film(60, 9)


@pytest.fixture
def story(make_frame, make_node):
    """n1 leads, is killed, n2 leads; nothing else moves."""
    killed = Event(1, BEGIN + 250, "user", "killed", 1, "n1 killed (signal SIGKILL)", "exit -9")
    leads = Event(2, BEGIN + 390, "system", "leader", 2, "n2 elected leader", "121 ms leaderless")
    healthy = make_frame(make_node(1, role="leader"), make_node(2), make_node(3))
    dead = make_frame(make_node(1, "killed"), make_node(2, leader=0), make_node(3, leader=0))
    led = make_frame(
        make_node(1, "killed"),
        make_node(2, role="leader", leader=2, term=4),
        make_node(3, leader=2, term=4),
    )
    shown = [(healthy, ())] * 2 + [(dead, (killed,))] * 2 + [(led, (killed, leads))] * 3
    frames = [
        replace(frame, sequence=n + 1, unix_ms=BEGIN + 100 * n, events=events)
        for n, (frame, events) in enumerate(shown)
    ]
    frames[2] = replace(frames[2], unix_ms=BEGIN + 255)
    return frames, (killed, leads)


def film(story, made=SMALL, **options):
    return [json.loads(line) for line in cast(story[0], story[1], made, **options)]


def test_a_film_has_a_head_pictures_and_a_marker_per_event(story):
    head, *rest = film(story, Film(60, 9, "deck", idle_s=2.0))
    assert (head["version"], head["width"], head["height"], head["title"]) == (2, 60, 9, "deck")
    assert (head["timestamp"], head["idle_time_limit"]) == (BEGIN // 1000, 2.0)
    times = [moment for moment, _, _ in rest]
    assert times == sorted(times)
    markers = [(moment, text) for moment, kind, text in rest if kind == "m"]
    assert markers == [(0.25, "n1 killed (signal SIGKILL)"), (0.39, "n2 elected leader")]
    assert rest[-1][0] == 0.6, "it lasts as long as the recording"
    assert "idle_time_limit" not in film(story)[0]


def test_a_picture_is_painted_whole_once_and_then_where_it_changed(story):
    drawn = film(
        story,
        draw=lambda frame: f"always\n\x1b[1m{marks(frame)}\x1b[0m, and 20 cells {frame.leader()}",
    )
    pictures = [text for _, kind, text in drawn[1:] if kind == "o"]
    first = "\x1b[2;1H\x1b[1m^ o o\x1b[0m, and 20 cells 1\x1b[0m"
    assert pictures == [
        "\x1b[?25l\x1b[0m\x1b[2J\x1b[1;1Halways\x1b[0m" + first,
        "\x1b[2;1H\x1b[1mx\x1b[0m\x1b[2;21HNone\x1b[0m",
        "\x1b[2;3H\x1b[1m^\x1b[0m\x1b[2;21H2   \x1b[0m",
        "\x1b[9;1H\x1b[0m\x1b[?25h",
    ]


def test_tables_are_drawn_unless_told_otherwise(story):
    frames, _ = story
    assert plain_picture(frames[-1]).splitlines()[-2:] == [
        "11:06:40.250  n1 killed (signal SIGKILL) · by you → exit -9",
        "11:06:40.390  n2 elected leader → 121 ms leaderless",
    ]


def test_a_film_ends_at_its_bound_and_says_so(story):
    whole = list(cast(story[0], story[1], SMALL))
    size = sum(len(line.encode()) + 1 for line in whole[:3])
    short = list(cast(story[0], story[1], SMALL._replace(bytes_max=size)))
    assert short[:2] == whole[:2]
    marker, end = [json.loads(line) for line in short[2:]]
    assert marker[1:] == ["m", "cut: the film has reached 0 MiB"]
    assert end[2].endswith("\x1b[?25h")
    assert list(cast([], [], SMALL)) == []
