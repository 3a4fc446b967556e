"""`raftdeck status`: every node at this moment, or the first moment that meets a condition."""

from __future__ import annotations

import click

from cluster.cli_support import attach, cluster_option, json_option, note, print_json, verb

__all__ = ["status"]


@verb(
    "status",
    example="raftdeck status\n"
    "raftdeck status --wait leader=1,healthy=5 --timeout 10 --json\n"
    "raftdeck status --wait 'caughtup>=3'",
)
@cluster_option
@click.option("-g", "--group", type=int, default=0, metavar="N", help="Raft group shown. [0]")
@click.option(
    "--wait",
    metavar="CONDITIONS",
    help="NAME=N or NAME>=N, by commas, of: leader, healthy, caughtup, up, frozen, down;"
    " N may be 'all'.",
)
@click.option("--timeout", type=float, default=10.0, metavar="S", help="For --wait. [10]")
@json_option
def status(
    cluster: str | None, group: int, wait: str | None, timeout: float, *, as_json: bool
) -> None:
    """Show every node: what its process is (the kernel's word) and what it says of itself.

    Works without a leader. What is not known is shown as "–"; a role with "?" is what the node
    said before it fell silent. --wait exits with 6 if the condition is not met in time.
    """
    from cluster.conditions import parse_conditions
    from cluster.exits import CommandError, Exit

    conditions = parse_conditions(wait) if wait else None
    found = attach(cluster)
    problem = None
    try:
        frame = found.frame() if conditions is None else found.wait_for(conditions, timeout)
    except CommandError as error:
        if error.exit_code is not Exit.NO_QUORUM:
            raise
        frame, problem = found.frame(), error
    if not 0 <= group < frame.groups:
        raise CommandError(Exit.USAGE, f"no group {group}; there are 0 to {frame.groups - 1}")
    if as_json:
        print_json(frame.encode() | {"leader": frame.leader(group)})
    else:
        from cluster.tables import headline, status_table

        click.echo(status_table(frame, group))
        note(headline(frame, group))
    if problem is not None:
        raise problem
