"""The verb `raftdeck demo`: starts a cluster, writes real input, breaks things, reads all back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster.cli_support import json_option, note, print_json, verb
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.demo.report import Report
    from cluster.demo.writer import Plan, Writer
    from cluster.local import LocalCluster
    from cluster.spec import ClusterSpec

__all__ = ["EXITS", "demo_command", "prepare"]

SECONDS_MIN: Final = 5.0
BAR_WIDTH: Final = 30
LOOK_S: Final = 0.05

EXITS: Final = {"pass": Exit.HELD, "fail": Exit.FAILED, "unknown": Exit.UNKNOWN}


class Screen:
    """The live event log and, on a terminal, a progress bar below it. All on stderr."""

    def __init__(self) -> None:
        """Start the clock of the log."""
        self._started = time.monotonic()
        self._bar = sys.stderr.isatty()
        self._shown = ""

    def say(self, text: str) -> None:
        """Print one line of the log."""
        self.clear()
        note(f"{time.monotonic() - self._started:6.2f}  {text}")

    def progress(self, done: int, total: int) -> None:
        """Redraw the bar."""
        if not self._bar:
            return
        share = min(1.0, done / max(1, total))
        filled = round(share * BAR_WIDTH)
        line = f"  [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done:,} of {total:,} acked"
        if line != self._shown:
            click.echo(f"\r{line}", nl=False, err=True)
            self._shown = line

    def clear(self) -> None:
        """Remove the bar."""
        if self._shown:
            click.echo("\r" + " " * len(self._shown) + "\r", nl=False, err=True)
            self._shown = ""


@verb(
    "demo",
    example="raftdeck demo\nraftdeck demo --headless --seconds 20 --json\n"
    "raftdeck demo --input /var/log/syslog -n 3",
)
@click.option(
    "-n", "--nodes", type=click.IntRange(1, 15), default=5, metavar="N", help="Nodes. [5]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(SECONDS_MIN, 3600),
    metavar="S",
    default=30.0,
    help="How long to write and break things. [30]",
)
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="A directory (each file a key) or a text file (each line a key)."
    " [the running Python's standard library]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Data directory, new or empty. [one of its own, named at the end]",
)
@click.option("--headless", is_flag=True, help="No screen, only the event log (as without a tty).")
@json_option
def demo_command(**options: Any) -> int:
    """Write real input to a cluster while it is killed, frozen and restarted; read all of it back.

    Real processes, logs and signals. Nothing that was acknowledged may be lost: at the end
    everything is read through the leader and from every replica and compared by SHA-256.
    """
    del options["headless"]  # the screen is the dashboard's (`dashboard.demo`)
    report = run_demo(**options)
    if options["as_json"]:
        print_json(report.document())
    else:
        for line in report.lines():
            click.echo(line)
    note(f"data: {report.data_dir}")
    return int(EXITS[report.verdict])


def prepare(
    nodes: int, seconds: float, source: Path | None, data: Path | None
) -> tuple[ClusterSpec, Plan]:
    """Return the cluster to start and what to write to it; CommandError for a wrong wish."""
    from cluster.demo.writer import plan_rounds
    from cluster.paths import default_data_dir
    from cluster.spec import ClusterSpec
    from cluster.workload import WorkloadError, read_input, standard_library

    name = time.strftime("demo-%m%d-%H%M%S")
    data_dir = (data or default_data_dir(name)).absolute()
    if data is not None and data_dir.is_dir() and any(data_dir.iterdir()):
        raise CommandError(
            Exit.USAGE, f"{data_dir}: not empty; the demo writes to a new or empty directory"
        )
    try:
        workload = standard_library() if source is None else read_input(source)
    except WorkloadError as error:
        raise CommandError(Exit.USAGE, str(error)) from None
    return ClusterSpec(name=name, data_dir=data_dir, nodes=nodes), plan_rounds(
        workload, seconds * 0.95
    )


def run_demo(
    *, nodes: int, seconds: float, source: Path | None, data: Path | None, as_json: bool
) -> Report:
    """Run the demo; CommandError for anything that keeps it from happening."""
    from cluster.local import LocalCluster

    del as_json
    screen = Screen()
    spec, plan = prepare(nodes, seconds, source, data)
    workload, data_dir = plan.workload, spec.data_dir
    screen.say(
        f"input: {workload.name}, {workload.items:,} items, {workload.value_bytes / 1e6:,.1f} MB,"
        f" {plan.rounds} x"
    )
    screen.say(f"data: {data_dir}")
    started = time.monotonic()
    try:
        with LocalCluster.launch(spec) as cluster:
            frame = cluster.wait_ready()
            took = time.monotonic() - started
            screen.say(f"{nodes} nodes are up after {took:.2f} s, n{frame.leader()} leads")
            return _work(cluster, plan, seconds, screen)
    except KeyboardInterrupt:
        screen.say(f"interrupted; the cluster is down, its data stays in {data_dir}")
        raise


def _work(cluster: LocalCluster, plan: Plan, seconds: float, screen: Screen) -> Report:
    """Write, tour, heal, read back."""
    from cluster.demo.run import Run
    from cluster.demo.tour import steps_for

    run = Run(cluster, plan, screen.say)
    writer = run.writer
    try:
        run.start()
        for _ in run.tour.run(steps_for(cluster.spec.nodes), run.started, seconds):
            _show(writer, screen)
        end = run.started + seconds
        _until(lambda: writer.done or time.monotonic() > end, writer, screen)
        return run.finish()
    finally:
        screen.clear()
        run.close()


def _until(condition: Callable[[], bool], writer: Writer, screen: Screen) -> None:
    while not condition():
        _show(writer, screen)


def _show(writer: Writer, screen: Screen) -> None:
    screen.progress(writer.acked, writer.plan.items)
    time.sleep(LOOK_S)
