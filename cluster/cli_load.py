"""`raftdeck load`: write (and read) for a while, and say how it went."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cluster.cli_support import attach, cluster_option, json_option, note, print_json, verb
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.load import Load, LoadReport
    from cluster.load_history import LoadHistory
    from cluster.workload import Workload

__all__ = ["load"]


@verb(
    "load",
    example="raftdeck load --seconds 10\nraftdeck load --ops 5000 --input ./photos --json\n"
    "raftdeck load --outstanding 1000 --bulk 250\n"
    "raftdeck load --history h.jsonl && raftdeck check h.jsonl --model register",
)
@click.option("--seconds", type=click.FloatRange(min=0.1), metavar="S", help="How long. [10]")
@click.option("--ops", type=click.IntRange(min=1), metavar="N", help="How many operations.")
@click.option(
    "--outstanding",
    type=click.IntRange(1, 16_384),
    default=64,
    metavar="N",
    help="Operations under way at once. [64]",
)
@click.option(
    "--reads",
    type=click.IntRange(0, 99),
    metavar="%",
    help="Share of reads. [0; with --history: 50]",
)
@click.option("--keys", type=click.IntRange(min=1), default=10_000, metavar="N", help="[10000]")
@click.option("--value-bytes", type=click.IntRange(min=0), default=1024, metavar="N", help="[1024]")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the files of a directory or the lines of a file, instead of made-up values.",
)
@click.option(
    "--bulk",
    type=click.IntRange(1, 16_384),
    default=1,
    metavar="N",
    help="Puts submitted together, with an outcome each (the cheapest way to write a lot). [1]",
)
@click.option(
    "--history",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what was asked and answered there, for: raftdeck check FILE --model register.",
)
@click.option("--timeout", type=float, default=5.0, metavar="S", help="Per operation. [5]")
@cluster_option
@json_option
def load(
    seconds: float | None, ops: int | None, *, outstanding: int, reads: int | None, keys: int,
    value_bytes: int, source: Path | None, bulk: int, history: Path | None, timeout: float,
    cluster: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Keep operations under way, and print rates and latencies of the acknowledged ones.

    Exits with 0 if anything was acknowledged, with 6 if nothing was. With --history the keys are those
    of this run alone (their names begin with h and eight digits), so that what it reads can be judged.
    """
    from cluster.load import Interrupted, Load, LoadPlan

    if bulk > outstanding:
        raise CommandError(
            Exit.USAGE, f"--bulk {bulk} is more than --outstanding {outstanding}; raise the latter"
        )
    found = attach(cluster)
    plan = LoadPlan(
        _workload(source, keys, value_bytes),
        outstanding,
        (0 if history is None else 50) if reads is None else reads,
        seconds if seconds is not None or ops is not None else 10.0,
        ops,
        timeout,
        bulk=bulk,
    )
    with _recorded(history) as record, found.client() as client:
        run = Load(client, plan, record)
        try:
            report = run.run(_progress(run))
        except Interrupted as end:
            _print(end.report, as_json=as_json)
            raise click.exceptions.Exit(int(Exit.INTERRUPTED)) from None
    _print(report, as_json=as_json)
    if not report.acked:
        raise CommandError(
            Exit.NO_QUORUM, f"nothing was acknowledged: {report.last_error}; see: raftdeck status"
        )


@contextmanager
def _recorded(path: Path | None) -> Iterator[LoadHistory | None]:
    """Open the history's file; close it whatever happens, and say where it is."""
    from cluster.load_history import HISTORY_MODEL, LoadHistory

    if path is None:
        yield None
        return
    if path.is_char_device() or path.is_dir():
        raise CommandError(Exit.USAGE, f"{path}: no place for a history; give a file")
    try:
        history = LoadHistory(path.open("w", encoding="utf-8"))
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        yield history
    finally:
        history.close()
        note(f"history: raftdeck check {path} --model {HISTORY_MODEL}")
    if history.failure is not None:
        raise _unwritten(path, history.failure)


def _unwritten(path: Path, error: OSError) -> CommandError:
    return CommandError(
        Exit.UNFIT, f"{path}: cannot be written: {error.strerror}; the history is not whole"
    )


def _workload(source: Path | None, keys: int, value_bytes: int) -> Workload:
    from cluster.workload import WorkloadError, read_input, synthetic

    try:
        return synthetic(keys, value_bytes) if source is None else read_input(source)
    except WorkloadError as error:
        raise CommandError(Exit.USAGE, str(error)) from None


def _progress(run: Load) -> Callable[[float], object]:
    """Return what draws the progress line; nothing is drawn where nobody looks."""
    if not sys.stderr.isatty():
        return lambda _: None

    def draw(seconds: float) -> None:
        rate = run.acked / seconds if seconds > 0 else 0
        sys.stderr.write(f"\r{seconds:5.1f} s  {run.acked} acked  {rate:,.0f} ops/s \x1b[K")
        sys.stderr.flush()

    return draw


def _print(report: LoadReport, *, as_json: bool) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if as_json:
        print_json(report.encode())
        return
    click.echo(f"{report.ops_per_s:,.0f} ops/s, {report.mb_per_s:,.2f} MB/s acknowledged")
    if report.p50_ms is not None and report.p99_ms is not None and report.max_ms is not None:
        click.echo(
            f"latency p50 {report.p50_ms:.2f} ms, p99 {report.p99_ms:.2f} ms,"
            f" longest {report.max_ms:.1f} ms"
        )
    note(
        f"{report.acked} of {report.operations} operations acknowledged in {report.seconds:.1f} s"
        f" ({report.workload}); errors: {report.definite} definite, {report.indefinite} indefinite"
    )
    if report.last_error:
        note(f"last error: {report.last_error}")
