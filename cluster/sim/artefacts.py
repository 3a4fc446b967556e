"""What a failing seed leaves behind: the small schedule, its trace, and a script that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cluster.sim.campaign import SeedFailure, traced
from cluster.sim.plan import Plan
from cluster.sim.plan_file import encode_plan
from cluster.sim.shrink import Shrunk, operations_of, shrink
from cluster.sim.world import World
from node.identity import write_atomically

__all__ = ["described", "keep"]

_REPRO: Final = """\
#!/bin/sh
# Runs the schedule beside this script again, with its trace. Exit code 1: it still fails.
cd "$(dirname "$0")" || exit 4
exec raftdeck sim --schedule {schedule} --trace
"""


def described(shrunk: Shrunk) -> str:
    """Return the small schedule for a person: what there is, what happens to it, what fails."""
    plan = shrunk.plan
    counts = (
        f"{plan.nodes} nodes, {plan.groups} groups, {plan.clients} clients, seed {plan.seed},"
        f" heartbeat {plan.heartbeat_ms} ms"
    )
    lines = [counts, *(f"  {fault}" for fault in plan.faults)]
    operations = operations_of(plan)
    if operations:
        names = " ".join(f"{client}.{number}" for client, number in operations)
        lines.append(f"  operations (client.number): {names}")
    lines.append(f"fails at {shrunk.failure.at_ns / 1e9:.3f} s: {shrunk.failure.text}")
    if not shrunk.complete:
        lines.append(f"(not smallest: the budget ended after {shrunk.runs} runs)")
    return "\n".join(lines) + "\n"


def keep(directory: Path, plan: Plan, failure: SeedFailure, say: Callable[[str], object]) -> Shrunk:
    """Shrink a failing plan and write everything into `directory`. OSError if that fails.

    The plan as it was drawn is written first: it is there however the shrinking ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "original.json", encode_plan(plan, failure.kind))
    write_atomically(directory / "failure.txt", f"{failure}\n")
    say(f"seed {failure.seed}: making it smaller")
    shrunk = shrink(plan, failure)
    write_atomically(directory / "schedule.json", encode_plan(shrunk.plan, shrunk.failure.kind))
    write_atomically(directory / "schedule.txt", described(shrunk))
    _, trace = traced(World(shrunk.plan, tracing=True))
    write_atomically(directory / "trace.txt", trace)
    script = directory / "repro.sh"
    write_atomically(script, _REPRO.format(schedule=shlex.quote("schedule.json")))
    script.chmod(0o755)
    return shrunk
