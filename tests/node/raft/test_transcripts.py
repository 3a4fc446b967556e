"""Runs `scenarios/*.txt` and compares what happens with what is written below each command.

`RAFTDECK_REWRITE=1` writes the files anew instead; read the difference before keeping it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.node.raft.transcript import Transcript

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
RULE = "----"


def perform(text: str) -> str:
    """Return the scenario with fresh output below each block of commands."""
    transcript = Transcript()
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        commands = lines[: lines.index(RULE)] if RULE in lines else lines
        if all(line.startswith("#") for line in commands):
            paragraphs.append("\n".join(commands))
            continue
        output = []
        for command in commands:
            # With several commands in a block, each one's output stands under its name.
            output += [f"> {command}"] if len(commands) > 1 else []
            output += transcript.run(command)
        paragraphs.append("\n".join([*commands, RULE, *(output or ["(nothing)"])]))
    return "\n\n".join(paragraphs) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_a_scenario_happens_as_it_is_written(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    happened = perform(written)
    if os.environ.get("RAFTDECK_REWRITE"):
        path.write_text(happened, encoding="utf-8")
    else:
        assert happened == written


def test_a_scenario_that_differs_is_noticed() -> None:
    text = perform("# Two nodes.\n\ncluster 2\ncampaign 1")
    assert "1>2 PreVote t1 last 0@0" in text
    assert perform(text) == text
    assert perform(text.replace("t1", "t2")) == text


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 8
