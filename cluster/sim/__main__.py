"""`python -m cluster.sim`: run seeds, or one seed with its trace."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from cluster.sim.campaign import Campaign, SeedFailure, run_campaign, run_seed, trace_of, traced
from cluster.sim.crash_points import CrashPointWorld, draw_point, outcome_at
from cluster.sim.plan import draw_plan
from cluster.sim.world import WorldResult

__all__ = ["main"]


@click.command()
@click.option("--seeds", default=100, show_default=True, help="How many seeds to run.")
@click.option("--first", default=1, show_default=True, help="The first seed.")
@click.option("--trace", is_flag=True, help="Print the trace of each seed; best with --seeds 1.")
@click.option("--without", default="", help="Numbers of faults to leave out, as 2,5 (--trace).")
@click.option("--crash-points", is_flag=True, help="Hit one node at one operation of its disk.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    seeds: int, first: int, trace: bool, without: str, *, crash_points: bool, as_json: bool
) -> None:
    """Run simulated clusters, one per seed; exit code 1 if one of them does not hold."""
    numbers = range(first, first + seeds)
    if trace:
        left_out = [int(number) for number in without.split(",") if number]
        failed = [
            seed
            for seed in numbers
            if (_print_point(seed) if crash_points else _print_trace(seed, left_out))
        ]
        sys.exit(1 if failed else 0)

    def tell(outcome: object) -> None:
        if isinstance(outcome, SeedFailure):
            click.echo(str(outcome), err=True)

    campaign = run_campaign(numbers, on_seed=tell, run=outcome_at if crash_points else run_seed)
    click.echo(_document(campaign, first) if as_json else _summary(campaign, first))
    sys.exit(1 if campaign.failures else 0)


def _print_trace(seed: int, without: list[int]) -> bool:
    plan = draw_plan(seed)
    for fault in plan.faults:
        click.echo(f"{'without ' if fault.number in without else ''}{fault}", err=True)
    return _print_outcome(*trace_of(seed, without=without))


def _print_point(seed: int) -> bool:
    point = draw_point(seed)
    click.echo(str(point), err=True)
    return _print_outcome(*traced(CrashPointWorld(point, tracing=True)))


def _print_outcome(outcome: WorldResult | SeedFailure, text: str) -> bool:
    """Print a trace; return whether the seed failed."""
    click.echo(text, nl=False)
    if isinstance(outcome, SeedFailure):
        click.echo(str(outcome), err=True)
        return True
    return False


def _summary(campaign: Campaign, first: int) -> str:
    return (
        f"seeds {first} to {first + campaign.seeds - 1}: {len(campaign.failures)} failed;"
        f" {campaign.operations} operations ({campaign.acked} acknowledged,"
        f" {campaign.unknown} unknown), {campaign.faults} faults, {campaign.elections} elections"
        f" in dead incarnations, {campaign.copies} batches moved, {campaign.turns} turns, {campaign.virtual_ns / 1e9:.0f} virtual s;"
        f" {campaign.ms_per_seed:.0f} ms of CPU per seed"
    )


def _document(campaign: Campaign, first: int) -> str:
    fields = asdict(campaign)
    fields["failures"] = [
        {**asdict(failure), "command": failure.command} for failure in campaign.failures
    ]
    return json.dumps({"schema": "raftdeck.sim/1", "first": first, **fields}, indent=2)


if __name__ == "__main__":
    main()
