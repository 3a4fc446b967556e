"""`raftdeck wal`: the same program as `python -m wal`, under the same roof."""

from __future__ import annotations

import importlib.util
import runpy
import sys

import click

from cluster.cli_support import CONTEXT, Verb
from cluster.exits import CommandError, Exit

__all__ = ["wal"]


@click.command(
    "wal",
    cls=Verb,
    add_help_option=False,
    context_settings=CONTEXT | {"ignore_unknown_options": True, "help_option_names": []},
    epilog="\b\nExample:\n  raftdeck wal verify ~/.local/state/raftdeck/clusters/deck/n1/wal",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def wal(arguments: tuple[str, ...]) -> int:
    """Look into a node's log on disk; `raftdeck wal --help` lists what it can do.

    The package `wal` knows nothing of command-line libraries but the standard one, so its own
    parser reads the arguments, and its exit code is passed on.
    """
    if importlib.util.find_spec("wal.__main__") is None:
        raise CommandError(Exit.UNFIT, "wal: this installation has no wal.__main__")
    before = sys.argv
    sys.argv = ["raftdeck wal", *arguments]
    try:
        runpy.run_module("wal", run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return int(Exit.HELD)
