"""Every branch of what decides about bytes on disk is taken by the tests of `wal` alone (issue 5).

    scripts/test --long wal-coverage

The tests run once more, under coverage, in a process of their own; what is not taken is named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.wal.support import ROOT

JUDGED = ("frame", "recovery", "segment", "bounds", "reader", "replay", "sealed", "tail")
"""Modules of `wal`: how frames and segments lie, how they are read back, and by which rules."""
RUN_TIMEOUT_S = 1_200


def gaps(scratch: Path, tests: Sequence[str]) -> dict[str, str]:
    """Run tests under coverage; return what they leave out of each module, by its name."""
    environment = os.environ | {"COVERAGE_FILE": str(scratch / "coverage")}
    coverage = [sys.executable, "-m", "coverage"]
    report = scratch / "report.json"
    pytest_arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    for arguments in (
        ["run", "--branch", "--source=wal", *pytest_arguments],
        ["combine", "-q", str(scratch)],
        ["json", "-q", "-o", str(report)],
    ):
        done = subprocess.run(
            [*coverage, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    files = json.loads(report.read_text())["files"]
    found = {}
    for name in JUDGED:
        measured = files[f"wal/{name}.py"]
        assert measured["summary"]["num_branches"], f"{name}: no branches were measured"
        lines, branches = measured["missing_lines"], measured["missing_branches"]
        if lines or branches:
            found[name] = f"wal/{name}.py: lines {lines}, branches {branches} are never taken"
    return found


@pytest.mark.long("wal-coverage")
def test_every_branch_of_frames_segments_and_recovery_is_taken(tmp_path: Path) -> None:
    found = gaps(tmp_path, ["tests/wal"])
    assert not found, "\n".join(found.values())


@pytest.mark.long("wal-coverage")
def test_tests_that_leave_branches_out_are_caught(tmp_path: Path) -> None:
    """The control: the tests of the layouts alone recover nothing."""
    found = gaps(tmp_path, ["tests/wal/test_layout.py"])
    assert {"recovery", "replay", "reader"} <= found.keys()
