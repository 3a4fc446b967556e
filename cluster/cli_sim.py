"""`raftdeck sim`: simulated clusters, one per seed."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster.cli_support import json_option, note, print_json, verb
from cluster.exits import CommandError, Exit
from cluster.sim.plan import DEFAULT_PROFILE, PROFILES, Plan, Profile, draw_plan

if TYPE_CHECKING:
    from cluster.sim.campaign import Campaign, SeedFailure
    from cluster.sim.corpus import OnPart
    from cluster.sim.parallel import Task
    from cluster.sim.world import WorldResult

__all__ = ["plan_wanted", "sim"]

SEEDS: Final = 100
KEPT_MAX: Final = 3
"""Failing seeds that are made smaller and kept; the others are told."""
_MARKS_SEEDS: Final = 500
"""In so many seeds every mark must have come."""


@verb(
    "sim",
    example="raftdeck sim --seeds 1000 --jobs 2\n"
    "raftdeck sim --seed 196 --trace\n"
    "raftdeck sim --schedule schedule.json --trace\n"
    "raftdeck sim --corpus corpus.json --seeds 1000",
)
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="[100; --trace: 1]")
@click.option("--seed", "first", type=int, default=1, metavar="FIRST", help="The first one. [1]")
@click.option(
    "--profile", type=click.Choice(PROFILES), default=DEFAULT_PROFILE, show_default=True,
    help="What is drawn: short and alike, of all sizes, or long.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1, 256), metavar="N", help="Processes. [the machine's cores]"
)
@click.option("--trace", is_flag=True, help="Print one row per change of state.")
@click.option("--without", default="", metavar="N,…", help="Leave these faults out (--trace).")
@click.option("--crash-points", is_flag=True, help="Hit one node at one operation of its disk.")
@click.option(
    "--schedule", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Run this schedule instead of a seed.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Where failing seeds are kept, small. [raftdeck-sim]",
)  # fmt: skip
@click.option(
    "--record", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Record the run of one seed or schedule there: raftdeck dash --replay DIR.",
)  # fmt: skip
@click.option(
    "--real", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Try one seed or schedule on real processes, whose data go there.",
)  # fmt: skip
@click.option("--fail-fast", is_flag=True, help="End with the first chunk of seeds that fails.")
@click.option("--no-shrink", is_flag=True, help="Keep nothing; only tell.")
@click.option(
    "--resume", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Keep the progress there, and go on from it.",
)  # fmt: skip
@click.option(
    "--corpus", type=click.Path(path_type=Path), metavar="FILE",
    help="Run the seeds kept there first, and keep there who reaches something new.",
)  # fmt: skip
@click.option(
    "--minimise", is_flag=True, help="Keep only seeds of --corpus that are needed; run no others."
)
@json_option
def sim(
    seeds: int | None, first: int, profile: Profile, jobs: int | None, without: str, **rest: Any
) -> None:
    """Run simulated clusters on virtual time, with faults, one per seed.

    Exits with 1 if a seed does not hold. A failing seed is made smaller: its faults, operations and
    nodes are left out as long as it fails in the same way. The same seed is the same story to the
    byte, everywhere.
    """
    _refuse_odd_pairs(seeds, rest)
    if rest["record"] is not None:
        sys.exit(_record(rest["record"], plan_wanted(rest["schedule"], first, profile)))
    if rest["real"] is not None:
        plan = plan_wanted(rest["schedule"], first, profile)
        sys.exit(_real(rest["real"], plan, as_json=rest["as_json"]))
    if rest["schedule"] is not None:
        sys.exit(_run_schedule(rest["schedule"], trace=rest["trace"], as_json=rest["as_json"]))
    if rest["trace"]:
        numbers = range(first, first + (seeds or 1))
        left_out = _numbers(without)
        failed = [n for n in numbers if _trace(n, profile, left_out, rest["crash_points"])]
        sys.exit(Exit.FAILED if failed else Exit.HELD)
    if without:
        raise click.UsageError("--without needs --trace")
    count = jobs or os.cpu_count() or 1
    sys.exit(_campaign(seeds or SEEDS, first, profile, count, rest))


def _campaign(seeds: int, first: int, profile: Profile, jobs: int, rest: dict[str, Any]) -> int:
    from cluster.sim.corpus import CorpusError
    from cluster.sim.parallel import ProgressError, Task, run_task
    from cluster.sim.progress import Progress

    task = Task(first, seeds, profile, rest["crash_points"])
    out = rest["out"] or Path("raftdeck-sim")
    kept: list[str] = []
    progress = Progress(seeds, note)
    story: dict[str, Any] = {}

    def on_chunk(total: Campaign, failed: list[SeedFailure]) -> None:
        for failure in failed:
            note(str(failure))
            if len(kept) < KEPT_MAX and not (rest["no_shrink"] or task.crash_points):
                kept.append(_keep(out, failure))
        progress.tell(total)

    try:
        if rest["corpus"] is not None:
            total, story = _with_corpus(rest, task, jobs, on_chunk)
        else:
            total = run_task(
                task, jobs, on_chunk, progress=rest["resume"], fail_fast=rest["fail_fast"]
            )
    except (ProgressError, CorpusError) as error:
        raise CommandError(Exit.USAGE, str(error)) from None
    except OSError as error:
        place = rest["resume"] or rest["corpus"] or error.filename
        raise CommandError(
            Exit.UNFIT, f"{place}: {error.strerror}; nothing is kept there"
        ) from None
    missing = total.coverage.missing() if not task.crash_points else []
    if rest["as_json"]:
        print_json(_document(total, task.first, kept) | ({"corpus_file": story} if story else {}))
    else:
        if total.seeds and not rest["minimise"]:
            click.echo(_summary(total, first))
        if story:
            click.echo(_told_corpus(story))
        for path in kept:
            click.echo(f"kept: {path}")
    if missing and total.seeds >= _MARKS_SEEDS:
        note("never seen: " + "; ".join(mark.value for mark in missing))
    return Exit.FAILED if total.failures else Exit.HELD


def _refuse_odd_pairs(seeds: int | None, rest: dict[str, Any]) -> None:
    """Refuse options beside --corpus that it does not go with."""
    if rest["minimise"] and (rest["corpus"] is None or seeds is not None):
        raise click.UsageError("--minimise goes with --corpus FILE, and without --seeds")
    others = ("resume", "crash_points", "trace", "schedule", "record", "real")
    given = [name for name in others if rest[name]]
    if rest["corpus"] is not None and given:
        raise click.UsageError(
            f"--corpus runs seeds and keeps them; it does not go with --{given[0].replace('_', '-')}"
        )


def _with_corpus(
    rest: dict[str, Any], task: Task, jobs: int, on_chunk: OnPart
) -> tuple[Campaign, dict[str, Any]]:
    """Replay the corpus, go on with fresh seeds, or minimise it; say what became of it."""
    from cluster.sim.campaign import Campaign
    from cluster.sim.corpus import grow, in_order, minimise, read_corpus, replay, write_corpus

    path: Path = rest["corpus"]
    corpus = read_corpus(path)
    story = {"path": str(path), "before": len(corpus.seeds)}
    if rest["minimise"]:
        replayed = total = minimise(corpus, path, jobs, on_chunk)
    else:
        replayed, reached = replay(task.profile, corpus.of(task.profile), jobs, on_chunk)
        corpus.put(task.profile, in_order(task.profile, reached))
        write_corpus(path, corpus)
        total = Campaign()
        if not (rest["fail_fast"] and replayed.failures):
            total = grow(corpus, path, task, jobs, on_chunk, fail_fast=rest["fail_fast"])
        total.failures[:0] = replayed.failures
    story |= {"replayed": replayed.seeds, "failed": len(replayed.failures)}
    return total, story | {"after": len(corpus.seeds)}


def _told_corpus(story: dict[str, Any]) -> str:
    return (
        f"corpus {story['path']}: {story['replayed']} seeds replayed, {story['failed']} of them failed;"
        f" {story['before']} before, {story['after']} now"
    )


def _keep(out: Path, failure: SeedFailure) -> str:
    from cluster.sim.artefacts import described, keep

    profile = failure.profile or DEFAULT_PROFILE
    directory = out / f"{profile}-{failure.seed}"
    try:
        shrunk = keep(directory, draw_plan(failure.seed, profile), failure, note)
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{directory}: {error.strerror}; give --out DIR") from None
    note(described(shrunk).rstrip())
    return str(directory)


def plan_wanted(schedule: Path | None, seed: int, profile: Profile) -> Plan:
    """Read a schedule, or draw a seed's plan. CommandError if the file is no schedule."""
    from cluster.sim.plan_file import ScheduleError, decode_plan

    if schedule is None:
        return draw_plan(seed, profile)
    if not schedule.is_file():
        raise CommandError(Exit.USAGE, f"{schedule}: not a regular file")
    try:
        return decode_plan(schedule.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        text = f"{schedule}: byte {error.start} is no UTF-8; a schedule is JSON"
        raise CommandError(Exit.USAGE, text) from None
    except ScheduleError as error:
        raise CommandError(Exit.USAGE, f"{schedule}: {error}") from None
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{schedule}: {error.strerror}") from None


def _record(directory: Path, plan: Plan) -> int:
    from cluster.sim.campaign import SeedFailure
    from cluster.sim.record import record_run

    if directory.exists() and any(directory.iterdir()):
        raise CommandError(Exit.USAGE, f"{directory} is not empty; give a new directory")
    try:
        outcome = record_run(plan, directory)
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{directory}: {error.strerror}") from None
    failed = isinstance(outcome, SeedFailure)
    if isinstance(outcome, SeedFailure):
        note(str(outcome))
    click.echo(f"{'fails' if failed else 'holds'}; see: raftdeck dash --replay {directory}")
    return Exit.FAILED if failed else Exit.HELD


def _real(directory: Path, plan: Plan, *, as_json: bool) -> int:
    from cluster.demo.command import EXITS
    from cluster.sim.real import run_real

    if directory.exists() and any(directory.iterdir()):
        raise CommandError(Exit.USAGE, f"{directory} is not empty; give a new directory")
    found = run_real(plan, directory.absolute(), note)
    if as_json:
        print_json(found.document())
    else:
        for line in found.report.lines():
            if not line.startswith("verdict "):
                click.echo(line)
        counts = f"{len(found.done)} faults carried out, {len(found.left_out)} left out"
        click.echo(f"verdict      {found.verdict}: {counts}")
    note(f"data: {directory}")
    return int(EXITS[found.verdict])


def _run_schedule(path: Path, *, trace: bool, as_json: bool) -> int:
    from cluster.sim.campaign import SeedFailure, traced
    from cluster.sim.world import World

    plan = plan_wanted(path, 0, DEFAULT_PROFILE)
    outcome, text = traced(World(plan, tracing=True))
    failed = isinstance(outcome, SeedFailure)
    if trace:
        click.echo(text, nl=False)
    if isinstance(outcome, SeedFailure):
        note(f"at {outcome.at_ns / 1e9:.6f} s: {outcome.text}")
    if as_json:
        verdict = "fail" if failed else "pass"
        document: dict[str, Any] = {"schema": "raftdeck.sim-run/1", "schedule": str(path)}
        print_json(document | {"verdict": verdict, "outcome": asdict(outcome)})
    elif not trace:
        click.echo(f"{path}: {'fails' if failed else 'holds'}")
    return Exit.FAILED if failed else Exit.HELD


def _trace(seed: int, profile: Profile, without: list[int], crash_points: bool) -> bool:
    """Print the trace of one seed; return whether it failed."""
    from cluster.sim.campaign import SeedFailure, trace_of, traced

    outcome: WorldResult | SeedFailure
    if crash_points:
        from cluster.sim.crash_points import CrashPointWorld, draw_point

        point = draw_point(seed)
        note(str(point))
        outcome, text = traced(CrashPointWorld(point, tracing=True))
    else:
        for fault in draw_plan(seed, profile).faults:
            note(f"{'without ' if fault.number in without else ''}{fault}")
        outcome, text = trace_of(seed, profile=profile, without=without)
    click.echo(text, nl=False)
    if isinstance(outcome, SeedFailure):
        note(str(outcome))
        return True
    return False


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number]
    except ValueError:
        raise click.BadParameter(f"--without {text!r}: numbers by commas, as 2,5") from None


def _summary(campaign: Campaign, first: int) -> str:
    coverage = campaign.coverage
    return (
        f"seeds {first} to {first + campaign.seeds - 1}: {len(campaign.failures)} failed;"
        f" {campaign.operations:,} operations ({campaign.acked:,} acknowledged,"
        f" {campaign.unknown:,} unknown), {campaign.faults:,} faults, {campaign.elections:,}"
        f" elections, {campaign.turns:,} turns, {campaign.virtual_ns / 1e9:,.0f} virtual s;"
        f" {coverage.tuples} tuples and {len(+coverage.marks)} of"
        f" {len(coverage.marks) + len(coverage.missing())} marks reached;"
        f" {campaign.ms_per_seed:.0f} ms of CPU per seed"
    )


def _document(campaign: Campaign, first: int, kept: list[str]) -> dict[str, Any]:
    values = asdict(replace(campaign, brought={}))
    del values["brought"]
    values["failures"] = [
        {**asdict(failure), "command": failure.command} for failure in campaign.failures
    ]
    coverage = campaign.coverage
    values["coverage"] = {
        "turns": sorted(map(list, coverage.turns)),
        "faults": sorted(map(list, coverage.faults)),
        "marks": {mark.value: coverage.marks[mark] for mark in sorted(coverage.marks, key=str)},
        "missing": [mark.value for mark in coverage.missing()],
    }
    verdict = "fail" if campaign.failures else "pass"
    return {"schema": "raftdeck.sim/1", "verdict": verdict, "first": first, "kept": kept, **values}
