"""What importing costs, seen from a fresh interpreter.

The static contracts in pyproject.toml check who may import whom; these tests check what is really
loaded, lazy imports and re-exports included.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN_IN_THE_CORE = (
    "asyncio logging msgpack os random selectors socket subprocess threading time wal zmq"
)

# Prints the forbidden modules that a module of node.raft holds: as modules, or as their functions.
PROBE_THE_CORE = """
import importlib, pkgutil, sys, types
import {core} as core
forbidden = set(sys.argv[1].split())
names = [m.name for m in pkgutil.walk_packages(core.__path__, core.__name__ + ".")]
for name in [core.__name__, *names]:
    for key, value in vars(importlib.import_module(name)).items():
        if key.startswith("__"):
            continue
        is_module = isinstance(value, types.ModuleType)
        origin = value.__name__ if is_module else getattr(value, "__module__", None)
        if str(origin).split(".")[0] in forbidden:
            print(name, key, origin)
"""


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=30,
    )


def loaded_roots(module: str, cwd: Path) -> set[str]:
    """Return the top-level names in sys.modules after importing `module` in a new process."""
    code = f"import {module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    answer = run("-c", code, cwd=cwd)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


@pytest.mark.parametrize("module", ["wal", "node", "cluster.cli", "dashboard.cli"])
def test_importing_anything_headless_never_loads_textual(module: str, tmp_path: Path) -> None:
    assert "textual" not in loaded_roots(module, tmp_path)


def test_the_probe_for_textual_can_see_it(tmp_path: Path) -> None:
    assert "textual" in loaded_roots("textual", tmp_path)


def test_importing_the_log_loads_neither_network_nor_messages(tmp_path: Path) -> None:
    assert not loaded_roots("wal", tmp_path) & {"zmq", "msgpack"}


def test_the_core_holds_no_forbidden_module(tmp_path: Path) -> None:
    answer = run("-c", PROBE_THE_CORE.format(core="node.raft"), FORBIDDEN_IN_THE_CORE, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert not answer.stdout, answer.stdout


@pytest.mark.parametrize("line", ["import time", "from time import monotonic", "import zmq as z"])
def test_the_probe_for_the_core_is_red_on_a_planted_import(line: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "__init__.py").write_text("")
    (planted / "election.py").write_text(line + "\n")
    code = "import sys; sys.path.insert(0, '.')\n" + PROBE_THE_CORE.format(core="planted")
    answer = run("-c", code, FORBIDDEN_IN_THE_CORE, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("planted.election ")


def test_a_foreign_package_in_the_working_directory_does_not_hide_the_node(tmp_path: Path) -> None:
    """Children start with `-P`: without it, this directory's `node` would run instead."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "__init__.py").write_text("raise SystemExit('the wrong node')\n")
    answer = run("-m", "node", "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "usage" in answer.stdout.lower()
