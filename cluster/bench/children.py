"""The processes that a bench starts: each answers lines with JSON, and none outlives the bench."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from cluster.bench import bare_pipe
from cluster.bench.bare_pipe import ANNOUNCE_MS, Plan, encode_plan
from cluster.closing import Closing

__all__ = ["ANSWER_TIMEOUT_S", "BarePipe", "Child", "ChildError"]

ANSWER_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0
"""More than a leader of the bare pipe gives its followers."""


class ChildError(Exception):
    """A process of a bench did not start, or broke; says which and why."""


class Child:
    """A process that answers each line of its standard input with one line of JSON.

    It ends when its standard input does. One thread.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        errors: Path,
        *,
        environment: dict[str, str] | None = None,
        new_session: bool = False,
    ) -> None:
        """Start `python -P COMMAND`; what it writes to stderr goes to the file `errors`."""
        self.name = name
        self._errors = errors
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=new_session,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, line: str, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Send a line and return the answer."""
        self.tell(line)
        return self.hear(timeout_s)

    def tell(self, line: str) -> None:
        """Send a line; its answer is to be heard before the next one is sent."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: there will be no answer
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def speaks(self) -> bool:
        """Tell whether `hear` would return at once."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def hear(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Return what it says next. At most one line is ever under way."""
        assert self._process.stdout is not None
        ready = select.select([self._process.stdout], [], [], timeout_s)[0]
        answer = self._process.stdout.readline() if ready else b""
        if not answer:
            words = self._errors.read_text("utf-8", "replace").splitlines()
            why = words[-1] if words else f"no answer within {timeout_s:g} s"
            raise ChildError(f"{self.name}: {why}")
        document: dict[str, Any] = json.loads(answer)
        return document

    def end(self) -> None:
        """Close its standard input, wait, and kill it if it does not end."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # a line that it never read
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class BarePipe(Closing):
    """The processes of one bare pipe. Its files lie in `data`: put it on the disk to be measured."""

    def __init__(self, nodes: int, data: Path) -> None:
        self.node_pids: list[int] = []
        """The leader's first."""
        with contextlib.ExitStack() as stack:
            data.mkdir(parents=True)
            stack.callback(shutil.rmtree, data, ignore_errors=True)
            # Sockets need a short path.
            directory = Path(tempfile.mkdtemp(prefix="bare-"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            config = {
                "directory": str(directory),
                "data": str(data),
                "nodes": nodes,
                "node": 1,
                "parent": os.getpid(),
            }
            self._leader = self._start("leader", config, stack)
            self.node_pids = self._leader.hear()["pids"]
            self._client = self._start("client", config, stack)
            self._leader.hear()
            self._stack = stack.pop_all()

    def _start(self, role: str, config: dict[str, Any], stack: contextlib.ExitStack) -> Child:
        command = [str(Path(bare_pipe.__file__).resolve()), role, json.dumps(config)]
        errors = Path(config["data"]) / f"{role}.err"
        child = Child(f"bare pipe, {role}", command, errors, new_session=role == "leader")
        stack.callback(child.end)
        return child

    @property
    def client_pid(self) -> int:
        """The client's process."""
        return self._client.pid

    def run(self, plan: Plan) -> dict[str, Any]:
        """Drive a plan; return seconds, acked, bytes, p50_ms and p99_ms."""
        return self._client.ask(encode_plan(plan), plan.seconds + ANSWER_TIMEOUT_S)

    def counters(self) -> list[dict[str, int]]:
        """Return per node applied, keys, fsyncs, entries, bytes_written, once all applied alike.

        ChildError if a node does not apply what the leader has.
        """
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            found: list[dict[str, int]] = self._leader.ask("counters")["nodes"]
            if len({(each["applied"], each["keys"], each["entries"]) for each in found}) == 1:
                return found
            if time.monotonic() > deadline:
                raise ChildError(f"bare pipe: the nodes differ: {found}")
            time.sleep(ANNOUNCE_MS / 1e3)

    def close(self) -> None:
        """End every process and remove every file."""
        self._stack.close()
