"""The process that keeps a cluster at a given load: one JSON plan per line in, one result out.

With a `rate` it is an open loop: a bulk is submitted when it is due, however long the earlier ones
take. What is not answered is bounded; a put for which there is no room is skipped and counted.
Without a rate it is the closed loop of `cluster.bench.driver`: full load. The bulks of both are of
one size, so that half of the rate is half of the requests, too.

    python -P -m cluster.bench.paced '{"parent": PID, "cluster_id": HEX, "nodes": {"1": ADDRESS}}'
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cluster.bench.bare_pipe import Plan, make_values, tell
from cluster.bench.driver import TIMEOUT_S, ClosedLoop
from cluster.client import BulkResult, Client, ClientError, ClientFuture, Endpoints
from cluster.load import LatencyHistogram
from node.lifeline import die_with_parent
from node.raft.types import NodeId

__all__ = ["REQUESTS", "OpenLoop", "Pace", "Paced", "main"]

WAIT_S: Final = 0.01
REQUESTS: Final = 4
"""What a client keeps in the air: its default."""
BEHIND_S: Final = 1.0
"""So many seconds' worth of puts may be unanswered."""


@dataclass(frozen=True, slots=True)
class Paced:
    """One plan. `outstanding` is for the closed loop (no `rate`)."""

    seconds: float
    rate: float | None = None
    value_bytes: int = 1024
    keys: int = 1_000
    outstanding: int = 1_000

    @property
    def bulk(self) -> int:
        """How many puts are submitted together."""
        return self.outstanding // REQUESTS


class Pace:
    """How many bulks are due, and when the next one is."""

    def __init__(self, bulks_per_s: float, started: float) -> None:
        self._period = 1 / bulks_per_s
        self._started = started
        self._given = 0

    def due(self, now: float) -> int:
        """Return how many bulks are to be submitted now; they are not due again."""
        wanted = int((now - self._started) / self._period) - self._given
        self._given += max(0, wanted)
        return max(0, wanted)

    def next_at(self) -> float:
        """Return when the next bulk is due."""
        return self._started + (self._given + 1) * self._period


class OpenLoop:
    """Puts at a rate, from the caller's thread."""

    def __init__(self, client: Client, plan: Paced) -> None:
        assert plan.rate is not None
        self._client = client
        self._plan = plan
        self._rate = plan.rate
        self._room = max(plan.bulk, int(plan.rate * BEHIND_S))
        self._keys = [b"key-%08d" % number for number in range(plan.keys)]
        self._values = make_values(plan.value_bytes)
        self._at = 0
        self._lock = threading.Lock()
        self._unanswered = 0
        self._acked = self._skipped = self._errors = 0
        self._error = ""
        self._latencies = LatencyHistogram()
        self._idle = threading.Event()

    def run(self) -> dict[str, Any]:
        """Drive the plan; return when everything is answered."""
        started = time.monotonic()
        pace = Pace(self._rate / self._plan.bulk, started)
        end = started + self._plan.seconds
        while (now := time.monotonic()) < end:
            for _ in range(pace.due(now)):
                self._submit(self._plan.bulk)
            time.sleep(max(0.0, min(pace.next_at(), end) - time.monotonic()))
        seconds = time.monotonic() - started
        while self._unanswered:
            self._idle.wait(WAIT_S)
        return {
            "seconds": seconds,
            "acked": self._acked,
            "skipped": self._skipped,
            "p50_ms": self._latencies.quantile_ms(0.5),
            "p99_ms": self._latencies.quantile_ms(0.99),
            "errors": self._errors,
            "error": self._error,
        }

    def _submit(self, puts: int) -> None:
        if self._unanswered + puts > self._room:
            self._skipped += puts
            return
        places = range(self._at, self._at + puts)
        self._at += puts
        keys, values = self._keys, self._values
        pairs = [(keys[place % len(keys)], values[place % len(values)]) for place in places]
        with self._lock:
            self._unanswered += puts
        try:
            future = self._client.put_many_nowait(pairs, TIMEOUT_S)
        except ClientError as error:
            self._count(puts, 0, error)
            return
        future.add_done_callback(partial(self._ended, puts, time.monotonic_ns()))

    def _ended(self, puts: int, begun: int, future: ClientFuture[BulkResult]) -> None:
        """Count a bulk; on the client's thread."""
        error = future.exception()
        if error is not None:
            self._count(puts, 0, error)
            return
        errors = list(future.result().errors.values())
        acked = puts - len(errors)
        if acked:
            self._latencies.add(time.monotonic_ns() - begun, acked)
        self._count(puts, acked, errors[0] if errors else None)

    def _count(self, puts: int, acked: int, error: ClientError | None) -> None:
        with self._lock:
            self._unanswered -= puts
            self._acked += acked
            self._errors += puts - acked
            if error is not None:
                self._error = str(error)
            if not self._unanswered:
                self._idle.set()


def _drive(client: Client, plan: Paced) -> dict[str, Any]:
    if plan.rate is not None:
        return OpenLoop(client, plan).run()
    closed = Plan(plan.seconds, plan.outstanding, plan.value_bytes, plan.keys, REQUESTS, None)
    return ClosedLoop(client, closed).run() | {"skipped": 0}


def main() -> int:
    """Run plans until standard input ends."""
    config = json.loads(sys.argv[1])
    if not die_with_parent(config["parent"]):
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    nodes = {NodeId(int(node)): address for node, address in config["nodes"].items()}
    endpoints = Endpoints(bytes.fromhex(config["cluster_id"]), nodes)
    with Client(endpoints, TIMEOUT_S) as client:
        client.put(b"key-%08d" % 0, b"", TIMEOUT_S)  # finds the leader, opens the session
        tell(ready=True)
        while line := sys.stdin.readline():
            tell(**_drive(client, Paced(**json.loads(line))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
