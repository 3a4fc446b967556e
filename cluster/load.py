"""Drives a workload through a client, keeps a fixed number of operations outstanding, measures.

Closed loop: a new operation is submitted when an old one has ended, so a stalled cluster is not
buried, and the latencies are those of operations that were really under way. `Load.run` belongs
to the caller's thread; completions are counted on the client's thread.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cluster.client import BulkResult, Client, ClientError, ClientFuture
    from cluster.load_history import LoadHistory
    from cluster.workload import Item, Workload

__all__ = ["LOAD_SCHEMA", "Interrupted", "LatencyHistogram", "Load", "LoadPlan", "LoadReport"]

LOAD_SCHEMA: Final = "raftdeck.load/1"
OUTSTANDING_MAX: Final = 16_384
"""A quarter of what a client holds (65,536 operations)."""
_BUCKETS_PER_DOUBLING: Final = 64
"""Neighbouring buckets differ by 1.1 %: finer than two runs on one machine do."""


class LatencyHistogram:
    """Latencies in ns, in logarithmic buckets: about 2,000 of them cover 1 µs to 1 h."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0
        self.longest_ns = 0

    def add(self, latency_ns: int, count: int = 1) -> None:
        """Count the latency of `count` operations."""
        self._counts[int(math.log2(max(1, latency_ns)) * _BUCKETS_PER_DOUBLING)] += count
        self._total += count
        self.longest_ns = max(self.longest_ns, latency_ns)

    def quantile_ms(self, fraction: float) -> float | None:
        """Return the middle of the bucket that holds the quantile; None if nothing was counted."""
        if not self._total:
            return None
        left = fraction * self._total
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                break
        middle: float = 2 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING)
        return round(min(middle, self.longest_ns) / 1e6, 3)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How much, how long, how wide. One of `seconds` and `operations` ends the run."""

    workload: Workload
    outstanding: int = 64
    read_percent: int = 0
    seconds: float | None = None
    operations: int | None = None
    timeout_s: float = 5.0
    seed: int = 1
    bulk: int = 1
    """Puts that are submitted together, and end together (`Client.put_many`); ≤ `outstanding`."""

    def __post_init__(self) -> None:
        """Refuse a bulk for which there would never be room."""
        assert 1 <= self.bulk <= self.outstanding


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was measured. Rates count acknowledged operations, from the first submission to the end.

    `indefinite` operations may or may not have been applied; `definite` errors were not.
    """

    workload: str
    seconds: float
    operations: int
    acked: int
    reads: int
    definite: int
    indefinite: int
    ops_per_s: float
    mb_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    outstanding: int
    last_error: str | None = None

    def encode(self) -> dict[str, Any]:
        """Return the JSON document of `raftdeck load --json`."""
        return {"schema": LOAD_SCHEMA} | asdict(self)


class Load:
    """One run."""

    def __init__(
        self, client: Client, plan: LoadPlan, history: LoadHistory | None = None
    ) -> None:  # fmt: skip
        """Drive `plan`; what is asked and answered goes into `history`, under keys of its own."""
        self._client = client
        self._plan = plan
        self._history = history
        self._prefix = b"" if history is None else history.prefix
        self._window = threading.Semaphore(plan.outstanding)
        self._latencies = LatencyHistogram()
        self._rng = random.Random(plan.seed)
        self._written: list[bytes] = []
        self._gathered: list[tuple[bytes, bytes]] = []
        """Puts that wait until they are a bulk; each holds a place in the window."""
        self._interrupted = False
        self.submitted = 0
        self.acked = 0
        self._reads = 0
        self._bytes = 0
        self._definite = 0
        self._indefinite = 0
        self._last_error: str | None = None

    def run(self, tick: Callable[[float], object] = lambda _: None) -> LoadReport:
        """Submit until the plan ends, wait for what is outstanding, and report.

        SIGINT or SIGTERM end the plan; then `Interrupted` carries the report.

        `tick(seconds)` is called about ten times a second, for a progress line.
        """
        started = time.monotonic()
        with self._heeding_interrupts():
            self._submit_all(started, tick)
            self._submit_gathered()
            for _ in range(self._plan.outstanding):
                self._window.acquire()
        report = self._report(time.monotonic() - started)
        if self._interrupted:
            raise Interrupted(report)
        return report

    @contextlib.contextmanager
    def _heeding_interrupts(self) -> Iterator[None]:
        """Let the first SIGINT or SIGTERM end the submitting, and a second one everything, at once.

        An exception in the midst of a submission would lose its place in the window for ever, or leave
        the client's lock held. In the main thread; what is ignored stays so.
        """

        def heed(*_: object) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, heed)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _submit_all(self, started: float, tick: Callable[[float], object]) -> None:
        plan = self._plan
        next_tick = started
        for item in plan.workload.rounds():
            while True:
                if self._interrupted:
                    return
                now = time.monotonic()
                if now >= next_tick:
                    tick(now - started)
                    next_tick = now + 0.1
                    if not self._recording():
                        return
                if plan.seconds is not None and now >= started + plan.seconds:
                    return
                if self._window.acquire(timeout=0.05):
                    break
            self._submit(item)
            if plan.operations is not None and self.submitted >= plan.operations:
                return

    def _recording(self) -> bool:
        """Flush the history, if there is one; tell whether it still takes lines."""
        if self._history is None:
            return True
        self._history.flush()
        return self._history.failure is None

    def _submit(self, item: Item) -> None:
        self.submitted += 1
        begun = time.monotonic_ns()
        history, process = self._history, -1
        future: ClientFuture[Any]
        if self._written and self._rng.randrange(100) < self._plan.read_percent:
            self._reads += 1
            key = self._written[self._rng.randrange(len(self._written))]
            if history is not None:
                process = history.read(key)
            future = self._client.get_nowait(key, self._plan.timeout_s)
            future.add_done_callback(lambda done: self._ended(done, begun, 0, process))
            return
        key = self._prefix + item.key
        if self._plan.read_percent and len(self._written) < OUTSTANDING_MAX:
            self._written.append(key)
        if self._plan.bulk > 1:
            self._gathered.append((key, item.value))
            if len(self._gathered) == self._plan.bulk:
                self._submit_gathered()
            return
        size = len(key) + len(item.value)
        if history is not None:
            process = history.write(key, item.value)
        future = self._client.put_nowait(key, item.value, self._plan.timeout_s)
        future.add_done_callback(lambda done: self._ended(done, begun, size, process))

    def _submit_gathered(self) -> None:
        pairs, self._gathered = self._gathered, []
        if not pairs:
            return
        begun = time.monotonic_ns()
        history = self._history
        processes = [] if history is None else [history.write(*pair) for pair in pairs]
        future = self._client.put_many_nowait(pairs, self._plan.timeout_s)

        def ended(done: ClientFuture[BulkResult]) -> None:
            if history is not None:
                history.bulk_answered(processes, done.exception() or done.result())
            self._bulk_ended(done, begun, pairs)

        future.add_done_callback(ended)

    def _ended(self, future: ClientFuture[Any], begun: int, size: int, process: int) -> None:
        """Count a completion; on the client's thread."""
        error = future.exception()
        if self._history is not None:
            self._history.answered(process, error or future.result())
        if error is None:
            self.acked += 1
            self._bytes += size
            self._latencies.add(time.monotonic_ns() - begun)
        else:
            self._failed(error, 1)
        self._window.release()

    def _bulk_ended(
        self, future: ClientFuture[BulkResult], begun: int, pairs: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """Count the operations of a bulk one by one; on the client's thread."""
        refused = future.exception()
        if refused is not None:
            self._failed(refused, len(pairs))
        else:
            errors = future.result().errors
            for error in errors.values():
                self._failed(error, 1)
            acked = [pair for place, pair in enumerate(pairs) if place not in errors]
            self.acked += len(acked)
            self._bytes += sum(len(key) + len(value) for key, value in acked)
            if acked:
                self._latencies.add(time.monotonic_ns() - begun, len(acked))
        self._window.release(len(pairs))

    def _failed(self, error: ClientError, count: int) -> None:
        from cluster.client_types import DefiniteError

        if isinstance(error, DefiniteError):
            self._definite += count
        else:
            self._indefinite += count
        self._last_error = str(error)

    def _report(self, seconds: float) -> LoadReport:
        longest = self._latencies.longest_ns
        return LoadReport(
            workload=self._plan.workload.name,
            seconds=round(seconds, 3),
            operations=self.submitted,
            acked=self.acked,
            reads=self._reads,
            definite=self._definite,
            indefinite=self._indefinite,
            ops_per_s=round(self.acked / seconds, 1),
            mb_per_s=round(self._bytes / seconds / 1e6, 3),
            p50_ms=self._latencies.quantile_ms(0.5),
            p99_ms=self._latencies.quantile_ms(0.99),
            max_ms=round(longest / 1e6, 3) if longest else None,
            outstanding=self._plan.outstanding,
            last_error=self._last_error,
        )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; carries what was measured until then."""

    def __init__(self, report: LoadReport) -> None:
        super().__init__()
        self.report = report
