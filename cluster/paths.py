"""Where a cluster's files are: its run directory (sockets) and its data directory.

    $XDG_RUNTIME_DIR/raftdeck/NAME  or  TMP/raftdeck-UID/NAME      mode 0700, gone after `down`
        supervisor.lock   held (flock) by the living supervisor; JSON: who it is
        supervisor.control supervisor.frames nI.control nI.data nI.client nI.admin      sockets
        nI.json           the configuration of node I
    DATA (default ${XDG_STATE_HOME:-~/.local/state}/raftdeck/clusters/NAME)
        CLUSTER.json NODES.json LOCK supervisor.log nI/

A directory under the world-writable temporary directory may have been made by someone else, so
owner, mode and kind are checked each time. A lock is what tells the living from the dead: a
supervisor that was killed leaves its files, and no lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cluster.exits import CommandError, Exit
from node.config import LANES, lane_path

__all__ = [
    "DATA_LOCK_FILE",
    "LOCK_FILE",
    "SOCKET_PATH_BYTES_MAX",
    "FileLock",
    "Holder",
    "RunDirectory",
    "check_name",
    "check_socket_paths",
    "config_path",
    "control_path",
    "default_data_dir",
    "frames_path",
    "list_runs",
    "make_private",
    "remove_leftover",
    "remove_run_files",
    "run_dir_of",
    "run_root",
]

SOCKET_PATH_BYTES_MAX: Final = 107
"""`sockaddr_un.sun_path` has 108 bytes, the last of them 0 (Linux)."""
LOCK_BYTES_MAX: Final = 16 << 10
LOCK_FILE: Final = "supervisor.lock"
"""In the run directory: held means that the cluster lives."""
DATA_LOCK_FILE: Final = "LOCK"
"""In the data directory: held means that its data is in use."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def check_name(name: str) -> str:
    """Return a cluster name that may stand in a path, or refuse it (usage)."""
    if not _NAME.fullmatch(name):
        raise CommandError(
            Exit.USAGE,
            f"cluster name {name!r}: use 1 to 32 of a-z, 0-9, '-' and '_',"
            " beginning with a letter or digit",
        )
    return name


def run_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the directory above all run directories of this user; it may not exist yet."""
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_absolute() and Path(runtime).is_dir():
        return Path(runtime) / "raftdeck"
    return Path(tempfile.gettempdir()).absolute() / f"raftdeck-{os.geteuid()}"


def run_dir_of(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the run directory of a cluster name."""
    return run_root(environment) / check_name(name)


def default_data_dir(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where a cluster's data goes unless `--data` says otherwise."""
    state = environment.get("XDG_STATE_HOME", "")
    base = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "raftdeck" / "clusters" / check_name(name)


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the settings file is looked for."""
    home = environment.get("XDG_CONFIG_HOME", "")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".config"
    return base / "raftdeck" / "config.toml"


def control_path(run_dir: Path) -> Path:
    """Return the supervisor's control socket."""
    return run_dir / "supervisor.control"


def frames_path(run_dir: Path) -> Path:
    """Return the socket on which the supervisor publishes frames."""
    return run_dir / "supervisor.frames"


def check_socket_paths(run_dir: Path, nodes: int) -> None:
    """Refuse a run directory whose socket paths the kernel would not take."""
    paths = [control_path(run_dir), frames_path(run_dir)]
    paths += [lane_path(run_dir, nodes, lane) for lane in LANES]
    longest = max(paths, key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(longest))
    if length > SOCKET_PATH_BYTES_MAX:
        raise CommandError(
            Exit.UNFIT,
            f"socket path {longest}: {length} bytes, {SOCKET_PATH_BYTES_MAX} are possible;"
            " use a shorter --name, or set XDG_RUNTIME_DIR or TMPDIR to a shorter directory",
        )


def make_private(directory: Path) -> None:
    """Create a directory with mode 0700, or check that it is one and ours; refuse otherwise."""
    with contextlib.suppress(FileExistsError):
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            raise
        except OSError as error:
            raise CommandError(Exit.UNFIT, f"{directory}: {error.strerror}") from None
    found = directory.lstat()
    problem = None
    if not stat.S_ISDIR(found.st_mode):
        problem = "is not a directory"
    elif found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}, not to you"
    elif found.st_mode & 0o077:
        problem = f"is open to others (mode {stat.S_IMODE(found.st_mode):04o}, 0700 is needed)"
    if problem:
        raise CommandError(
            Exit.UNFIT, f"run directory {directory} {problem}; remove it, or set XDG_RUNTIME_DIR"
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: the content of a lock file."""

    pid: int
    name: str
    cluster_id: str
    run_dir: str
    data_dir: str

    def __str__(self) -> str:
        return f"cluster {self.name!r} (supervisor pid {self.pid})"


class FileLock:
    """An exclusive `flock` on a file that says who holds it; the kernel releases it on any death.

    The file is unlinked while still locked, and a lock on an unlinked file is not believed, so
    that two processes cannot hold "the same" lock on two files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, holder: Holder, patience_s: float = 0.5) -> bool:
        """Take the lock and write the holder into the file; False if another process has it.

        `patience_s` covers whoever only looks: `read_holder` locks for microseconds.
        """
        deadline = time.monotonic() + patience_s
        while not self._try(fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(asdict(holder)).encode() + b"\n", 0)
        return True

    def _try(self, kind: int) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            if _same_file(descriptor, self.path):
                self._descriptor, descriptor = descriptor, -1
                return True
        except BlockingIOError:
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return False

    def release(self) -> None:
        """Unlink the file and let go; harmless without the lock."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def is_held(path: Path) -> bool:
        """Say whether a living process holds the lock."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @staticmethod
    def read_holder(path: Path) -> Holder | None:
        """Return who wrote the file, living or dead; None if it does not say."""
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(LOCK_BYTES_MAX))
            return Holder(**document)
        except (OSError, ValueError, TypeError):
            return None


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run directory as found: `alive` if its supervisor holds the lock."""

    name: str
    path: Path
    alive: bool
    holder: Holder | None

    @property
    def leftover(self) -> bool:
        """Whether a supervisor died here. Without a lock file one may just be starting."""
        return not self.alive and (self.path / LOCK_FILE).exists()


def list_runs(environment: Mapping[str, str] = os.environ) -> list[RunDirectory]:
    """Return this user's run directories, living and left over, by name."""
    root = run_root(environment)
    if not root.is_dir():
        return []
    make_private(root)
    return [
        RunDirectory(
            name=path.name,
            path=path,
            alive=FileLock.is_held(path / LOCK_FILE),
            holder=FileLock.read_holder(path / LOCK_FILE),
        )
        for path in sorted(root.iterdir())
        if path.is_dir() and _NAME.fullmatch(path.name)
    ]


_OURS = re.compile(
    r"n[0-9]{1,2}\.(control|data|client|admin|json)|supervisor\.(control|frames)|supervisor\.lock"
)


def remove_run_files(run_dir: Path, *, keep: frozenset[str] = frozenset()) -> list[str]:
    """Unlink the sockets and files that raftdeck makes; return what else was there.

    Only names of ours go: a run directory is never a reason to delete a person's file.
    """
    strangers = []
    try:
        names = sorted(os.listdir(run_dir))
    except FileNotFoundError:
        return []
    for name in names:
        if name in keep:
            continue
        if _OURS.fullmatch(name):
            (run_dir / name).unlink(missing_ok=True)
        else:
            strangers.append(name)
    return strangers


def remove_leftover(run: RunDirectory) -> bool:
    """Remove the run directory of a dead supervisor; False if it turned out to be alive."""
    lock = FileLock(run.path / LOCK_FILE)
    holder = Holder(os.getpid(), run.name, "", str(run.path), "")
    try:
        if not lock.acquire(holder, patience_s=0):
            return False
    except FileNotFoundError:
        return True
    remove_run_files(run.path, keep=frozenset({LOCK_FILE}))
    lock.release()
    _remove_directory(run.path)
    return True


def _remove_directory(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise
