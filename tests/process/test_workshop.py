"""The workshop: every step says and measures something, with keys on a terminal and without one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts import _workshop_stage as stage_module
from scripts import workshop_wal
from scripts._workshop_stage import NAIVE, Stage, Variant
from scripts._workshop_steps import STEPS, crash, kill_writer
from tests.process.terminal import Terminal
from tests.wal.support import ROOT

MEASURED = [number for number, step in enumerate(STEPS, 1) if number not in (1, 2, 3, 13, 14, 15)]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(workshop_wal.main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of a hundred records: what is said is under test here, not the disk."""
    monkeypatch.setattr(stage_module, "ROUNDS", 1)
    monkeypatch.setattr("scripts._workshop_steps.SECONDS", 0.1)
    monkeypatch.setattr("scripts._workshop_steps.SEED_RECORDS", 200)


@pytest.mark.parametrize("number", MEASURED)
def test_a_step_measures_each_of_its_rows(tmp_path: Path, number: int) -> None:
    output = run("--auto", "--only", "--step", number, "--records", 100, "--data", tmp_path)
    assert f"{number}/{len(STEPS)}  {STEPS[number - 1].title}" in output
    rows = [line for line in output.splitlines() if line.endswith("█")]
    assert rows
    assert "not in this version" not in output
    assert list(tmp_path.iterdir()) == [], "what was written is gone"
    assert all(len(line) <= workshop_wal.WIDTH_MAX for line in output.splitlines())


def test_the_store_its_crash_and_littles_law(tmp_path: Path) -> None:
    output = run("--auto", "--step", 1, "--only", "--data", tmp_path)
    assert "replays 4 operations, and has the keys: b, greeting" in output
    output = run("--auto", "--step", 2, "--only", "--data", tmp_path)
    safe, unsafe = [
        line.split() for line in output.splitlines() if line.startswith(("log,", "answer,"))
    ]
    assert safe[-1] == "0"
    assert int(unsafe[-1].replace(",", "")) > 0, "the negative control loses"
    output = run("--auto", "--step", 3, "--only", "--data", tmp_path)
    for line in output.splitlines():
        words = line.replace(",", "").split()
        if words[:1] and words[0] in ("1", "2", "4", "8", "16"):
            assert float(words[4]) == pytest.approx(int(words[0]), rel=0.35), "L = λ × W"


def test_the_tuning_guide_has_a_row_for_each_setting(tmp_path: Path) -> None:
    output = run("--auto", "--step", 13, "--only", "--data", tmp_path)
    for name in ("natural", "balanced", "low_latency", "high_throughput"):
        assert f"\n{name} " in output
    assert "not in this version" not in output


def test_a_field_that_is_missing_is_named_and_nothing_is_measured_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path, 100, 79)
    trials = stage.compare([Variant("naive"), Variant("wishful", {"wishes": True})])
    assert len(trials) == 1
    assert "wishful  not in this version: SyncPolicy has no wishes" in capsys.readouterr().out


def test_the_naive_row_syncs_each_record_and_a_group_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 200, 79)
    assert stage.trial(Variant("naive")).syncs == 200
    assert stage.trial(Variant("groups", {"commit": "group"})).syncs == 2
    assert stage.trial(Variant("buffered", {"commit": "buffered", "driver": "thread"})).syncs == 0
    assert Variant("naive").policy()[0].prepare == NAIVE["prepare"]


def at_step_14(data: Path) -> Terminal:
    """The workshop on a terminal, near its end."""
    command = [str(ROOT / "scripts" / "workshop"), "--step", "14", "--data", str(data)]
    return Terminal(command, size=(80, 24))


def press_and_see(terminal: Terminal, key: str, wanted: str) -> None:
    """Press a key and wait for a step that is painted after it: what stands there proves nothing."""
    before = len(terminal.raw)
    painted = re.compile(rf"{wanted}[\s\S]*q: end".encode())

    def seen() -> object:
        return painted.search(terminal.raw, before)

    terminal.press(key)
    terminal.await_that(seen, f"{wanted} after {key!r}")


def test_keys_go_on_back_again_and_out(tmp_path: Path) -> None:
    terminal = at_step_14(tmp_path)
    try:
        terminal.await_text(r"14/15[\s\S]*q: end")
        for key, wanted in [(" ", "15/15"), ("b", "14/15"), ("r", "14/15"), ("\n", "15/15")]:
            press_and_see(terminal, key, wanted)
        terminal.press("q")
        assert terminal.ends() == 0
    finally:
        terminal.close()
    assert list(tmp_path.iterdir()) == []


def test_it_ends_at_ctrl_c_and_cleans_up(tmp_path: Path) -> None:
    terminal = at_step_14(tmp_path)
    try:
        terminal.await_text(r"q: end")
        terminal.press("\x03")
        assert terminal.ends() == 130
    finally:
        terminal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    terminal = at_step_14(tmp_path)
    try:
        terminal.await_text(r"q: end")
        assert list(tmp_path.iterdir())
        terminal.hang_up()
        assert terminal.process.wait(30) in (0, 120, 130), "120: nobody took the last words"
    finally:
        terminal.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_lost_is_exit_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the first writer acknowledges too early as well."""
    monkeypatch.setitem(
        crash.__globals__,
        "kill_writer",
        lambda place, after, options: kill_writer(place, after, ["--unsafe"]),
    )
    result = CliRunner().invoke(
        workshop_wal.main, ["--auto", "--step", "2", "--only", "--data", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "acknowledged keys were lost" in result.output


def test_the_list_names_every_step_and_a_place_that_is_none_is_a_usage_error(
    tmp_path: Path,
) -> None:
    assert [line[4:] for line in run("--list").splitlines()] == [step.title for step in STEPS]
    (tmp_path / "file").touch()
    result = CliRunner().invoke(workshop_wal.main, ["--auto", "--data", f"{tmp_path}/file/x"])
    assert result.exit_code == 2
    answer = subprocess.run(
        [sys.executable, "-m", "scripts.workshop_wal", "--step", "99"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 2
