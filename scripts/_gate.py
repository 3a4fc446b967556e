"""The gate: static checks, tests, process tests and the wheel, counted into one closing line.

Every tool runs as a child in the locked environment; this module itself needs only the standard
library. A failing stage does not stop the later ones. The closing line is the last line printed:
`N passed, N failed`, or with `, N skipped` when something was skipped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from scripts import _setup, _wheel

__all__ = ["Tally", "long_options", "main", "read_report"]

PYTEST_NOTHING_COLLECTED = 5
STATIC_CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "import contracts": ["lint-imports", "--no-logo"],
    "mypy": ["mypy"],
}


@dataclass(frozen=True, slots=True)
class Tally:
    """What a stage counted; an error counts as a failure, an expected failure as skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Return both stages together."""
        return Tally(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        """Return the closing line."""
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


def main(arguments: Sequence[str]) -> int:
    """Run the gate, or with arguments only pytest; return 0 if nothing failed.

    With arguments the exit code is pytest's own: a filter that matches nothing is no success.
    """
    if arguments:
        total, exit_code = _run_pytest([*long_options(arguments), *arguments])
    else:
        total = _run_all()
        exit_code = 0
    sys.stderr.flush()
    print(total, flush=True)
    return exit_code or (1 if total.failed else 0)


def long_options(arguments: Sequence[str]) -> list[str]:
    """Return what a long suite needs: no dump of all stacks after 50 s (pyproject.toml).

    For a short test that is a sign of trouble; in a long one it is noise, and it reads the frames
    of threads that run: under full load it ended the interpreter.
    """
    is_long = any(part == "--long" or part.startswith("--long=") for part in arguments)
    return ["-o", "faulthandler_timeout=0"] if is_long else []


def read_report(report: Path, exit_code: int) -> Tally:
    """Count the outcomes in a JUnit report; a run that wrote none counts by its exit code.

    A run that ends badly without a failing test (a crash, a usage error, an internal error) counts
    as one failure: nothing that pytest calls an error may close as a success.
    """
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))  # noqa: S314 - our own
    except (OSError, ElementTree.ParseError):
        return Tally(failed=0 if exit_code == 0 else 1)
    tests, errors, failures, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites)
        for name in ("tests", "errors", "failures", "skipped")
    )
    failed = errors + failures
    if exit_code not in (0, PYTEST_NOTHING_COLLECTED):
        failed = max(failed, 1)
    return Tally(max(tests - errors - failures - skipped, 0), failed, skipped)


def _run_all() -> Tally:
    started = time.monotonic()
    total = _static_checks()
    total += _stage("tests", _parallel_tests)
    total += _stage("process tests", _process_tests)
    total += _stage("wheel", _wheel_tests)
    _headline(f"all stages: {time.monotonic() - started:.1f} s")
    return total


def _static_checks() -> Tally:
    total = Tally()
    for name, command in STATIC_CHECKS.items():
        total += _stage(name, partial(_static_check, command))
    return total


def _static_check(command: Sequence[str]) -> Tally:
    program, *arguments = command
    failed = _exit_code([str(_setup.VENV / "bin" / program), *arguments])
    return Tally(failed=1) if failed else Tally(passed=1)


def _stage(name: str, run: Callable[[], Tally]) -> Tally:
    _headline(name)
    started = time.monotonic()
    tally = run()
    _headline(f"{name}: {tally} in {time.monotonic() - started:.1f} s")
    return tally


def _headline(text: str) -> None:
    print(f"== {text}", flush=True)


def _parallel_tests() -> Tally:
    # Two workers, for the two cores of the smallest machine that is supported.
    tally, _ = _run_pytest(["-q", "-m", "not process", "-n", "2", "--dist", "worksteal"])
    return tally if tally != Tally() else Tally(failed=1)  # finding no tests is no success


def _process_tests() -> Tally:
    # Alone and one at a time: a busy neighbour would turn election timeouts into noise.
    tally, _ = _run_pytest(["-q", "-m", "process"])
    return tally


def _wheel_tests() -> Tally:
    total = Tally()
    for name, failure in _wheel.checks():
        print(f"{name}: {failure or 'ok'}", flush=True)
        total += Tally(failed=1) if failure else Tally(passed=1)
    return total


def _run_pytest(arguments: Sequence[str]) -> tuple[Tally, int]:
    with tempfile.TemporaryDirectory(prefix="raftdeck-test-") as directory:
        report = Path(directory) / "report.xml"
        python = str(_setup.interpreter_of(_setup.VENV))
        command = [python, "-m", "pytest", f"--junitxml={report}", *arguments]
        exit_code = _exit_code(command)
        return read_report(report, exit_code), exit_code


def _exit_code(command: Sequence[str]) -> int:
    answer = subprocess.run(command, cwd=_setup.ROOT, env=_setup.child_environment(), check=False)
    return answer.returncode
