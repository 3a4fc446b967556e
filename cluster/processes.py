"""One node's operating-system process, as its supervisor sees it.

Spawned with `subprocess.Popen` from the supervisor's main thread, on purpose: PR_SET_PDEATHSIG,
which the node sets, fires when the *thread* that made it ends. A pidfd, opened while the child
cannot have been reaped yet, is what exits are seen and signals are sent by: no signal can reach a
stranger that got a recycled pid. The lifeline is a pipe whose write end only the supervisor
holds: end of file means that it is gone, however it died.

How an end is called is decided by what was asked for, never guessed:

    asked for     ended by               is called
    kill          SIGKILL                killed (user)
    stop          exit 0 or SIGTERM      stopped (user)
    stop, late    SIGKILL                killed (user): the clean stop did not end in time
    nothing       exit 0                 stopped (system): it stopped by itself
    anything      anything else          crashed (system)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from cluster.frames import Cause, ProcessState, ProcessTruth
from cluster.nodelog import NodeLog
from node.exits import NodeExit
from node.identity import write_atomically
from node.page import PageReader

if TYPE_CHECKING:
    import psutil

    from cluster.spec import ClusterSpec

__all__ = ["Exited", "Intent", "NodeProcess", "module_environment"]

CRASH_LINES: Final = 8
MEASURE_INTERVAL_S: Final = 0.5

Intent = Literal["none", "kill", "stop"]


@dataclass(frozen=True, slots=True)
class Exited:
    """How a process ended: exactly one of exit code and signal is set."""

    code: int | None
    signal: int | None

    @property
    def number(self) -> int:
        """Return the exit code, or the signal's number below zero."""
        return -self.signal if self.signal is not None else self.code or 0

    def __str__(self) -> str:
        if self.signal is not None:
            return f"signal {signal.Signals(self.signal).name}"
        known = {int(member): member.name.lower().replace("_", " ") for member in NodeExit}
        name = known.get(self.code if self.code is not None else -1)
        return f"exit {self.code}" + (f" ({name})" if name else "")


def module_environment(paths: tuple[Path, ...] = ()) -> dict[str, str]:
    """Return an environment in which `python -P -m` finds these very packages, `paths` first.

    In a checkout that is not installed the packages are found by the current directory only,
    which a child neither has nor (`-P`) looks at.
    """
    root = Path(__file__).resolve().parent.parent
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    search = [str(path) for path in paths] + ([] if root in installed else [str(root)])
    environment = dict(os.environ)
    if inherited := environment.get("PYTHONPATH"):
        search += [entry for entry in inherited.split(os.pathsep) if entry not in search]
    if search:
        environment["PYTHONPATH"] = os.pathsep.join(search)
    return environment


class NodeProcess:
    """The process of one node over all its lives. Main thread of the supervisor only."""

    def __init__(self, spec: ClusterSpec, node: int, run_dir: Path) -> None:
        self.node = node
        self.log = NodeLog(spec.node_dir(node) / "node.log")
        self._spec = spec
        self._config = spec.node_config(node, run_dir)
        self._config_path = run_dir / f"n{node}.json"
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._lifeline = -1
        self.page: PageReader | None = None
        """What the node of this life writes its status to; None where there is no such memory."""
        self._intent: Intent = "none"
        self._freeze_asked = False
        self._exited: Exited | None = None
        self._last_log: tuple[str, ...] = ()
        self._starts = 0
        self._state = ProcessState.STOPPED
        self._cause: Cause = "user"
        self._since_unix_ms = _unix_ms()
        self._measured: psutil.Process | None = None
        self._measured_at = 0.0
        self._cpu_percent: float | None = None
        self._rss_bytes: int | None = None

    @property
    def state(self) -> ProcessState:
        """The state at the last look (`observe`, `reap`, or an action)."""
        return self._state

    @property
    def alive(self) -> bool:
        """Whether a process exists that has not been reaped."""
        return self._popen is not None

    @property
    def pid(self) -> int | None:
        """The process id while alive."""
        return None if self._popen is None else self._popen.pid

    @property
    def pidfd(self) -> int:
        """Becomes readable when the process ends; -1 when there is none."""
        return self._pidfd

    @property
    def starts(self) -> int:
        """How many lives there have been."""
        return self._starts

    @property
    def exited(self) -> Exited | None:
        """How the last life ended; None while alive or before the first."""
        return self._exited

    @property
    def cause(self) -> Cause:
        """Who brought the present state about."""
        return self._cause

    def spawn(self) -> None:
        """Start a life. OSError if the files of the node cannot be written."""
        assert self._popen is None
        self._config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._config_path, self._config.to_json())
        self._remove_sockets()
        self._make_page()
        passed = [] if self.page is None else [self.page.descriptor]
        read_end, write_end = os.pipe()
        output = self.log.open()
        try:
            self._popen = subprocess.Popen(
                self._command(read_end),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=module_environment(self._spec.entry_paths),
                pass_fds=(read_end, *passed),
            )
        except OSError:
            os.close(write_end)
            raise
        finally:
            os.close(output)
            os.close(read_end)
        self._pidfd = os.pidfd_open(self._popen.pid)
        self._lifeline = write_end
        self._begin_life()

    def fail_to_start(self, why: str) -> None:
        """Take note that there is no life, and why; no process, so neither exit code nor signal."""
        self._exited, self._last_log = None, (why,)
        self._become(ProcessState.CRASHED, "system")

    def _command(self, lifeline: int) -> list[str]:
        """Return ARCHITECTURE §9's command line."""
        start = [sys.executable, "-P", "-m", self._spec.entry_module]
        arguments = ["--config", str(self._config_path), "--parent-pid", str(os.getpid())]
        arguments += ["--lifeline-fd", str(lifeline), "--prepared"]
        return start + arguments + ([f"--status-fd={self.page.descriptor}"] if self.page else [])

    def _make_page(self) -> None:
        """Make a page for the life that begins; without one the node is asked for its status."""
        if self.page is not None:
            self.page.close()
        try:
            self.page = PageReader()
        except (OSError, AttributeError):
            self.page = None

    def _begin_life(self) -> None:
        self._starts += 1
        self._intent = "none"
        self._freeze_asked = False
        self._exited = None
        self._last_log = ()
        self._measured = self._cpu_percent = self._rss_bytes = None
        self._become(ProcessState.RUNNING, "user")

    def _remove_sockets(self) -> None:
        """Remove what a killed life left: a bind would replace them, a look would be misled."""
        for path in self._config_path.parent.glob(f"n{self.node}.*"):
            if path.is_socket():
                path.unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """Ask for a clean stop; a frozen process is woken first, it could not hear otherwise."""
        self._intent = "stop"
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL; it ends frozen processes too."""
        self._intent = "kill"
        self._signal(signal.SIGKILL)

    def expect_end(self) -> None:
        """Take note that the process was asked to kill itself."""
        self._intent = "kill"

    def freeze(self) -> None:
        """Send SIGSTOP; `observe` sees when it has taken effect."""
        self._freeze_asked = True
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self._freeze_asked = False
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is None:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return  # it ended a moment ago: its pidfd is readable, and `reap` will say how

    def reap(self) -> Exited | None:
        """Take note of an end, if there was one; return how it ended."""
        if self._popen is None or self._popen.poll() is None:
            return None
        code = self._popen.returncode
        exited = Exited(None, -code) if code < 0 else Exited(code, None)
        os.close(self._pidfd)
        os.close(self._lifeline)
        self._popen, self._pidfd, self._lifeline = None, -1, -1
        self._exited = exited
        self._measured = self._cpu_percent = self._rss_bytes = None
        state, cause = _classify(self._intent, exited)
        if state is ProcessState.CRASHED:
            self._last_log = self.log.last_lines(CRASH_LINES)
        self._become(state, cause)
        return exited

    def observe(self) -> ProcessState:
        """Look at the kernel's view of the process: frozen or not, CPU time, memory."""
        if self._popen is None:
            return self._state
        import psutil

        try:
            self._measure(psutil.Process)
            assert self._measured is not None
            frozen = self._measured.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        except psutil.Error:
            return self._state  # it ended: `reap` will say how
        if frozen and self._state is ProcessState.RUNNING:
            self._become(ProcessState.FROZEN, "user" if self._freeze_asked else "system")
        elif not frozen and self._state is ProcessState.FROZEN:
            self._become(ProcessState.RUNNING, "system" if self._freeze_asked else "user")
        return self._state

    def _measure(self, look_at: type[psutil.Process]) -> None:
        """Read CPU time and memory, at most every half second: CPU time counts in 10 ms steps."""
        now = time.monotonic()
        if self._measured is None:
            self._measured = look_at(self._popen.pid if self._popen else None)
            self._measured.cpu_percent()  # the first call only sets the starting point
        elif now < self._measured_at + MEASURE_INTERVAL_S:
            return
        else:
            self._cpu_percent = self._measured.cpu_percent()
        self._measured_at = now
        self._rss_bytes = self._measured.memory_info().rss

    def _become(self, state: ProcessState, cause: Cause) -> None:
        self._state, self._cause, self._since_unix_ms = state, cause, _unix_ms()

    def truth(self) -> ProcessTruth:
        """Return what is known, as frames carry it."""
        exited = self._exited
        return ProcessTruth(
            state=self._state,
            cause=self._cause,
            since_unix_ms=self._since_unix_ms,
            starts=self._starts,
            pid=self.pid,
            exit_code=exited.code if exited else None,
            signal=exited.signal if exited else None,
            cpu_percent=self._cpu_percent,
            rss_bytes=self._rss_bytes,
            last_log=self._last_log,
        )


def _classify(intent: Intent, exited: Exited) -> tuple[ProcessState, Cause]:
    """Name an end by what was asked for (the table above)."""
    if intent == "kill" and exited.signal == signal.SIGKILL:
        return ProcessState.KILLED, "user"
    if intent in ("stop", "kill") and (exited.code == 0 or exited.signal == signal.SIGTERM):
        return ProcessState.STOPPED, "user"
    if exited.code == 0:
        return ProcessState.STOPPED, "system"
    return ProcessState.CRASHED, "system"


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
