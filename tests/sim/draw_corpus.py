"""Draws the corpus of the tests anew: `python tests/sim/draw_corpus.py [--seeds 2000] [--jobs N]`.

Needed when a change of the plans or of the product gave the seeds other stories: lite and swarm run from
seed 1 on, and the fewest seeds that reach together what all of them did are written to corpus.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.sim.campaign import Campaign, SeedFailure
from cluster.sim.corpus import Corpus, grow, minimise
from cluster.sim.parallel import Task
from cluster.sim.plan import Profile

CORPUS = Path(__file__).with_name("corpus.json")
PROFILES: tuple[Profile, ...] = ("lite", "swarm")


def main() -> int:
    """Draw, minimise, write. 1 if a seed fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="of each profile [2000]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=CORPUS)
    chosen = parser.parse_args()
    corpus = Corpus()
    failed: list[SeedFailure] = []

    def tell(step: str) -> Callable[[Campaign, list[SeedFailure]], None]:
        def say(total: Campaign, new: list[SeedFailure]) -> None:
            failed.extend(new)
            print(f"{step}: {total.seeds} seeds, {len(failed)} failed", end="\r", file=sys.stderr)

        return say

    for profile in PROFILES:
        task = Task(1, chosen.seeds, profile)
        total = grow(corpus, chosen.out, task, chosen.jobs, tell(profile))
        print(f"{profile}: {total.coverage.tuples} tuples, {len(corpus.of(profile))} seeds")
    minimise(corpus, chosen.out, chosen.jobs, tell("minimise"))
    for profile in PROFILES:
        print(f"{profile}: {len(corpus.of(profile))} seeds are enough")
    for failure in failed:
        print(failure)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
