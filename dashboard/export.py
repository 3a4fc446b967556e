"""`raftdeck export`: the verb of `cluster`, with the dashboard's own screen as the film's picture."""

from __future__ import annotations

import copy
from typing import Any

import click

from cluster.cast import Draw
from cluster.cli_record import export as plain_export
from cluster.cli_record import export_run

__all__ = ["export"]


def _export(
    *, tables: bool, ascii_only: bool, light: bool, mono: bool, group: int, **options: Any
) -> None:
    from dashboard.film import Film
    from dashboard.presenter.view import Size

    def drawing(width: int, height: int) -> Draw:
        theme = "" if mono else "light" if light else "dark"
        size = Size(width, height)
        return Film(size, theme=theme, group=group, ascii_only=ascii_only, mode="replay")

    export_run(**options, drawing=None if tables else drawing)


def _command() -> click.Command:
    command = copy.copy(plain_export)
    command.callback = _export
    command.params = [
        *plain_export.params,
        click.Option(
            ["--plain", "tables"], is_flag=True, help="Status tables instead of the dashboard."
        ),
        click.Option(["--light"], is_flag=True, help="The light theme."),
        click.Option(["--mono"], is_flag=True, help="No colours: a third of the size."),
        click.Option(["--ascii", "ascii_only"], is_flag=True, help="ASCII signs only."),
        click.Option(["-g", "--group"], type=int, default=0, metavar="N", help="Raft group. [0]"),
    ]
    return command


export = _command()
"""The verb."""
