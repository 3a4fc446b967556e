"""Many seeds over several processes; what is done is kept, so that a long campaign goes on later.

Seeds are run in chunks, each by a process of a pool; the sums, failures and coverage of a chunk come
back as one `Campaign`. With a progress file the numbers of the finished chunks and their sum are
written after each (atomically), and the next call begins with what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any, Final

from cluster.sim.campaign import Campaign, SeedFailure, outcome_of, plan_of
from cluster.sim.coverage import Coverage
from cluster.sim.plan import Profile
from cluster.sim.world import World
from node.identity import write_atomically

__all__ = ["CHUNK", "ProgressError", "Task", "run_chunk", "run_task", "spread"]

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
    known: Coverage | None = None,
) -> Campaign:
    """Run all seeds on `jobs` processes; `on_chunk` gets the sum so far and what newly failed.

    What is `known` is not new, whoever reaches it. With `fail_fast` no chunk is begun after one that failed.

    Ctrl-C ends the processes and is raised; the progress file then has all finished chunks.
    `ProgressError` if the file is of another campaign. OSError if it cannot be written.
    """
    total, done = _read(progress, task) if progress is not None else (Campaign(), set())
    if known is not None:
        total.coverage.merge(known)

    def take(seeds: Sequence[int], part: Campaign) -> bool:
        total.merge(part)
        done.add(seeds[0])
        if progress is not None:
            _write(progress, task, total, done)
        on_chunk(total, part.failures)
        return not (fail_fast and total.failures)

    left = (chunk for chunk in task.chunks() if chunk.start not in done)
    spread(((task.profile, chunk, task.crash_points) for chunk in left), jobs, take)
    return total


def spread(
    chunks: Iterable[tuple[Profile, Sequence[int], bool]],
    jobs: int,
    take: Callable[[Sequence[int], Campaign], bool],
) -> None:
    """Run chunks (see `run_chunk`) on `jobs` processes; no more are begun once `take` says False."""
    left = iter(chunks)
    if jobs == 1:
        for chunk in left:
            if not take(chunk[1], run_chunk(*chunk)):
                return
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting: dict[Future[Campaign], Sequence[int]] = {}
        try:
            while True:
                for chunk in islice(left, jobs * _AHEAD - len(waiting)):
                    waiting[pool.submit(run_chunk, *chunk)] = chunk[1]
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    if not take(waiting.pop(future), future.result()):
                        left = iter(())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write(path: Path, task: Task, total: Campaign, done: set[int]) -> None:
    sums = {
        spec.name: getattr(total, spec.name)
        for spec in fields(Campaign)
        if spec.name not in ("failures", "coverage", "brought")
    }
    document = {
        "schema": PROGRESS_SCHEMA,
        "task": asdict(task),
        "done": sorted(done),
        "sums": sums,
        "failures": [asdict(failure) for failure in total.failures],
        **total.coverage.encode(),
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
        total.coverage = Coverage.decode(document)
        return total, set(document["done"])
    except FileNotFoundError:
        return Campaign(), set()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, ProgressError):
            raise
        raise ProgressError(f"{path}: no progress of a campaign ({error!r})") from None
