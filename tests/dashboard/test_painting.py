"""The whole app against an emulated terminal: whatever happened, every cell is as a full render says."""

from __future__ import annotations

import asyncio
import random

import pytest
from rich.color import ColorSystem
from textual import events

from dashboard.app import PANES, DeckApp, Look
from dashboard.keys import KEYS
from dashboard.presenter.screen import compose
from dashboard.presenter.view import Size
from dashboard.widgets.grid import changes
from dashboard.widgets.ink import Ink
from tests.dashboard.emulator import Emulator, cells_of, first_difference
from tests.dashboard.scenes import SCENES

STILL = Look(ticking=False)


class Shown(DeckApp):
    """The app on an emulated terminal."""

    def __init__(self, desk, look, size):
        self.terminal = Emulator(*size)
        self.written: list[str] = []
        super().__init__(desk, look)

    def _ink(self):
        return Ink(self.shade, ColorSystem.TRUECOLOR)

    def write(self, text):
        self.written.append(text)
        self.terminal.feed(text)

    async def press(self, key, character=None):
        """Take a key at once; Pilot's own waits for the machine to fall silent."""
        await self.on_event(events.Key(key, character or (key if len(key) == 1 else None)))

    def rendered(self):
        """What the presenter says of the desk as it is now."""
        desk = self.desk
        rows = compose(desk.picture, desk.view, Size(*self.size), desk.beside)
        return cells_of(rows, self.shade, ascii_only=self.look.ascii_only)

    def repainted(self):
        """What a terminal shows that was told all anew."""
        fresh = Emulator(*self.size)
        fresh.feed(changes(None, self.canvas.grid.lines(), self.canvas.grid.ink))
        return fresh.cells()


def run(story, rig, *, size=(120, 36), look=STILL):
    async def told():
        app = Shown(rig.desk, look, size)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(app, pilot)

    asyncio.run(told())


def assert_exact(app, note):
    __tracebackhide__ = True
    found = first_difference(app.terminal.cells(), app.rendered())
    assert found is None, (note, found)


@pytest.mark.parametrize("theme", ["dark", "light", "mono"])
def test_after_every_key_each_cell_and_its_colours_are_right(make_rig, theme):
    rig = make_rig("frozen", groups=2)
    keys = [key.names[0] for key in KEYS if key.command not in ("leave", "screenshot")]

    async def story(app, pilot):
        assert_exact(app, "first")
        for key in [*keys, "escape", "slash", "n", "3", "enter", "escape", "x", "down", "escape"]:
            await app.press(key)
            app.paint()
            assert_exact(app, key)

    run(story, rig, look=Look(theme=theme, ticking=False))


def test_after_every_resize_all_is_painted_anew(rig):
    async def story(app, pilot):
        for size in ((80, 24), (200, 60), (60, 16), (40, 10), (99, 30), (120, 36)):
            app.terminal = Emulator(*size)
            app.terminal.feed("junk that the old size left\r\n" * 3)
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert_exact(app, size)
            await app.press("j")
            app.paint()
            assert_exact(app, size)

    run(story, rig)


def test_ctrl_l_and_a_resume_paint_over_what_others_wrote(rig):
    async def story(app, pilot):
        for again in ("key", "resume"):
            app.terminal.feed("\x1b[5;5H\x1b[31mwall message from root")
            assert first_difference(app.terminal.cells(), app.rendered()) is not None
            app.paint()
            assert first_difference(app.terminal.cells(), app.rendered()) is not None
            if again == "key":
                await app.press("ctrl+l")
            else:
                app.app_resume_signal.publish(app)
                await pilot.pause()
            assert_exact(app, again)

    run(story, rig)


@pytest.mark.parametrize("seed", range(6))
def test_at_random_the_terminal_is_what_it_would_be_if_told_anew(make_rig, seed):
    """Frames, keys, panes in turn, sizes: after every step, no cell is left from another time."""
    rng = random.Random(seed)
    rig = make_rig(rng.choice(SCENES), rng.choice((3, 5, 11)), groups=rng.choice((1, 3)))
    others = [make_rig(rng.choice(SCENES), len(rig.frames[0].nodes)).frames for _ in range(3)]
    later = [frame for frames in others for frame in rng.sample(frames, 12)]
    rng.shuffle(later)
    names = [key.names[0] for key in KEYS if key.command not in ("leave", "screenshot")]
    look = Look(ticking=False, ascii_only=seed % 3 == 2)

    async def story(app, pilot):
        size = (120, 36)
        for step in range(120):
            chance = rng.random()
            if chance < 0.45 and later:
                app.desk.time.frame = later.pop()
                app.paint({name for name in PANES if rng.random() < 0.4})
            elif chance < 0.9:
                await app.press(rng.choice((*names, "escape", "a", "1")))
            else:
                size = rng.choice(((80, 24), (120, 36), (97, 31), (200, 60), (50, 12)))
                app.terminal = Emulator(*size)
                await pilot.resize_terminal(*size)
                await pilot.pause()
            found = first_difference(app.terminal.cells(), app.repainted())
            assert found is None, (seed, step, found)
        for _ in range(3):
            await app.press("escape")
        app.paint()
        assert_exact(app, seed)

    run(story, rig, look=look)


def test_signs_of_two_cells_or_none_move_nothing(make_rig):
    rig = make_rig("healthy")

    async def story(app, pilot):
        await app.press("slash")
        for sign in ("界", "é", "e\u0301", "👍🏽", "\u200d", "ｱ"):
            rig.desk.press("a", sign)
            app.paint()
            assert_exact(app, sign)
            assert "│" in app.terminal.screen.display[3], "the box of the input is whole"

    run(story, rig)


def test_a_key_is_seen_at_once_and_what_follows_from_it_at_the_next_tick(make_rig):
    rig = make_rig("healthy", nodes=5)

    async def story(app, pilot):
        assert_exact(app, "first")
        before = app.rendered()
        await app.press("j")
        table = slice(2, 2 + 5 + 3)
        assert app.terminal.cells()[table] == app.rendered()[table] != before[table]
        assert "FSYNC n2" in app.terminal.text, "the chart of the node that was selected before"
        app.tick()
        assert_exact(app, "tick")
        await app.press("x")
        assert_exact(app, "an overlay is not half of a picture")

    run(story, rig, look=Look(tick_s=3_600.0))


def test_an_open_chord_follows_its_target(make_rig):
    rig = make_rig("healthy")
    later = make_rig("minority").frames[-1]

    async def story(app, pilot):
        await app.press("x")
        before = app.terminal.text
        app.desk.time.frame = later
        app.paint({"header"})
        assert app.terminal.text.splitlines()[20:] != before.splitlines()[20:]
        app.paint()
        assert_exact(app, "later")

    run(story, rig)
