"""Writes a workload through a client, at an even pace, and remembers what was acknowledged.

One thread submits; the client's own thread completes. A bounded number of operations is
outstanding at any time. Each key is written once, so in the end its version must be 1.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from cluster.client import Client, ClientFuture
from cluster.client_types import DefiniteError
from cluster.workload import Item, Workload, WorkloadError
from node.ports import Outcome

__all__ = ["Acknowledged", "Plan", "Writer", "plan_rounds"]

ITEMS_TARGET: Final = 60_000
"""Operations of a run: 3,000 a second over 20 s, a few percent of what the cluster can do, so
that the faults are what one sees."""
BYTES_TARGET: Final = 160 << 20
"""Values of a run. Each node keeps them in memory and in its log: 5 nodes × 160 MiB × 2."""
OUTSTANDING_MAX: Final = 512
OUTSTANDING_BYTES_MAX: Final = 8 << 20
PUT_TIMEOUT_S: Final = 30.0
"""Longer than any election of the tour: a put that ends otherwise is a finding."""
STEP_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is to be written: `rounds` times the input, spread over `seconds`.

    With a `trickle_s`, one more item follows each so many seconds until the writer is told to finish.
    """

    workload: Workload
    rounds: int
    seconds: float
    trickle_s: float = 0.0

    @property
    def items(self) -> int:
        """Operations in all."""
        return self.workload.items * self.rounds

    @property
    def value_bytes(self) -> int:
        """Bytes of all values."""
        return self.workload.value_bytes * self.rounds


def plan_rounds(workload: Workload, seconds: float) -> Plan:
    """Repeat a small input until it fills the time at a moderate rate; a large one is read once."""
    by_items = ITEMS_TARGET / max(1, workload.items)
    by_bytes = BYTES_TARGET / max(1, workload.value_bytes)
    rounds = max(1, math.floor(min(by_items, by_bytes)))
    return Plan(workload, rounds, seconds)


@dataclass(slots=True)
class Acknowledged:
    """What the client was told. Digests are SHA-256 of the values."""

    digests: dict[bytes, bytes] = field(default_factory=dict)
    """Of the acknowledged puts."""
    unknown: dict[bytes, bytes] = field(default_factory=dict)
    """Of the puts that ended without an answer: they may or may not be there."""
    refused: dict[bytes, str] = field(default_factory=dict)
    """Of the puts that were definitely not applied, with the error."""
    value_bytes: int = 0
    per_round: dict[int, int] = field(default_factory=dict)


class Writer:
    """Writes a plan in the background. `acknowledged` is complete once `finish` has returned."""

    def __init__(self, client: Client, plan: Plan) -> None:
        """Write through `client`, which stays the caller's."""
        self.plan = plan
        self.acknowledged = Acknowledged()
        self.error: WorkloadError | None = None
        self._client = client
        self._changed = threading.Condition()
        self._outstanding = 0
        self._outstanding_bytes = 0
        self._ack_times: list[tuple[float, float]] = []
        """(acknowledged at, submitted at) of every acknowledged put, in the order of the acks."""
        self._stopping = False
        self._started_at = 0.0
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def start(self) -> None:
        """Begin writing."""
        self._started_at = time.monotonic()
        self._thread.start()

    @property
    def acked(self) -> int:
        """Puts acknowledged so far."""
        return len(self.acknowledged.digests)

    @property
    def done(self) -> bool:
        """Whether everything planned has been submitted."""
        return not self._thread.is_alive()

    def wait_for_ack_after(self, moment: float, timeout_s: float) -> float | None:
        """Return when a put *submitted after* `moment` was acknowledged (monotonic s), or None.

        Answers that were already under way do not count: they say nothing of the new leader.
        """
        deadline = time.monotonic() + timeout_s
        place = 0
        with self._changed:
            while True:
                for acked_at, submitted in self._ack_times[place:]:
                    if submitted > moment:
                        return acked_at
                place = len(self._ack_times)
                left = deadline - time.monotonic()
                if left <= 0 or self._ended():
                    return None
                self._changed.wait(left)

    def wait_for_acks(self, count: int, timeout_s: float) -> bool:
        """Wait until `count` puts are acknowledged; False if that does not happen in time."""
        with self._changed:
            self._changed.wait_for(lambda: self.acked >= count or self._ended(), timeout_s)
            return self.acked >= count

    def finish(self, timeout_s: float) -> bool:
        """Stop submitting and wait for what is outstanding; False if some did not end in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            return self._changed.wait_for(lambda: self._outstanding == 0, timeout_s)

    # ---- the writing thread ----------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._write_all()
        except WorkloadError as error:
            self.error = error
        with self._changed:
            self._changed.notify_all()

    def _write_all(self) -> None:
        written_bytes = 0
        for written, item in enumerate(self.plan.workload.rounds()):
            if written >= self.plan.items and not self.plan.trickle_s:
                return
            if not self._await_turn(written, written_bytes, item):
                return
            self._submit(item)
            written_bytes += len(item.value)

    def _await_turn(self, written: int, written_bytes: int, item: Item) -> bool:
        """Wait for the pace and for room; False when the writer is to stop."""
        plan = self.plan
        share = max(written / plan.items, written_bytes / max(1, plan.value_bytes))
        extra = max(0, written - plan.items)
        due = self._started_at + min(1.0, share) * plan.seconds + extra * plan.trickle_s
        with self._changed:
            while not self._stopping:
                room = self._outstanding < OUTSTANDING_MAX and (
                    self._outstanding_bytes + len(item.value) <= OUTSTANDING_BYTES_MAX
                    or not self._outstanding
                )
                early = due - time.monotonic()
                if room and early <= STEP_S:
                    return True
                self._changed.wait(max(early, STEP_S) if room else 1.0)
        return False

    def _submit(self, item: Item) -> None:
        with self._changed:
            self._outstanding += 1
            self._outstanding_bytes += len(item.value)
        submitted = time.monotonic()
        try:
            future = self._client.put_nowait(item.key, item.value, PUT_TIMEOUT_S)
        except DefiniteError as error:
            self._ended_with(item, submitted, error)
            return
        future.add_done_callback(lambda done: self._completed(item, submitted, done))

    def _completed(self, item: Item, submitted: float, future: ClientFuture[Outcome]) -> None:
        self._ended_with(item, submitted, future.exception())

    def _ended_with(self, item: Item, submitted: float, error: Exception | None) -> None:
        digest = item.sha256
        found = self.acknowledged
        with self._changed:
            self._outstanding -= 1
            self._outstanding_bytes -= len(item.value)
            if error is None:
                found.digests[item.key] = digest
                found.value_bytes += len(item.value)
                self._ack_times.append((time.monotonic(), submitted))
            elif isinstance(error, DefiniteError):
                found.refused[item.key] = str(error)
            else:
                found.unknown[item.key] = digest
            self._changed.notify_all()

    def _ended(self) -> bool:
        return not self._thread.is_alive() and self._outstanding == 0
