"""Whether this machine can run clusters: one check per question, each with a measured answer.

A check returns a `Finding`: fit, unusual (works, but a figure or a habit will differ) or unfit
(`raftdeck up` would fail), with what was found and what to do. Nothing is guessed from a version
where it can be tried.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cluster.exits import CommandError
from cluster.paths import (
    check_socket_paths,
    control_path,
    list_runs,
    make_private,
    run_dir_of,
    run_root,
)
from cluster.processes import module_environment

__all__ = [
    "CHECKS",
    "DOCTOR_SCHEMA",
    "Finding",
    "Verdict",
    "document",
    "examine",
    "judge_packages",
]

DOCTOR_SCHEMA: Final = "raftdeck.doctor/1"
PACKAGES: Final = ("cluster", "node", "wal", "dashboard")
PYTHON_MIN: Final = (3, 11)
FREE_BYTES_MIN: Final = 1 << 30
"""A cluster of 5 nodes with a segment, a spare and a fill step each: 5 × 132 MiB."""
FSYNC_SAMPLES: Final = 40
FSYNC_MS_UNUSUAL: Final = 30.0
"""Above this a heartbeat (50 ms) no longer has room for two syncs."""
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})
_PR_GET_PDEATHSIG: Final = 2

Verdict = Literal["fit", "unusual", "unfit"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question about the machine."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""

    def encode(self) -> dict[str, str]:
        """Return a map for `--json`."""
        return asdict(self)


def examine(data_dir: Path) -> list[Finding]:
    """Run every check; a check that fails in an unforeseen way is unfit, and says how."""
    findings = []
    for name, check in CHECKS.items():
        try:
            findings.append(check(name, data_dir))
        except (OSError, ValueError, ImportError, AttributeError, CommandError) as error:
            findings.append(Finding(name, "unfit", f"{type(error).__name__}: {error}"))
    return findings


def _python(name: str, _: Path) -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    if sys.version_info < PYTHON_MIN:
        return Finding(name, "unfit", found, "install Python 3.11 or newer")
    usual = platform.python_implementation() == "CPython"
    return Finding(name, "fit" if usual else "unusual", found)


def _platform(name: str, _: Path) -> Finding:
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform == "linux":
        return Finding(name, "fit", found)
    return Finding(name, "unfit", found, "Linux is needed: pidfds, PR_SET_PDEATHSIG, fallocate")


def _packages(name: str, _: Path) -> Finding:
    """Ask a child, started as nodes are, where it finds the four packages."""
    program = (
        "import importlib.util, json, sys; print(json.dumps({n: (s.origin if (s :="
        " importlib.util.find_spec(n)) else None) for n in sys.argv[1:]}))"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", program, *PACKAGES],
        env=module_environment(),
        cwd="/",
        capture_output=True,
        check=True,
        timeout=30,
    )
    root = Path(__file__).resolve().parent.parent
    return judge_packages(name, root, json.loads(answer.stdout))


def judge_packages(name: str, root: Path, origins: Mapping[str, str | None]) -> Finding:
    """Compare where the packages are found with where this one is."""
    for package, origin in origins.items():
        if origin is None:
            return Finding(
                name, "unfit", f"package {package!r} is not found", "install raftdeck again"
            )
        if Path(origin).resolve().parent.parent != root:
            return Finding(
                name,
                "unfit",
                f"package {package!r} comes from {origin}, not from {root}",
                "another distribution uses that name: install raftdeck in an environment of its"
                " own (pipx, uv tool), and look at PYTHONPATH",
            )
    return Finding(name, "fit", f"all four from {root}")


def _libraries(name: str, _: Path) -> Finding:
    import msgpack
    import psutil
    import zmq

    found = (
        f"pyzmq {zmq.__version__} (libzmq {zmq.zmq_version()}), msgpack"
        f" {'.'.join(map(str, msgpack.version))}, psutil {psutil.__version__}"
    )
    if not zmq.has("ipc"):
        return Finding(name, "unfit", f"{found}; no ipc transport", "install another pyzmq wheel")
    return Finding(name, "fit", found)


def _ipc(name: str, _: Path) -> Finding:
    """Send a message over an ipc socket in a private directory."""
    import zmq

    with (
        tempfile.TemporaryDirectory(prefix="raftdeck-") as directory,
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as here,
        context.socket(zmq.DEALER) as there,
    ):
        here.linger = there.linger = 0
        here.bind(f"ipc://{directory}/s")
        there.connect(f"ipc://{directory}/s")
        there.send(b"")
        if not here.poll(2000):
            return Finding(name, "unfit", "a message over an ipc socket did not arrive")
    return Finding(name, "fit", "a message arrived over an ipc socket")


def _pidfd(name: str, _: Path) -> Finding:
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)  # 0 checks, and sends nothing
    finally:
        os.close(descriptor)
    return Finding(name, "fit", "pidfd_open and pidfd_send_signal work")


def _prctl(name: str, _: Path) -> Finding:
    number = ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0) != 0:
        return Finding(name, "unfit", f"prctl: {os.strerror(ctypes.get_errno())}")
    return Finding(name, "fit", "PR_SET_PDEATHSIG is available")


def _lifeline(name: str, _: Path) -> Finding:
    read_end, write_end = os.pipe()
    os.close(write_end)
    ready = select.select([read_end], [], [], 1)[0]
    os.close(read_end)
    if not ready:
        return Finding(name, "unfit", "the end of a pipe is not noticed")
    return Finding(name, "fit", "the end of a pipe is noticed")


def _checksum(name: str, _: Path) -> Finding:
    from wal import checksum

    active = checksum.active()
    started = time.perf_counter_ns()
    checksum.crc32c(bytes(1 << 20))
    elapsed_ns = time.perf_counter_ns() - started
    found = f"{active}, {(1 << 20) / elapsed_ns:.2f} GB/s"
    if "crcmod" in active:
        return Finding(name, "unusual", found, "install crc32c: it is 50 times as fast")
    return Finding(name, "fit", found)


def _file_system(name: str, data_dir: Path) -> Finding:
    import psutil

    place = _existing(data_dir)
    mounts = [p for p in psutil.disk_partitions(all=True) if place.is_relative_to(p.mountpoint)]
    mount = max(mounts, key=lambda p: len(p.mountpoint), default=None)
    kind = mount.fstype if mount else "unknown"
    free = psutil.disk_usage(str(place)).free
    found = f"{kind} at {place}, {free / 1e9:.1f} GB free"
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding(name, "unfit", f"{found}; not writable", "give --data another directory")
    if kind in _MEMORY:
        return Finding(name, "unusual", found, "fsync does nothing in memory: use a disk's")
    if kind in _NETWORK:
        return Finding(name, "unusual", found, "locks and fsync differ over a network")
    if free < FREE_BYTES_MIN:
        return Finding(name, "unusual", found, "5 nodes need about 0.7 GB to begin with")
    return Finding(name, "fit", found)


def _fsync(name: str, data_dir: Path) -> Finding:
    """Overwrite 4 KiB and sync, as the log does in a recycled segment."""
    times_ms = []
    with tempfile.TemporaryFile(dir=_existing(data_dir)) as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, bytes(4096 * FSYNC_SAMPLES), 0)
        os.fsync(descriptor)
        for number in range(FSYNC_SAMPLES):
            started = time.perf_counter_ns()
            os.pwrite(descriptor, b"\x01" * 4096, number * 4096)
            os.fdatasync(descriptor)
            times_ms.append((time.perf_counter_ns() - started) / 1e6)
    median, worst = statistics.median(times_ms), max(times_ms)
    found = f"4 KiB write and sync: median {median:.3f} ms, slowest of {len(times_ms)} {worst:.1f}"
    if median > FSYNC_MS_UNUSUAL:
        return Finding(name, "unusual", f"{found} ms", "raise --heartbeat-ms and --election-ms-*")
    return Finding(name, "fit", f"{found} ms")


def _log_policies(name: str, data_dir: Path) -> Finding:
    """Try out what a log's policy may ask of the file system."""
    from wal import OsFilesystem
    from wal.policy import CAPABILITIES

    with tempfile.TemporaryDirectory(dir=_existing(data_dir)) as directory:
        present = OsFilesystem().capabilities(directory)
    missing = [each for each in CAPABILITIES if each not in present]
    found = ", ".join(each for each in CAPABILITIES if each in present) or "none"
    if missing:
        remedy = "policies that ask for these do without; raftdeck bench wal says what that costs"
        return Finding(name, "unusual", f"{found}; without {', '.join(missing)}", remedy)
    return Finding(name, "fit", found)


def _run_directory(name: str, _: Path) -> Finding:
    root = run_root()
    if root.exists():
        make_private(root)
    run_dir = run_dir_of("x" * 32)
    length = len(os.fsencode(control_path(run_dir)))
    check_socket_paths(run_dir, 15)
    return Finding(name, "fit", f"{root}; the longest name gives a socket path of {length} bytes")


def _leftovers(name: str, _: Path) -> Finding:
    dead = [run.name for run in list_runs() if run.leftover]
    if dead:
        return Finding(name, "unusual", f"left over: {', '.join(dead)}", "raftdeck ls removes them")
    return Finding(name, "fit", "none")


def _processors(name: str, _: Path) -> Finding:
    usable = len(os.sched_getaffinity(0))
    found = f"{usable} usable of {os.cpu_count()}"
    if usable < 2:  # the leader and one follower work at the same time
        return Finding(name, "unusual", found, "expect slower elections and lower rates")
    return Finding(name, "fit", found)


def _existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.is_dir())


CHECKS: Final[dict[str, Callable[[str, Path], Finding]]] = {
    "python": _python,
    "platform": _platform,
    "packages": _packages,
    "libraries": _libraries,
    "ipc": _ipc,
    "pidfd": _pidfd,
    "prctl": _prctl,
    "lifeline": _lifeline,
    "checksum": _checksum,
    "file system": _file_system,
    "fsync": _fsync,
    "log policies": _log_policies,
    "run directory": _run_directory,
    "leftover run directories": _leftovers,
    "processors": _processors,
}


def document(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the JSON document of `raftdeck doctor --json`."""
    found = list(findings)
    return {
        "schema": DOCTOR_SCHEMA,
        "fit": all(finding.verdict != "unfit" for finding in found),
        "checks": [finding.encode() for finding in found],
    }
