"""`raftdeck bench`: measure, and compare what was measured in the same run."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cluster.bench.registry import BENCHES
from cluster.cli_support import CONTEXT, LazyGroup, json_option, note, print_json, verb
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.bench.report import BenchReport

__all__ = [
    "bench",
    "compression_command",
    "cwal_command",
    "dashboard_command",
    "replication_command",
    "sim_command",
    "wal_command",
]


_data_option: Final = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where files are written meanwhile: on the disk to be measured. [the state directory]",
)


@click.group(
    "bench",
    cls=LazyGroup,
    verbs=BENCHES,
    context_settings=CONTEXT,
    epilog="\b\nExample:\n  raftdeck bench replication --quick",
)
def bench() -> None:
    """Measure. Exits with 0 if every goal holds, 1 if one is missed, 3 if one cannot be judged."""


def _node_counts(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Take numbers of nodes, by commas; each once, in the order given."""
    if value is None:
        return None
    from node.config import NODES_MAX

    counts: dict[int, None] = {}
    for word in value.split(","):
        if not word.strip().isdecimal() or not 1 <= int(word) <= NODES_MAX:
            raise click.BadParameter(f"{word!r} is not a number from 1 to {NODES_MAX}")
        counts[int(word)] = None
    return tuple(counts)


@verb(
    "replication",
    example="raftdeck bench replication --quick\n"
    "raftdeck bench replication --nodes 3 --rounds 7 --json",
)
@click.option("--quick", is_flag=True, help="3 and 11 nodes, 3 short rounds: under 2 minutes.")
@click.option("--nodes", callback=_node_counts, metavar="N,…", help="[3,5,11; --quick: 3,11]")
@click.option("--rounds", type=click.IntRange(1, 100), metavar="N", help="[5; --quick: 3]")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 60),
    metavar="S",
    help="Per measurement. [2; --quick: 1]",
)
@_data_option
@json_option
def replication_command(
    quick: bool, nodes: tuple[int, ...] | None, rounds: int | None, *, seconds: float | None,
    data: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Measure a cluster beside the bare pipe, turn by turn.

    The bare pipe is what Python can do with no Raft in it: the same processes, disk, checksums and
    client work, and nothing else. Goals: 0.40 of its operations and of its bytes with 3 nodes.
    """
    from cluster.bench.replication import Settings, replication, table

    with _scratch(data) as directory:
        settings = Settings(
            directory=directory,
            nodes=nodes or ((3, 11) if quick else (3, 5, 11)),
            rounds=rounds or (3 if quick else 5),
            seconds=seconds or (1.0 if quick else 2.0),
            warm_seconds=0.3 if quick else 0.5,
        )
        report = replication(settings, note)
    return _conclude(report, table(report), as_json=as_json)


@verb("dashboard", example="raftdeck bench dashboard --quick")
@click.option("--quick", is_flag=True, help="Shorter windows, 40 keys, 3 rounds: under 2 minutes.")
@_data_option
@json_option
def dashboard_command(quick: bool, data: Path | None, *, as_json: bool) -> int:
    """Measure the dashboard over eleven nodes: its CPU, what it writes, how soon it answers a key.

    At half of full load and at full load, on a terminal of 120 × 36; and what five dashboards cost
    the nodes per acknowledged put, against none, turn by turn.
    """
    from cluster.bench.dashboard import Settings, dashboard, table

    with _scratch(data) as directory:
        settings = Settings(directory)
        if quick:
            settings = Settings(directory, full_s=3.0, window_s=8.0, keys=40, rounds=3, round_s=4.0)
        report = dashboard(settings, note)
    return _conclude(report, table(report), as_json=as_json)


@verb("sim", example="raftdeck bench sim --quick")
@click.option("--quick", is_flag=True, help="100 seeds a round, 3 rounds: under a minute.")
@json_option
def sim_command(quick: bool, *, as_json: bool) -> int:
    """Measure how many simulated clusters a core runs per minute.

    lite: five nodes, eight virtual seconds, at least 60 operations and 3 faults. Goal: 300 seeds
    per minute and core.
    """
    from cluster.bench.sim import Settings, sim, table

    report = sim(Settings(100, 3) if quick else Settings(), note)
    return _conclude(report, table(report), as_json=as_json)


def _policies(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Take log policies as `up --wal` does."""
    from wal.policy import policy_of_text

    for text in values:
        try:
            policy_of_text(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return values


@verb(
    "wal",
    example="raftdeck bench wal --quick\n"
    "raftdeck bench wal --policy io=direct,driver=pipeline --peers --svg wal.svg",
)
@click.option("--quick", is_flag=True, help="Fewer sizes and rounds, no 4 GiB: under 2 minutes.")
@click.option("--rounds", type=click.IntRange(1, 100), metavar="N", help="[5; --quick: 3]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    callback=_policies,
    metavar="POLICY",
    help="Measure this policy as well (docs/wal.md); may be given more than once.",
)
@click.option("--peers", is_flag=True, help="Also SQLite, LMDB, RocksDB: those that are installed.")
@click.option(
    "--svg",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write the charts to this file.",
)
@_data_option
@json_option
def wal_command(
    quick: bool, rounds: int | None, policies: tuple[str, ...], *, peers: bool, svg: Path | None,
    data: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Measure the log: each optimisation alone and all together, beside bare loops, turn by turn.

    Regenerates the tables of seeds 3 and 4, claimed beside measured. Goals: 30 times the naive log on
    1,000 records of 1 KiB, half of what bare loops gain; 0.85 and 0.90 of the raw disk at 64 KiB and
    1 MiB.
    """
    from cluster.bench.wal import Settings, wal
    from cluster.bench.wal_charts import drawn, save_svg

    if svg is not None and not svg.absolute().parent.is_dir():  # known before minutes are spent
        raise CommandError(Exit.USAGE, f"--svg {svg}: its directory does not exist")
    with _scratch(data) as directory:
        settings = Settings(directory, quick, rounds or (3 if quick else 5), policies, peers)
        report = wal(settings, note)
    if svg is not None:
        try:
            save_svg(report, svg)
        except OSError as error:
            raise CommandError(Exit.UNFIT, f"{svg}: {error.strerror}") from None
    colour = not as_json and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return _conclude(report, "" if as_json else drawn(report, colour=colour), as_json=as_json)


@verb("compression", example="raftdeck bench compression --quick --input ./logs")
@click.option("--quick", is_flag=True, help="8 MB per measurement, 3 rounds: under 2 minutes.")
@click.option(
    "--input",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="A file, or a directory of files. [the sources of the running Python]",
)
@_data_option
@json_option
def compression_command(
    quick: bool, source: Path | None, data: Path | None, *, as_json: bool
) -> int:
    """Measure what compressing batches saves and costs, on an input and on noise.

    Batches of 64 KiB and 1 MiB of puts of 1 KiB, as a leader builds them, into a log. Goals: the
    input shrinks to half, noise does not grow, and noise takes a quarter of the time of the input.
    """
    from cluster.bench.compression import Settings, compression, table

    with _scratch(data) as directory:
        settings = Settings(directory, source)
        if quick:
            settings = Settings(directory, source, rounds=3, megabytes=8)
        report = compression(settings, note)
    return _conclude(report, table(report), as_json=as_json)


@verb("cwal", example="raftdeck bench cwal --quick")
@click.option("--quick", is_flag=True, help="3 rounds, 16 MB to read: under 2 minutes.")
@_data_option
@json_option
def cwal_command(quick: bool, data: Path | None, *, as_json: bool) -> int:
    """Measure writing and reading CWal files, as CWal's benchmark does, and beyond.

    1,000 entries of 1,000 bytes. Goal: asynchronous appends take a tenth of those that sync one by
    one.
    """
    from cluster.bench.cwal import Settings, cwal, table

    with _scratch(data) as directory:
        settings = Settings(directory, 3, 16) if quick else Settings(directory)
        report = cwal(settings, note)
    return _conclude(report, table(report), as_json=as_json)


def _conclude(report: BenchReport, rows: str, *, as_json: bool) -> int:
    """Print a report; return the exit code."""
    if as_json:
        print_json(report.document())
    else:
        click.echo(rows)
        click.echo()
        for line in report.ratio_lines():
            click.echo(line)
        note(report.machine_line())
    return int(report.exit_code)


@contextlib.contextmanager
def _scratch(data: Path | None) -> Iterator[Path]:
    """Give a new directory below `data` (or the state directory); it is gone afterwards."""
    from cluster.paths import default_data_dir

    parent = (data or default_data_dir("x").parent.parent).absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    except OSError as error:
        raise CommandError(
            Exit.UNFIT, f"{parent}: {error.strerror}; give --data another directory"
        ) from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
