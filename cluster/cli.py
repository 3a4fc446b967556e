"""`raftdeck`: the table of verbs. Each is imported when it is used, and not before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from cluster.cli_support import CONTEXT, LazyGroup, LazyVerb, State, run

__all__ = ["VERBS", "main", "raftdeck"]

VERBS: Final[dict[str, LazyVerb]] = {
    "demo": LazyVerb(
        "cluster.demo", "demo_command", "Show a cluster that survives what it is made for."
    ),
    "up": LazyVerb("cluster.cli_cluster", "up", "Start a cluster."),
    "down": LazyVerb("cluster.cli_cluster", "down", "End a cluster; its data stays."),
    "ls": LazyVerb("cluster.cli_cluster", "ls", "List the running clusters."),
    "status": LazyVerb("cluster.cli_status", "status", "Show every node, or wait for a state."),
    "node": LazyVerb("cluster.cli_nodes", "node", "Kill, stop, start, restart, pause, resume."),
    "disk": LazyVerb("cluster.cli_disk", "disk", "Slow, fill, break, unplug the disks of nodes."),
    "leader": LazyVerb("cluster.cli_nodes", "leader", "Show who leads."),
    "kv": LazyVerb("cluster.cli_kv", "kv", "Read and write keys."),
    "load": LazyVerb("cluster.cli_load", "load", "Write and read under load, and measure."),
    "sim": LazyVerb("cluster.cli_sim", "sim", "Run simulated clusters, one per seed."),
    "bench": LazyVerb("cluster.cli_bench", "bench", "Measure, beside what Python can do at best."),
    "check": LazyVerb("cluster.cli_check", "check", "Judge a history of what clients were told."),
    "logs": LazyVerb("cluster.cli_logs", "logs", "Show what nodes wrote."),
    "replay": LazyVerb("cluster.cli_record", "replay", "Tell what a recorded cluster did."),
    "export": LazyVerb("cluster.cli_record", "export", "Write a recording as JSON or a film."),
    "mark": LazyVerb("cluster.cli_record", "mark", "Put words into a cluster's recording."),
    "runs": LazyVerb("cluster.cli_record", "runs", "List, show and prune recordings."),
    "wal": LazyVerb(
        "wal.commands", "wal_commands", "Look into a log on disk, convert it, repair it."
    ),
    "doctor": LazyVerb("cluster.cli_doctor", "doctor", "Say whether this machine is fit."),
    "config": LazyVerb("cluster.cli_config", "config", "Show settings and where they come from."),
}
"""The dashboard's console script adds its own verbs to these."""


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"raftdeck {version('raftdeck')}")
        ctx.exit()


@click.group("raftdeck", cls=LazyGroup, verbs=VERBS, context_settings=CONTEXT)
@click.option("--debug", is_flag=True, help="Print the traceback of an error.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="RAFTDECK_CONFIG",
    metavar="FILE",
    help="Settings file [~/.config/raftdeck/config.toml].",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
    help="Print the version.",
)  # fmt: skip
@click.pass_obj
def raftdeck(state: State, debug: bool, config: Path | None) -> None:
    """A real Raft cluster on one desk."""
    state.debug = state.debug or debug
    state.config = config


def main(arguments: list[str] | None = None) -> int:
    """Run `raftdeck`; return its exit code (`cluster.exits`)."""
    return run(raftdeck, arguments)


if __name__ == "__main__":
    sys.exit(main())
