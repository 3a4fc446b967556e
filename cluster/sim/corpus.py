"""Seeds worth keeping: each reached something that no other seed of its profile had.

A corpus file is JSON:

    {"schema": "raftdeck.sim-corpus/1", "seeds": [
      {"profile": "swarm", "seed": 17, "turns": [[role, what came, role]], "faults": [[kind, phase]],
       "marks": {"TORN_TAIL": 1}}]}

with what each brought when its turn came; profiles do not count for each other. A run replays the seeds
of its profile, then goes on with fresh ones and adds those that reach something new. A change of what
plans draw gives every seed another story: a replay says anew what each brings, `minimal` leaves out
who brings nothing, and new seeds fill the gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from cluster.sim.campaign import Campaign, SeedFailure
from cluster.sim.coverage import Coverage
from cluster.sim.parallel import Task, run_task, spread
from cluster.sim.plan import Profile
from node.identity import write_atomically

__all__ = [
    "CORPUS_SCHEMA",
    "Corpus",
    "CorpusError",
    "Kept",
    "grow",
    "in_order",
    "minimal",
    "minimise",
    "read_corpus",
    "replay",
    "write_corpus",
]

CORPUS_SCHEMA: Final = "raftdeck.sim-corpus/1"
_SHOWN_MAX: Final = 100
_PROFILES: Final = get_args(Profile)

OnPart = Callable[[Campaign, list[SeedFailure]], object]
"""Gets the sum so far, and what newly failed."""


class CorpusError(ValueError):
    """The file is no corpus; the text names it and says why."""


@dataclass(slots=True)
class Kept:
    """One seed, and what it brought that those of its profile in front of it had not."""

    profile: Profile
    seed: int
    brought: Coverage


@dataclass(slots=True)
class Corpus:
    """The kept seeds, in the order of their replay."""

    seeds: list[Kept] = field(default_factory=list)

    def of(self, profile: Profile) -> list[int]:
        """Return the seeds of a profile."""
        return [kept.seed for kept in self.seeds if kept.profile == profile]

    def profiles(self) -> list[Profile]:
        """Return the profiles that have seeds, in the order of their first one."""
        return list(dict.fromkeys(kept.profile for kept in self.seeds))

    def put(self, profile: Profile, kept: Sequence[Kept]) -> None:
        """Replace the seeds of a profile."""
        self.seeds = [other for other in self.seeds if other.profile != profile] + list(kept)


def read_corpus(path: Path) -> Corpus:
    """Read a corpus; one that is not there is empty. Raises CorpusError, OSError."""
    if path.exists() and not path.is_file():
        raise CorpusError(f"{path}: not a regular file")
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != CORPUS_SCHEMA:
            raise CorpusError(f"{path}: schema {document['schema']!r}; this reads {CORPUS_SCHEMA}")
        return Corpus([_kept(entry) for entry in document["seeds"]])
    except FileNotFoundError:
        return Corpus()
    except CorpusError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = repr(error)[:_SHOWN_MAX]
        raise CorpusError(f"{path}: no corpus of seeds ({what}); give another file") from None


def _kept(entry: Any) -> Kept:
    profile, seed = entry["profile"], entry["seed"]
    if profile not in _PROFILES or type(seed) is not int:
        raise ValueError(f"profile {profile!r}, seed {seed!r}")
    return Kept(profile, seed, Coverage.decode(entry))


def write_corpus(path: Path, corpus: Corpus) -> None:
    """Write a corpus, whole or not at all. Raises OSError."""
    lines = [
        json.dumps({"profile": kept.profile, "seed": kept.seed, **kept.brought.encode()})
        for kept in corpus.seeds
    ]
    body = ",\n".join(lines)
    write_atomically(path, f'{{"schema": "{CORPUS_SCHEMA}", "seeds": [\n{body}\n]}}\n')


def replay(
    profile: Profile, seeds: Iterable[int], jobs: int, on_part: OnPart
) -> tuple[Campaign, dict[int, Coverage]]:
    """Run seeds; return their sum, and all that each of them reached."""
    total = Campaign()
    parts: dict[int, Campaign] = {}

    def take(seeds: Sequence[int], part: Campaign) -> bool:
        parts[seeds[0]] = part
        total.merge(part)
        on_part(total, part.failures)
        return True

    wanted = list(dict.fromkeys(seeds))
    spread(((profile, [seed], False) for seed in wanted), jobs, take)
    return total, {seed: parts[seed].coverage for seed in wanted}


def grow(
    corpus: Corpus, path: Path, task: Task, jobs: int, on_part: OnPart, *, fail_fast: bool = False
) -> Campaign:  # fmt: skip
    """Run fresh seeds behind a profile's replay, keep who reaches something new, write each time.

    Returns the sum over the fresh seeds; its coverage begins with that of the corpus. Raises OSError.
    """
    known = Coverage()
    for kept in corpus.seeds:
        if kept.profile == task.profile:
            known.merge(kept.brought)
    there = set(corpus.of(task.profile))

    def keep(total: Campaign, failed: list[SeedFailure]) -> None:
        new = [seed for seed in total.corpus if seed not in there]
        there.update(new)
        corpus.seeds += [Kept(task.profile, seed, total.brought[seed]) for seed in new]
        if new:
            write_corpus(path, corpus)
        on_part(total, failed)

    return run_task(task, jobs, keep, fail_fast=fail_fast, known=known)


def in_order(profile: Profile, reached: Mapping[int, Coverage]) -> list[Kept]:
    """Return seeds in their order, each with what those in front of it had not reached."""
    known = Coverage()
    found = []
    for seed, coverage in reached.items():
        found.append(Kept(profile, seed, coverage.beyond(known)))
        known.merge(coverage)
    return found


def minimal(profile: Profile, reached: Mapping[int, Coverage]) -> list[Kept]:
    """Return few seeds that reach together what all do: who brings most comes next (set cover).

    Of equals the lower seed, so that the same seeds give the same corpus.
    """
    known = Coverage()
    found: list[Kept] = []
    left = dict(reached)
    while left:
        news = {seed: coverage.beyond(known) for seed, coverage in left.items()}
        best = min(news, key=lambda seed: (-news[seed].size, seed))
        if not news[best].size:
            break
        found.append(Kept(profile, best, news[best]))
        known.merge(left.pop(best))
    return found


def minimise(corpus: Corpus, path: Path, jobs: int, on_part: OnPart) -> Campaign:
    """Replay every profile and keep the seeds that are needed. Returns the sum. Raises OSError."""
    total = Campaign()
    for profile in corpus.profiles():
        part, reached = replay(profile, corpus.of(profile), jobs, on_part)
        few = minimal(profile, reached)
        # One that fails brings little, for it ends early; it is kept for what it shows.
        failed = {each.seed for each in part.failures} - {kept.seed for kept in few}
        corpus.put(profile, few + [Kept(profile, seed, reached[seed]) for seed in sorted(failed)])
        total.merge(part)
    write_corpus(path, corpus)
    return total
