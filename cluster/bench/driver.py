"""The process that drives our own client in a bench: one JSON plan per line in, one result out.

It does what the bare pipe's client does (same keys, same values, same number outstanding in as many
requests, same counting), through `cluster.client`: `put_many_nowait`. All puts but the first are
submitted from callbacks, so everything happens on the client's own thread.

    python -P -m cluster.bench.driver '{"parent": PID, "cluster_id": HEX, "nodes": {"1": ADDRESS}}'
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import Any, Final

from cluster.bench.bare_pipe import KEY_BYTES, Plan, make_values, quantile, tell
from cluster.client import BulkResult, Client, ClientConfig, ClientError, ClientFuture, Endpoints
from node.lifeline import die_with_parent
from node.limits import REPLIES_PER_SESSION_MAX
from node.ports import Outcome
from node.raft.types import NodeId

__all__ = ["ClosedLoop", "client_config", "main"]

TIMEOUT_S: Final = 30.0
"""Of one put: far beyond any election, so that a stall is seen as a long latency, not an error."""


def client_config(requests: int) -> ClientConfig:
    """Return the client's own defaults, or with another number of requests in the air."""
    config = ClientConfig()
    if requests == config.requests_in_flight:
        return config
    span = REPLIES_PER_SESSION_MAX // requests
    operations = min(config.request_operations, span)
    return dataclasses.replace(config, requests_in_flight=requests, request_operations=operations)


class ClosedLoop:
    """One plan: every bulk of puts that ends is followed by the next one, until the plan ends."""

    def __init__(self, client: Client, plan: Plan) -> None:
        self._client = client
        self._plan = plan
        self._keys = [b"key-%08d" % number for number in range(plan.keys)]
        self._values = make_values(plan.value_bytes)
        self._at = 0
        self._in_flight = 0
        self._started = self._end = self._last = 0
        self._left = plan.bytes_max or sys.maxsize
        self._latencies: Counter[int] = Counter()
        self._acked = 0
        self._errors = 0
        self._error = ""
        self._done = threading.Event()

    def run(self) -> dict[str, Any]:
        """Drive the plan; return what the bare pipe's client returns, and the errors."""
        # One put first: it finds the leader and opens the session.
        self._client.put(self._keys[0], self._values[0], TIMEOUT_S)
        kick_off = self._client.put_nowait(self._keys[0], self._values[0], TIMEOUT_S)
        kick_off.add_done_callback(self._begin)
        self._done.wait()
        size = KEY_BYTES + self._plan.value_bytes
        return {
            "seconds": (self._last - self._started) / 1e9,
            "acked": self._acked,
            "bytes": self._acked * size,
            "p50_ms": quantile(self._latencies, 0.5) / 1e3,
            "p99_ms": quantile(self._latencies, 0.99) / 1e3,
            "errors": self._errors,
            "error": self._error,
        }

    def _begin(self, _: ClientFuture[Outcome]) -> None:
        plan = self._plan
        self._started = self._last = time.monotonic_ns()
        self._end = self._started + int(plan.seconds * 1e9)
        bulks = min(plan.requests, plan.outstanding)
        share, rest = divmod(plan.outstanding, bulks)
        for number in range(bulks):
            self._submit(share + (number < rest), self._started)
        if not self._in_flight:
            self._done.set()

    def _submit(self, puts: int, now: int) -> None:
        keys, values = self._keys, self._values
        places = range(self._at, self._at + puts)
        self._at += puts
        pairs = [(keys[place % len(keys)], values[place % len(values)]) for place in places]
        try:
            future = self._client.put_many_nowait(pairs, TIMEOUT_S)
        except ClientError as error:
            self._note(puts, error)
            return
        self._in_flight += 1
        future.add_done_callback(partial(self._ended, puts, now))

    def _ended(self, puts: int, begun: int, future: ClientFuture[BulkResult]) -> None:
        """Count one bulk and submit the next; on the client's thread."""
        now = self._last = time.monotonic_ns()
        self._in_flight -= 1
        error = future.exception()
        errors = [] if error is not None else list(future.result().errors.values())
        if error is None and not errors:
            self._latencies[(now - begun) // 1_000] += puts
            self._acked += puts
            self._left -= puts * (KEY_BYTES + self._plan.value_bytes)
            if now < self._end and self._left > 0:
                self._submit(puts, now)
        elif error is not None:
            self._note(puts, error)  # its place stays empty: errors are reported, not hammered on
        else:
            self._note(len(errors), errors[0])
            self._acked += puts - len(errors)
        if not self._in_flight:
            self._done.set()

    def _note(self, puts: int, error: ClientError) -> None:
        self._errors += puts
        self._error = str(error)


def main() -> int:
    """Run plans until standard input ends."""
    config = json.loads(sys.argv[1])
    if not die_with_parent(config["parent"]):
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    nodes = {NodeId(int(node)): address for node, address in config["nodes"].items()}
    endpoints = Endpoints(bytes.fromhex(config["cluster_id"]), nodes)
    clients: dict[int, Client] = {}
    tell(ready=True)
    while line := sys.stdin.readline():
        plan = Plan(**json.loads(line))
        if plan.requests not in clients:
            clients[plan.requests] = Client(endpoints, TIMEOUT_S, client_config(plan.requests))
        tell(**ClosedLoop(clients[plan.requests], plan).run())
    for client in clients.values():
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
