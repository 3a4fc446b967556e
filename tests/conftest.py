"""What every test run shares: the long suites, the process marker, and the right packages.

`@pytest.mark.long("restart")` puts a test into the long suite `restart`: it never runs by default,
`--long restart` runs exactly that suite, and `--long list` names the suites.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cluster", "node", "wal", "dashboard")
LONG_SECONDS_MAX = 40 * 60  # for one long test that does not set its own timeout

# Two cores under eleven nodes make any per-example deadline a coin toss; the blob repeats a failure.
hypothesis.settings.register_profile("raftdeck", deadline=None, print_blob=True)
hypothesis.settings.load_profile("raftdeck")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        metavar="SUITE",
        help="run only the long suite SUITE; 'list' names the suites and runs nothing",
    )


def pytest_configure() -> None:
    """Heed signals that whoever started the run ignores (`nohup`, a shell's `&`), and buffer output.

    Both are inherited by every child: the tests interrupt theirs, and a user's have a buffer.
    """
    os.environ.pop("PYTHONUNBUFFERED", None)
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_sessionstart() -> None:
    """Refuse to test packages of the same names that come from somewhere else."""
    for name in PACKAGES:
        origin = importlib.import_module(name).__file__
        if origin is None or not Path(origin).resolve().is_relative_to(ROOT):
            raise pytest.UsageError(f"package {name!r} comes from {origin}, not from {ROOT}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    listed = session.config.getoption("--long") == "list"
    if listed and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    processes = Path(__file__).parent / "process"
    for item in items:
        if item.path.is_relative_to(processes):
            item.add_marker(pytest.mark.process)
    wanted = config.getoption("--long")
    selected = [item for item in items if _is_selected(item, wanted)]
    for item in selected:
        if wanted and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS_MAX))
    config.hook.pytest_deselected(items=[item for item in items if item not in set(selected)])
    if wanted and not selected:
        _name_the_suites(config, Counter(suite for item in items for suite in _suites(item)))
    items[:] = selected


def _is_selected(item: pytest.Item, wanted: str | None) -> bool:
    suites = _suites(item)
    return wanted in suites if wanted else not suites


def _suites(item: pytest.Item) -> frozenset[str]:
    names = [name for mark in item.iter_markers("long") for name in mark.args]
    if not names and item.get_closest_marker("long") is not None:
        raise pytest.UsageError(f'{item.nodeid}: name the suite: @pytest.mark.long("restart")')
    return frozenset(names)


def _name_the_suites(config: pytest.Config, sizes: Counter[str]) -> None:
    wanted = config.getoption("--long")
    lines = [f"{name}: {count} tests" for name, count in sorted(sizes.items())]
    listing = "\n".join(lines) or "there are no long suites yet"
    if wanted != "list":
        raise pytest.UsageError(f"no long suite {wanted!r}; the suites are\n{listing}")
    config.get_terminal_writer().line(f"\n{listing}")
