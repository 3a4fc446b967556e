"""Make `.venv` hold exactly what `requirements.lock` pins, then stay out of the way.

Theory of operation. A stamp inside `.venv` records what it was made from: the lock, pyproject.toml,
the interpreter and the checkout's own path (an environment does not survive being moved). If the
stamp matches, `ensure` returns at once. If not, it takes an exclusive lock on `.venv.lock`, looks
again (another run may have finished meanwhile), builds from nothing, and writes the stamp last: an
interrupted set-up leaves no stamp and is therefore redone.

crcmod is published as source only. Its build backend is locked like everything else and installed
first, so that no step builds in a sandbox that fetches unpinned packages.

Standard library only, and nothing that Python 3.6 cannot load: this file also runs where it can do
no more than say which Python is needed.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NoReturn, Optional, Sequence

__all__ = [
    "EXIT_UNFIT",
    "ROOT",
    "VENV",
    "SetupError",
    "child_environment",
    "ensure",
    "find_uv",
    "install_locked",
    "lock_entries",
    "make_environment",
    "require_python",
    "say",
]

PYTHON_MIN = (3, 11)
PYTHON_NAMES = ("python3.12", "python3.13", "python3.11", "python3.14", "python3")
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / ".raftdeck-stamp"
BUILD_BACKENDS = ("packaging", "setuptools", "wheel")  # what crcmod's sdist is built with
EXIT_UNFIT = 4  # the environment is unfit, as everywhere in raftdeck
OUTPUT_LINES_MAX = 15  # of a failed installer, shown to the user

_UNREACHABLE = re.compile(
    r"NewConnectionError|Failed to establish|Temporary failure in name|Max retries|timed? ?out"
    r"|Connection (refused|reset)|ProxyError|dns error|error sending request|Failed to fetch"
    r"|client error \(Connect\)|No matching distribution|Could not find a version",
    re.IGNORECASE,
)


class SetupError(Exception):
    """The environment could not be made; the text says why and what to do."""


def say(text: str) -> None:
    """Print one line of progress to stderr; stdout belongs to the program that was asked for."""
    print("raftdeck: " + text, file=sys.stderr, flush=True)


def require_python(script: str, arguments: Sequence[str]) -> None:
    """Return if this interpreter is new enough; else start `script` again under one that is.

    Raises `SetupError` where there is none.
    """
    if sys.version_info[:2] >= PYTHON_MIN:
        return
    for name in PYTHON_NAMES:
        path = shutil.which(name)
        if path is not None and _is_new_enough(path):
            os.execv(path, [path, script, *arguments])
    raise SetupError(
        "Python 3.11 or newer is needed; this is Python %s (%s), and none of %s is a newer one. "
        "Install one, or put it first on PATH."
        % (platform.python_version(), sys.executable, ", ".join(PYTHON_NAMES))
    )


def fail(text: str) -> NoReturn:
    """End the program with the exit code for an unfit environment."""
    say("error: " + text)
    raise SystemExit(EXIT_UNFIT)


def ensure() -> Path:
    """Return the environment's interpreter, after making the environment if need be.

    Under a second when the stamp matches. Raises `SetupError`.
    """
    wanted = _stamp()
    if _is_ready(wanted):
        return interpreter_of(VENV)
    if not LOCK.is_file():
        raise SetupError("%s is missing; this checkout is incomplete" % LOCK)
    with _exclusive():
        if not _is_ready(wanted):
            started = time.monotonic()
            _build(wanted)
            say("ready in %.1f s" % (time.monotonic() - started))
    return interpreter_of(VENV)


def interpreter_of(environment: Path) -> Path:
    """Return the path of an environment's interpreter."""
    return environment / "bin" / "python"


def child_environment(environment: Path = VENV) -> Dict[str, str]:
    """Return the variables for a program of `environment`: nothing of another Python leaks in."""
    variables = dict(os.environ)
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__"):
        variables.pop(name, None)
    variables["VIRTUAL_ENV"] = str(environment)
    variables["PATH"] = os.pathsep.join(
        [str(environment / "bin"), variables.get("PATH", os.defpath)]
    )
    return variables


def find_uv() -> Optional[str]:
    """Return uv's path if it is on PATH and runs (a pyenv shim may exist and not run)."""
    uv = shutil.which("uv")
    if uv is None:
        return None
    answer = subprocess.run([uv, "--version"], capture_output=True, check=False)
    return uv if answer.returncode == 0 else None


def lock_entries(text: str) -> Dict[str, str]:
    """Split a lock into its requirements, by name: each with its marker and its hashes."""
    entries: Dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("#") or line.lstrip().startswith("#") or not line.strip():
            continue
        if not line[0].isspace():
            name = re.split(r"[=\s;\[]", line, maxsplit=1)[0].lower()
            entries[name] = ""
        entries[name] += line
    return entries


def make_environment(environment: Path, uv: Optional[str]) -> None:
    """Make an empty environment: with uv, or with the standard library's venv without pip."""
    if uv is not None:
        command = [uv, "venv", "--quiet", "--no-project", "--python", sys.executable]
        _run([*command, str(environment)], "could not make an environment")
        return
    hint = "could not make an environment (on Debian and Ubuntu: apt install python3-venv)"
    # The main environment brings pip along; any further one is filled by that pip.
    pip = [] if environment == VENV else ["--without-pip"]
    _run([sys.executable, "-m", "venv", *pip, str(environment)], hint)


def install_locked(environment: Path, names: Iterable[str], uv: Optional[str]) -> None:
    """Install the named entries of the lock, hashes required; crcmod's backends come first."""
    entries = lock_entries(LOCK.read_text(encoding="utf-8"))
    backends = [entries[name] for name in BUILD_BACKENDS]
    rest = [entries[name] for name in names if name not in BUILD_BACKENDS]
    for requirements in (backends, rest):
        listing = environment / "requirements.txt"
        listing.write_text("".join(requirements), encoding="utf-8")
        arguments = ["--require-hashes", "--no-build-isolation", "-r", str(listing)]
        install(environment, arguments, uv)
        listing.unlink()


def install(environment: Path, arguments: Sequence[str], uv: Optional[str]) -> None:
    """Run one `install`, never resolving: what is to be installed has been decided already."""
    _run([*_installer(environment, "install", uv), "--no-deps", *arguments], "could not install")


def uninstall(environment: Path, names: Sequence[str], uv: Optional[str]) -> None:
    """Remove packages from an environment."""
    confirm = [] if uv is not None else ["--yes"]
    _run([*_installer(environment, "uninstall", uv), *confirm, *names], "could not uninstall")


def _installer(environment: Path, verb: str, uv: Optional[str]) -> List[str]:
    python = str(interpreter_of(environment))
    if uv is not None:
        return [uv, "pip", verb, "--quiet", "--python", python]
    pip = [str(interpreter_of(VENV)), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    return [*pip, "--retries", "2", "--python", python, verb]


def _is_new_enough(path: str) -> bool:
    question = "import sys; sys.exit(sys.version_info[:2] < (%d, %d))" % PYTHON_MIN
    silent = subprocess.DEVNULL  # not capture_output, which Python 3.6 lacks
    return subprocess.call([path, "-c", question], stdout=silent, stderr=silent) == 0


def _stamp() -> str:
    digest = hashlib.sha256()
    for path in (LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes() if path.is_file() else b"")
        digest.update(b"\0")
    python = "%s %s" % (platform.python_implementation(), platform.python_version())
    for part in (python, platform.machine(), str(ROOT)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest() + "\n"


def _is_ready(wanted: str) -> bool:
    try:
        return STAMP.read_text(encoding="ascii") == wanted and interpreter_of(VENV).exists()
    except OSError:
        return False


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    # Not inside .venv, which a build removes. The kernel drops the lock with its last holder, and
    # the installer inherits it: one that outlives a killed set-up still keeps the next one waiting.
    try:
        descriptor = os.open(str(ROOT / ".venv.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SetupError("cannot write to the checkout %s: %s" % (ROOT, error.strerror)) from None
    os.set_inheritable(descriptor, True)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is setting up this checkout; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(stamp: str) -> None:
    uv = find_uv()
    if uv is not None:
        try:
            _build_with(uv)
        except SetupError as error:
            # uv does not read pip's configuration, so a mirror set up there is unknown to it.
            say("uv did not succeed, trying venv and pip: %s" % error)
            _build_with(None)
    else:
        _build_with(None)
    STAMP.write_text(stamp, encoding="ascii")


def _build_with(uv: Optional[str]) -> None:
    tool = "uv" if uv is not None else "venv and pip"
    names = list(lock_entries(LOCK.read_text(encoding="utf-8")))
    say("making .venv with %s (Python %s)" % (tool, platform.python_version()))
    if VENV.exists() or VENV.is_symlink():
        _remove(VENV)
    make_environment(VENV, uv)
    say("installing %d locked packages" % len(names))
    install_locked(VENV, names, uv)
    install(VENV, ["--no-build-isolation", "--editable", "."], uv)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    # The stamp goes first: a removal cut short must not leave a directory that looks ready.
    with contextlib.suppress(FileNotFoundError):
        (path / STAMP.name).unlink()
    shutil.rmtree(str(path))


def _run(command: Sequence[str], failure: str) -> None:
    """Run an installer quietly, from the checkout; what it printed is shown only if it fails."""
    answer = subprocess.run(
        list(command),
        cwd=str(ROOT),
        env=child_environment(),
        close_fds=False,  # the lock file, see _exclusive
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
        check=False,
    )
    if answer.returncode == 0:
        return
    lines = answer.stdout.strip().splitlines()[-OUTPUT_LINES_MAX:]
    text = "%s (%s ended with %d)\n" % (failure, Path(command[0]).name, answer.returncode)
    text += "\n".join("    " + line for line in lines)
    if _UNREACHABLE.search(answer.stdout):
        text += (
            "\nThe package index seems out of reach: check the network and the proxy variables, "
            "or name a mirror in PIP_INDEX_URL (pip) or UV_DEFAULT_INDEX (uv), then run this again."
        )
    raise SetupError(text)
