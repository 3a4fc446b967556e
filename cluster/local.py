"""`LocalCluster`: a cluster of real processes on this machine, as an object.

    with LocalCluster.launch(ClusterSpec(name="t", data_dir=path, nodes=3)) as cluster:
        cluster.wait_ready()
        cluster.kill("leader")

`launch` keeps a lifeline: when this process ends, however it ends, the cluster goes down.
`launch_detached` keeps none. `attach` finds a running cluster by its name or data directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cluster.api import ActionResult
from cluster.control import Control, FrameStream
from cluster.exits import CommandError, Exit, exit_of_node
from cluster.frames import ClusterFrame, Event, NodeFrame, ProcessState
from cluster.paths import (
    DATA_LOCK_FILE,
    FileLock,
    check_socket_paths,
    list_runs,
    make_private,
    remove_leftover,
    run_dir_of,
)
from cluster.processes import module_environment
from cluster.spec import SPEC_FILE, ClusterSpec
from node.exits import NodeExit

if TYPE_CHECKING:
    from cluster.client import Client, Endpoints

__all__ = ["LocalCluster", "find_run_dir", "node_error", "remove_leftovers"]

LAUNCH_TIMEOUT_S: Final = 20.0
READY_TIMEOUT_S: Final = 20.0
ACT_TIMEOUT_S: Final = 120.0
"""Longer than any operation's own deadline: the supervisor's error is the better one."""
DOWN_TIMEOUT_S: Final = 90.0
LOOK_S: Final = 0.01
"""Between two frames of a wait: each costs every node a reply of about 0.2 ms."""
ERROR_BYTES_MAX: Final = 64 << 10
_DAMAGED: Final = (NodeExit.CORRUPT_LOG, NodeExit.DATA_DIR_UNUSABLE, None)
"""Ends after which the same start ends in the same way; None: no process could be started."""


def find_run_dir(where: str | None) -> Path:
    """Resolve `--cluster`: a name, a data directory, or None for the only running cluster.

    `CommandError` (no such cluster) names the running ones.
    """
    running = [run for run in list_runs() if run.alive]
    listing = ", ".join(run.name for run in running) or "none"
    if where is None:
        if len(running) == 1:
            return running[0].path
        problem = "several clusters are running" if running else "no cluster is running"
        remedy = f"choose one of {listing} with --cluster" if running else "begin: raftdeck up -n 3"
        raise CommandError(Exit.NO_CLUSTER, f"{problem}; {remedy}")
    if os.sep in where or (Path(where) / SPEC_FILE).is_file():
        lock = Path(where).absolute() / DATA_LOCK_FILE
        holder = FileLock.read_holder(lock) if FileLock.is_held(lock) else None
        if holder is not None:
            return Path(holder.run_dir)
    elif any(run.name == where for run in running):
        return run_dir_of(where)
    raise CommandError(Exit.NO_CLUSTER, f"no running cluster {where!r}; running: {listing}")


class LocalCluster:
    """A running cluster of processes; satisfies `cluster.api.Cluster`. One thread."""

    def __init__(self, run_dir: Path, lifeline: int = -1) -> None:
        self.run_dir = run_dir
        self._lifeline = lifeline
        self._control = Control(run_dir)
        self._owned = lifeline >= 0
        self._step = ""
        hello = self._control.request("hello")
        self.supervisor_pid: int = hello["pid"]
        document = self._control.request("spec")
        self._spec = ClusterSpec.from_json(document["json"], Path(document["data_dir"]))

    # --- begin and end ----------------------------------------------------------------

    @classmethod
    def launch(cls, spec: ClusterSpec) -> Self:
        """Start a cluster that ends with this process. Nodes are spawned, not yet ready."""
        read_end, write_end = os.pipe()
        try:
            run_dir = _start_supervisor(spec, read_end)
            return cls(run_dir, write_end)
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)

    @classmethod
    def launch_detached(cls, spec: ClusterSpec) -> Self:
        """Start a cluster that outlives this process."""
        return cls(_start_supervisor(spec, None))

    @classmethod
    def attach(cls, where: str | None = None) -> Self:
        """Connect to a running cluster (see `find_run_dir`)."""
        return cls(find_run_dir(where))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the cluster if this object launched it (attached); else only disconnect."""
        if self._owned:
            with contextlib.suppress(CommandError):  # it is gone already
                self.down()
        self.close()

    def close(self) -> None:
        """Disconnect. A cluster that `launch` made goes down by itself then."""
        self._control.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def down(self) -> None:
        """End the cluster and wait until nothing is left but its data."""
        try:
            pidfd = os.pidfd_open(self.supervisor_pid)
        except ProcessLookupError:
            raise CommandError(Exit.NO_CLUSTER, f"{self.run_dir.name!r} is down already") from None
        try:
            try:
                self._control.request("down", timeout_s=DOWN_TIMEOUT_S)
            except CommandError as error:
                # Gone is what was wanted. ZeroMQ may drop the last answer when the connection
                # of an IMMEDIATE socket ends before it was read.
                if error.exit_code is not Exit.NO_CLUSTER:
                    raise
            if not select.select([pidfd], [], [], DOWN_TIMEOUT_S)[0]:
                raise CommandError(Exit.UNFIT, f"supervisor {self.supervisor_pid} does not end")
        finally:
            os.close(pidfd)
            with contextlib.suppress(ChildProcessError):  # another process started it
                os.waitpid(self.supervisor_pid, os.WNOHANG)

    # --- looking ----------------------------------------------------------------------

    @property
    def spec(self) -> ClusterSpec:
        """What the cluster is."""
        return self._spec

    def frame(self) -> ClusterFrame:
        """Return the frame of this moment: every node that runs was asked."""
        return ClusterFrame.decode(self._control.request("frame", {"fresh": True}))

    def last_frame(self) -> ClusterFrame:
        """Return what the supervisor knows already, at most a second old."""
        return ClusterFrame.decode(self._control.request("frame"))

    def stream(self) -> FrameStream:
        """Subscribe to ten frames a second; the caller closes it."""
        return FrameStream(self.run_dir)

    def events(self, since: int = 0) -> tuple[Event, ...]:
        """Return the events after a number, oldest first."""
        found = self._control.request("events", {"since": since})
        return tuple(Event(**event) for event in found)

    def wait_for(
        self, condition: Callable[[ClusterFrame], bool], timeout_s: float, what: str = ""
    ) -> ClusterFrame:
        """Return the first frame that meets a condition; `CommandError` (no quorum) in vain."""
        deadline = time.monotonic() + timeout_s
        while not condition(frame := self.frame()):
            if time.monotonic() > deadline:
                missing = getattr(condition, "missing", None)
                why = missing(frame) if missing else what or "the condition does not hold"
                raise CommandError(Exit.NO_QUORUM, f"not within {timeout_s:g} s: {why}")
            time.sleep(LOOK_S)
        return frame

    def wait_ready(
        self, timeout_s: float = READY_TIMEOUT_S, *, most: bool = False
    ) -> ClusterFrame:  # fmt: skip
        """Wait until every node answers and knows the leader of every group.

        A node that ends meanwhile is reported with its own error and exit code; with `most` only
        where too few are left to elect a leader.
        """

        def ready(frame: ClusterFrame) -> bool:
            ended = [part for part in frame.nodes if not part.process.state.alive]
            if ended and not (most and 2 * len(ended) < len(frame.nodes)):
                raise self._not_ready(ended, len(frame.nodes))
            groups = range(frame.groups)
            alive = len(frame.nodes) - len(ended)
            return all(len(frame.healthy(group)) == alive for group in groups)

        return self.wait_for(ready, timeout_s, "the nodes have not elected a leader")

    def _not_ready(self, ended: list[NodeFrame], nodes: int) -> CommandError:
        """Say why, and, where a minority is damaged, how to go on without it."""
        error = node_error(ended[0])
        if ended[0].process.exit_code in _DAMAGED and 2 * len(ended) < nodes:
            where = shlex.quote(str(self.spec.data_dir))
            hint = f"Without it: raftdeck up --most --data {where}"
            return CommandError(error.exit_code, f"{error}. {hint}")
        return error

    # --- acting -----------------------------------------------------------------------

    def kill(self, selector: str, seed: int | None = None) -> ActionResult:
        """SIGKILL; the processes are gone on return."""
        return self._act("kill", selector, seed)

    def stop(self, selector: str, seed: int | None = None) -> ActionResult:
        """Stop cleanly."""
        return self._act("stop", selector, seed)

    def start(self, selector: str, seed: int | None = None) -> ActionResult:
        """Start nodes that are down; they answer on return."""
        return self._act("start", selector, seed)

    def restart(self, selector: str, seed: int | None = None) -> ActionResult:
        """Stop cleanly (if up), then start."""
        return self._act("restart", selector, seed)

    def pause(self, selector: str, seed: int | None = None) -> ActionResult:
        """SIGSTOP; the kernel shows the processes as stopped on return."""
        return self._act("pause", selector, seed)

    def resume(self, selector: str, seed: int | None = None) -> ActionResult:
        """SIGCONT."""
        return self._act("resume", selector, seed)

    def disk(
        self,
        fault: str,
        selector: str,
        seed: int | None = None,
        options: Mapping[str, int | str] | None = None,
    ) -> ActionResult:
        """Do something to disks; after a power cut the processes are gone on return."""
        return self._act(f"disk-{fault}", selector, seed, options)

    @contextlib.contextmanager
    def as_step(self, step: str) -> Iterator[None]:
        """Name a scenario's step as the cause of the verbs and marks of a `with` block."""
        before, self._step = self._step, step
        try:
            yield
        finally:
            self._step = before

    def mark(self, text: str, effect: str = "") -> Event:
        """Put words into the events; see `cluster.api.Cluster`."""
        args = {"text": text, "effect": effect, "step": self._step}
        return Event(**self._control.request("mark", args))

    def _act(
        self,
        action: str,
        selector: str,
        seed: int | None,
        options: Mapping[str, int | str] | None = None,
    ) -> ActionResult:
        args: dict[str, Any] = {"action": action, "selector": selector}
        if options:
            args["options"] = dict(options)
        if self._step:
            args["step"] = self._step
        if seed is not None:
            args["seed"] = seed
        done = self._control.request("act", args, ACT_TIMEOUT_S)
        return ActionResult(
            action, selector, tuple(done["nodes"]), dict(done["states"]), tuple(done["notes"])
        )

    # --- clients ----------------------------------------------------------------------

    def endpoints(self) -> Endpoints:
        """Return what a client needs to find the nodes; it may be handed to another process."""
        from cluster.client import Endpoints
        from node.raft.types import NodeId

        nodes = {
            NodeId(node): self.spec.node_config(node, self.run_dir).endpoint("client")
            for node in self.spec.node_ids
        }
        return Endpoints(bytes.fromhex(self.spec.cluster_id), nodes, self.spec.groups)

    def client(self) -> Client:
        """Return a new client of this cluster; the caller closes it."""
        from cluster.client import Client

        return Client(self.endpoints())


def node_error(part: NodeFrame) -> CommandError:
    """Say why a node is not alive: how it ended, and its own last words."""
    process = part.process
    if process.state is ProcessState.CRASHED and process.exit_code is process.signal is None:
        return CommandError(Exit.UNFIT, process.last_log[-1])
    how = f"signal {process.signal}" if process.signal else f"exit {process.exit_code}"
    words = process.last_log[-1] if process.last_log else "no output"
    if process.state is not ProcessState.CRASHED:
        return CommandError(Exit.FAILED, f"n{part.node} was {process.state.value} meanwhile")
    return CommandError(exit_of_node(process.exit_code), f"n{part.node} ended with {how}: {words}")


def _start_supervisor(spec: ClusterSpec, lifeline: int | None) -> Path:
    """Start a supervisor and wait for its report; return the run directory."""
    run_dir = run_dir_of(spec.name)
    make_private(run_dir.parent)
    check_socket_paths(run_dir, spec.nodes)
    report_read, report_write = os.pipe()
    passed = [report_write] + ([] if lifeline is None else [lifeline])
    command = [sys.executable, "-P", "-m", "cluster.supervisor", "--spec", "-"]
    command += ["--data-dir", str(spec.data_dir), "--run-dir", str(run_dir)]
    command += ["--report-fd", str(report_write)]
    command += [] if lifeline is None else ["--lifeline-fd", str(lifeline)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=module_environment(),
            pass_fds=passed,
            start_new_session=True,
        )
    finally:
        os.close(report_write)
    with contextlib.closing(os.fdopen(report_read, "rb")) as report:
        _await_report(process, spec, report.fileno())
    _forget_child(process)
    return run_dir


def _await_report(process: subprocess.Popen[bytes], spec: ClusterSpec, report: int) -> None:
    """Hand over the spec and wait until the supervisor says how its start went."""
    assert process.stdin is not None
    assert process.stderr is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(spec.to_json().encode())
    try:
        ready = select.select([report], [], [], LAUNCH_TIMEOUT_S)[0]
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    line = os.read(report, ERROR_BYTES_MAX) if ready else b""
    if line:
        document = json.loads(line)
        if document["ok"]:
            return
        process.wait()
        process.stderr.close()
        raise CommandError.decode(document)
    process.kill()
    words = process.stderr.read(ERROR_BYTES_MAX).decode("utf-8", "replace").strip()
    process.stderr.close()
    process.wait()
    last = words.splitlines()[-1] if words else "it said nothing"
    raise CommandError(Exit.UNFIT, f"the supervisor did not start: {last}; see: raftdeck doctor")


def _forget_child(process: subprocess.Popen[bytes]) -> None:
    """Let go of a supervisor that lives: it is found by its run directory from now on."""
    assert process.stderr is not None
    process.stderr.close()
    process.returncode = 0  # else Popen complains, and reaps, when it is collected


def remove_leftovers() -> list[str]:
    """Remove the run directories of dead supervisors; return their names."""
    return [run.name for run in list_runs() if run.leftover and remove_leftover(run)]
