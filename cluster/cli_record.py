"""`raftdeck replay`, `export`, `runs`, `mark`: what recordings are good for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from inspect import cleandoc
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from cluster.cli_support import (
    CONTEXT,
    LazyGroup,
    cluster_option,
    json_option,
    note,
    print_json,
    verb,
)
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.cast import Draw
    from cluster.recording import Recording, RunSummary

__all__ = [
    "export",
    "export_run",
    "find_place",
    "known_clusters",
    "open_recording",
    "replay",
    "runs",
]

PAUSE_S_MAX: Final = 2.0
"""Longest wait between two lines of a replay: hours in which nothing happened are not waited for."""
SIDE_MAX: Final = 1_000
"""Cells of a film: more is a slip of the finger."""

_RUN_HELP = """RUN is the name of a cluster, its data directory, or one file of a recording; NAME@2 is
    the second of its runs that are kept, without @ the newest."""

_LINE_HELP = """A line: time, what, a mark per node, term, commit, words, cause → effect.
Marks: ^ leads  o follows  v candidate  , pre-vote  = frozen  x down  r starts  ? silent"""


def find_place(run: str) -> tuple[Path, int | None]:
    """Resolve RUN: where its recording is, and which life is meant (None: the newest)."""
    from cluster.paths import default_data_dir

    name, at, number = run.rpartition("@")
    if not at or not number.isdigit():
        name, number = run, ""
    chosen = int(number) if number else None
    path = Path(name).expanduser()
    clusters = known_clusters()
    named = any(known == name for known, _ in clusters)
    if os.sep in name or name.endswith(".rec") or (path.is_dir() and not named):
        if not path.exists():
            raise CommandError(Exit.UNKNOWN, f"{path}: no such file or directory")
        return path.absolute(), chosen
    for known, data_dir in clusters:
        if known == name:
            return data_dir, chosen
    known_names = ", ".join(sorted(known for known, _ in clusters)) or "none"
    raise CommandError(
        Exit.UNKNOWN,
        f"no recording of {name!r} at {default_data_dir(name)}; known: {known_names};"
        " or give a data directory",
    )


def known_clusters() -> list[tuple[str, Path]]:
    """Return the clusters that can be named: running ones, and those in the default place."""
    from cluster.paths import default_data_dir, list_runs

    found = {run.name: Path(run.holder.data_dir) for run in list_runs() if run.alive and run.holder}
    base = default_data_dir("any").parent
    for path in sorted(base.iterdir()) if base.is_dir() else []:
        if path.is_dir():
            found.setdefault(path.name, path)
    return sorted(found.items())


def open_recording(run: str) -> Recording:
    """Open what RUN names; what of it cannot be read is told on stderr."""
    from cluster.recording import Recording

    recording = Recording.open(*find_place(run))
    for words in recording.damage:
        note(words)
    return recording


@verb(
    "replay",
    example="raftdeck replay deck\nraftdeck replay deck@1 --speed 10\nraftdeck replay DIR --json",
)
@click.argument("run")
@click.option("--plain", is_flag=True, help="Lines of text, also where there is a screen.")
@click.option(
    "--speed", type=click.FloatRange(0), default=0.0, metavar="X",
    help="1 as fast as it was, 2 twice as fast, 0 at once. [0]",
)  # fmt: skip
@click.option("-g", "--group", type=int, default=0, metavar="N", help="Raft group. [0]")
@json_option
def replay(run: str, plain: bool, speed: float, group: int, as_json: bool) -> None:
    """Print what happened: a line for each event, and for each change of who leads and follows.

    {run_help}
    """
    del plain  # there is nothing else yet
    from cluster.replay import narrate

    with open_recording(run) as recording:
        events = recording.events()
        if as_json:
            _print_summary(recording)
            return
        lines = narrate(recording.frames_since(0), events, group)
        for line in _paced(lines, speed):
            click.echo(line)


def _print_summary(recording: Recording) -> None:
    from cluster.replay import narrate
    from node.metrics import plain

    span = recording.span()
    events = recording.events()
    lines = [line for _, line in narrate(recording.frames_since(0), events)]
    print_json(
        {
            "schema": "raftdeck.replay/1",
            "cluster": recording.header.name,
            "run": recording.number,
            "frames": len(recording),
            "span_unix_ms": span,
            "events": [plain(event) for event in events],
            "lines": lines,
        }
    )


def _paced(lines: Iterable[tuple[int, str]], speed: float) -> Iterator[str]:
    """Yield the lines at the pace at which they came to be, times `speed`."""
    last_ms = None
    for unix_ms, line in lines:
        if speed and last_ms is not None:
            time.sleep(min(PAUSE_S_MAX, max(0, unix_ms - last_ms) / 1000 / speed))
        last_ms = unix_ms
        yield line


@verb(
    "export",
    example="raftdeck export deck --cast film.cast\n"
    "raftdeck export deck@1 --cast - --size 100x30 --idle-time-limit 2 > film.cast\n"
    "raftdeck export deck --jsonl frames.jsonl",
)
@click.argument("run")
@click.option("--jsonl", type=click.Path(path_type=Path), metavar="FILE", help="Frames, events.")
@click.option("--cast", type=click.Path(path_type=Path), metavar="FILE", help="An asciicast (v2).")
@click.option("--size", default="120x36", metavar="WxH", help="Of the cast. [120x36]")
@click.option(
    "--hz", type=click.FloatRange(0.1, 30), default=5.0, metavar="N",
    help="Pictures a second in the cast. [5]",
)  # fmt: skip
@click.option(
    "-i", "--idle-time-limit", "idle_s", type=click.FloatRange(0), default=0.0, metavar="S",
    help="Longest pause that players of the cast show; 0 as long as it was. [0]",
)  # fmt: skip
def export(**options: Any) -> None:
    """Write a recording for other programs: JSON lines, or a film for a terminal. `-` is stdout.

    A film shows what the screen showed, with a chapter per event, and ends at 64 MiB.

    {run_help}
    """
    export_run(**options)


def export_run(
    *,
    run: str,
    jsonl: Path | None,
    cast: Path | None,
    size: str,
    hz: float,
    idle_s: float,
    drawing: Callable[[int, int], Draw] | None = None,
) -> None:
    """Do what `export` does; `drawing` makes, for a size, what draws the pictures."""
    if (jsonl is None) == (cast is None):
        raise CommandError(Exit.USAGE, "give one of --jsonl FILE and --cast FILE")
    from cluster.cast import Film, plain_picture
    from cluster.cast import cast as filmed
    from cluster.replay import documents

    width, height = _size(size)
    draw = plain_picture if drawing is None else drawing(width, height)
    with open_recording(run) as recording:
        events = recording.events()
        if jsonl is not None:
            found = documents(recording.frames_since(0), events)
            _write(jsonl, (json.dumps(document, ensure_ascii=False) for document in found))
        else:
            assert cast is not None
            film = Film(width, height, recording.header.name, idle_s)
            _write(cast, filmed(recording.thinned(round(1000 / hz)), events, film, draw))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise CommandError(Exit.USAGE, f"--size {text!r}: write it as 120x36")
    found = int(width), int(height)
    if not 1 <= min(found) <= max(found) <= SIDE_MAX:
        raise CommandError(Exit.USAGE, f"--size {text}: 1 to {SIDE_MAX:,} columns and rows")
    return found


def _write(path: Path, lines: Iterable[str]) -> None:
    count = 0
    try:
        with closing(_opened(path)) as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{path}: {error.strerror}") from None
    note(f"{count:,} lines: {path}")


def _opened(path: Path) -> IO[str]:
    if str(path) == "-":
        return os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    return path.open("w", encoding="utf-8")


@verb("mark", example='raftdeck mark deploy begins\nraftdeck mark "load doubled" --cluster deck')
@cluster_option
@click.argument("words", nargs=-1, required=True)
@json_option
def mark(cluster: str | None, words: tuple[str, ...], *, as_json: bool) -> None:
    """Put words into the events of a running cluster, and so into its recording.

    The dashboard goes from mark to mark with ' and ".
    """
    from cluster.local import LocalCluster
    from node.metrics import plain

    with LocalCluster.attach(cluster) as attached:
        event = attached.mark(" ".join(words))
    if as_json:
        print_json({"schema": "raftdeck.mark/1"} | plain(event))
    else:
        click.echo(f"{event.sequence}: {event.text}")


@click.group(
    "runs",
    cls=LazyGroup,
    verbs={},
    context_settings=CONTEXT,
    epilog="\b\nExample:\n  raftdeck runs ls",
)
def runs() -> None:
    """Look at, and remove, what was recorded."""


def _all_runs(cluster: str | None) -> list[tuple[str, Path, RunSummary]]:
    from cluster.recording import list_recordings

    places = known_clusters() if cluster is None else [(cluster, find_place(cluster)[0])]
    return [(name, place, run) for name, place in places for run in list_recordings(place)]


@verb("ls", example="raftdeck runs ls\nraftdeck runs ls deck --json")
@click.argument("cluster", required=False)
@json_option
def ls(cluster: str | None, as_json: bool) -> None:
    """List the recorded runs of one cluster, or of all that are known by name."""
    from cluster.tables import aligned

    found = _all_runs(cluster)
    if as_json:
        print_json({"schema": "raftdeck.runs/1", "runs": [_described(*each) for each in found]})
        return
    if not found:
        note("nothing is recorded; a cluster records unless: raftdeck up --no-record")
        return
    rows = [
        [f"{name}@{run.number}", _moment(run.header.started_unix_ms), f"{run.bytes / 1e6:.1f}",
         str(place)]
        for name, place, run in found
    ]  # fmt: skip
    click.echo(aligned(["RUN", "BEGAN (UTC)", "MB", "DATA"], rows, frozenset({"MB"})))


def _described(name: str, place: Path, run: RunSummary) -> dict[str, Any]:
    return {
        "run": f"{name}@{run.number}",
        "data_dir": str(place),
        "cluster_id": run.header.cluster_id,
        "started_unix_ms": run.header.started_unix_ms,
        "bytes": run.bytes,
        "files": [str(path) for path in run.paths],
    }


def _moment(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_ms / 1000))


@verb("show", example="raftdeck runs show deck\nraftdeck runs show deck@1 --json")
@click.argument("run")
@json_option
def show(run: str, as_json: bool) -> None:
    """Say what a run holds: its span, its frames, and how many events of each kind."""
    from collections import Counter

    with open_recording(run) as recording:
        span, events = recording.span(), recording.events()
        kinds = dict(sorted(Counter(event.kind for event in events).items()))
        document = {
            "schema": "raftdeck.run/1",
            "cluster": recording.header.name,
            "cluster_id": recording.header.cluster_id,
            "run": recording.number,
            "started_unix_ms": recording.header.started_unix_ms,
            "span_unix_ms": span,
            "frames": len(recording),
            "events": kinds,
        }
    if as_json:
        print_json(document)
        return
    seconds = 0.0 if span is None else (span[1] - span[0]) / 1000
    click.echo(f"{document['cluster']}@{document['run']}: {document['frames']:,} frames over")
    click.echo(f"  {seconds:,.1f} s from {_moment(span[0] if span else 0)} UTC")
    for kind, count in kinds.items():
        click.echo(f"  {count:>6,}  {kind}")


@verb("prune", example="raftdeck runs prune deck\nraftdeck runs prune deck --keep 0")
@click.argument("cluster")
@click.option("--keep", type=click.IntRange(0), default=1, metavar="N", help="Newest runs. [1]")
@json_option
def prune(cluster: str, keep: int, as_json: bool) -> None:
    """Remove the older recordings of a cluster; never the one that is being written."""
    from cluster.paths import DATA_LOCK_FILE, FileLock
    from cluster.recording import RECORDING_DIRECTORY, list_recordings

    place, _ = find_place(cluster)
    if place.name == RECORDING_DIRECTORY:
        place = place.parent
    if not place.is_dir():
        raise CommandError(Exit.USAGE, f"{place}: give a cluster or its data directory")
    found = list_recordings(place)
    if FileLock.is_held(place / DATA_LOCK_FILE):
        keep = max(1, keep)
    doomed = found[: len(found) - keep] if keep < len(found) else []
    for run in doomed:
        for path in run.paths:
            path.unlink(missing_ok=True)
    freed = sum(run.bytes for run in doomed)
    if as_json:
        kept = len(found) - len(doomed)
        document = {"removed": len(doomed), "kept": kept, "freed_bytes": freed}
        print_json({"schema": "raftdeck.pruned/1"} | document)
    else:
        click.echo(f"removed {len(doomed)} of {len(found)} runs, {freed / 1e6:.1f} MB")


for _verb in (replay, export):
    _verb.help = cleandoc(_verb.help or "").replace("{run_help}", " ".join(_RUN_HELP.split()))
replay.help = f"{replay.help}\n\n\b\n{_LINE_HELP}"
for _verb in (ls, show, prune):
    runs.add_command(_verb)
