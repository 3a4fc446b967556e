"""`raftdeck check`: judge a history, whoever recorded it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from cluster.cli_support import json_option, note, print_json, verb
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.check.history import History
    from cluster.check.judge import Judgement

__all__ = ["check", "check_bench_command"]

_T = TypeVar("_T")
_PIECE_BYTES: Final = 1 << 20
CHECK_SCHEMA = "raftdeck.check/1"
MODELS = ("register", "cas", "kv-append", "list-append", "set", "queue", "counter", "bank")
FORMATS = ("json", "edn", "log")
EXPORTS = ("jsonl", "edn", "elle", "porcupine")


@verb(
    "check",
    example="raftdeck check history.jsonl --model register\n"
    "raftdeck check history.edn --model list-append --json\n"
    "raftdeck check etcd.log --model cas --html why.html\n"
    "raftdeck check ~/.local/state/raftdeck/clusters/deck",
)
@click.argument(
    "file", type=click.Path(path_type=Path, readable=False, allow_dash=True), metavar="FILE|DIR"
)
@click.option("--model", "-m", type=click.Choice(MODELS), help="What the history is of.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="[what it looks like]")
@click.option(
    "--by", type=click.Choice(("auto", "witness", "zones", "wgl")), default="auto",
    help="How linearizability is decided. [auto: the cheapest way that can]",
)  # fmt: skip
@click.option(
    "--consistency",
    type=click.Choice(("read-committed", "serializable", "strict-serializable")),
    default="strict-serializable", help="Of list-append. [strict-serializable]",
)  # fmt: skip
@click.option("--total", type=int, metavar="N", help="Money in the bank. [what the first read saw]")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, metavar="S",
    help="Seconds to think; then: unknown. [60]",
)  # fmt: skip
@click.option(
    "--memory", type=click.IntRange(min=1), default=2048, metavar="MIB",
    help="MiB that the process may hold; then: unknown. [2048]",
)  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Draw a failure.")
@click.option(
    "--export", type=(click.Choice(EXPORTS), click.Path(path_type=Path)), multiple=True,
    metavar="FORMAT FILE", help=f"Also write the history as {', '.join(EXPORTS)}.",
)  # fmt: skip
@json_option
def check(
    file: Path, model: str | None, format_: str | None, *, html: Path | None,
    export: tuple[tuple[str, Path], ...], as_json: bool, **chosen: Any,
) -> int:  # fmt: skip
    """Judge the history in FILE: pass, fail or unknown. `-` is standard input.

    FILE is JSON (ours, elle-cli's, Porcupine-style), Jepsen's EDN, or the log text of jepsen.util.
    Operations whose outcome is unknown may have happened at any time, or never.

    A DIR is a cluster's data directory: the logs in it are judged, each by itself and against each
    other. The cluster may be running.

    Exit codes: 0 pass, 1 fail, 2 no such file or no history, 3 unknown.
    """
    from cluster.check.judge import judge

    if file.is_dir():
        return _check_logs(file, as_json=as_json)
    if model is None:
        raise CommandError(Exit.USAGE, f"say what it is of: --model {'|'.join(MODELS)}")

    began = time.monotonic()
    rules = _rules(chosen)
    history = _read(file, format_, chosen["memory"])
    read_s = time.monotonic() - began
    for kind, path in export:
        _export(history, kind, path, model)
    judgement = _judged(lambda: judge(history, model, rules), file)
    document = _document(file, model, history, judgement)
    document["seconds"] = {"read": round(read_s, 3), "all": round(time.monotonic() - began, 3)}
    if html is not None:
        document["html"] = _draw(html, file, judgement)
    if as_json:
        print_json(document)
    else:
        _tell(document)
    return int(judgement.verdict.exit_code)


def _rules(chosen: dict[str, Any]) -> Any:
    from cluster.check.anomalies import Consistency
    from cluster.check.budget import Budget
    from cluster.check.judge import Rules
    from cluster.check.linearizable import Way

    return Rules(
        Budget(chosen["timeout"], chosen["memory"]),
        Way(chosen["by"]),
        Consistency(chosen["consistency"]),
        chosen["total"],
    )


def _read_up_to(stream: BinaryIO, most: int) -> bytes:
    """Read in pieces: a single read makes room for all that it may return."""
    pieces, left = [], most
    while left > 0 and (piece := stream.read(min(left, _PIECE_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _read(file: Path, format_: str | None, memory_mib: int) -> History:
    """Read a history of at most `memory_mib`: a pipe may have no end."""
    from cluster.check.formats import Format, read_history

    bound = memory_mib << 20
    try:
        if str(file) == "-":
            content = _read_up_to(sys.stdin.buffer, bound + 1)
        elif file.is_char_device():
            raise CommandError(
                Exit.USAGE, f"{file}: a device; give a file, or - for standard input"
            )
        else:
            with file.open("rb") as stream:
                content = _read_up_to(stream, bound + 1)
        if len(content) > bound:
            raise CommandError(Exit.USAGE, f"{file}: has more than --memory {memory_mib} MiB")
    except FileNotFoundError:
        raise CommandError(Exit.USAGE, f"{file}: no such file") from None
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{file}: cannot be read: {error.strerror}") from None
    chosen = None if format_ is None else Format(format_)
    return _judged(lambda: read_history(content, chosen), file)


def _check_logs(directory: Path, *, as_json: bool) -> int:
    """Judge the logs in a data directory."""
    from cluster.check.fsck import check_directory
    from cluster.check.verdict import worst

    try:
        findings = check_directory(directory)
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{directory}: cannot be read: {error.strerror}") from None
    if not findings:
        raise CommandError(
            Exit.USAGE, f"{directory}: no node's log in it; give a data directory, or a history"
        )
    verdict = worst(findings)
    document = {
        "schema": CHECK_SCHEMA,
        "file": str(directory),
        "model": "logs",
        "verdict": verdict.value,
        "checks": [finding.document() for finding in findings],
    }
    if as_json:
        print_json(document)
    else:
        click.echo(f"{verdict.value}  {directory}")
        _tell_checks(document)
    return int(verdict.exit_code)


def _judged(call: Callable[[], _T], file: Path) -> _T:
    """Call something that reads a history; say which file it was that could not be read."""
    from cluster.check.history import HistoryError

    try:
        return call()
    except HistoryError as error:
        raise CommandError(Exit.USAGE, f"{file}: {error}") from None


def _export(history: History, kind: str, path: Path, model: str) -> None:
    from cluster.check.exports import export_history

    try:
        with path.open("w", encoding="utf-8") as stream:
            count = export_history(history, kind, stream, model)
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{path}: cannot be written: {error.strerror}") from None
    note(f"{count:,} lines: {path}")


def _draw(path: Path, file: Path, judgement: Judgement) -> str | None:
    from cluster.check.picture import draw

    if judgement.counterexample is None:
        note(f"nothing to draw: {judgement.verdict.value}")
        return None
    try:
        path.write_text(draw(judgement.counterexample, file.name), encoding="utf-8")
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{path}: cannot be written: {error.strerror}") from None
    note(f"drawn: {path}")
    return str(path)


def _document(file: Path, model: str, history: History, judgement: Judgement) -> dict[str, Any]:
    from cluster.check.history import Status

    return {
        "schema": CHECK_SCHEMA,
        "file": str(file),
        "model": model,
        "verdict": judgement.verdict.value,
        "operations": {
            "all": len(history.operations),
            "ok": history.count(Status.OK),
            "failed": history.count(Status.FAIL),
            "unknown": history.count(Status.INFO),
        },
        "checks": [finding.document() for finding in judgement.findings],
        "warnings": history.warnings,
    }


def _tell(document: dict[str, Any]) -> None:
    """Print the verdict for a person."""
    counts = document["operations"]
    click.echo(f"{document['verdict']}  {document['file']}  ({document['model']})")
    click.echo(
        f"  {counts['all']:,} operations: {counts['ok']:,} ok, {counts['failed']:,} failed,"
        f" {counts['unknown']:,} of unknown outcome; {document['seconds']['all']:.2f} s"
    )
    _tell_checks(document)
    for warning in document["warnings"]:
        note(f"note: {warning}")


def _tell_checks(document: dict[str, Any]) -> None:
    for found in document["checks"]:
        click.echo(f"  {found['name']}: {found['verdict']}: {found['reason']}")
        for line in found["lines"]:
            click.echo(f"    {line}")


@verb("check", example="raftdeck bench check --quick\nraftdeck bench check --labelled DIR --json")
@click.option("--quick", is_flag=True, help="One round: under a minute.")
@click.option(
    "--operations", type=click.IntRange(100), default=100_000, metavar="N", help="[100000]"
)
@click.option(
    "--labelled", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="Also judge the histories that DIR/VERDICTS.tsv names.",
)  # fmt: skip
@json_option
def check_bench_command(quick: bool, operations: int, labelled: Path | None, as_json: bool) -> int:
    """Measure how long it takes to judge 100,000 operations over 100 keys, by each way.

    Goals: 10 s by the committed order, 60 s by search, and the verdict that each labelled history
    has, within 10 s.
    """
    from cluster.bench.check import Settings, check_bench, table
    from cluster.check.history import HistoryError

    settings = Settings(operations, rounds=1 if quick else 5, labelled=labelled)
    try:
        report = check_bench(settings, note)
    except HistoryError as error:
        raise CommandError(Exit.USAGE, f"{labelled}: {error}") from None
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{error.filename}: {error.strerror}") from None
    if as_json:
        print_json(report.document())
    else:
        click.echo(table(report))
        for line in report.ratio_lines():
            click.echo(line)
        note(report.machine_line())
    return int(report.exit_code)
