"""Prove the wheel: build it, install it into a clean environment, and run it from there.

The editable install puts the whole checkout on `sys.path`, so it cannot show that a module was left
out of the wheel or that a dependency was not declared. This environment holds the wheel and the
locked versions of its declared dependencies, nothing else.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from scripts import _setup

__all__ = ["checks"]

PACKAGES = ("cluster", "node", "wal", "dashboard")
SMOKE_SECONDS_MAX = 60  # for one command; each is expected to take a second

# Prints the names that raftdeck's declared dependencies come to on this machine, one a line.
_CLOSURE = """
from importlib.metadata import requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
found, queue = set(), ["raftdeck"]
while queue:
    for text in requires(queue.pop()) or ():
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
        if name not in found and (
            requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ):
            found.add(name)
            queue.append(name)
print("\\n".join(sorted(found)))
"""

_ORIGIN = """
import importlib, sys
for name in sys.argv[2:]:
    path = importlib.import_module(name).__file__
    if not path.startswith(sys.argv[1]):
        sys.exit(f"{name} comes from {path}")
"""


def checks() -> Iterator[tuple[str, str]]:
    """Yield each check with its failure, empty if it held; stop where the rest makes no sense."""
    with tempfile.TemporaryDirectory(prefix="raftdeck-wheel-") as directory:
        home = Path(directory).resolve()
        failure, _ = _python("-m", "build", "--wheel", "--no-isolation", "-o", str(home), ".")
        yield "build the wheel", failure
        if failure:
            return
        wheel = next(home.glob("*.whl"))
        yield "the wheel holds the four packages and nothing else", _foreign_contents(wheel)
        environment = home / "venv"
        failure = _install(wheel, environment)
        yield "install it into a clean environment", failure
        if not failure:
            yield from _smoke(environment)


def _foreign_contents(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    if tops - metadata != set(PACKAGES):
        return f"top-level names are {sorted(tops - metadata)}"
    missing = [name for name in PACKAGES if f"{name}/py.typed" not in names]
    return f"no py.typed in {missing}" if missing else ""


def _install(wheel: Path, environment: Path) -> str:
    failure, names = _python("-c", _CLOSURE)
    if failure:
        return failure
    uv = _setup.find_uv()
    try:
        _setup.make_environment(environment, uv)
        _setup.install_locked(environment, names.split(), uv)
        unwanted = [name for name in _setup.BUILD_BACKENDS if name not in names.split()]
        _setup.uninstall(environment, unwanted, uv)
        _setup.install(environment, [str(wheel)], uv)
    except _setup.SetupError as error:
        return str(error)
    return ""


def _smoke(environment: Path) -> Iterator[tuple[str, str]]:
    python = _setup.interpreter_of(environment)
    raftdeck = str(environment / "bin" / "raftdeck")
    origin = [str(python), "-I", "-c", _ORIGIN, str(environment), *PACKAGES]
    for name, command in {
        "the four packages come from it": origin,
        "raftdeck --help": [raftdeck, "--help"],
        "raftdeck doctor": [raftdeck, "doctor"],
    }.items():
        failure, _ = _run(command, environment.parent, environment)
        yield name, failure


def _python(*arguments: str) -> tuple[str, str]:
    python = str(_setup.interpreter_of(_setup.VENV))
    return _run([python, *arguments], _setup.ROOT, _setup.VENV)


def _run(command: list[str], directory: Path, environment: Path) -> tuple[str, str]:
    """Run a command; return its failure, empty if it exited with 0, and its standard output."""
    variables = _setup.child_environment(environment)
    try:
        answer = subprocess.run(
            command,
            cwd=directory,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SMOKE_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), ""
    if answer.returncode == 0:
        return "", answer.stdout
    output = (answer.stdout + answer.stderr).strip()
    return f"exit {answer.returncode}{os.linesep}{output}", answer.stdout
