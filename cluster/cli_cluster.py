"""`raftdeck up`, `down`, `ls`."""

from __future__ import annotations

import contextlib
import select
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster.cli_support import (
    attach,
    cluster_option,
    json_option,
    note,
    print_json,
    setting_option,
    verb,
)
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.frames import ClusterFrame
    from cluster.local import LocalCluster
    from cluster.spec import ClusterSpec
    from wal.policy import SyncPolicy

__all__ = ["down", "ls", "up"]

DEFAULT_NAME: Final = "deck"
RECORDING_BYTES: Final = 64 << 20
"""An hour or two that somebody watched, or ten that nobody did (`cluster.recorder`)."""
_POLICY: Final[tuple[str, ...]] = ("segment_bytes", "fill_step_bytes", "prepare")


@verb(
    "up",
    example="raftdeck up -n 5 --detach\n"
    "raftdeck up --data ./deck --groups 4   # Ctrl-C ends it, its data stays\n"
    "raftdeck up --wal low_latency,io=direct\n"
    "raftdeck up --power-loss --detach       # then: raftdeck disk powercut all",
)
@setting_option("nodes", "-n")
@setting_option("name")
@setting_option("data")
@setting_option("groups")
@click.option("-d", "--detach", is_flag=True, help="Return when the cluster is ready.")
@click.option("--timeout", type=float, default=20.0, metavar="S", help="Until ready. [20]")
@click.option(
    "--most",
    is_flag=True,
    help="Be content with most nodes: one that does not start (a damaged log, an emptied directory)"
    " is named, and stays out.",
)
@click.option(
    "--record/--no-record",
    default=None,
    help="Keep what happens, for `raftdeck replay`. [--record]",
)
@setting_option("heartbeat_ms")
@setting_option("election_ms_min")
@setting_option("election_ms_max")
@setting_option("segment_bytes")
@setting_option("fill_step_bytes")
@setting_option("prepare")
@setting_option("compression")
@setting_option("retain_bytes")
@setting_option("retain_s")
@setting_option("wal")
@click.option(
    "--power-loss/--no-power-loss",
    default=None,
    help="Keep in memory what is not synced: a killed node then loses what a power cut takes, and"
    " `raftdeck disk powercut` works. [--no-power-loss]",
)
@setting_option("recovery")
@json_option
def up(
    detach: bool, timeout: float, most: bool, record: bool | None, as_json: bool, **settings: Any
) -> None:
    """Start a cluster, or start one again from its data directory.

    Without --detach it runs until Ctrl-C, and shows what happens meanwhile. What an existing data
    directory was made with (name, nodes, groups) cannot be changed.
    """
    from cluster.local import LocalCluster, remove_leftovers

    for name in remove_leftovers():
        note(f"removed the run directory of cluster {name!r}, whose supervisor died")
    if record is not None:
        settings["recording_bytes"] = RECORDING_BYTES if record else 0
    spec = chosen_spec({name: value for name, value in settings.items() if value is not None})
    if spec.wal.commit == "buffered":
        note("buffered logs: what is acknowledged outlives a killed process, not a power cut")
    began = time.monotonic()
    launch = LocalCluster.launch_detached if detach else LocalCluster.launch
    with contextlib.closing(launch(spec)) as cluster:
        try:
            frame = cluster.wait_ready(timeout, most=most)
            if not detach:
                _announce(cluster, frame, time.monotonic() - began, as_json=as_json)
                _watch(cluster)
        except BaseException as error:
            _give_up(cluster, error)
            raise
        if detach:  # from here on it is nobody's but its own: a closed stdout does not end it
            _announce(cluster, frame, time.monotonic() - began, as_json=as_json)


def chosen_spec(given: dict[str, Any]) -> ClusterSpec:
    """Make the spec of what was given, over what the data directory holds, over defaults."""
    from cluster.paths import default_data_dir
    from cluster.spec import ClusterSpec, load_spec
    from wal.compression import CODECS, MissingCodecError, require

    if "data" in given:
        data_dir = Path(given.pop("data")).expanduser().absolute()
    else:
        data_dir = default_data_dir(given.get("name", DEFAULT_NAME))
    found = load_spec(data_dir)
    base = found or ClusterSpec(name=given.get("name", DEFAULT_NAME), data_dir=data_dir)
    policy = {name: given.pop(name) for name in _POLICY if name in given}
    changes = given | {"wal": replaced_policy(base, given.pop("wal", ""), policy)}
    # Entry modules with planted bugs are for tests: a person's `up` always runs the product.
    spec = replace(base, entry_module="node", entry_paths=(), entry_options={}, **changes)
    try:
        require(CODECS[spec.compression])
    except MissingCodecError as error:
        raise CommandError(Exit.UNFIT, str(error)) from None
    return spec


def replaced_policy(base: ClusterSpec, text: str, changes: dict[str, Any]) -> SyncPolicy:
    """Return the log policy with some fields changed; usage error if they contradict."""
    from wal.policy import policy_of_text

    try:
        return replace(policy_of_text(text, base.wal), **changes)
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"log policy: {error}") from None


def _announce(cluster: LocalCluster, frame: ClusterFrame, ready_s: float, *, as_json: bool) -> None:
    from cluster.local import node_error

    leader = frame.leader()
    spec = cluster.spec
    out = [part for part in frame.nodes if not part.process.state.alive]
    for part in out:
        note(f"{node_error(part)}")
    if as_json:
        document = {
            "schema": "raftdeck.up/1",
            "name": spec.name,
            "cluster_id": spec.cluster_id,
            "nodes": spec.nodes,
            "out": [part.node for part in out],
            "groups": spec.groups,
            "leader": leader,
            "ready_s": round(ready_s, 3),
            "supervisor_pid": cluster.supervisor_pid,
            "run_dir": str(cluster.run_dir),
            "data_dir": str(spec.data_dir),
        }
        print_json(document)
        return
    count = f"{spec.nodes - len(out)} of {spec.nodes}" if out else f"{spec.nodes}"
    click.echo(f"cluster {spec.name}: {count} nodes up, n{leader} leads, ready in {ready_s:.2f} s")
    click.echo(f"data: {spec.data_dir}")


def _give_up(cluster: LocalCluster, error: BaseException) -> None:
    """End a cluster whose `up` failed or was interrupted; the last line says where the data is."""
    interrupted = isinstance(error, KeyboardInterrupt)
    if interrupted:
        note("stopping …")
    with contextlib.suppress(CommandError):  # the first error is the one that matters
        cluster.down()
    if interrupted:
        note(f"data: {cluster.spec.data_dir}")
        raise click.exceptions.Exit(int(Exit.INTERRUPTED)) from None


def _watch(cluster: LocalCluster) -> None:
    """Show events until the cluster ends."""
    import os

    note("Ctrl-C ends the cluster; its data stays.")
    pidfd = os.pidfd_open(cluster.supervisor_pid)
    try:
        seen = 0
        ended = False
        while not ended:
            with contextlib.suppress(CommandError):  # it is ending: the pidfd will say so
                for event in cluster.events(seen):
                    seen = event.sequence
                    note(event.text + (f" → {event.effect}" if event.effect else ""))
            ended = bool(select.select([pidfd], [], [], 0.25)[0])
    finally:
        os.close(pidfd)
    _say_how_it_ended(cluster)
    note(f"data: {cluster.spec.data_dir}")


def _say_how_it_ended(cluster: LocalCluster) -> None:
    """Return if the supervisor left in good order, else clean up and say so."""
    from cluster.local import remove_leftovers

    if cluster.run_dir.name in remove_leftovers():
        raise CommandError(
            Exit.UNFIT,
            f"the supervisor (pid {cluster.supervisor_pid}) was killed, and its nodes with it;"
            f" data: {cluster.spec.data_dir}",
        )


@verb("down", example="raftdeck down\nraftdeck down --cluster deck --json")
@cluster_option
@json_option
def down(cluster: str | None, as_json: bool) -> None:
    """End a cluster: every node stops cleanly, nothing is left but the data."""
    from cluster.local import find_run_dir, remove_leftovers

    removed = remove_leftovers()
    try:
        run_dir = find_run_dir(cluster)
    except CommandError:
        if not removed or (cluster is not None and cluster not in removed):
            raise
        _say_down(removed[0], None, as_json=as_json)
        return
    found = attach(str(cluster) if cluster else None)
    found.down()
    _say_down(run_dir.name, str(found.spec.data_dir), as_json=as_json)


def _say_down(name: str, data_dir: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"schema": "raftdeck.down/1", "name": name, "data_dir": data_dir})
    elif data_dir is None:
        click.echo(f"cluster {name}: its supervisor had died; removed its run directory")
    else:
        click.echo(f"cluster {name}: down")
        click.echo(f"data: {data_dir}")


@verb("ls", example="raftdeck ls --json")
@json_option
def ls(as_json: bool) -> None:
    """List the running clusters of this user; clean up after dead ones."""
    from cluster.local import remove_leftovers
    from cluster.paths import list_runs
    from cluster.tables import aligned

    removed = remove_leftovers()
    running = [run for run in list_runs() if run.alive and run.holder is not None]
    if as_json:
        clusters = [
            {
                "name": run.name,
                "cluster_id": run.holder.cluster_id,
                "supervisor_pid": run.holder.pid,
                "run_dir": str(run.path),
                "data_dir": run.holder.data_dir,
            }
            for run in running
            if run.holder is not None
        ]
        print_json({"schema": "raftdeck.ls/1", "clusters": clusters, "removed": removed})
        return
    for name in removed:
        note(f"removed the run directory of cluster {name!r}, whose supervisor died")
    if not running:
        note("no cluster is running; begin: raftdeck up -n 3")
        return
    rows = [[r.name, str(r.holder.pid), r.holder.data_dir] for r in running if r.holder]
    click.echo(aligned(["CLUSTER", "SUPERVISOR", "DATA"], rows))
