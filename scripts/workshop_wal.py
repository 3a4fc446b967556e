"""The write-ahead log in fifteen steps: seed 3's workshop, live, on this disk.

    scripts/workshop              one key per step: any key goes on, b back, r again, q ends
    scripts/workshop --auto       without a terminal: every step, one after another
    scripts/workshop --step 6     begin with a step; --list names them

Every figure is measured while you look, on the disk that holds --data; what is claimed elsewhere
stands beside it. Exits with 0, with 1 if something acknowledged was lost, with 130 if interrupted.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import termios
import tty
from pathlib import Path
from typing import Final

import click

from scripts._workshop_stage import BATCH, LostError, Stage
from scripts._workshop_steps import STEPS

WIDTH_MAX: Final = 96


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
               epilog="\b\nExample:\n  scripts/workshop --step 6")  # fmt: skip
@click.option("--auto", is_flag=True, help="Run every step without waiting for keys.")
@click.option(
    "--step", "first", type=click.IntRange(1, len(STEPS)), default=1, help="Begin there. [1]"
)
@click.option("--only", is_flag=True, help="Only that step.")
@click.option("--records", type=click.IntRange(BATCH, 100_000), default=300, metavar="N",
              help="Records per measurement. [300; the comparison of all: 1,000]")  # fmt: skip
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where to write: on the disk to be measured. [the current directory]")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="Name the steps, and end.")
def main(
    first: int, records: int, data: Path | None, *, auto: bool, only: bool, listing: bool
) -> None:
    """Walk through what makes a write-ahead log fast, measuring each step on this disk.

    Any key goes on; b goes back, r runs a step again, q ends.
    """
    if listing:
        for number, step in enumerate(STEPS, 1):
            click.echo(f"{number:>2}  {step.title}")
        return
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not auto
    place = (data or Path.cwd()).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="workshop-", dir=place))
    except OSError as error:
        raise click.UsageError(
            f"{place}: {error.strerror}; give --data another directory"
        ) from None
    try:
        _walk(
            directory, records, range(first - 1, first if only else len(STEPS)), terminal=terminal
        )
    except LostError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be what went away
            click.echo(err=True)
        sys.exit(130)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _walk(directory: Path, records: int, numbers: range, *, terminal: bool) -> None:
    at = numbers.start
    stage = Stage(directory, records, WIDTH_MAX)
    while at in numbers:
        columns = shutil.get_terminal_size((WIDTH_MAX, 24)).columns
        stage.width = min(WIDTH_MAX, max(40, columns - 1))
        if terminal:
            print("\x1b[2J\x1b[H", end="")
        title = f"{at + 1}/{len(STEPS)}  {STEPS[at].title}"
        print(title)
        print("─" * min(len(title), stage.width))
        STEPS[at].run(stage)
        if not terminal:
            at += 1
            continue
        print("any key: next · b: back · r: again · q: end", end="", flush=True)
        key = _key()
        print()
        if key == "q":
            return
        at += {"b": -1 if at > numbers.start else 0, "r": 0}.get(key, 1)


def _key() -> str:
    """Wait for one key; Ctrl-C and the end of input end the workshop."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        pressed = sys.stdin.read(1)
    finally:
        with contextlib.suppress(termios.error):  # a terminal that is gone needs no restoring
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
    return pressed or "q"


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # what was written is to be removed
    with contextlib.suppress(BrokenPipeError):
        main()
