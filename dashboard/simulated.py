"""`raftdeck sim --watch`: the run of one seed on the dashboard, with its time to walk about in."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from cluster import cli_sim
from cluster.cli_support import Verb, note
from cluster.exits import CommandError, Exit
from cluster.sim.campaign import SeedFailure
from cluster.sim.record import record_run

__all__ = ["sim"]


def _watched(**options: Any) -> Any:
    """Run the seed or schedule, then open its recording; without --watch, do what `cluster` does."""
    if not options.pop("watch"):
        assert cli_sim.sim.callback is not None
        return cli_sim.sim.callback(**options)
    from dashboard.command import dash

    if options["seeds"] not in (None, 1) or options["crash_points"]:
        raise click.UsageError("--watch shows one seed or one --schedule")
    plan = cli_sim.plan_wanted(options["schedule"], options["first"], options["profile"])
    with tempfile.TemporaryDirectory(prefix="raftdeck-sim-") as name:
        try:
            outcome = record_run(plan, Path(name))
        except OSError as error:
            raise CommandError(Exit.UNFIT, f"{name}: {error.strerror}") from None
        dash.main(["--replay", name], standalone_mode=False, obj=click.get_current_context().obj)
    if isinstance(outcome, SeedFailure):
        note(str(outcome))
        return int(Exit.FAILED)
    return int(Exit.HELD)


sim = Verb(
    "sim",
    params=[
        *cli_sim.sim.params,
        click.Option(["--watch"], is_flag=True, help="Show one run on the dashboard, as a replay."),
    ],
    callback=_watched,
    help=cli_sim.sim.help,
    epilog=cli_sim.sim.epilog,
    context_settings=cli_sim.sim.context_settings,
)
