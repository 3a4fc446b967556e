"""The supervisor: one process per cluster, parent of its nodes.

    python -P -m cluster.supervisor --spec FILE|- --data-dir DIR --run-dir DIR
        [--lifeline-fd N] [--report-fd N]

One thread, one poller: control socket, frame subscriptions, the nodes' admin lanes, a pidfd per
node, the launcher's lifeline, and a wake-up pipe for signals. Nothing in the loop blocks; what
takes time is an `Operation` that the loop steps.

Who holds on to whom: the nodes die with the supervisor (PR_SET_PDEATHSIG and lifeline pipes, see
`node/main`). The supervisor ends its cluster cleanly when the lifeline of a foreground launcher
breaks, on SIGTERM, SIGINT or SIGHUP, or on the control verb `down`; detached, it outlives
whoever started it. Two locks say that it lives: one in the run directory (the name is in use),
one in the data directory (the data is in use).

Control (ROUTER, the layouts of `node/admin`): `hello`, `spec`, `frame {fresh}`, `events {since}`,
`act {action, selector, seed, step, options}`, `mark {text, effect, step}`, `down`. A refused
request's payload is `{exit, text}`. What
arrives is counted (`hello` tells): each frame is `malformed`, `refused` or served. Frames (XPUB,
`cluster.publisher`): 10 a second while somebody subscribes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zmq

from cluster.chunks import ChunkHeader
from cluster.events import EventLog
from cluster.exits import CommandError, Exit
from cluster.frames import ProcessState
from cluster.observer import Observer
from cluster.operations import Operation, Operations, Wanted
from cluster.paths import (
    DATA_LOCK_FILE,
    LOCK_FILE,
    FileLock,
    Holder,
    check_socket_paths,
    control_path,
    frames_path,
    make_private,
    remove_run_files,
)
from cluster.processes import NodeProcess
from cluster.publisher import Publisher
from cluster.recorder import Recorder
from cluster.recording import RECORDING_DIRECTORY
from cluster.spec import SPEC_BYTES_MAX, ClusterSpec, prepare_data_dir
from node.admin import (
    MESSAGE_BYTES_MAX,
    AdminPool,
    Malformed,
    Reply,
    Request,
    decode_request,
    encode_reply,
)
from node.config import lane_endpoint
from node.metrics import plain

__all__ = ["Supervisor", "main"]

POLL_S_WATCHED: Final = 0.1
POLL_S_ALONE: Final = 1.0
SHARE_MAX: Final = 0.25
"""Of a core, for looking. 11 nodes with a group each need 0.03."""
ANSWER_S: Final = 0.025
"""How long a frame waits for answers to its own poll; a node answers in about 1 ms."""
STEP_MS: Final = 5
"""How often waiting operations are stepped when nothing else wakes the loop."""
OPERATIONS_MAX: Final = 64
"""Requests at work at once; one more is refused."""
REQUESTS_PER_TURN: Final = 32
ARGUMENT_LENGTH_MAX: Final = 1_024
"""Of an action or a selector: four times the longest selector that is looked at."""
STEP_LENGTH_MAX: Final = 80
"""Longest name of a scenario's step."""
LINGER_MS: Final = 500
"""How long the last reply may take to leave after the supervisor is done."""


@dataclass(slots=True)
class _Pending:
    """A request whose operation is at work."""

    client: bytes
    number: int
    operation: Operation


class Supervisor:
    """One cluster's supervisor, between taking its locks and releasing them."""

    def __init__(self, spec: ClusterSpec, run_dir: Path) -> None:
        self._spec = spec
        self._run_dir = run_dir
        self._events = EventLog()
        self._processes = {n: NodeProcess(spec, n, run_dir) for n in spec.node_ids}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._control = self._context.socket(zmq.ROUTER)
        self._frames = self._context.socket(zmq.XPUB)
        endpoints = {n: lane_endpoint(run_dir, n, "admin") for n in spec.node_ids}
        self._pool = AdminPool(self._context, endpoints)
        self._observer = Observer(spec, self._processes, self._pool, self._events)
        self._operations = Operations(spec, self._processes, self._observer, self._events)
        recorder = _recorder_of(spec)
        self._publisher = Publisher(self._frames, self._observer, self._events, recorder)
        self._poller = zmq.Poller()
        self._watched: set[int] = set()
        self._pending: deque[_Pending] = deque()
        self._next_poll_s = 0.0
        self._spent_s = 0.0
        self._polled_s: float | None = None
        self._leaving: Operation | None = None
        self._leaving_clients: list[tuple[bytes, int]] = []
        self._frames_in = 0
        self._malformed = 0
        self._refused = 0
        self._unsent = 0

    # --- begin and end ----------------------------------------------------------------

    def open(self) -> None:
        """Bind the sockets and start every node."""
        for socket, path in (
            (self._control, control_path(self._run_dir)),
            (self._frames, frames_path(self._run_dir)),
        ):
            socket.set(zmq.LINGER, LINGER_MS)
            socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
            socket.set(zmq.SNDHWM, 64)
            if socket is self._control:
                socket.set(zmq.ROUTER_MANDATORY, 1)  # what cannot be sent is counted
            socket.bind(f"ipc://{path}")
            self._poller.register(socket, zmq.POLLIN)
        for socket in self._pool.sockets():
            self._poller.register(socket, zmq.POLLIN)
        for node in self._spec.node_ids:
            self._operations.begin(node)

    def watch(self, *descriptors: int) -> None:
        """End the cluster when one of these becomes readable or reaches its end."""
        for descriptor in descriptors:
            self._poller.register(descriptor, zmq.POLLIN)
            self._watched.add(descriptor)

    def run(self) -> None:
        """Serve until the cluster has ended; every node is dead on return."""
        while not self._turn():
            pass

    def close(self) -> None:
        """Kill what is still alive (after a failure), and close the sockets."""
        for process in self._processes.values():
            process.kill()
        deadline = time.monotonic() + 5
        while any(p.alive for p in self._processes.values()) and time.monotonic() < deadline:
            time.sleep(0.005)
            for process in self._processes.values():
                process.reap()
        self._publisher.close()
        self._pool.close()
        self._control.close()
        self._frames.close()
        self._context.term()

    # --- one turn ---------------------------------------------------------------------

    def _turn(self) -> bool:
        """Wait for something, take care of it; True when the cluster has ended."""
        self._watch_processes()
        ready = dict(self._poller.poll(self._timeout_ms()))
        for process in self._processes.values():
            if process.pidfd in ready:
                self._reap(process)
        self._observer.receive(ready)
        if self._publisher.take_subscriptions():
            self._next_poll_s = 0.0
        self._take_requests()
        if self._watched & ready.keys():
            self._leave("the launcher is gone, or a signal arrived")
        if time.monotonic() >= self._next_poll_s:
            self._ask()
        self._publish_when_answered()
        self._step()
        self._publisher.publish_events()
        return self._step_leaving()

    def _timeout_ms(self) -> int:
        if self._pending or self._leaving is not None:
            return STEP_MS
        due = self._next_poll_s
        if self._polled_s is not None:
            due = min(due, self._polled_s + ANSWER_S)
        return max(0, int((due - time.monotonic()) * 1000) + 1)

    def _watch_processes(self) -> None:
        """Keep the poller's pidfds in step with the lives of the nodes."""
        wanted = {p.pidfd for p in self._processes.values() if p.alive}
        present = {s for s, _ in self._poller.sockets if isinstance(s, int)} - self._watched
        for descriptor in present - wanted:
            self._poller.unregister(descriptor)
        for descriptor in wanted - present:
            self._poller.register(descriptor, zmq.POLLIN)

    def _reap(self, process: NodeProcess) -> None:
        if not process.alive:
            return
        descriptor = process.pidfd
        exited = process.reap()
        if exited is None:
            return
        with contextlib.suppress(KeyError):  # it was born and died within one turn
            self._poller.unregister(descriptor)
        lost = self._observer.lost(process.node)
        self._observer.forget(process.node)
        state, cause = process.state, process.cause
        text = f"n{process.node} {state.value} ({exited})"
        if state is ProcessState.CRASHED:
            last = process.truth().last_log[-1:]
            text += f": {last[0]}" if last else ""
        process.log.note(f"raftdeck: {text}")
        effect = f"exit {exited.number}" + (f" · {lost}" if lost else "")
        self._events.add(state.value, text, cause=cause, node=process.node, effect=effect)

    def _ask(self) -> None:
        """Ask the nodes what they are; the frame is published when they have answered.

        Not so often that looking takes more than `SHARE_MAX` of a core: very many active groups on
        many nodes are looked at less often.
        """
        now, spent = time.monotonic(), time.thread_time()
        watched = self._publisher.watched
        least = POLL_S_WATCHED if watched else POLL_S_ALONE
        interval = max(least, (spent - self._spent_s) / SHARE_MAX)
        self._next_poll_s = now + interval
        self._spent_s = spent
        self._polled_s = now
        if watched:
            self._observer.glance(interval)
        else:
            self._observer.avert()
            self._observer.poll()
        for process in self._processes.values():
            process.log.rotate()

    def _publish_when_answered(self) -> None:
        """Publish once every running node has answered, or should have."""
        polled = self._polled_s
        if polled is None:
            return
        late = time.monotonic() >= polled + ANSWER_S
        if not late and any(
            self._observer.awaited(process.node)
            for process in self._processes.values()
            if process.state is ProcessState.RUNNING
        ):
            return
        self._polled_s = None
        self._publisher.publish()

    # --- requests ---------------------------------------------------------------------

    def _take_requests(self) -> None:
        for _ in range(REQUESTS_PER_TURN):
            try:
                parts = self._control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._frames_in += 1
            try:
                if len(parts) != 2:
                    raise Malformed(f"a request of {len(parts) - 1} parts")
                request = decode_request(parts[1])
            except Malformed:
                self._malformed += 1
                continue
            try:
                self._serve(parts[0], request)
            except CommandError as error:
                self._refuse(parts[0], request.number, error)

    def _serve(self, client: bytes, request: Request) -> None:
        """Answer at once, or begin an operation that will."""
        args = request.args
        payload: Any
        match request.verb:
            case "hello":
                payload = self._hello()
            case "spec":
                payload = {
                    "json": self._spec.to_json(),
                    "data_dir": str(self._spec.data_dir),
                }
            case "events":
                since = _integer(args, "since", 0)
                payload = [plain(event) for event in self._events.since(since or 0)]
            case "mark":
                effect = _text({"effect": "", **args}, "effect")
                payload = plain(self._events.mark(_text(args, "text"), effect, _step(args)))
            case "frame" if not args.get("fresh"):
                payload = self._observer.frame(os.getpid()).encode()
            case "frame":
                return self._begin(client, request.number, self._encoded_frame())
            case "act":
                action, selector = _text(args, "action"), _text(args, "selector")
                seed = _integer(args, "seed", None)
                wanted = Wanted(action, selector, seed, _step(args), _options(args))
                operation = self._operations.act(wanted)
                return self._begin(client, request.number, operation)
            case "down":
                self._leaving_clients.append((client, request.number))
                return self._leave("asked to")
            case other:
                raise CommandError(Exit.USAGE, f"no control verb {other!r}")
        return self._answer(client, Reply(request.number, True, payload))

    def _hello(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "name": self._spec.name,
            "cluster_id": self._spec.cluster_id,
            "nodes": self._spec.nodes,
            "groups": self._spec.groups,
            "run_dir": str(self._run_dir),
            "data_dir": str(self._spec.data_dir),
            "control": {
                "frames_in": self._frames_in,
                "malformed": self._malformed,
                "refused": self._refused,
                "unsent": self._unsent,
            },
        }

    def _encoded_frame(self) -> Operation:
        frame = yield from self._operations.fresh_frame()
        return frame.encode()

    def _begin(self, client: bytes, number: int, operation: Operation) -> None:
        if self._leaving is not None:
            raise CommandError(Exit.NO_CLUSTER, "the cluster is going down")
        if len(self._pending) >= OPERATIONS_MAX:
            raise CommandError(Exit.FAILED, f"{OPERATIONS_MAX} operations are at work; try again")
        self._pending.append(_Pending(client, number, operation))

    def _refuse(self, client: bytes, number: int, error: CommandError) -> None:
        self._refused += 1
        self._answer(client, Reply(number, False, error.encode()))

    def _answer(self, client: bytes, reply: Reply) -> None:
        try:
            self._control.send_multipart([client, encode_reply(reply)], zmq.NOBLOCK)
        except zmq.ZMQError:  # the client went away, or reads nothing
            self._unsent += 1

    def _step(self) -> None:
        """Step every operation once; answer those that ended."""
        for pending in list(self._pending):
            try:
                next(pending.operation)
            except StopIteration as end:
                self._pending.remove(pending)
                self._answer(pending.client, Reply(pending.number, True, end.value))
            except CommandError as error:
                self._pending.remove(pending)
                self._refuse(pending.client, pending.number, error)

    # --- leaving ----------------------------------------------------------------------

    def _leave(self, why: str) -> None:
        """Begin to end the cluster; operations at work are refused."""
        if self._leaving is not None:
            return
        self._events.add("down", f"cluster goes down: {why}", cause="user")
        for pending in self._pending:
            pending.operation.close()
            error = CommandError(Exit.NO_CLUSTER, "the cluster is going down")
            self._refuse(pending.client, pending.number, error)
        self._pending.clear()
        for descriptor in self._watched:
            self._poller.unregister(descriptor)
        self._watched.clear()
        self._leaving = self._operations.stop_all()

    def _step_leaving(self) -> bool:
        if self._leaving is None:
            return False
        try:
            next(self._leaving)
            return False
        except StopIteration as end:
            payload = end.value
        except CommandError as error:
            payload = {"stopped": [], "problem": str(error)}
        for client, number in self._leaving_clients:
            self._answer(client, Reply(number, True, payload))
        return True


def _recorder_of(spec: ClusterSpec) -> Recorder | None:
    """Return what records this life of the cluster, if the spec wants it."""
    if not spec.recording_bytes:
        return None
    now = time.time_ns() // 1_000_000
    header = ChunkHeader(
        run=f"{now}-{os.getpid()}",
        cluster_id=spec.cluster_id,
        name=spec.name,
        groups=spec.groups,
        supervisor_pid=os.getpid(),
        started_unix_ms=now,
    )
    return Recorder(spec.data_dir / RECORDING_DIRECTORY, header, spec.recording_bytes)


def _integer(args: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = args.get(name, default)
    if value is not None and type(value) is not int:
        # Its value is not quoted: a list in a list in a list … cannot be.
        raise CommandError(Exit.USAGE, f"{name}: a {type(value).__name__} is no whole number")
    return value


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if type(value) is not str or len(value) > ARGUMENT_LENGTH_MAX:
        raise CommandError(
            Exit.USAGE, f"{name}: a text of at most {ARGUMENT_LENGTH_MAX} characters is needed"
        )
    return value


def _step(args: Mapping[str, Any]) -> str:
    """Return the scenario's step that a request names as its cause; "" for a person's own."""
    step = args.get("step", "")
    if not isinstance(step, str) or len(step) > STEP_LENGTH_MAX:
        raise CommandError(
            Exit.USAGE, f"step: a text of at most {STEP_LENGTH_MAX} characters is needed"
        )
    return step


def _options(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a verb; what they mean is checked by whoever takes them."""
    options = args.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise CommandError(Exit.USAGE, "options: a map of names is needed")
    return options


# --- the process ----------------------------------------------------------------------


def supervise(spec: ClusterSpec, run_dir: Path, lifeline: int | None, report: int | None) -> None:
    """Take the locks, run the cluster to its end, and leave nothing behind but the data."""
    wakeup = _catch_signals()
    make_private(run_dir.parent)
    make_private(run_dir)
    check_socket_paths(run_dir, spec.nodes)
    with contextlib.ExitStack() as stack:
        holder = Holder(os.getpid(), spec.name, spec.cluster_id, str(run_dir), str(spec.data_dir))
        stack.callback(_remove_empty, run_dir)
        _lock(stack, run_dir / LOCK_FILE, holder, f"cluster {spec.name!r} runs already")
        stack.callback(remove_run_files, run_dir, keep=frozenset({LOCK_FILE}))
        remove_run_files(run_dir, keep=frozenset({LOCK_FILE}))
        _make_data_dir(spec.data_dir)
        _lock(stack, spec.data_dir / DATA_LOCK_FILE, holder, "data directory in use")
        prepare_data_dir(spec)
        _redirect_output(spec.data_dir / "supervisor.log")
        supervisor = Supervisor(spec, run_dir)
        stack.callback(supervisor.close)
        supervisor.open()
        supervisor.watch(wakeup, *([] if lifeline is None else [lifeline]))
        _report(report, {"ok": True, "pid": os.getpid()})
        supervisor.run()


def _remove_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # somebody put a file of their own there
        directory.rmdir()


def _make_data_dir(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"data directory {data_dir}: {error.strerror}") from None


def _lock(stack: contextlib.ExitStack, path: Path, holder: Holder, complaint: str) -> None:
    lock = FileLock(path)
    try:
        taken = lock.acquire(holder)
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{path}: {error.strerror}") from None
    if not taken:
        raise CommandError(
            Exit.UNFIT,
            f"{complaint}: {path.parent} is held by"
            f" {FileLock.read_holder(path) or 'another process'};"
            " end that with: raftdeck down, or use another --name and --data",
        )
    stack.callback(lock.release)


def _redirect_output(path: Path) -> None:
    """Write into a file from now on: whoever started this process may close its terminal."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _catch_signals() -> int:
    """Turn the signals that end a cluster into bytes on a pipe; return the end to read."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write_end)
    return read_end


def _report(descriptor: int | None, document: dict[str, Any]) -> None:
    """Tell the launcher how the start went: one line of JSON, then end of file."""
    if descriptor is not None:
        with contextlib.suppress(BrokenPipeError):  # it did not wait
            os.write(descriptor, json.dumps(document).encode() + b"\n")
        os.close(descriptor)


def _read_spec(name: str, data_dir: Path) -> ClusterSpec:
    if name == "-":
        return ClusterSpec.from_json(sys.stdin.buffer.read(SPEC_BYTES_MAX + 1), data_dir)
    return ClusterSpec.from_json(Path(name).read_bytes(), data_dir)


def main(arguments: list[str] | None = None) -> int:
    """Run as a process; the exit code is a verb's (`cluster.exits`)."""
    parser = argparse.ArgumentParser(prog="cluster.supervisor")
    parser.add_argument("--spec", required=True, help="a CLUSTER.json, or - for standard input")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--lifeline-fd", type=int, help="end of file on it ends the cluster")
    parser.add_argument("--report-fd", type=int, help="where the outcome of the start is written")
    options = parser.parse_args(arguments)
    report: int | None = options.report_fd
    try:
        spec = _read_spec(options.spec, options.data_dir)
        supervise(spec, options.run_dir, options.lifeline_fd, report)
    except CommandError as error:
        with contextlib.suppress(OSError):  # reported already: the descriptor is closed
            _report(report, {"ok": False} | error.encode())
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    return int(Exit.HELD)


if __name__ == "__main__":
    sys.exit(main())
