"""The application, with every key pressed in a terminal that is not there; no clock of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from dashboard.app import DeckApp, Look
from dashboard.keys import KEYS
from dashboard.presenter.screen import compose, screen_text
from dashboard.presenter.view import Size
from tests.dashboard.scenes import START_MS

STILL = Look(ticking=False)


def run(story, rig, *, size=(120, 36), look=STILL):
    """Run a story with an app and its pilot; return the app."""

    async def told():
        app = DeckApp(rig.desk, look)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(app, pilot)
        return app

    return asyncio.run(told())


def shown(app) -> str:
    """What is on the terminal. The compositor's strips are what a driver would write."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


def expected(app, rig) -> str:
    rows = compose(rig.desk.picture, rig.desk.view, Size(*app.size), rig.desk.beside)
    return screen_text(rows, ascii_only=app.look.ascii_only)


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 60)])
def test_the_terminal_shows_what_the_presenter_says(make_rig, size):
    rig = make_rig("frozen")

    async def story(app, pilot):
        assert shown(app) == expected(app, rig)

    run(story, rig, size=size)


def test_every_key_is_pressed_and_the_screen_follows(make_rig):
    """One story for all keys, in an order that visits every page and overlay."""
    rig = make_rig("frozen", groups=2)
    keys = [
        "question_mark", "escape", "j", "down", "k", "up", "l", "enter", "pagedown", "pageup",
        "escape", "o", "right", "left", "escape", "w", "j", "k", "escape", "t", "j", "enter",
        "comma", "full_stop", "tab", "tab", "tab", "tab", "z", "z", "slash", "n", "3", "enter",
        "escape", "colon", "h", "e", "l", "p", "escape", "space", "left_square_bracket",
        "right_square_bracket", "left_curly_bracket", "right_curly_bracket", "minus", "equals_sign",
        "E", "e", "F", "f", "v", "k", "enter", "escape", "m", "apostrophe", "quotation_mark", "home",
            "G", "x", "down", "escape", "x", "p", "u", "T", "T", "ctrl+l",
    ]  # fmt: skip

    async def story(app, pilot):
        for key in keys:
            await pilot.press(key)
            assert app.is_running, key
        await pilot.pause()
        assert shown(app) == expected(app, rig)

    run(story, rig)
    pressed = set(keys)
    untouched = [
        key.label for key in KEYS if not pressed & set(key.names) and key.when in ("", "act")
    ]
    assert untouched == ["S", "q"], "the screenshot and leaving have tests of their own"
    assert rig.hands.did == [("resume", "n3"), ("pause", "n3")]


def test_the_chord_names_sigkill_on_the_screen_before_it_acts(rig):
    async def story(app, pilot):
        await pilot.press("x")
        await pilot.pause()
        text = shown(app)
        assert "SIGKILL" in text
        assert "FAULT on n2" in text
        assert "pid 4002" in text
        assert rig.hands.did == []
        await pilot.press("k")
        await pilot.pause()
        assert "FAULT on" not in shown(app)

    run(story, rig)
    assert rig.hands.did == [("kill", "n2")]


def test_the_window_may_be_resized_at_any_time(rig):
    async def story(app, pilot):
        for size in ((80, 24), (200, 60), (60, 16), (40, 10), (120, 36), (99, 30)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert shown(app) == expected(app, rig), size

    run(story, rig)


def test_only_rows_that_changed_are_painted(make_rig):
    rig = make_rig("healthy", nodes=11)

    async def story(app, pilot):
        grid = app.canvas.grid
        before = {name: grid.painted(name) for name in ("header", "nodes", "logs", "links")}
        app.paint()
        assert {name: grid.painted(name) for name in before} == before
        await pilot.press("j")
        painted = grid.painted("nodes") - before["nodes"]
        assert painted == 2, "the row that lost the mark and the one that got it"

    run(story, rig)


def test_a_tick_collects_and_paints(make_rig):
    rig = make_rig()

    async def story(app, pilot):
        newer = replace(rig.frames[-1], sequence=999, unix_ms=START_MS + 14_100, name="renamed")
        rig.source.extend([newer])
        rig.source.advance()
        app.tick()
        await pilot.pause()
        assert "renamed" in shown(app)

    run(story, rig)


def test_q_leaves_with_zero(rig):
    async def story(app, pilot):
        await pilot.press("q")
        await pilot.pause()

    assert run(story, rig).return_value == 0


def test_ctrl_q_and_ctrl_c_leave_as_q_does(make_rig):
    for key in ("ctrl+q", "ctrl+c"):

        async def story(app, pilot, key=key):
            await pilot.press(key)
            await pilot.pause()

        assert run(story, make_rig()).return_value == 0


def test_a_screenshot_is_written_where_it_was_asked_for(rig, tmp_path):
    async def story(app, pilot):
        await pilot.press("S")
        await pilot.pause()

    run(story, rig, look=Look(ticking=False, shots_dir=tmp_path))
    (shot,) = tmp_path.glob("raftdeck-demo-5-*.svg")
    assert "<svg" in shot.read_text(encoding="utf-8")
    assert "screenshot:" in rig.desk.view.notice


def test_a_screenshot_that_cannot_be_written_is_told(rig, tmp_path):
    async def story(app, pilot):
        await pilot.press("S")

    run(story, rig, look=Look(ticking=False, shots_dir=tmp_path / "absent"))
    assert "no screenshot" in rig.desk.view.notice


def test_ascii_stays_ascii_through_the_terminal(rig):
    async def story(app, pilot):
        await pilot.press("x")
        await pilot.pause()
        assert shown(app).isascii()

    run(story, rig, look=Look(ticking=False, ascii_only=True))


def test_without_colours_there_are_none(rig, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    async def story(app, pilot):
        for strip in app.screen._compositor.render_strips():
            for segment in strip:
                style = segment.style
                for colour in (style.color, style.bgcolor) if style else ():
                    assert colour is None or colour.is_default, segment
        await pilot.press("T")
        assert "no colours" in rig.desk.view.notice

    run(story, rig, look=Look(theme="mono", ticking=False))


def test_a_click_on_a_node_selects_it(rig):
    async def story(app, pilot):
        await pilot.click("#canvas", offset=(5, 7))
        await pilot.pause()

    run(story, rig)
    assert rig.desk.view.selected == 4


def test_the_reader_is_asked_only_where_files_are_shown(rig, tmp_path):
    async def story(app, pilot):
        await pilot.press("w")
        for _ in range(100):
            app.tick()
            await pilot.pause()
            if rig.desk.sight is not None:
                break
        text = shown(app)
        assert "No such file" in text or "no segment" in text

    run(story, rig, look=Look(ticking=False, data_dir=tmp_path))
