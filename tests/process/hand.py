"""One node process, started by hand as the supervisor does it (`cluster.processes`)."""

from __future__ import annotations

import hashlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq

from cluster.client import Client, Endpoints
from cluster.processes import module_environment
from node.admin import Reply, decode_reply, encode_request
from node.config import EntryOption, NodeConfig
from node.raft.types import NodeId
from wal import SyncPolicy

CLUSTER_ID = "0f" * 16
PLANTED = Path(__file__).resolve().parent.parent / "planted"
SMALL = SyncPolicy(segment_bytes=1 << 20, fill_step_bytes=64 << 10)
START_S = 20.0
STOP_S = 20.0
CHANGES = frozenset({"LOCK", "node.json"})
"""Files that a refused start may write: the lock's holder, and what this file writes itself."""


def config_for(root: Path, node: int = 1, voters: tuple[int, ...] = (1,)) -> NodeConfig:
    """A node whose sockets and data lie below `root`."""
    (root / "run").mkdir(exist_ok=True, mode=0o700)
    return NodeConfig(
        CLUSTER_ID, "hand", node, voters, root / "run", root / "data" / f"n{node}", wal=SMALL
    )


class Hand:
    """A node process, its output and its lifeline."""

    def __init__(
        self,
        config: NodeConfig,
        module: str = "node",
        options: Mapping[str, EntryOption] | None = None,
    ) -> None:
        self.config = replace(config, entry_options=dict(options or {}))
        self.module = module
        self.prepared = False
        """Whether it is told that its directory was prepared by a launcher."""
        self.path = config.run_dir.parent / "node.json"
        self.path.write_text(self.config.to_json())
        self.output = config.run_dir.parent / "output.txt"
        self.lifeline = -1
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, parent: str, lifeline: int | None) -> list[str]:
        command = [sys.executable, "-P", "-m", self.module, "--config", str(self.path)]
        command += ["--parent-pid", parent]
        command += ["--prepared"] if self.prepared else []
        return command + ([] if lifeline is None else ["--lifeline-fd", str(lifeline)])

    def start(self) -> Hand:
        """Spawn it with a lifeline that this test holds."""
        read_end, self.lifeline = os.pipe()
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(str(os.getpid()), read_end),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[read_end],
                cwd="/",
                env=module_environment((PLANTED,)),
            )
        os.close(read_end)
        return self

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Return how it ended."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def words(self) -> list[str]:
        """Every line that it has said so far, without the time."""
        text = self.output.read_text(errors="replace")
        return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in text.splitlines()]

    def errors(self) -> list[str]:
        return [line for line in self.words() if line.startswith("error: ")]

    def status(self, timeout_s: float = START_S) -> dict[str, Any]:
        """Ask until it answers."""
        reply = ask(self.config, "status", timeout_s)
        assert reply.ok
        payload: dict[str, Any] = reply.payload
        return payload

    def ready(self) -> Hand:
        """Wait until it leads and has applied its first batch."""
        deadline = time.monotonic() + START_S
        while True:
            assert self.process is not None
            assert self.process.poll() is None, self.words()
            assert time.monotonic() < deadline, self.words()
            [group] = self.status()["groups"]
            if group["role"] == "leader" and group["applied"] == group["last"]:
                return self

    @contextmanager
    def client(self, timeout_s: float = 10.0) -> Iterator[Client]:
        config = self.config
        nodes = {NodeId(config.node): config.endpoint("client")}
        with Client(Endpoints(config.cluster_id_bytes, nodes, 1), timeout_s) as client:
            yield client

    def close(self) -> None:
        """Kill what is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def cut_lifeline(self) -> None:
        os.close(self.lifeline)
        self.lifeline = -1

    @property
    def sockets(self) -> list[str]:
        return sorted(path.name for path in self.config.run_dir.glob("n*.*"))

    def hashes(self) -> dict[str, str]:
        """The content of every file of the data directory that a refusal must not change."""
        files = sorted(p for p in self.config.data_dir.rglob("*") if p.is_file())
        return {
            str(path.relative_to(self.config.data_dir)): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in files
            if path.name not in CHANGES
        }


def ask(config: NodeConfig, verb: str, timeout_s: float = START_S) -> Reply:
    """Send one admin request, as soon as there is somebody to take it."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.connect(config.endpoint("admin"))
        socket.send(encode_request(1, verb))
        assert socket.poll(int(timeout_s * 1000)), f"no answer to {verb}"
        return decode_reply(socket.recv())


def wait_for_end(pid: int, pidfd: int, timeout_s: float = STOP_S) -> None:
    """Wait until a process that is not our child is gone."""
    ready, _, _ = select.select([pidfd], [], [], timeout_s)
    assert ready, f"process {pid} is still there"


Start = Callable[..., Hand]
"""The fixture `start`: (configuration, module, entry options) to a started node."""


def put(hand: Hand, key: bytes, value: bytes = b"v") -> None:
    with hand.client() as client:
        assert client.put(key, value).code == 0


def get(hand: Hand, key: bytes) -> bytes | None:
    with hand.client() as client:
        item = client.get(key).item
    return None if item is None else item.value


def stop(hand: Hand) -> None:
    hand.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]  # it was started
    assert hand.wait() == 0


def kill(hand: Hand) -> None:
    """End it by SIGKILL, and clear away what such an end leaves behind beside the data."""
    hand.process.kill()  # type: ignore[union-attr]  # it was started
    assert hand.wait() == -signal.SIGKILL
    for name in hand.sockets:
        (hand.config.run_dir / name).unlink()
    hand.output.unlink()


def refused(hand: Hand, code: int, *parts: str) -> str:
    """It ends with this code and one line that says what, where and what to do."""
    assert hand.wait() == code, hand.words()
    [line] = hand.errors()
    assert "Traceback" not in "\n".join(hand.words())
    for part in parts:
        assert part in line, line
    assert hand.sockets == []
    return line


def segment_of(hand: Hand) -> Path:
    return hand.config.wal_dir / "00000001.wal"
