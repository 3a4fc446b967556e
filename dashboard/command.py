"""The verb `raftdeck dash`; Textual is imported when it runs, and not before."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cluster.cli_support import cluster_option, note, verb
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from dashboard.app import DeckApp, Look

__all__ = ["dash", "look_of", "require_terminal", "run_app"]

TICKS_DEFAULT: Final = 10
TICKS_FAR: Final = 4
"""Over ssh: a slow line must not fall behind the picture."""


@verb(
    "dash",
    example="raftdeck dash\nraftdeck dash --cluster t --readonly\nraftdeck dash --ascii --light\n"
    "raftdeck dash --replay deck@1",
)
@click.argument("name", required=False, metavar="[CLUSTER]")
@cluster_option
@click.option(
    "--replay", metavar="RUN",
    help="Open a recording instead of a running cluster: a cluster's name, NAME@2 for the second of"
    " its runs, a data directory, or one file.",
)  # fmt: skip
@click.option("--readonly", is_flag=True, help="Look only: no key acts on the cluster.")
@click.option("--ascii", "ascii_only", is_flag=True, help="ASCII signs only.")
@click.option("--light", is_flag=True, help="Begin with the light theme.")
@click.option(
    "--hz", type=click.IntRange(1, 30), metavar="N", help="Pictures a second. [10; over ssh 4]"
)
@click.option(
    "--shots", type=click.Path(path_type=Path, file_okay=False, exists=True), default=Path(),
    help="Where screenshots go. [the working directory]",
)  # fmt: skip
def dash(
    name: str | None,
    cluster: str | None,
    *,
    replay: str | None,
    readonly: bool,
    ascii_only: bool,
    light: bool,
    hz: int | None,
    shots: Path,
) -> int:
    """Watch a running cluster on a terminal, break it, and step back in time.

    `?` shows the keys. The cluster is not touched by leaving, nor by a terminal that goes away.
    """
    require_terminal("raftdeck status" if replay is None else "raftdeck replay RUN")
    if replay is not None:
        if name or cluster:
            raise CommandError(Exit.USAGE, "give a running CLUSTER or --replay RUN, not both")
        look = look_of(ascii_only=ascii_only, light=light, hz=hz, data_dir=None, shots=shots)
        return _replay(replay, look)
    from cluster.local import find_run_dir
    from dashboard.desk import Desk
    from dashboard.hands import LiveHands
    from dashboard.live import LiveSource

    run_dir = find_run_dir(name or cluster)
    data_dir = _data_dir(run_dir)
    source = LiveSource(run_dir)
    hands = None if readonly else LiveHands(run_dir)
    try:
        desk = Desk(source, wall_clock_ms, hands=hands)
        look = look_of(ascii_only=ascii_only, light=light, hz=hz, data_dir=data_dir, shots=shots)
        return run_app(desk, look)
    finally:
        source.close()
        if hands is not None:
            hands.close()


def _replay(run: str, look: Look) -> int:
    from cluster.cli_record import open_recording
    from dashboard.desk import Desk
    from dashboard.replay import ReplaySource

    recording = open_recording(run)
    source = ReplaySource(recording)
    try:
        desk = Desk(source, wall_clock_ms)
        if recording.damage:
            desk.say(f"not all of it can be read: {recording.damage[0]}")
        return run_app(desk, look)
    finally:
        source.close()


def _data_dir(run_dir: Path) -> Path | None:
    """Return where a cluster's data is: its lock says so, even if its supervisor hangs."""
    from cluster.paths import LOCK_FILE, FileLock

    holder = FileLock.read_holder(run_dir / LOCK_FILE)
    return None if holder is None else Path(holder.data_dir)


def wall_clock_ms() -> int:
    """Return the wall clock, as frames have it."""
    return time.time_ns() // 1_000_000


def require_terminal(instead: str) -> None:
    """Refuse to draw where nobody sees it."""
    if (
        sys.stdin.isatty()
        and sys.stdout.isatty()
        and os.environ.get("TERM", "") not in ("", "dumb")
    ):
        return
    raise CommandError(Exit.USAGE, f"the dashboard needs a terminal; without one: {instead}")


def look_of(
    *, ascii_only: bool, light: bool, hz: int | None, data_dir: Path | None, shots: Path = Path()
) -> Look:
    """Return the look that options and environment ask for."""
    from dashboard.app import Look

    # Textual takes an empty NO_COLOR for a wish, too; by its definition only a non-empty one is.
    if os.environ.get("NO_COLOR") == "":
        del os.environ["NO_COLOR"]
    theme = "mono" if os.environ.get("NO_COLOR") else ("light" if light else "dark")
    far = "SSH_TTY" in os.environ
    ticks = hz or (TICKS_FAR if far else TICKS_DEFAULT)
    return Look(
        theme=theme, ascii_only=ascii_only, tick_s=1 / ticks, data_dir=data_dir, shots_dir=shots
    )


def run_app(desk: object, look: Look) -> int:
    """Run the application until it is left; return the exit code."""
    from dashboard.app import DeckApp
    from dashboard.desk import Desk

    assert isinstance(desk, Desk)
    app: DeckApp = DeckApp(desk, look)
    result = app.run()
    if app.return_code:
        raise CommandError(Exit.UNFIT, "the dashboard failed; the cluster goes on without it")
    if desk.picture.problem:
        note(desk.picture.problem)
    return result or 0
