"""`raftdeck export --cast`: what a terminal shows at the film's end is the dashboard's screen."""

from __future__ import annotations

import json
import re
import threading

import pytest
from click.testing import CliRunner

from cluster.chunks import ChunkHeader
from cluster.cli_support import State
from cluster.recorder import Recorder
from cluster.recording import RECORDING_DIRECTORY, Recording
from dashboard.export import export
from dashboard.film import Film
from dashboard.presenter.view import Size
from tests.dashboard.scenes import START_MS, frames_of

FRAMES = frames_of("frozen", 5)
TOKEN = re.compile(
    r"\x1b\[(?P<row>\d+);(?P<column>\d+)H|(?P<erase>\x1b\[2K)|(?P<clear>\x1b\[2J)"
    r"|(?P<style>\x1b\[[0-9;]*m)|(?P<cursor>\x1b\[\?25[hl])|(?P<text>[^\x1b]+)"
)


class Grid:
    """A terminal that knows what a film may use, and refuses everything else."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.rows = [[" "] * width for _ in range(height)]
        self.at = (0, 0)
        self.cursor = True

    def take(self, text: str) -> None:
        place = 0
        while place < len(text):
            found = TOKEN.match(text, place)
            assert found, f"not understood: {text[place : place + 20]!r}"
            place = found.end()
            if found["row"]:
                self.at = (int(found["row"]) - 1, int(found["column"]) - 1)
            elif found["erase"]:
                self.rows[self.at[0]] = [" "] * self.width
            elif found["clear"]:
                self.rows = [[" "] * self.width for _ in self.rows]
            elif found["cursor"]:
                self.cursor = found["cursor"].endswith("h")
            elif found["text"]:
                row, column = self.at
                assert column + len(found["text"]) <= self.width, "it would wrap"
                assert found["text"].isprintable()
                self.rows[row][column : column + len(found["text"])] = found["text"]
                self.at = (row, column + len(found["text"]))

    @property
    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.rows)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    header = ChunkHeader("1-99", "0" * 32, "demo", 1, 99, START_MS)
    recorder = Recorder(place / RECORDING_DIRECTORY, header, 16 << 20)
    told = 0
    for frame in FRAMES:
        new = [event for event in frame.events if event.sequence > told]
        while not recorder.record(frame.encode(), new):
            threading.Event().wait(0.001)
        told = frame.events[-1].sequence
    recorder.close()
    return place


def played(data_dir, path, *options, hz=5.0):
    arguments = [str(data_dir), "--cast", str(path), "--hz", str(hz), *options]
    done = CliRunner().invoke(export, arguments, obj=State(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    grid = Grid(head["width"], head["height"])
    for _, code, text in lines:
        if code == "o":
            grid.take(text)
    return head, lines, grid


def as_shown(data_dir, size, hz=5.0, **look):
    """The same screen, made without a film."""
    film, picture = Film(size, mode="replay", **look), ""
    with Recording.open(data_dir) as recording:
        for frame in recording.thinned(round(1000 / hz)):
            picture = film(frame)
    return picture


@pytest.mark.parametrize("size", [Size(120, 36), Size(80, 24), Size(200, 60)])
def test_the_last_frame_on_a_terminal_is_the_dashboard(data_dir, tmp_path, size):
    head, lines, grid = played(
        data_dir, tmp_path / "a", "--size", f"{size[0]}x{size[1]}", "-i", "2"
    )
    assert (head["version"], head["idle_time_limit"]) == (2, 2.0)
    assert grid.text.rstrip() == as_shown(data_dir, size)
    assert "PAUSED" in grid.text
    assert "▲ LEADER" in grid.text
    assert grid.cursor, "the terminal is given back"
    times = [moment for moment, _, _ in lines]
    assert times == sorted(times)
    assert times[-1] == (FRAMES[-1].unix_ms - START_MS) / 1000
    chapters = [text for _, code, text in lines if code == "m"]
    assert chapters == [event.text for event in FRAMES[-1].events]


@pytest.mark.parametrize(
    ("options", "look"),
    [
        (("--mono",), {}),
        (("--light",), {"theme": "light"}),
        (("--ascii",), {"ascii_only": True}),
    ],
)
def test_a_film_looks_as_it_is_asked_to(data_dir, tmp_path, options, look):
    _, lines, grid = played(data_dir, tmp_path / "a", *options)
    whole = "".join(text for _, code, text in lines if code == "o")
    assert grid.text.rstrip() == as_shown(data_dir, Size(120, 36), **look | {"theme": ""})
    assert ("\x1b[1;38;2" in whole) == ("--mono" not in options)
    assert grid.text.isascii() == ("--ascii" in options)


def test_plain_means_tables_and_fewer_pictures_are_a_smaller_film(data_dir, tmp_path):
    _, _, grid = played(data_dir, tmp_path / "a", "--plain")
    assert "▲" not in grid.text
    assert "n3" in grid.text
    played(data_dir, tmp_path / "many", hz=10)
    _, lines, _ = played(data_dir, tmp_path / "few", hz=0.5)
    assert (tmp_path / "few").stat().st_size < (tmp_path / "many").stat().st_size / 2
    shown = {moment for moment, code, _ in lines if code == "o"}
    assert {5.2, 5.3, 7.4, 9.0, 14.0} <= shown, "each event and the end are shown all the same"
