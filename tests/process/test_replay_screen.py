"""`raftdeck dash --replay` on the recording of a real cluster: every pane as of the cursor."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest

from cluster.chunks import decode_header, entries
from cluster.local import LocalCluster
from cluster.recording import Recording, chunk_paths
from cluster.sim.plan import draw_plan
from cluster.sim.plan_file import encode_plan
from cluster.sim.schedule import Fault, FaultKind
from cluster.spec import ClusterSpec
from dashboard.desk import Desk
from dashboard.presenter.screen import compose, screen_text
from dashboard.presenter.view import PAGES, Page, Size
from dashboard.replay import ReplaySource
from tests.process.hand import SMALL
from tests.process.terminal import Terminal

RAFTDECK = [sys.executable, "-c", "import sys; from dashboard.cli import main; sys.exit(main())"]


@pytest.fixture
def recorded(desk):
    """A cluster that was written to, lost its leader, found another, and went down."""
    data = desk / "data"
    spec = ClusterSpec(name="told", data_dir=data, nodes=3, wal=SMALL)
    with LocalCluster.launch(spec) as cluster:
        first = cluster.wait_ready().leader()
        stream = cluster.stream()  # somebody looks: ten frames a second
        with cluster.client() as client:
            for number in range(50):
                client.put(b"key", b"%d" % number)
            while (shown := stream.newest(5)) is None or shown.leader() != first:
                pass
            with cluster.as_step("1/1 kill leader"):
                cluster.kill("leader")
            client.put(b"key", b"last")
        frame = cluster.wait_for(lambda frame: frame.leader() not in (None, first), 20)
        while (shown := stream.newest(5)) is None or shown.leader() != frame.leader():
            pass
        cluster.mark("the story's turn")
        stream.close()
    return data, first, frame.leader()


def screen(desk: Desk, page: Page = "main") -> str:
    view = replace(desk.view, page=page)
    return screen_text(compose(desk.picture, view, Size(120, 36), desk.beside))


@pytest.mark.timeout(120)
def test_every_pane_shows_a_real_recording_as_of_the_cursor(recorded):
    data, first, second = recorded
    with Recording.open(data) as recording:
        assert recording.damage == ()
        frames = list(recording.frames_since(0))
        desk = Desk(ReplaySource(recording), lambda: 0)
        [killed] = [e for e in recording.events() if e.kind == "killed"]
        led = next(e for e in recording.events() if e.kind == "leader" and e.node == second)
        assert desk.frame == frames[0]

        desk.press("f")
        shown = next(frame for frame in frames if frame.unix_ms >= killed.unix_ms)
        assert desk.frame == shown
        text = screen(desk)
        assert re.search(rf"{first} ✖ DEAD", text)
        assert re.search(
            r"n. killed \(signal SIGKILL\).*step 1/1 kill.*→ exit -9 · leader lost", text
        )
        assert f"n{second} elected" not in text
        assert not any(event.unix_ms > desk.time.now_ms for event in desk.picture.events)

        desk.press("minus")
        before = screen(desk)
        assert f"▲ n{first}" in before
        assert "DEAD" not in before
        assert "killed" not in before

        desk.press("e")
        text = screen(desk)
        assert f"▲ n{second}" in text
        assert re.search(r"→ \d+ ms leaderless", text)
        assert desk.time.now_ms >= led.unix_ms
        state = desk.frame.node(second).group(0)
        assert state is not None
        assert f"term {state.term}" in text
        assert f"{state.commit:,}" in text

        for page in PAGES:
            assert len(screen(desk, page).splitlines()) == 36

        desk.press("end")
        assert desk.frame == frames[-1]
        assert "the story's turn" in screen(desk)
        desk.press("home")
        assert desk.frame == frames[0]


@pytest.mark.timeout(120)
def test_a_recording_is_played_on_a_terminal(recorded):
    _, _, second = recorded
    terminal = Terminal([*RAFTDECK, "dash", "--replay", str(recorded[0])])
    try:
        terminal.await_text("REPLAY")
        terminal.press("f")
        terminal.await_text("leader lost")
        terminal.press("e")
        terminal.await_text(rf"▲ \n*n{second}")
        terminal.press("x")
        terminal.await_text("in a recording nothing can be changed")
        terminal.press("G")
        terminal.await_text("the story's turn")
        terminal.press("q")
        assert terminal.ends() == 0
        assert terminal.restored()
    finally:
        terminal.close()


@pytest.mark.timeout(120)
def test_what_is_no_recording_is_refused_in_words(recorded, desk):
    data, _, _ = recorded
    (desk / "empty").mkdir()
    [path] = chunk_paths(data / "recording")
    whole = path.read_bytes()
    _, head = decode_header(whole, "") or (None, 0)
    foreign, headless, cut = (desk / f"{name}.rec" for name in ("foreign", "headless", "cut"))
    foreign.write_bytes(b"#!/bin/sh" * 40)
    headless.write_bytes(whole[:head])
    last = list(entries(whole[head:], head))[-1]
    cut.write_bytes(whole[: last.offset + 9])
    for place, code, words in (
        ("absent", 3, "no recording of 'absent'"),
        (desk / "absent", 3, "no such file or directory"),
        (desk / "empty", 3, "nothing is recorded"),
        (foreign, 2, "not a recording of raftdeck"),
        (headless, 3, "holds no whole frame"),
    ):
        terminal = Terminal([*RAFTDECK, "dash", "--replay", str(place)])
        try:
            assert terminal.ends() == code, terminal.text
            assert words in terminal.text.replace("\r\n", " ")
            assert "Traceback" not in terminal.text
        finally:
            terminal.close()
    terminal = Terminal([*RAFTDECK, "dash", "--replay", str(cut)])
    try:
        terminal.await_text(r"not all of it can be read: .*cut\.rec")
        terminal.press("f")
        terminal.await_text("leader lost")
        terminal.press("q")
        assert terminal.ends() == 0
    finally:
        terminal.close()


def test_a_simulated_run_is_watched_with_its_time_to_walk_about_in(desk):
    crash = Fault(0, 2_000_000_000, FaultKind.CRASH, "leader", 900_000_000)
    schedule = desk / "schedule.json"
    schedule.write_text(encode_plan(replace(draw_plan(3), faults=(crash,))))
    terminal = Terminal([*RAFTDECK, "sim", "--schedule", str(schedule), "--watch"])
    try:
        terminal.await_text("REPLAY")
        terminal.press("f")
        terminal.await_text(r"crash n\d")
        terminal.await_text("1 dead")
        terminal.press("q")
        assert terminal.ends() == 0
        assert terminal.restored()
    finally:
        terminal.close()
