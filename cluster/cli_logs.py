"""`raftdeck logs`: what nodes wrote."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO, Final

import click

from cluster.cli_support import attach, cluster_option, verb
from cluster.exits import CommandError, Exit

__all__ = ["logs"]

TAIL_BYTES_MAX: Final = 8 << 20
FOLLOW_S: Final = 0.2


@verb("logs", example="raftdeck logs n2 -n 50\nraftdeck logs -f\nraftdeck logs down -n 100")
@click.argument("selector", default="all", metavar="[NODE]")
@click.option(
    "-n", "--lines", type=click.IntRange(0, 100_000), default=20, metavar="N", help="Per node. [20]"
)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@cluster_option
def logs(selector: str, lines: int, follow: bool, cluster: str | None) -> None:
    """Show the last lines of nodes' logs; every node's without NODE.

    Works on the data directory of a cluster that is down, too: --cluster DIR.
    """
    paths = _log_paths(cluster, selector)
    files: dict[str, BinaryIO] = {}
    for name, path in paths.items():
        if path.exists():
            files[name] = path.open("rb")
    if not files:
        raise CommandError(Exit.FAILED, f"no log yet: {', '.join(map(str, paths.values()))}")
    width = max(map(len, files)) if len(files) > 1 else 0
    try:
        for name, file in files.items():
            _print(name, width, _last_lines(file, lines))
        while follow:
            time.sleep(FOLLOW_S)
            for name, file in files.items():
                _print(name, width, _new_lines(file))
    finally:
        for file in files.values():
            file.close()


def _log_paths(cluster: str | None, selector: str) -> dict[str, Path]:
    """Return the log files by node name, of a running cluster or of a data directory."""
    from cluster.selectors import select
    from cluster.spec import load_spec

    try:
        found = attach(cluster)
    except CommandError as error:
        spec = load_spec(Path(cluster).absolute()) if cluster and os.sep in cluster else None
        if spec is None or error.exit_code is not Exit.NO_CLUSTER:
            raise
        names = {f"n{number}": number for number in spec.node_ids}
        if selector not in names and selector != "all":
            raise CommandError(
                Exit.USAGE, f"no node {selector!r}; valid are: {', '.join(names)}, all"
            ) from None
        nodes = tuple(spec.node_ids) if selector == "all" else (names[selector],)
    else:
        spec, nodes = found.spec, select(selector, found.last_frame()).nodes
    return {f"n{number}": spec.node_dir(number) / "node.log" for number in nodes}


def _print(name: str, width: int, lines: list[bytes]) -> None:
    prefix = f"{name:<{width}} | ".encode() if width else b""
    click.echo(b"".join(prefix + line + b"\n" for line in lines), nl=False)


def _last_lines(file: BinaryIO, count: int) -> list[bytes]:
    """Return the last lines, and leave the file at its end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES_MAX))
    found = file.read().splitlines()
    return found[-count:] if count else []


def _new_lines(file: BinaryIO) -> list[bytes]:
    """Return the whole lines written since the last call; begin again in a file that was cut."""
    if os.fstat(file.fileno()).st_size < file.tell():
        file.seek(0)
    position = file.tell()
    text = file.read()
    end = text.rfind(b"\n") + 1
    file.seek(position + end)
    return text[:end].splitlines()
