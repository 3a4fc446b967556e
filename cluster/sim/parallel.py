"""Many seeds over several processes; what is done is kept, so that a long campaign goes on later.

Seeds are run in chunks, each by a process of a pool; the sums, failures and coverage of a chunk come
back as one `Campaign`. With a progress file the numbers of the finished chunks and their sum are
written after each (atomically), and the next call begins with what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any, Final

from cluster.sim.campaign import Campaign, SeedFailure, outcome_of, plan_of
from cluster.sim.coverage import Coverage, Mark
from cluster.sim.plan import Profile
from cluster.sim.world import World
from node.identity import write_atomically

__all__ = ["CHUNK", "ProgressError", "Task", "run_chunk", "run_task"]

CHUNK: Final = 25
PROGRESS_SCHEMA: Final = "raftdeck.sim-progress/1"
_AHEAD: Final = 2
"""Chunks that wait per process: none idles, and Ctrl-C has little to wait for."""


class ProgressError(ValueError):
    """The progress file is of another campaign, or no progress file."""


@dataclass(frozen=True, slots=True)
class Task:
    """Which seeds to run, and how."""

    first: int
    seeds: int
    profile: Profile
    crash_points: bool = False

    def chunks(self) -> Iterator[range]:
        """The seeds in the order of their chunks."""
        end = self.first + self.seeds
        for start in range(self.first, end, CHUNK):
            yield range(start, min(end, start + CHUNK))


def run_chunk(profile: Profile, seeds: Iterable[int], crash_points: bool = False) -> Campaign:
    """Run seeds one after another, with coverage."""
    campaign = Campaign()
    for seed in seeds:
        began = process_time()
        if crash_points:
            from cluster.sim.crash_points import outcome_at

            campaign.add(outcome_at(seed))
        else:
            coverage = Coverage()
            campaign.add(outcome_of(World(plan_of(seed, profile), coverage=coverage)))
            campaign.reached(seed, coverage)
        campaign.cpu_s += process_time() - began
    return campaign


def run_task(
    task: Task,
    jobs: int,
    on_chunk: Callable[[Campaign, list[SeedFailure]], object],
    progress: Path | None = None,
    *,
    fail_fast: bool = False,
) -> Campaign:
    """Run all seeds on `jobs` processes; `on_chunk` gets the sum so far and what newly failed.

    With `fail_fast` no chunk is begun after one that failed.

    Ctrl-C ends the processes and is raised; the progress file then has all finished chunks.
    `ProgressError` if the file is of another campaign. OSError if it cannot be written.
    """
    total, done = _read(progress, task) if progress is not None else (Campaign(), set())
    left = [chunk for chunk in task.chunks() if chunk.start not in done]

    def take(chunk: range, part: Campaign) -> None:
        total.merge(part)
        done.add(chunk.start)
        if progress is not None:
            _write(progress, task, total, done)
        on_chunk(total, part.failures)

    if jobs == 1:
        for chunk in left:
            take(chunk, run_chunk(task.profile, chunk, task.crash_points))
            if fail_fast and total.failures:
                break
        return total
    with ProcessPoolExecutor(jobs) as pool:
        waiting: dict[Future[Campaign], range] = {}
        chunks = iter(left)
        try:
            while True:
                for chunk in islice(chunks, jobs * _AHEAD - len(waiting)):
                    future = pool.submit(run_chunk, task.profile, chunk, task.crash_points)
                    waiting[future] = chunk
                if fail_fast and total.failures:
                    chunks = iter(())
                if not waiting:
                    return total
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    take(waiting.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write(path: Path, task: Task, total: Campaign, done: set[int]) -> None:
    coverage = total.coverage
    sums = {
        spec.name: getattr(total, spec.name)
        for spec in fields(Campaign)
        if spec.name not in ("failures", "coverage")
    }
    document = {
        "schema": PROGRESS_SCHEMA,
        "task": asdict(task),
        "done": sorted(done),
        "sums": sums,
        "failures": [asdict(failure) for failure in total.failures],
        "turns": sorted(coverage.turns),
        "faults": sorted(coverage.faults),
        "marks": {mark.name: count for mark, count in coverage.marks.items()},
    }
    write_atomically(path, json.dumps(document) + "\n")


def _read(path: Path, task: Task) -> tuple[Campaign, set[int]]:
    if path.exists() and not path.is_file():
        raise ProgressError(f"{path}: not a regular file")
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != PROGRESS_SCHEMA:
            raise ProgressError(f"{path}: schema {document['schema']!r}")
        if document["task"] != asdict(task):
            kept = Task(**document["task"])
            raise ProgressError(f"{path}: is of another campaign ({kept}); give another file")
        total = Campaign(**document["sums"])
        total.failures = [SeedFailure(**failure) for failure in document["failures"]]
        coverage = total.coverage
        coverage.turns = {(before, came, after) for before, came, after in document["turns"]}
        coverage.faults = {(kind, phase) for kind, phase in document["faults"]}
        coverage.marks.update({Mark[name]: count for name, count in document["marks"].items()})
        return total, set(document["done"])
    except FileNotFoundError:
        return Campaign(), set()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, ProgressError):
            raise
        raise ProgressError(f"{path}: no progress of a campaign ({error!r})") from None
