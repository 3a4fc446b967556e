"""The gate's own parts: what it installs, what it counts, and how long suites are chosen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import _gate, _setup

ROOT = Path(__file__).resolve().parents[2]

LONG_TESTS = """
import pytest

def test_short(): pass

@pytest.mark.long("restart")
def test_restart(): pass

@pytest.mark.long("restart", "campaign")
def test_both(): pass
"""


def run_pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_planted.py").write_text(LONG_TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "tests.conftest"]
    options = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [*command, *options, *arguments, str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=ROOT,
    )


def passed(answer: subprocess.CompletedProcess[str]) -> set[str]:
    return set(re.findall(r"::(\w+) PASSED", answer.stdout))


def test_long_tests_do_not_run_by_default(tmp_path: Path) -> None:
    answer = run_pytest(tmp_path)
    assert passed(answer) == {"test_short"}, answer.stdout + answer.stderr


def test_a_long_suite_runs_exactly_its_tests(tmp_path: Path) -> None:
    assert passed(run_pytest(tmp_path, "--long", "restart")) == {"test_restart", "test_both"}
    assert passed(run_pytest(tmp_path, "--long", "campaign")) == {"test_both"}


def test_the_long_suites_can_be_listed(tmp_path: Path) -> None:
    answer = run_pytest(tmp_path, "--long", "list")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "campaign: 1 tests\nrestart: 2 tests" in answer.stdout
    assert not passed(answer)


def test_an_unknown_long_suite_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    answer = run_pytest(tmp_path, "--long", "restrat")
    assert answer.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no long suite 'restrat'" in answer.stderr
    assert "restart: 2 tests" in answer.stderr


def test_only_long_suites_run_without_a_dump_of_stacks() -> None:
    """A dump reads the frames of threads that run; it ended an interpreter under full load."""
    for arguments in (["--long", "idle"], ["-s", "--long=idle"]):
        assert _gate.long_options(arguments) == ["-o", "faulthandler_timeout=0"]
    assert _gate.long_options(["-k", "long"]) == []


@pytest.mark.parametrize(
    ("tally", "line"),
    [
        (_gate.Tally(12, 0, 0), "12 passed, 0 failed"),
        (_gate.Tally(1, 2, 3), "1 passed, 2 failed, 3 skipped"),
        (_gate.Tally(1, 1, 0) + _gate.Tally(2, 0, 1), "3 passed, 1 failed, 1 skipped"),
    ],
)
def test_the_closing_line_counts_everything(tally: _gate.Tally, line: str) -> None:
    assert str(tally) == line


def test_a_report_counts_errors_as_failures(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<a><testsuite tests="9" errors="1" failures="2" skipped="3"/></a>')
    assert _gate.read_report(report, 1) == _gate.Tally(3, 3, 3)


@pytest.mark.parametrize("text", [None, "", '<a><testsuite tests="5"/></a>'])
def test_a_run_that_ended_badly_never_counts_as_a_success(text: str | None, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    if text is not None:
        report.write_text(text)
    assert _gate.read_report(report, pytest.ExitCode.INTERNAL_ERROR).failed == 1


def test_a_run_without_tests_counts_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<a><testsuite tests="0" errors="0" failures="0" skipped="0"/></a>')
    assert _gate.read_report(report, pytest.ExitCode.NO_TESTS_COLLECTED) == _gate.Tally()


def test_a_lock_is_split_by_name_with_markers_and_hashes() -> None:
    text = "# head\na==1 ; os_name == 'nt' \\\n    --hash=x\n    # via b\nB-c==2 \\\n    --hash=y\n"
    assert _setup.lock_entries(text) == {
        "a": "a==1 ; os_name == 'nt' \\\n    --hash=x\n",
        "b-c": "B-c==2 \\\n    --hash=y\n",
    }


def test_every_locked_package_is_pinned_and_hashed() -> None:
    entries = _setup.lock_entries(_setup.LOCK.read_text(encoding="utf-8"))
    assert set(_setup.BUILD_BACKENDS) < set(entries)
    for name, entry in entries.items():
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), name
        assert "--hash=sha256:" in entry, name


def test_the_lock_holds_whatever_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[^A-Za-z0-9.-]", requirement)[0] for requirement in declared}
    locked = _setup.lock_entries(_setup.LOCK.read_text(encoding="utf-8"))
    assert names <= set(locked), "run scripts/lock"


def test_set_up_parses_on_the_pythons_that_it_must_refuse() -> None:
    """It has to run there, to say which Python is needed."""
    programs = [
        ROOT / "scripts" / name for name in ("_setup.py", "__init__.py", "demo", "test", "workshop")
    ]
    for path in programs:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))
